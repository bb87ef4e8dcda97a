"""How moves end early, and what they wait for: the limits, the cancels, and what was deleted meanwhile."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shardwright.model.database import GroupPhase, Role, Shard, ShardWanted
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.move import MOVE_TRANSITIONS, Move, MoveState, Relocation
from shardwright.model.parking import Parking
from shardwright.model.reason import Reason
from shardwright.model.seen import Health, ProcessSeen, ProcessState
from shardwright.model.view import Delete
from shardwright.moves.decide import decide_move
from shardwright.moves.handoff import HANDOFF_ATTEMPTS_MAX
from shardwright.moves.relocation import LAG_READY_BYTES, START_LIMIT, SYNC_SILENCE_LIMIT
from testkit.builders import NOW, ClusterBuilder
from tests.unit.moves.moving import (
    GROUP,
    decide,
    handoff,
    move_after,
    rebind,
    relocation,
    replicated,
    shard_after,
    with_new_copy,
)


def without_database(builder: ClusterBuilder) -> ClusterBuilder:
    return ClusterBuilder(replace(builder.view, groups={}, databases={}, endpoints={}))


def codes(move: Move) -> list[str]:
    return [r.code for r in move.reasons]


@pytest.mark.parametrize("move", [relocation(), handoff(MoveState.PLANNED), rebind(MoveState.PLANNED)])
def test_what_has_not_begun_is_cancelled_at_once_and_begins_otherwise(move: Move) -> None:
    cancelled = decide(replicated(), replace(move, is_cancel_wanted=True))
    ended = move_after(cancelled)
    assert (ended.state, ended.ended_at, len(cancelled.writes)) == (MoveState.CANCELLED, NOW, 1)
    begun = move_after(decide(replicated(), move))
    assert (begun.state.is_terminal, begun.started_at, begun.ended_at) == (False, NOW, None)


@pytest.mark.parametrize("move", [handoff(MoveState.PLANNED), handoff(), rebind(MoveState.HANDOFF), relocation()])
def test_a_move_of_a_deleted_database_fails_with_that_reason(move: Move) -> None:
    builder = without_database(replicated())
    ended = move_after(decide(builder, move))
    assert (ended.state, codes(ended)) == (MoveState.FAILED, ["database_deleted"])


def test_a_handoff_that_has_happened_is_done_and_waits_for_one_that_is_under_way() -> None:
    builder = replicated()
    group = replace(builder.view.groups[GROUP], primary=ShardUid(2))
    done = move_after(decide(builder.with_records(group), handoff(reasons=(Reason("x", "y"),))))  # type: ignore[arg-type]
    assert (done.state, done.reasons) == (MoveState.DONE, ())
    assert move_after(decide(builder, handoff(is_cancel_wanted=True))).state is MoveState.CANCELLED


def test_no_role_is_handed_over_while_the_group_starts_and_the_move_says_so_once() -> None:
    builder = replicated()
    starting = builder.with_records(replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING))
    waiting = move_after(decide(starting, handoff()))
    assert (waiting.state, codes(waiting)) == (MoveState.HANDOFF, ["group_starting"])
    again = decide(starting, replace(waiting, attempts=HANDOFF_ATTEMPTS_MAX))
    assert (again.commands, again.writes) == ((), ())
    assert len(decide(builder, replace(waiting, attempts=HANDOFF_ATTEMPTS_MAX)).commands) == 1, "it is tried once more"


def test_a_relocation_to_a_node_that_was_removed_fails_before_anything_is_recorded() -> None:
    builder = replicated()
    decision = decide(ClusterBuilder(builder.view.with_writes([Delete(builder.view.nodes[NodeUid(3)])])), relocation())
    assert codes(move_after(decision)) == ["node_gone"]
    assert not [w for w in decision.writes if isinstance(w.record, Shard)]


def test_a_relocation_whose_new_shard_was_deleted_has_nothing_to_undo() -> None:
    move = relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3))
    undoing = move_after(decide(replicated(), move))
    assert undoing.state is MoveState.UNDOING
    assert move_after(decide(replicated(), undoing)).state is MoveState.FAILED


def test_a_new_server_that_never_answers_is_given_up_behind_the_limit_and_not_before() -> None:
    starting = relocation(MoveState.STARTING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=None, health=Health.REFUSED)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(3)], in_sync_generation=-1))
    assert decide(builder, starting, later_s=START_LIMIT.total_seconds()).writes == ()
    undoing = move_after(decide(builder, starting, later_s=START_LIMIT.total_seconds() + 1))
    assert (undoing.state, codes(undoing)) == (MoveState.UNDOING, ["shard_start_timeout"])


def test_a_new_server_that_ends_in_its_sync_is_given_up() -> None:
    syncing = relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), is_syncing=True, is_link_up=False).with_dead_shard(3)
    undoing = move_after(decide(builder, syncing))
    assert (undoing.state, codes(undoing)) == (MoveState.UNDOING, ["shard_lost"])


def test_a_sync_whose_group_starts_anew_waits_and_says_so_once() -> None:
    syncing = relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), is_syncing=True, is_link_up=False)
    builder = builder.with_records(replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING))
    waiting = move_after(decide(builder, syncing))
    assert (waiting.state, codes(waiting)) == (MoveState.SYNCING, ["group_starting"])
    again = decide(builder, waiting)
    assert (again.writes, again.wake_at) == ((), NOW + timedelta(seconds=1))
    late = move_after(decide(builder, waiting, later_s=SYNC_SILENCE_LIMIT.total_seconds() + 1))
    assert codes(late) == ["sync_stalled"]


@pytest.mark.parametrize(("lag", "state"), [(LAG_READY_BYTES, MoveState.READY), (LAG_READY_BYTES + 1, None)])
def test_a_copy_is_ready_when_it_lags_by_no_more_than_the_limit(lag: int, state: MoveState | None) -> None:
    builder = with_new_copy(replicated()).with_server(1, offset=1_000 + lag)
    decision = decide(builder, relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3)))
    assert [w.record.state for w in decision.writes if isinstance(w.record, Move)] == ([] if state is None else [state])


def test_a_ready_copy_waits_until_it_is_marked_in_sync() -> None:
    builder = with_new_copy(replicated())
    ready = relocation(MoveState.READY, new_shard_uid=ShardUid(3))
    unmarked = builder.with_records(replace(builder.view.shards[ShardUid(3)], in_sync_generation=0))
    assert decide(unmarked, ready).writes == ()
    assert move_after(decide(builder, ready)).state is MoveState.CLEANING


def test_a_relocation_goes_on_when_its_handoff_has_happened() -> None:
    builder = with_new_copy(replicated(), role=Role.PRIMARY)
    builder = builder.with_records(replace(builder.view.groups[GROUP], primary=ShardUid(3)))
    move = relocation(MoveState.HANDOFF, new_shard_uid=ShardUid(3), hands_over=True)
    assert move_after(decide(builder, move)).state is MoveState.CLEANING


def cleaning(**changes: Any) -> Relocation:
    return relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), **changes)


def test_an_old_copy_that_is_recorded_no_more_has_left() -> None:
    builder = with_new_copy(replicated())
    gone = ClusterBuilder(builder.view.with_writes([Delete(builder.view.shards[ShardUid(2)])]))
    done = move_after(decide(gone, cleaning()))
    assert (done.state, done.has_left) == (MoveState.DONE, True)


def test_an_old_copy_is_waited_for_while_its_process_runs_and_its_files_are_there() -> None:
    builder = with_new_copy(replicated())
    old = builder.view.shards[ShardUid(2)]
    stopping = builder.with_records(replace(old, wanted=ShardWanted.STOPPED))
    assert decide(stopping, cleaning()).writes == ()
    unwanted = builder.with_records(replace(old, wanted=ShardWanted.GONE)).with_process(2, ProcessState.GONE)
    assert decide(unwanted, cleaning(has_left=True)).writes == ()
    # Nobody there could delete them: its record stays as unwanted, and the move ends.
    away = decide(unwanted.without_daemon(2), cleaning(has_left=True))
    assert [type(w.record) for w in away.writes] == [Relocation]
    assert move_after(away).state is MoveState.DONE


def test_an_old_copy_stays_while_the_new_one_is_not_in_sync_just_now() -> None:
    builder = with_new_copy(replicated()).with_server(3, health=Health.TIMEOUT)
    waiting = decide(builder, cleaning())
    assert (waiting.writes, [r.code for r in waiting.reasons]) == ((), ["new_copy_not_in_sync"])


@pytest.mark.parametrize("reported", [ProcessState.UNKNOWN, ProcessState.ABSENT])
def test_a_new_copy_that_answers_is_enough_when_its_agent_died_before_it_reported_the_start(reported: ProcessState) -> None:
    builder = with_new_copy(replicated()).with_process(3, reported).without_daemon(3)
    assert shard_after(decide(builder, cleaning()), 2).wanted is ShardWanted.STOPPED
    refused = builder.with_server(3, health=Health.REFUSED)
    assert [r.code for r in decide(refused, cleaning()).reasons] == ["new_copy_not_in_sync"]


def undoing(**changes: Any) -> Relocation:
    return relocation(MoveState.UNDOING, new_shard_uid=ShardUid(3), **changes)


def test_an_undo_ends_when_the_new_copys_files_are_deleted_or_nobody_is_there_to_delete_them() -> None:
    builder = with_new_copy(replicated())
    new = replace(builder.view.shards[ShardUid(3)], wanted=ShardWanted.GONE)
    builder = builder.with_records(new)
    assert decide(builder, undoing()).writes == ()
    assert [type(w.record) for w in decide(builder.without_daemon(3), undoing()).writes] == [Relocation]
    deleted = ProcessSeen(new.uid, new.incarnation, ProcessState.GONE, files_are_deleted=True)
    view = replace(builder.with_move(undoing()).view, processes={**builder.view.processes, new.uid: deleted})
    for is_cancel_wanted, state in ((True, MoveState.CANCELLED), (False, MoveState.FAILED)):
        decision = decide_move(undoing(is_cancel_wanted=is_cancel_wanted), view, NOW)
        assert Delete(new) in decision.writes
        assert move_after(decision).state is state


def test_the_estimate_of_a_planned_relocation_is_what_its_primary_uses() -> None:
    builder = replicated().with_server(1, used_memory_bytes=77)
    assert move_after(decide(builder, relocation(bytes_total=5))).bytes_total == 77
    assert move_after(decide(builder.without_server(1), relocation(bytes_total=5))).bytes_total == 5
    assert shard_after(decide(builder, relocation()), 3).settings == builder.view.databases[1].settings_fingerprint  # type: ignore[index]


def test_every_live_state_has_a_way_out_and_terminal_ones_have_none() -> None:
    for transitions in MOVE_TRANSITIONS.values():
        for state, following in transitions.items():
            assert bool(following) is not state.is_terminal
            assert following <= transitions.keys()


@pytest.mark.parametrize(
    "move",
    [
        handoff(MoveState.PLANNED),
        handoff(),
        relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3)),
        relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), is_cancel_wanted=True),
    ],
    ids=lambda move: f"{move.kind} {move.state}",
)
def test_while_a_copy_takes_over_from_a_primary_out_of_reach_moves_wait(move: Move) -> None:
    builder = with_new_copy(replicated())
    group = replace(builder.view.groups[GROUP], parking=Parking(ShardUid(1), 1, NOW))
    decision = decide(builder.with_records(group), move)
    waiting = move_after(decision)
    assert (waiting.state, codes(waiting)) == (move.state, ["primary_out_of_reach"])
    assert "node 1" in waiting.reasons[0].text
    assert decision.commands == ()
    assert decide(builder.with_records(group), waiting).writes == (), "it is said once"


@pytest.mark.parametrize("move", [handoff(MoveState.PLANNED), relocation()], ids=lambda move: str(move.kind))
def test_a_move_that_has_not_begun_is_cancelled_even_while_a_copy_takes_over(move: Move) -> None:
    builder = with_new_copy(replicated())
    group = replace(builder.view.groups[GROUP], parking=Parking(ShardUid(1), 1, NOW))
    cancelled = decide(builder.with_records(group), replace(move, is_cancel_wanted=True))
    assert move_after(cancelled).state is MoveState.CANCELLED
