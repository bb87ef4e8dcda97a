"""What every action goes through, whatever it does: its statuses, its moves, its progress, its cancellation."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from shardwright.actions.base import decide_action
from shardwright.actions.progress import PROGRESS_RUNNING_MAX
from shardwright.model.action import ActionName, ActionStatus, MaintenanceOnParameters
from shardwright.model.decision import NOTHING
from shardwright.model.event import Event
from shardwright.model.ids import NodeUid
from shardwright.model.move import Move, MoveKind, MoveState
from shardwright.model.view import Put
from testkit.builders import MB, NOW, ClusterBuilder, cluster
from testkit.stepper import action_of, decide_once, never, run_action, step_moves

A = "action-1"
PAIR = cluster(3).with_database(on=((1, 2),))


def run(builder: ClusterBuilder, name: ActionName, node: int = 1, **options: object) -> ClusterBuilder:
    return run_action(builder.with_action(name, node), A, now=NOW, **options)  # type: ignore[arg-type]


def after(builder: ClusterBuilder, turns: int) -> ClusterBuilder:
    return run_action(builder, A, now=NOW, turns=turns)


def live(builder: ClusterBuilder) -> list[Move]:
    return [m for m in builder.view.live_moves() if m.action_uid == A]


@pytest.mark.parametrize("name", list(ActionName))
def test_the_first_turn_only_starts_the_action(name: ActionName) -> None:
    builder = PAIR.with_action(name, 3)
    decision = decide_action(action_of(builder.view, A), builder.view, NOW)
    events = [w.record.kind for w in decision.writes if isinstance(w, Put) and isinstance(w.record, Event)]
    assert events == ["node_action_started"]
    started = action_of(builder.with_writes(*decision.writes).view, A)
    assert (started.status, started.started_at) == (ActionStatus.STARTING, NOW)


@pytest.mark.parametrize("status", [ActionStatus.COMPLETED, ActionStatus.FAILED, ActionStatus.CANCELLED])
def test_an_ended_action_decides_nothing(status: ActionStatus) -> None:
    builder = PAIR.with_action(ActionName.REMOVE, 1, status=status)
    assert decide_action(action_of(builder.view, A), builder.view, NOW) == NOTHING


def test_a_turn_without_news_writes_nothing() -> None:
    builder = after(PAIR.with_action(ActionName.MAINTENANCE_ON, 1), 3)
    builder = decide_once(builder, action_of(builder.view, A), now=NOW)
    assert decide_action(action_of(builder.view, A), builder.view, NOW).writes == ()


# -- moves at once ---------------------------------------------------------------------------------------------------------


def many(count: int = 4) -> ClusterBuilder:
    builder = cluster(3)
    for _ in range(count):
        builder = builder.with_database(on=((1,),), memory_bytes=10 * MB)
    return builder


@pytest.mark.parametrize(("moves_max", "expected"), [(1, 1), (3, 3), (None, 4), (0, 4)])
def test_only_so_many_moves_at_once(moves_max: int | None, expected: int) -> None:
    builder = many().with_policy(max_slave_full_syncs=0)
    builder = builder.with_action(ActionName.MAINTENANCE_ON, 1, MaintenanceOnParameters(moves_max=moves_max))
    builder = run_action(builder, A, now=NOW, turns=3, steps_moves=False)
    assert len(live(builder)) == expected


def test_the_policy_bounds_moves_and_full_syncs_of_the_whole_cluster() -> None:
    builder = many().with_policy(default_concurrent_restore_actions=3, max_slave_full_syncs=0)
    assert len(live(run(builder, ActionName.MAINTENANCE_ON, turns=3, steps_moves=False))) == 3
    builder = many().with_policy(max_slave_full_syncs=1)
    assert len(live(run(builder, ActionName.MAINTENANCE_ON, turns=3, steps_moves=False))) == 2, "one syncs, one is started"


def test_one_move_at_a_time_in_a_group_and_the_endpoint_after_the_role() -> None:
    builder = PAIR.with_action(ActionName.MAINTENANCE_ON, 1)
    builder = run_action(builder, A, now=NOW, turns=3, steps_moves=False)
    assert [m.kind for m in live(builder)] == [MoveKind.HANDOFF]
    builder = run_action(builder, A, now=NOW)
    kinds = [m.kind for m in builder.view.moves_of_action(action_of(builder.view, A).uid)]
    assert kinds == [MoveKind.HANDOFF, MoveKind.RELOCATE, MoveKind.REBIND]


def test_moves_are_numbered_from_the_action() -> None:
    builder = run(many(), ActionName.MAINTENANCE_ON)
    moves = builder.view.moves_of_action(action_of(builder.view, A).uid)
    assert [m.uid for m in moves] == [f"{A}-{n}" for n in range(1, 9)]
    assert action_of(builder.view, A).moves_started == 8


# -- failed moves ----------------------------------------------------------------------------------------------------------


def test_a_failed_move_is_tried_again_later_and_elsewhere() -> None:
    builder = cluster(3).with_database(on=((1,),)).with_action(ActionName.MAINTENANCE_ON, 1)
    builder = run_action(builder, A, now=NOW, fails=lambda m: m.uid == f"{A}-1")
    assert action_of(builder.view, A).status == ActionStatus.COMPLETED
    first, second = builder.view.moves_of_action(action_of(builder.view, A).uid)[:2]
    assert (first.state, first.to_node, second.state, second.to_node) == (MoveState.FAILED, 2, MoveState.DONE, 3)
    assert first.ended_at is not None
    assert second.created_at - first.ended_at >= timedelta(seconds=2)


def test_after_three_attempts_the_action_fails_and_says_what_failed() -> None:
    builder = run(PAIR, ActionName.MAINTENANCE_ON, fails=lambda m: m.kind == MoveKind.HANDOFF)
    action = action_of(builder.view, A)
    attempts = [m for m in builder.view.moves.values() if m.kind == MoveKind.HANDOFF]
    assert (action.status, action.error_code, len(attempts)) == (ActionStatus.FAILED, "move_failed", 3)
    assert "handoff of shard 1 of database 1 failed 3 times" in action.error_message
    assert "the test made it fail" in action.error_message
    gaps = [b.created_at - a.created_at for a, b in pairwise(attempts)]
    assert gaps[0] >= timedelta(seconds=2)
    assert gaps[1] >= timedelta(seconds=5)


def test_a_target_that_dies_is_replaced_by_another() -> None:
    builder = cluster(4).with_database(on=((1,),)).with_action(ActionName.MAINTENANCE_ON, 1)
    builder = after(builder, 5).without_daemon(2)
    builder = run_action(builder, A, now=NOW + timedelta(seconds=5))
    assert action_of(builder.view, A).status == ActionStatus.COMPLETED
    assert [s.node_uid for s in builder.view.shards.values()] == [3]


# -- progress --------------------------------------------------------------------------------------------------------------


def test_progress_grows_by_bytes_and_ends_at_100_only_when_completed() -> None:
    builder = many().with_action(ActionName.MAINTENANCE_ON, 1)
    shown = []
    for turn in range(60):
        now = NOW + timedelta(seconds=turn)
        builder = step_moves(decide_once(builder, action_of(builder.view, A), now=now), now=now)
        shown.append(action_of(builder.view, A).progress)
    assert shown == sorted(shown)
    assert shown[-1] == 100
    assert len(set(shown)) > 5
    assert all(p <= PROGRESS_RUNNING_MAX for p in shown if p != 100)


# -- cancelling ------------------------------------------------------------------------------------------------------------


def test_a_queued_action_is_cancelled_at_once() -> None:
    builder = PAIR.with_action(ActionName.MAINTENANCE_ON, 1, cancel_requested_at=NOW)
    builder = after(builder, 1)
    assert action_of(builder.view, A).status == ActionStatus.CANCELLED
    assert not builder.view.nodes[NodeUid(1)].is_quorum_only


@pytest.mark.parametrize("name", list(ActionName))
def test_a_running_action_waits_for_its_moves_and_leaves_what_moved(name: ActionName) -> None:
    builder = PAIR.with_database(on=((1, 2),))
    if name == ActionName.MAINTENANCE_OFF:
        builder = run_action(builder.with_action(ActionName.MAINTENANCE_ON, 1), A, now=NOW)
        uid = "action-2"
    else:
        uid = A
    builder = builder.with_action(name, 1)
    while not [m for m in builder.view.live_moves() if m.action_uid == uid]:
        builder = run_action(builder, uid, now=NOW, turns=1)
        assert not action_of(builder.view, uid).status.is_terminal
    builder = builder.with_records(replace(action_of(builder.view, uid), cancel_requested_at=NOW))
    builder = decide_once(builder, action_of(builder.view, uid), now=NOW)
    assert action_of(builder.view, uid).status == ActionStatus.CANCELLING
    assert all(m.is_cancel_wanted for m in builder.view.live_moves() if m.action_uid == uid)
    builder = decide_once(builder, action_of(builder.view, uid), now=NOW)
    assert action_of(builder.view, uid).status == ActionStatus.CANCELLING
    assert action_of(builder.view, uid).reasons
    builder = run_action(builder, uid, now=NOW)
    assert action_of(builder.view, uid).status == ActionStatus.CANCELLED
    node = builder.view.nodes[NodeUid(1)]
    assert node.is_quorum_only == (name == ActionName.MAINTENANCE_ON), "marks stay"
    assert node.is_closed == (name == ActionName.REMOVE)
    assert not node.is_decommissioning


def test_a_status_of_cancelling_alone_is_enough() -> None:
    builder = after(PAIR.with_action(ActionName.MAINTENANCE_ON, 1), 4)
    builder = builder.with_records(replace(action_of(builder.view, A), status=ActionStatus.CANCELLING))
    builder = run_action(builder, A, now=NOW, fails=never)
    assert action_of(builder.view, A).status == ActionStatus.CANCELLED
