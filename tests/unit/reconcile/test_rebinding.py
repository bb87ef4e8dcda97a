"""Endpoints of dead nodes: when they are bound elsewhere, where, and when not."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from shardwright.model.action import ActionName
from shardwright.model.database import DatabaseStatus
from shardwright.model.ids import EndpointUid, MoveUid, NodeUid
from shardwright.model.move import MoveState, Rebind
from shardwright.model.view import Put
from shardwright.reconcile.rebinding import BEGUN_AT_ONCE, decide_rebinding
from shardwright.reconcile.repair import RETRY
from testkit.builders import NOW, ClusterBuilder, cluster

SOON = NOW + timedelta(seconds=1)


def stranded(nodes: int = 3, databases: int = 1) -> ClusterBuilder:
    """Databases whose endpoints are on node 1, which is dead."""
    builder = cluster(nodes=nodes)
    for _ in range(databases):
        builder = builder.with_database(on=((2, 3),), endpoint_on=1)
    return silent(builder.with_endpoints_seen()).without_daemon(1)


def silent(builder: ClusterBuilder, node: int = 1) -> ClusterBuilder:
    process = replace(builder.view.endpoint_processes[NodeUid(node)], answers=False)
    found = {**builder.view.endpoint_processes, NodeUid(node): process}
    return ClusterBuilder(replace(builder.view, endpoint_processes=found))


def begun(builder: ClusterBuilder, now: datetime = SOON) -> list[Rebind]:
    writes = decide_rebinding(builder.view, now).writes
    return [w.record for w in writes if isinstance(w, Put) and isinstance(w.record, Rebind)]


def test_the_endpoint_of_a_dead_node_goes_to_the_node_of_its_primary() -> None:
    (move,) = begun(stranded())
    assert (move.endpoint_uid, move.from_node, move.to_node) == ("1:1", 1, 2)
    assert (move.action_uid, move.uid) == (None, "rebind-1:1-1")
    assert [w.record.kind for w in decide_rebinding(stranded().view, SOON).writes[1:]] == ["endpoint_rebind"]  # type: ignore[union-attr]


@pytest.mark.parametrize("alive", ["daemon", "process", "not asked yet"])
def test_a_node_of_which_something_lives_is_left_alone(alive: str) -> None:
    builder = cluster(nodes=3).with_database(on=((2, 3),), endpoint_on=1).with_endpoints_seen()
    match alive:
        case "daemon":
            builder = silent(builder)
        case "process":
            builder = builder.without_daemon(1)
        case _:
            asked = {uid: seen for uid, seen in builder.view.endpoint_processes.items() if uid != 1}
            builder = ClusterBuilder(replace(builder.view, endpoint_processes=asked)).without_daemon(1)
    assert decide_rebinding(builder.view, SOON).writes == ()


def test_an_endpoint_that_somebody_moves_is_left_to_them() -> None:
    builder = stranded()
    (move,) = begun(builder)
    assert begun(builder.with_move(move)) == []
    assert begun(builder.with_action(ActionName.REMOVE, 1)) == []


def test_an_endpoint_on_several_nodes_is_served_by_the_others() -> None:
    builder = stranded()
    endpoint = builder.view.endpoints[EndpointUid("1:1")]
    assert begun(builder.with_records(replace(endpoint, nodes=(NodeUid(1), NodeUid(2))))) == []


def test_nothing_is_done_for_a_database_that_is_deleted() -> None:
    assert begun(stranded().with_database_changed(1, status=DatabaseStatus.DELETE_PENDING)) == []


def test_one_decision_spreads_them_and_begins_so_many() -> None:
    moves = begun(stranded(databases=4))
    assert [m.to_node for m in moves] == [2, 3, 2, 3]
    assert len(begun(stranded(databases=BEGUN_AT_ONCE + 5))) == BEGUN_AT_ONCE


def test_where_it_failed_comes_last_and_not_at_once() -> None:
    builder = stranded()
    (move,) = begun(builder)
    failed = builder.with_move(replace(move, state=MoveState.FAILED, ended_at=SOON))
    assert begun(failed, SOON) == []
    (again,) = begun(failed, SOON + RETRY.delay(0))
    assert (again.uid, again.to_node) == (MoveUid("rebind-1:1-2"), 3)


def test_without_another_node_it_says_why() -> None:
    builder = stranded().with_node_changed(2, is_quorum_only=True).with_node_changed(3, is_quorum_only=True)
    decision = decide_rebinding(builder.view, SOON)
    assert decision.writes == ()
    assert decision.reasons
    assert decision.wake_at is not None


def test_a_node_that_steps_down_serves_it_when_there_is_no_other() -> None:
    """Clients wait meanwhile; what the step-down cannot move on it names."""
    builder = stranded().with_node_changed(2, is_quorum_only=True).with_action(ActionName.STEP_DOWN, 3)
    assert [m.to_node for m in begun(builder)] == [3]
    assert [m.to_node for m in begun(stranded().with_action(ActionName.STEP_DOWN, 2))] == [3]
    assert begun(stranded().with_node_changed(2, is_quorum_only=True).with_action(ActionName.REMOVE, 3)) == []
