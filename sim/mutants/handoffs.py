"""Mistakes in the order of a handoff."""

from collections.abc import Callable, Sequence
from typing import Any

from shardwright.errors import OutcomeUnknown, Permanent, Transient
from shardwright.leader import handoff
from shardwright.model.codes import Code
from shardwright.reconcile import group as groups
from shardwright.server.targets import server_target
from sim.mutants.client_situations import a_script_that_begins_with_the_handoff
from sim.mutants.registry import Patch, mutant, mutant_in
from sim.mutants.situations import (
    a_leader_killed_before_the_promotion,
    a_leader_that_freezes_before_the_fence_and_dies_after_it,
    a_leader_that_sleeps_for_longer_than_the_pause,
    an_endpoint_process_that_dies_before_the_release,
    replicas_that_lag,
)


@mutant_in(replicas_that_lag)
def skips_the_offset_comparison() -> Sequence[Patch]:
    async def wait_offset(self: Any, session: Any, offset: int, code: str, text: str) -> Any:
        return await session.info()

    return [(handoff.Handoffs, "_wait_offset", wait_offset)]


@mutant_in(a_leader_that_sleeps_for_longer_than_the_pause)
def forgets_the_hard_fence() -> Sequence[Patch]:
    async def fence(self: Any, attempt: Any, old: Any, new: Any) -> None:
        self.probe("handoff:fence:before")
        await old.pause_writes(handoff.PAUSE_S)
        self.probe("handoff:fence:after")
        attempt.fenced = await old.info()
        self.probe("handoff:compare:before")
        attempt.candidate = await self._wait_offset(new, attempt.fenced.offset, Code.REPLICA_LAGS_FENCED, "lags")
        self.probe("handoff:compare:after")

    # The end of this pause can be awaited; with a pause longer than a lease, the rest would be the same.
    return [(handoff.Handoffs, "_fence", fence), (handoff, "PAUSE_S", 3.0)]


@mutant_in(replicas_that_lag)
def fences_without_pausing_and_reads_the_offset_before() -> Sequence[Patch]:
    async def fence(self: Any, attempt: Any, old: Any, new: Any) -> None:
        attempt.fenced = attempt.before
        self.probe("handoff:fence:before")
        await old.fence()
        self.probe("handoff:fence:after")
        attempt.candidate = await self._wait_offset(new, attempt.fenced.offset, Code.REPLICA_LAGS_FENCED, "lags")

    return [(handoff.Handoffs, "_fence", fence)]


@mutant
def commits_the_intent_after_acting() -> Sequence[Patch]:
    async def intend(self: Any, attempt: Any) -> None:
        return None

    return [(handoff.Handoffs, "_intend", intend)]


@mutant_in(a_leader_killed_before_the_promotion)
def releases_before_it_promotes() -> Sequence[Patch]:
    right = handoff.Handoffs._fence

    async def fence(self: Any, attempt: Any, old: Any, new: Any) -> None:
        await right(self, attempt, old, new)
        await old.unfence()
        await old.end_pause()
        await self._release(attempt, attempt.new_target)
        self.probe("handoff:promote:before")

    return [(handoff.Handoffs, "_fence", fence)]


@mutant_in(an_endpoint_process_that_dies_before_the_release)
def clears_the_fence_before_the_demotion() -> Sequence[Patch]:
    async def demote(self: Any, attempt: Any, old: Any) -> None:
        await old.unfence()
        await old.end_pause()
        self.probe("handoff:demote:before")
        try:
            await old.attach(attempt.new_target.address, attempt.new_target.port)
            self.probe("handoff:demote:after")
        except (Transient, OutcomeUnknown, Permanent):
            return

    return [(handoff.Handoffs, "_demote", demote)]


@mutant_in(a_script_that_begins_with_the_handoff)
def undoes_a_hold_at_the_server_too() -> Sequence[Patch]:
    right = handoff.Handoffs._let_go

    async def let_go(self: Any, attempt: Any, reasons: Any) -> None:
        try:
            old = await self.servers.manage(server_target(self.current(), attempt.old_shard))
            await old.unfence()
        except (Transient, OutcomeUnknown, Permanent):
            return
        await right(self, attempt, reasons)

    return [(handoff.Handoffs, "_let_go", let_go)]


@mutant
def forgets_to_lift_the_fence_when_it_undoes() -> Sequence[Patch]:
    async def undo(self: Any, attempt: Any, old: Any, reasons: Any) -> None:
        await self._release(attempt, attempt.old_target)
        await self._note(attempt.group.uid, reasons, forgets_intent=True)

    def lead(primary: Any, others: Any) -> list[Any]:
        return []

    return [(handoff.Handoffs, "undo", undo), (groups, "_lead", _lead_without_opening())]


def _lead_without_opening() -> Callable[..., list[Any]]:
    right = groups._lead

    def lead(primary: Any, others: Any) -> list[Any]:
        if primary.shard.in_sync_generation > 1:
            return [c for c in right(primary, others) if type(c).__name__ != "Open"]
        return right(primary, others)

    return lead


@mutant_in(a_leader_that_freezes_before_the_fence_and_dies_after_it)
def pauses_for_less_than_the_next_leader_needs() -> Sequence[Patch]:
    return [(handoff, "PAUSE_S", 3.0)]
