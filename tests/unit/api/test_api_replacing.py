"""A new node removes the node whose place it has taken, once."""

import pytest

from shardwright.api.services.replacing import begin_removal, is_due
from shardwright.errors import Rejected
from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.cluster import Node
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.store.protocol import ModifiedAt
from testkit.builders import ClusterBuilder, cluster
from tests.unit.api.api_looks import look_at

THREE, TWO = NodeUid(3), NodeUid(2)
UID = ActionUid("new")


def replaced() -> ClusterBuilder:
    """Node 3 has taken the place of node 2, which is away."""
    return cluster(nodes=3).with_database(on=((2, 1),)).without_daemon(2).with_node_changed(3, replaces=TWO)


def nodes_written(builder: ClusterBuilder) -> dict[NodeUid, Node]:
    intent = begin_removal(look_at(builder.view), THREE, uid=UID)
    return {w.record.uid: w.record for w in intent.writes if isinstance(w.record, Node)}


def test_it_waits_for_its_own_daemon() -> None:
    assert is_due(replaced().view, THREE)
    assert not is_due(replaced().without_daemon(3).view, THREE), "the copies would have no place there yet"
    assert not is_due(replaced().view, NodeUid(1))


def test_the_removal_and_the_end_of_the_wish_are_one_transaction() -> None:
    intent = begin_removal(look_at(replaced().view), THREE, uid=UID)
    assert isinstance(intent.answer, Action)
    assert (intent.answer.name, intent.answer.node_uid, intent.answer.status) == (ActionName.REMOVE, 2, ActionStatus.QUEUED)
    found = nodes_written(replaced())
    assert found[THREE].replaces is None
    assert found[TWO].is_closed
    assert ModifiedAt("locks/nodes/00000002", 0) in intent.compares


def test_it_is_not_started_again_after_a_failure_or_a_cancellation() -> None:
    after = replaced().with_node_changed(3, replaces=None)
    assert begin_removal(look_at(after.view), THREE, uid=UID).writes == ()


@pytest.mark.parametrize("status", [ActionStatus.QUEUED, ActionStatus.RUNNING])
def test_a_removal_that_runs_already_is_enough(status: ActionStatus) -> None:
    builder = replaced().with_action(ActionName.REMOVE, 2, status=status)
    intent = begin_removal(look_at(builder.view), THREE, uid=UID)
    assert intent.answer is None
    assert nodes_written(builder) == {THREE: builder.with_node_changed(3, replaces=None).view.nodes[THREE]}


def test_a_node_that_has_left_needs_nothing() -> None:
    builder = cluster(nodes=3).with_node_changed(3, replaces=NodeUid(9))
    assert begin_removal(look_at(builder.view), THREE, uid=UID).answer is None
    assert nodes_written(builder)[THREE].replaces is None


def test_another_action_on_the_old_node_is_waited_for() -> None:
    builder = replaced().with_action(ActionName.MAINTENANCE_ON, 2, status=ActionStatus.RUNNING)
    with pytest.raises(Rejected) as refused:
        begin_removal(look_at(builder.view), THREE, uid=UID)
    assert refused.value.code == "node_action_in_progress"
