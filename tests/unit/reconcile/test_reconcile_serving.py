"""How nodes are added to an endpoint's record, and how they leave it."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shardwright.model.codes import Code
from shardwright.model.commands import DropEndpoint, RetireEndpoint, ServeEndpoint
from shardwright.model.database import DatabaseStatus, Endpoint, Handoff, LeavingNode, ProxyPolicy
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.seen import EndpointState
from shardwright.model.view import ClusterView, Put
from shardwright.moves.life import AGENT_ABSENT_LIMIT
from shardwright.moves.rebind import decide_rebind
from shardwright.reconcile.database import unsettled
from shardwright.reconcile.endpoint import decide_endpoint
from shardwright.reconcile.rebinding import decide_rebinding
from shardwright.reconcile.serving import decide_serving
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import rebind

DATABASE, ENDPOINT = DatabaseUid(1), EndpointUid("1:1")
N1, N2, N3 = NodeUid(1), NodeUid(2), NodeUid(3)
DRAIN = timedelta(seconds=30)


def shared(policy: ProxyPolicy = ProxyPolicy.ALL_NODES) -> ClusterBuilder:
    """Every node serves, with clients."""
    builder = cluster(3).with_database(on=((1, 2),), proxy_policy=policy)
    endpoint = replace(builder.view.endpoints[ENDPOINT], nodes=(N1, N2, N3))
    return with_clients(builder.with_records(endpoint).with_endpoints_seen())


def with_clients(builder: ClusterBuilder, **changes: object) -> ClusterBuilder:
    """Each process has clients; ``changes``: how node 3 shows the endpoint."""
    processes = {}
    for uid, process in builder.view.endpoint_processes.items():
        shown: dict[str, Any] = {"connections": 4, "address": f"127.0.0.{uid}"} | (changes if uid == N3 else {})
        found = tuple(replace(e, **shown) for e in process.endpoints)
        processes[uid] = replace(process, endpoints=found)
    return ClusterBuilder(replace(builder.view, endpoint_processes=processes))


def after(builder: ClusterBuilder, now: datetime = NOW) -> ClusterBuilder:
    return builder.with_writes(*decide_serving(builder.view.endpoints[ENDPOINT], builder.view, now).writes)


def record(builder: ClusterBuilder) -> Endpoint:
    return builder.view.endpoints[ENDPOINT]


def commands(builder: ClusterBuilder) -> tuple[object, ...]:
    return decide_endpoint(record(builder), builder.view).commands


def in_maintenance() -> ClusterBuilder:
    return shared().with_node_changed(3, is_quorum_only=True)


def closing() -> ClusterBuilder:
    return after(after(in_maintenance()), NOW + DRAIN)


def test_a_node_that_should_serve_is_added_and_told() -> None:
    builder = shared().with_records(replace(record(shared()), nodes=(N1,)))
    builder = after(ClusterBuilder(replace(builder.view, endpoint_processes={})).with_endpoints_seen())
    assert record(builder).nodes == (N1, N2, N3)
    missing = {
        uid: replace(p, endpoints=p.endpoints if uid == N1 else ()) for uid, p in builder.view.endpoint_processes.items()
    }
    assert commands(ClusterBuilder(replace(builder.view, endpoint_processes=missing))) == (
        ServeEndpoint(N2, ENDPOINT),
        ServeEndpoint(N3, ENDPOINT),
    )


def test_nothing_is_written_when_the_record_is_right() -> None:
    assert decide_serving(record(shared()), shared().view, NOW).writes == ()
    assert commands(shared()) == ()


@pytest.mark.parametrize("status", [DatabaseStatus.DELETE_PENDING, DatabaseStatus.CREATION_FAILED])
def test_the_endpoint_of_an_ending_database_stays_as_it_is(status: DatabaseStatus) -> None:
    builder = in_maintenance().with_database_changed(1, status=status)
    assert record(after(builder)).leaving == ()


def test_nothing_changes_during_a_handoff_or_a_rebind() -> None:
    group = replace(in_maintenance().view.groups[GroupUid("1:1")], handoff=Handoff(ShardUid(1), ShardUid(2), 2, 1, NOW))
    assert record(after(in_maintenance().with_records(group))).leaving == ()
    assert record(after(in_maintenance().with_move(rebind()))).leaving == ()


def test_a_node_in_maintenance_serves_until_the_time_is_over() -> None:
    leaving = after(in_maintenance())
    assert record(leaving).leaving == (LeavingNode(N3, NOW),)
    assert record(leaving).bound_nodes == (N1, N2, N3)
    assert commands(leaving) == ()
    assert record(after(leaving, NOW + DRAIN - timedelta(seconds=1))).leaving == (LeavingNode(N3, NOW),)
    over = after(leaving, NOW + DRAIN)
    assert record(over).leaving == (LeavingNode(N3, NOW + DRAIN, is_closing=True),)
    assert record(over).nodes == (N1, N2, N3), "a handoff still holds its process"
    assert commands(over) == (RetireEndpoint(N3, ENDPOINT),)


def test_a_node_whose_clients_have_left_does_not_wait() -> None:
    second = timedelta(seconds=1)
    leaving = after(with_clients(in_maintenance(), connections=0))
    assert record(after(leaving, NOW + second)).leaving == (LeavingNode(N3, NOW),), "seen before it began to leave"
    process = replace(leaving.view.endpoint_processes[N3], at=NOW + second)
    unused = ClusterBuilder(replace(leaving.view, endpoint_processes={**leaving.view.endpoint_processes, N3: process}))
    assert record(after(unused, NOW + second)).leaving == (LeavingNode(N3, NOW + second, is_closing=True),)
    process = replace(in_maintenance().view.endpoint_processes[N3], answers=False, has_ended=True)
    processes = {**in_maintenance().view.endpoint_processes, N3: process}
    ended = ClusterBuilder(replace(in_maintenance().view, endpoint_processes=processes))
    assert record(after(ended)).leaving == (LeavingNode(N3, NOW, is_closing=True),)
    assert record(after(ended.without_daemon(3))).nodes == (N1, N2)


def test_the_last_process_that_serves_does_not_close() -> None:
    builder = after(in_maintenance())
    only = {uid: p for uid, p in builder.view.endpoint_processes.items() if uid == N3}
    alone = ClusterBuilder(replace(builder.view, endpoint_processes=only))
    assert record(after(alone, NOW + 2 * DRAIN)).leaving == (LeavingNode(N3, NOW),)


def test_a_process_that_occupies_the_address_of_its_successor_closes() -> None:
    """The policy became ``single``, and node 1, whose own address is the endpoint's, has no daemon."""
    builder = with_clients(after(shared(ProxyPolicy.SINGLE).without_daemon(1)), state=EndpointState.LISTENING)
    process = builder.view.endpoint_processes[N2]
    assert [one.node_uid for one in record(builder).leaving] == [N1, N3]
    barred = replace(process, endpoints=tuple(replace(e, state=EndpointState.BIND_FAILED) for e in process.endpoints))
    builder = ClusterBuilder(replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, N2: barred}))
    over = record(after(builder, NOW + DRAIN)).leaving
    assert [(one.node_uid, one.is_closing) for one in over] == [(N1, True), (N3, False)]


def test_a_node_leaves_the_record_when_no_client_is_connected_through_it() -> None:
    busy = with_clients(closing(), state=EndpointState.DRAINING)
    assert record(after(busy)).nodes == (N1, N2, N3)
    empty = after(with_clients(closing(), state=EndpointState.DRAINING, connections=0))
    assert (record(empty).nodes, record(empty).leaving) == ((N1, N2), ())
    assert commands(empty) == (DropEndpoint(N3, ENDPOINT),)


def test_a_silent_process_of_a_dead_node_is_given_up_after_a_while() -> None:
    process = replace(closing().view.endpoint_processes[N3], answers=False)
    builder = ClusterBuilder(replace(closing().view, endpoint_processes={**closing().view.endpoint_processes, N3: process}))
    later = NOW + DRAIN + AGENT_ABSENT_LIMIT
    assert record(after(builder, later)).nodes == (N1, N2, N3)
    assert record(after(builder.without_daemon(3), later - timedelta(seconds=1))).nodes == (N1, N2, N3)
    assert record(after(builder.without_daemon(3), later)).nodes == (N1, N2)


def test_a_node_that_comes_back_serves_again() -> None:
    builder = after(with_clients(closing(), state=EndpointState.DRAINING).with_node_changed(3, is_quorum_only=False))
    assert record(builder).leaving == ()
    assert commands(builder) == (ServeEndpoint(N3, ENDPOINT),)


def test_a_removed_node_is_taken_out_at_once() -> None:
    nodes = {uid: node for uid, node in shared().view.nodes.items() if uid != N3}
    assert record(after(ClusterBuilder(replace(shared().view, nodes=nodes)))).nodes == (N1, N2)


def test_a_process_at_another_address_is_told_its_own() -> None:
    builder = shared(ProxyPolicy.SINGLE)
    assert commands(after(builder)) == ()
    moved = with_clients(shared(), address="127.0.0.1")
    assert commands(moved) == (ServeEndpoint(N3, ENDPOINT),)


def test_the_nodes_with_a_primary_keep_the_endpoint() -> None:
    builder = after(shared(ProxyPolicy.ALL_MASTER_SHARDS))
    assert record(builder).leaving == (LeavingNode(N2, NOW), LeavingNode(N3, NOW))


def test_an_endpoint_of_several_nodes_is_not_moved() -> None:
    dead = shared().with_records(replace(record(shared()), nodes=(N3,))).without_daemon(3)
    process = replace(dead.view.endpoint_processes[N3], answers=False, has_ended=True)
    view = replace(dead.view, endpoint_processes={**dead.view.endpoint_processes, N3: process})
    assert decide_rebinding(view, NOW).writes == ()
    single = ClusterBuilder(view).with_database_changed(1, proxy_policy=ProxyPolicy.SINGLE).view
    assert decide_rebinding(single, NOW).writes != ()
    (write,) = decide_rebind(rebind(), shared().view, NOW).writes
    assert isinstance(write, Put)
    assert write.record.state.is_terminal  # type: ignore[union-attr]


def test_a_change_does_not_wait_for_a_dead_node_or_one_that_leaves() -> None:
    def codes(view: ClusterView) -> list[str]:
        return [r.code for r in unsettled(view.databases[DATABASE], view) if r.code != Code.SHARD_NOT_READY]

    processes = {uid: p for uid, p in shared().view.endpoint_processes.items() if uid != N3}
    gone = ClusterBuilder(replace(shared().view, endpoint_processes=processes))
    assert codes(gone.view) == ["endpoint_not_ready"]
    assert codes(gone.without_daemon(3).view) == []
    assert codes(after(gone.with_node_changed(3, is_quorum_only=True)).view) == []
