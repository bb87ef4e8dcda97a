"""Who serves an endpoint, and at which address."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.cluster import ClusterKind
from shardwright.model.database import Endpoint, LeavingNode, ProxyPolicy
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid
from shardwright.model.serving import accepting_nodes, addresses_of, listening_address, policy_of, serving_nodes
from shardwright.model.view import ClusterView
from testkit.builders import NOW, ClusterBuilder, cluster

DATABASE, ENDPOINT = DatabaseUid(1), EndpointUid("1:1")
N1, N2, N3 = NodeUid(1), NodeUid(2), NodeUid(3)


def made(policy: ProxyPolicy, *, nodes: int = 3) -> ClusterBuilder:
    return cluster(nodes).with_database(on=((2, 1),), proxy_policy=policy)


def wanted(view: ClusterView, *bound: NodeUid) -> tuple[NodeUid, ...]:
    return serving_nodes(view.databases[DATABASE], view, bound)


def shown(view: ClusterView, **changes: object) -> Endpoint:
    return replace(view.endpoints[ENDPOINT], **changes)  # type: ignore[arg-type]


def test_every_active_node_serves() -> None:
    builder = made(ProxyPolicy.ALL_NODES)
    assert wanted(builder.view) == (N1, N2, N3)
    assert wanted(builder.without_daemon(3).view) == (N1, N2, N3), "a missing daemon proves nothing"
    assert wanted(builder.with_node_changed(3, is_quorum_only=True).view, N1, N2, N3) == (N1, N2)
    assert wanted(builder.with_node_changed(3, is_decommissioning=True).view, N1, N2, N3) == (N1, N2)


def test_a_closed_node_takes_no_endpoint_and_keeps_what_it_has() -> None:
    view = made(ProxyPolicy.ALL_NODES).with_node_changed(3, is_closed=True).view
    assert wanted(view, N1) == (N1, N2)
    assert wanted(view, N1, N3) == (N1, N2, N3)


def test_the_nodes_with_a_primary_serve() -> None:
    builder = made(ProxyPolicy.ALL_MASTER_SHARDS)
    assert wanted(builder.view, N1, N3) == (N2,)
    assert wanted(builder.with_node_changed(2, is_quorum_only=True).view, N2) == (N2,), "the primary is still there"
    without = replace(builder.view, groups={})
    assert wanted(without, N3) == (N3,), "without a primary, nothing changes"


@pytest.mark.parametrize("policy", list(ProxyPolicy))
def test_the_last_node_stays_whatever_its_marks(policy: ProxyPolicy) -> None:
    view = made(policy, nodes=2).with_node_changed(1, is_quorum_only=True).with_node_changed(2, is_quorum_only=True).view
    assert wanted(view, N2) == (N2,)


def test_one_node_keeps_an_endpoint_that_becomes_single() -> None:
    builder = made(ProxyPolicy.SINGLE)
    assert wanted(builder.view, N3) == (N3,)
    assert wanted(builder.view, N1, N2, N3) == (N1,), "it listens at the address already"
    assert wanted(builder.view, N2, N3) == (N2,), "it holds the primary"
    assert wanted(builder.with_node_changed(2, is_quorum_only=True).view, N2, N3) == (N3,)
    assert wanted(builder.without_daemon(1).view, N1, N2, N3) == (N2,), "node 1 may be dead"
    assert wanted(builder.view, NodeUid(9)) == ()


def test_each_node_has_an_address_of_its_own_unless_one_serves() -> None:
    view = made(ProxyPolicy.ALL_NODES).with_node_changed(3, external_addresses=("192.0.2.7", "192.0.2.8")).view
    endpoint = shown(view, nodes=(N1, N2, N3))
    assert addresses_of(endpoint, view) == ("127.0.0.1", "127.0.0.2", "192.0.2.7")
    assert listening_address(endpoint, NodeUid(9), view) == endpoint.address
    single = made(ProxyPolicy.SINGLE).view
    assert addresses_of(shown(single), single) == ("127.0.0.1",)
    assert policy_of(shown(single), replace(single, databases={})) is ProxyPolicy.SINGLE


def test_nodes_on_their_way_out_are_named_last_and_closing_ones_not_at_all() -> None:
    view = made(ProxyPolicy.ALL_NODES).view
    leaving, closing = LeavingNode(N1, NOW), LeavingNode(N2, NOW + timedelta(seconds=1), is_closing=True)
    endpoint = shown(view, nodes=(N1, N2, N3), leaving=(leaving, closing))
    assert endpoint.bound_nodes == (N1, N3)
    assert accepting_nodes(endpoint) == (N3, N1)
    assert addresses_of(endpoint, view) == ("127.0.0.3", "127.0.0.1")


def test_a_node_that_leaves_a_single_endpoint_keeps_its_own_address() -> None:
    view = made(ProxyPolicy.SINGLE).view
    endpoint = shown(view, nodes=(N1, N3), leaving=(LeavingNode(N3, NOW),))
    assert [listening_address(endpoint, uid, view) for uid in (N1, N3)] == ["127.0.0.1", "127.0.0.3"]


def test_the_nodes_of_several_machines_have_no_common_address() -> None:
    builder = made(ProxyPolicy.SINGLE).with_node_changed(3, external_addresses=("203.0.113.3",))
    assert builder.view.cluster is not None
    machines = builder.with_records(replace(builder.view.cluster, kind=ClusterKind.MACHINES)).view
    for node, local, own in ((N2, "127.0.0.1", "127.0.0.2"), (N3, "127.0.0.1", "203.0.113.3")):
        assert listening_address(shown(builder.view), node, builder.view) == local
        assert listening_address(shown(machines), node, machines) == own
    assert addresses_of(shown(machines, nodes=(N3,)), machines) == ("203.0.113.3",)
    assert listening_address(shown(machines), NodeUid(9), machines) == "127.0.0.1", "no record of the node"
