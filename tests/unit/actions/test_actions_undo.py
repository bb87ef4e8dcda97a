"""Cancelling with undo: everything back where it was, whatever the action, however far it was."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.database import ShardWanted
from shardwright.model.move import MoveState
from shardwright.model.view import ClusterView
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.stepper import action_of, run_action, step_moves

A = "action-1"


def looks(view: ClusterView) -> object:
    """Everything that an operator would call *where it was*."""
    copies = sorted(
        (s.group_uid, s.node_uid, view.is_primary(s)) for s in view.shards.values() if s.wanted == ShardWanted.RUNNING
    )
    endpoints = sorted((e.uid, e.nodes) for e in view.endpoints.values())
    marks = sorted((n.uid, n.is_quorum_only, n.is_closed, n.is_decommissioning) for n in view.nodes.values())
    return copies, endpoints, marks, sorted(view.snapshots)


def start(name: ActionName) -> ClusterBuilder:
    builder = cluster(4, leader=2).with_database(on=((1, 2),)).with_database(on=((2, 1),)).with_database(on=((3, 1),))
    if name != ActionName.STEP_DOWN:
        builder = builder.with_database(on=((1,),))
    builder = builder.with_endpoints_seen()
    if name == ActionName.MAINTENANCE_OFF:
        builder = run_action(builder.with_action(ActionName.MAINTENANCE_ON, 1), A, now=NOW - timedelta(hours=1))
        builder = ClusterBuilder(replace(builder.view, actions={}, moves={}))
    return builder


def asked(builder: ClusterBuilder, name: ActionName) -> ClusterBuilder:
    """As the API queues it: a removal remembers whether the node was open, and closes it."""
    builder = builder.with_action(name, 1)
    action = action_of(builder.view, A)
    return builder.with_records(replace(action, was_closed=False)) if name == ActionName.REMOVE else builder


def undone(builder: ClusterBuilder, *, turns: int) -> ClusterBuilder:
    at = NOW + timedelta(seconds=turns)
    action = action_of(builder.view, A)
    builder = builder.with_records(replace(action, cancel_requested_at=at, is_undo_wanted=True))
    return run_action(builder, A, now=at, turns=100)


@pytest.mark.parametrize("name", list(ActionName))
@given(turns=st.integers(0, 40))
def test_everything_is_back_however_far_it_was(name: ActionName, turns: int) -> None:
    before = start(name)
    builder = run_action(asked(before, name), A, now=NOW, turns=turns)
    if action_of(builder.view, A).status.is_terminal:
        return
    builder = undone(builder, turns=turns)
    action = action_of(builder.view, A)
    assert action.status == ActionStatus.CANCELLED, action
    assert action.reasons == ()
    assert looks(settled(builder).view) == looks(before.view)


def settled(builder: ClusterBuilder) -> ClusterBuilder:
    """Moves that only tidy up end."""
    for second in range(5):
        builder = step_moves(builder, now=NOW + timedelta(hours=1, seconds=second))
    return builder


def test_what_was_on_a_node_in_maintenance_goes_back_to_it() -> None:
    before = start(ActionName.MAINTENANCE_ON).with_node_changed(1, is_quorum_only=True)
    builder = run_action(asked(before, ActionName.MAINTENANCE_ON), A, now=NOW, turns=7)
    assert looks(builder.view) != looks(before.view)
    assert looks(settled(undone(builder, turns=7)).view) == looks(before.view)


def test_a_stop_may_become_an_undo() -> None:
    before = start(ActionName.MAINTENANCE_ON)
    builder = run_action(asked(before, ActionName.MAINTENANCE_ON), A, now=NOW, turns=6)
    builder = builder.with_records(replace(action_of(builder.view, A), cancel_requested_at=NOW))
    builder = run_action(builder, A, now=NOW + timedelta(seconds=6), turns=1)
    assert action_of(builder.view, A).status == ActionStatus.CANCELLING
    assert looks(settled(undone(builder, turns=7)).view) == looks(before.view)


def test_a_node_that_cannot_take_anything_back_is_named_after_a_bounded_time() -> None:
    before = start(ActionName.MAINTENANCE_ON)
    builder = run_action(asked(before, ActionName.MAINTENANCE_ON), A, now=NOW, turns=7)
    builder = undone(builder.without_daemon(1), turns=7)
    action = action_of(builder.view, A)
    assert action.status == ActionStatus.CANCELLING
    assert {r.code for r in action.reasons} & {"node_down"}
    builder = run_action(builder, A, now=NOW + timedelta(minutes=3), turns=5)
    action = action_of(builder.view, A)
    assert (action.status, action.error_code) == (ActionStatus.FAILED, "undo_incomplete")
    assert any("start the daemon of node 1" in r.remedy for r in action.reasons)
    assert not [m for m in builder.view.live_moves() if m.state != MoveState.CLEANING]


def test_the_way_back_is_not_cancelled_by_asking_again() -> None:
    before = start(ActionName.MAINTENANCE_ON)
    builder = run_action(asked(before, ActionName.MAINTENANCE_ON), A, now=NOW, turns=7)
    action = action_of(builder.view, A)
    builder = builder.with_records(replace(action, cancel_requested_at=NOW + timedelta(seconds=7), is_undo_wanted=True))
    builder = run_action(builder, A, now=NOW + timedelta(seconds=7), turns=4)
    back = [m for m in builder.view.moves.values() if m.is_undo]
    assert back
    assert not any(m.is_cancel_wanted for m in back)
