"""Whether a node is emptied before its machine shuts down."""

from dataclasses import replace
from datetime import UTC, datetime

from shardwright.model.action import Action, ActionName, ActionStatus, MaintenanceOnParameters
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.model.view import ClusterView, Put
from shardwright.node.drain import needless, running
from testkit.builders import cluster

NODE = NodeUid(2)
WANTED = cluster(nodes=3).with_policy(drain_at_shutdown=True).view


def with_action(view: ClusterView, name: ActionName, status: ActionStatus, node: int = NODE) -> ClusterView:
    action = Action(
        ActionUid("a"), name, NodeUid(node), MaintenanceOnParameters(), status, datetime(2026, 1, 2, tzinfo=UTC), "x"
    )
    return view.with_writes([Put(action)])


def test_the_policy_decides() -> None:
    assert "policy" in needless(cluster(nodes=3).view, NODE)
    assert needless(WANTED, NODE) == ""
    assert "no record" in needless(WANTED, NodeUid(9))


def test_a_node_in_maintenance_is_empty_unless_an_action_is_at_work() -> None:
    resting = WANTED.with_writes([Put(replace(WANTED.nodes[NODE], is_quorum_only=True))])
    assert "maintenance" in needless(resting, NODE)
    assert needless(with_action(resting, ActionName.MAINTENANCE_OFF, ActionStatus.RUNNING), NODE) == ""
    assert needless(with_action(resting, ActionName.MAINTENANCE_ON, ActionStatus.RUNNING), NODE) == ""
    assert "maintenance" in needless(with_action(resting, ActionName.MAINTENANCE_ON, ActionStatus.COMPLETED), NODE)


def test_an_action_that_empties_the_node_already_is_waited_for() -> None:
    assert running(WANTED, NODE) is None
    for name, is_found in (
        (ActionName.MAINTENANCE_ON, True),
        (ActionName.REMOVE, True),
        (ActionName.MAINTENANCE_OFF, False),
        (ActionName.STEP_DOWN, False),
    ):
        found = running(with_action(WANTED, name, ActionStatus.RUNNING), NODE)
        assert (found is not None) == is_found
    assert running(with_action(WANTED, ActionName.MAINTENANCE_ON, ActionStatus.COMPLETED), NODE) is None
    assert running(with_action(WANTED, ActionName.MAINTENANCE_ON, ActionStatus.RUNNING, 1), NODE) is None
