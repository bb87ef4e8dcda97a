"""Mistakes about endpoint processes and what their clients have under way."""

from collections.abc import Sequence
from typing import Any

from shardwright.errors import OutcomeUnknown, Permanent, Transient
from shardwright.leader import handoff
from shardwright.testing.sim.mutants.registry import Patch, mutant_in
from shardwright.testing.sim.mutants.situations import (
    an_endpoint_process_started_again_before_the_leader_dies,
    an_endpoint_process_started_again_behind_the_hold,
)


@mutant_in(an_endpoint_process_started_again_behind_the_hold)
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
def leaves_to_the_pause_what_a_new_endpoint_process_has_sent() -> Sequence[Patch]:
    return [(handoff, "_cut_off", lambda attempt, old: ())]
