"""Mistakes with endpoint processes and the commands of their clients."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shardwright.endpoint import departures
from shardwright.errors import OutcomeUnknown, Permanent, Transient
from shardwright.leader import handoff
from shardwright.model.backoff import Backoff
from shardwright.model.commands import DropEndpoint
from shardwright.model.seen import EndpointState
from shardwright.moves import decide, rebind
from shardwright.reconcile import endpoint
from sim.endpoints import SimEndpointControl
from sim.mutants.client_situations import (
    a_busy_client_among_thousands,
    a_command_to_pass_that_comes_late,
    a_long_pipeline,
    an_endpoint_process_that_is_late,
    an_endpoint_process_that_must_listen_again_while_it_passes,
    an_endpoint_process_that_stands_still_while_it_is_passed_on,
    clients_that_never_come_in,
)
from sim.mutants.endpoint_situations import (
    an_endpoint_process_started_again_after_the_hold,
    an_endpoint_process_started_again_before_the_leader_dies,
)
from sim.mutants.registry import Patch, mutant_in


@mutant_in(an_endpoint_process_started_again_after_the_hold)
def ends_the_pause_before_the_clients() -> Sequence[Patch]:
    async def demote(self: Any, attempt: Any, old: Any) -> None:
        try:
            await old.attach(attempt.new_target.address, attempt.new_target.port)
            self.probe("handoff:demote:after")
            await old.end_pause()
            await old.unfence()
            await old.end_application_connections()
        except (Transient, OutcomeUnknown, Permanent):
            return

    return [(handoff.Handoffs, "_demote", demote), (handoff, "_cut_off", lambda attempt, old: ())]


@mutant_in(an_endpoint_process_started_again_before_the_leader_dies)
def leaves_writes_of_a_new_endpoint_process_to_the_pause() -> Sequence[Patch]:
    return [(handoff, "_cut_off", lambda attempt, old: ())]


@mutant_in(clients_that_never_come_in)
def passes_connections_without_a_deadline() -> Sequence[Patch]:
    return [(departures, "FREEZE", Backoff((1e9,))), (departures, "GRACE_S", 1e9), (departures, "TIED_GRACE_S", 1e9)]


@mutant_in(clients_that_never_come_in)
def never_ends_a_connection_that_cannot_be_passed() -> Sequence[Patch]:
    return [(departures, "GRACE_S", 1e9), (departures, "TIED_GRACE_S", 1e9)]


@mutant_in(a_busy_client_among_thousands)
def freezes_all_before_it_passes_one() -> Sequence[Patch]:
    return [(departures, "BATCH", 1 << 30)]


@mutant_in(a_long_pipeline)
def holds_without_calming() -> Sequence[Patch]:
    async def calm(self: Any, attempt: Any) -> None:
        return None

    return [(handoff.Handoffs, "_calm", calm)]


@mutant_in(an_endpoint_process_that_is_late)
def continues_without_the_hold_of_a_late_process() -> Sequence[Patch]:
    async def ask_serving(self: Any, attempt: Any, ask: Any) -> Any:
        async def one(endpoint: Any, node: Any) -> Any:
            try:
                return node, await ask(endpoint, node)
            except Transient:
                return node, None

        return await asyncio.gather(*(one(uid, node) for uid, nodes in attempt.endpoints for node in nodes))

    return [(handoff.Handoffs, "_ask_serving", ask_serving)]


@mutant_in(an_endpoint_process_that_is_late)
def begins_a_hold_whose_caller_has_disconnected() -> Sequence[Patch]:
    return [(SimEndpointControl, "notices_who_has_left", False)]


@mutant_in(an_endpoint_process_that_stands_still_while_it_is_passed_on)
def treats_a_silent_endpoint_process_as_ended() -> Sequence[Patch]:
    right = rebind.decide_rebind

    def rebinding(chosen: Any, view: Any, now: Any) -> Any:
        processes = {node: replace(p, has_ended=not p.answers) for node, p in view.endpoint_processes.items()}
        return right(chosen, replace(view, endpoint_processes=processes), now)

    return [(decide, "decide_rebind", rebinding)]


@mutant_in(an_endpoint_process_that_must_listen_again_while_it_passes)
def treats_a_process_that_cannot_listen_as_empty() -> Sequence[Patch]:
    right = rebind.source_state

    def source_state(process: Any, uid: Any) -> rebind.Source:
        cannot_listen = process is not None and process.endpoint(uid).state is EndpointState.BIND_FAILED
        return rebind.Source.BARRED if cannot_listen else right(process, uid)

    return [
        (rebind, "source_state", source_state),
        (endpoint, "_end_surplus", lambda node, seen, chosen, *rest: (DropEndpoint(node, chosen.uid),)),
    ]


@mutant_in(a_command_to_pass_that_comes_late)
def drops_what_was_passed_to_an_unbound_process() -> Sequence[Patch]:
    return [(endpoint, "_end_surplus", lambda node, seen, chosen, *rest: (DropEndpoint(node, chosen.uid),))]
