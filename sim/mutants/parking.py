"""Mistakes in a failover without a proof of the primary's end: which copies are parked, and which one takes over."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shardwright.leader import fitting
from shardwright.leader.apply import Applier
from shardwright.model.commands import Park
from shardwright.model.database import Database, ShardWanted
from shardwright.model.decision import NOTHING
from shardwright.reconcile import group as group_module
from shardwright.reconcile import parking, start
from sim.mutants.lease_situations import a_process_that_misses_the_return_of_the_proofs
from sim.mutants.parking_situations import (
    a_strict_primary_that_is_cut_off,
    a_strict_primary_that_is_cut_off_with_a_replica,
    a_strict_primary_that_is_cut_off_with_the_old_copy_of_a_move,
    a_strict_primary_that_sleeps_while_its_successor_reboots,
    a_strict_primary_that_wakes_when_another_copy_leads,
    a_strict_primary_whose_older_replica_lags,
)
from sim.mutants.registry import Patch, mutant_in


@mutant_in(a_strict_primary_that_is_cut_off)
def waits_for_a_proof_in_strict_mode_too() -> Sequence[Patch]:
    return [(group_module, "begin_parking", lambda *_: NOTHING)]


@mutant_in(a_process_that_misses_the_return_of_the_proofs)
def parks_the_copies_of_any_database() -> Sequence[Patch]:
    """Nothing confirms the writes of a database in default mode, and not every process needs proofs: the old primary goes on
    answering its clients."""
    return [(parking, "is_in_force", lambda *_: True), (Database, "is_strict_in_force", property(lambda _: True))]


@mutant_in(a_strict_primary_that_is_cut_off_with_a_replica)
def parks_only_the_copies_in_reach() -> Sequence[Patch]:
    right = parking._to_park

    def to_park(group: Any, view: Any) -> Any:
        return [shard for shard in right(group, view) if parking._answers(shard, view)]

    return [(parking, "_to_park", to_park)]


@mutant_in(a_strict_primary_that_is_cut_off_with_the_old_copy_of_a_move)
def parks_only_the_copies_that_stay() -> Sequence[Patch]:
    right = parking._to_park

    def to_park(group: Any, view: Any) -> Any:
        return [shard for shard in right(group, view) if shard.wanted is ShardWanted.RUNNING]

    return [(parking, "_to_park", to_park)]


@mutant_in(a_strict_primary_whose_older_replica_lags)
def lets_the_oldest_copy_take_over() -> Sequence[Patch]:
    """Each of them was in sync."""
    right = parking.continue_parking

    def continue_parking(group: Any, *rest: Any) -> Any:
        parked = tuple(replace(p, offset=1_000_000 - p.shard_uid) for p in group.parking.parked)
        return right(replace(group, parking=replace(group.parking, parked=parked)), *rest)

    return [(group_module, "continue_parking", continue_parking)]


@mutant_in(a_strict_primary_that_wakes_when_another_copy_leads)
def takes_a_copy_for_parked_that_still_follows() -> Sequence[Patch]:
    """It is recorded, and the server is told nothing."""

    async def park(self: Any, command: Park) -> None:
        view = self._current()
        found = fitting.to_park(command, view)
        if found is not None and view.leadership is not None:
            seen = await (await self._session(view, found.shard)).info()
            term = view.leadership.term
            await self._commit(lambda view: fitting.parked(view, found.shard, term, seen, seen))

    return [(Applier, "_park", park)]


@mutant_in(a_strict_primary_that_sleeps_while_its_successor_reboots)
def goes_on_with_a_snapshot_beside_a_sleeping_predecessor() -> Sequence[Patch]:
    return [(start, "silent_copies", lambda *_: [])]
