"""What the plans wait for at an endpoint that several nodes serve."""

from dataclasses import replace
from datetime import timedelta

from shardwright.actions.base import decide_action
from shardwright.actions.remove import EVACUATING
from shardwright.model.action import ActionName, ActionStatus, Step
from shardwright.model.cluster import Snapshot
from shardwright.model.codes import Code
from shardwright.model.database import LeavingNode, ProxyPolicy
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import EndpointState
from shardwright.plan.evacuate import EvacuationScope, Leaves, plan_evacuation
from shardwright.plan.leaving import drained_shares
from shardwright.plan.restore import plan_restore
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.stepper import action_of

ENDPOINT = EndpointUid("1:1")
N1, N2, N3 = NodeUid(1), NodeUid(2), NodeUid(3)


def shared(nodes: int = 3, *leaving: LeavingNode) -> ClusterBuilder:
    builder = cluster(nodes).with_database(on=((1, 2),), proxy_policy=ProxyPolicy.ALL_NODES)
    every = tuple(builder.view.nodes)
    return builder.with_records(
        replace(builder.view.endpoints[ENDPOINT], nodes=every, leaving=leaving)
    ).with_endpoints_seen()


def test_the_plan_waits_for_the_clients_and_moves_no_endpoint() -> None:
    for leaving, text in (
        ((), "another node must serve it first"),
        ((LeavingNode(N3, NOW),), "have time until 03:04:35"),
        ((LeavingNode(N3, NOW, is_closing=True),), "closed behind a reply"),
    ):
        plan = plan_evacuation(shared(3, *leaving).view, N3, EvacuationScope())
        assert (plan.moves, plan.unplaced) == ((), ())
        (reason,) = plan.waiting
        assert reason.code == Code.CLIENTS_LEAVING
        assert text in reason.text


def test_clients_of_a_process_that_was_given_up_and_answers_again_are_waited_for() -> None:
    """The endpoint left without it while its machine was cut off."""
    builder = shared()
    seen = builder.view.endpoint_processes[N3]
    gone = builder.with_records(replace(builder.view.endpoints[ENDPOINT], nodes=(N1, N2))).view
    for answers, state, connections, waits in (
        (True, EndpointState.DRAINING, 1, [Code.CLIENTS_LEAVING]),
        (True, EndpointState.DRAINING, 0, []),
        (False, EndpointState.DRAINING, 1, []),
        (True, EndpointState.ABSENT, 0, []),
    ):
        endpoints = tuple(replace(e, state=state, connections=connections) for e in seen.endpoints)
        process = replace(seen, answers=answers, endpoints=endpoints)
        view = gone.changed(endpoint_processes={**gone.endpoint_processes, N3: process})
        assert [r.code for r in plan_evacuation(view, N3, EvacuationScope()).waiting] == waits


def test_a_node_that_loses_only_its_roles_keeps_its_clients() -> None:
    for leaves in (Leaves.ROLES, Leaves.NOTHING):
        assert plan_evacuation(shared().view, N3, EvacuationScope(leaves)).is_empty
    assert not plan_evacuation(shared().view, N3, EvacuationScope(Leaves.PRIMARIES)).is_empty


def test_the_last_node_that_could_serve_cannot_leave() -> None:
    builder = shared().with_node_changed(1, is_quorum_only=True).with_node_changed(2, is_quorum_only=True)
    view = builder.with_records(replace(builder.view.endpoints[ENDPOINT], nodes=(N3,))).view
    view = replace(view, groups={})
    plan = plan_evacuation(view, N3, EvacuationScope())
    assert [u.endpoint_uid for u in plan.unplaced] == [ENDPOINT]


def test_the_share_of_the_time_that_has_passed() -> None:
    view = shared(3, LeavingNode(N2, NOW, is_closing=True), LeavingNode(N3, NOW)).view
    assert drained_shares(view, N1, NOW) == []
    assert drained_shares(view, N2, NOW) == [1.0]
    assert drained_shares(view, N3, NOW + timedelta(seconds=15)) == [0.5]
    assert drained_shares(view, N3, NOW + timedelta(seconds=99)) == [1.0]


def test_the_action_names_the_step_and_its_progress_grows() -> None:
    builder = shared(3, LeavingNode(N3, NOW)).with_action(
        ActionName.REMOVE,
        3,
        status=ActionStatus.RUNNING,
        phase=EVACUATING,
        started_at=NOW,
        steps=(Step("evacuate", NOW),),
    )
    shown = []
    for seconds in (3, 15, 24):
        now = NOW + timedelta(seconds=seconds)
        action = action_of(builder.view, "action-1")
        builder = builder.with_writes(*decide_action(action, builder.view, now).writes)
        shown.append(action_of(builder.view, "action-1"))
    assert [step.name for step in shown[-1].steps] == ["evacuate", "drain_clients"]
    assert [action.progress for action in shown] == [10.0, 50.0, 80.0]
    assert [r.code for r in shown[-1].reasons] == [Code.CLIENTS_LEAVING]


def test_the_end_of_a_maintenance_waits_until_the_node_serves_again() -> None:
    builder = shared()
    snapshot = Snapshot(N3, "maintenance_mode_x", NOW, (), (ENDPOINT,))
    assert not plan_restore(builder.view, snapshot).waiting
    out = builder.with_records(replace(builder.view.endpoints[ENDPOINT], nodes=(N1, N2)))
    (reason,) = plan_restore(out.view, snapshot).waiting
    assert reason.code == Code.ENDPOINT_NOT_READY
    assert not plan_restore(out.without_daemon(3).view, snapshot).waiting
    assert not plan_restore(out.with_database_changed(1, proxy_policy=ProxyPolicy.ALL_MASTER_SHARDS).view, snapshot).waiting
    process = builder.view.endpoint_processes[N3]
    barred = replace(process, endpoints=tuple(replace(e, state=EndpointState.BIND_FAILED) for e in process.endpoints))
    view = replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, N3: barred})
    assert not plan_restore(view, snapshot).waiting, "an occupied port is a trouble of the database, not of the action"
