"""Mistakes in moves, in actions and in the planner."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from shardwright.actions import advance as starting
from shardwright.actions import maintenance_on, progress, remove, turn
from shardwright.model.commands import YieldLeadership
from shardwright.model.database import ShardWanted
from shardwright.model.decision import Decision
from shardwright.model.move import MoveState
from shardwright.model.view import Put
from shardwright.moves import cleaning, life, relocation
from shardwright.plan import ledger, quorum
from sim.mutants.registry import Patch, mutant, mutant_in
from sim.mutants.situations import (
    a_leader_that_must_yield_when_no_other_daemon_runs,
    an_only_copy_that_is_lost_when_its_new_one_is_complete,
    databases_that_barely_fit,
    requests_that_are_undone,
)


@mutant
def starts_two_moves_of_a_group() -> Sequence[Patch]:
    right = starting._Starter._hindrance

    def hindrance(self: Any, proposal: Any, role_changes: Any) -> Any:
        found = right(self, proposal, role_changes)
        return None if found is not None and found.code == "group_busy" else found

    def is_busy(self: Any, group: Any, standing: Any) -> bool:
        return False

    from shardwright.plan import evacuate

    return [(starting._Starter, "_hindrance", hindrance), (evacuate._Evacuation, "_is_busy", is_busy)]


@mutant
def stops_the_old_copy_before_the_new_is_in_sync() -> Sequence[Patch]:
    def syncing(moving: Any, group: Any, new: Any, view: Any, now: datetime) -> Decision:
        return Decision(writes=(Put(life.enter(moving, MoveState.READY, now)),))

    def ready(moving: Any, group: Any, new: Any, view: Any, now: datetime) -> Decision:
        return Decision(writes=(Put(life.enter(moving, MoveState.CLEANING, now)),))

    def stop(moving: Any, old: Any, new: Any, view: Any, now: datetime) -> Decision:
        return Decision(writes=(Put(replace(old, wanted=ShardWanted.STOPPED)),))

    return [(relocation, "_syncing", syncing), (relocation, "_ready", ready), (cleaning, "_stop_old", stop)]


@mutant_in(requests_that_are_undone)
def forgets_the_copy_that_it_undoes() -> Sequence[Patch]:
    def undo(moving: Any, new: Any, view: Any, now: datetime) -> Decision:
        return life.end(moving, now)

    def give_up(moving: Any, new: Any, view: Any, now: datetime, *reasons: Any) -> Decision:
        if moving.state is MoveState.PLANNED:
            return life.end(moving, now, *reasons)
        return Decision(writes=(Put(life.enter(moving, MoveState.UNDOING, now, reasons=reasons)),))

    return [(relocation, "undo", undo), (relocation, "give_up", give_up), (cleaning, "give_up", give_up)]


@mutant
def takes_the_snapshot_after_marking() -> Sequence[Patch]:
    right = maintenance_on._snapshot
    evict = maintenance_on._evict

    def no_snapshot(at: Any, *, overwrites: bool) -> None:
        return None

    def late(at: Any, parameters: Any) -> None:
        if at.action.snapshot_name:
            evict(at, parameters)
        elif at.action.steps[0].started_at < at.now:
            # In a later turn: what one turn writes is one commit.
            right(at, overwrites=parameters.overwrite_snapshot)

    return [(maintenance_on, "_snapshot", no_snapshot), (maintenance_on, "_evict", late)]


@mutant
def counts_nodes_in_maintenance_for_the_quorum() -> Sequence[Patch]:
    return [(quorum, "_away", lambda view, action, voters, present: {})]


@mutant
def puts_two_copies_on_one_node() -> Sequence[Patch]:
    def suitable(self: Any, request: Any) -> list[Any]:
        nodes = [pair for pair in self.open_nodes(needs_primary=request.is_primary) if pair[0].uid != request.leaving_node]
        held = set(self.copies_of(request.group_uid).values())
        return [pair for pair in nodes if pair[0].uid in held] or nodes

    return [(ledger.Ledger, "suitable", suitable)]


@mutant
def ignores_marks_when_it_places() -> Sequence[Patch]:
    def none(self: Any, node: Any, **kwargs: Any) -> Iterator[Any]:
        return iter(())

    return [(ledger.Ledger, "_node_obstacles", none)]


@mutant_in(databases_that_barely_fit)
def ignores_memory_when_it_places() -> Sequence[Patch]:
    def fitting(self: Any, request: Any) -> list[Any]:
        return sorted(self.suitable(request), key=lambda pair: pair[0].uid)[:1]

    return [(ledger.Ledger, "fitting", fitting)]


@mutant
def completes_while_something_is_left() -> Sequence[Patch]:
    right = starting.advance

    def advance(at: Any, plan: Any, **kwargs: Any) -> Any:
        return replace(right(at, plan, **kwargs), is_under_way=False)

    return [(maintenance_on, "advance", advance), (remove, "advance", advance)]


@mutant
def lets_the_progress_fall() -> Sequence[Patch]:
    right = progress.progress

    def falling(action: Any, moves: Any, pending: Any, *drains: Any) -> Any:
        found = list(moves)
        return max(0.0, right(action, found, pending) - 30.0 * sum(m.state.is_terminal for m in found))

    return [(starting, "progress", falling)]


@mutant_in(an_only_copy_that_is_lost_when_its_new_one_is_complete)
def gives_up_a_new_copy_that_has_taken_over() -> Sequence[Patch]:
    return [(relocation, "_NEXT_OF_HEIR", {})]


@mutant_in(a_leader_that_must_yield_when_no_other_daemon_runs)
def yields_although_no_other_daemon_runs() -> Sequence[Patch]:
    right = turn.Turn.yields

    def yields(self: Any) -> bool:
        if self.is_leading:
            self.command(YieldLeadership())
        return right(self)

    return [(turn.Turn, "yields", yields)]
