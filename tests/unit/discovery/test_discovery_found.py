"""Which place of a database a node names."""

from dataclasses import replace

import pytest

from shardwright.discovery.found import FoundAddress, others, places
from shardwright.model.database import DatabaseStatus, LeavingNode, ProxyPolicy
from shardwright.model.ids import EndpointUid, NodeUid
from testkit.builders import NOW, ClusterBuilder, cluster

ENDPOINT = EndpointUid("1:1")
PORT = 10_001


def served(*nodes: int, policy: ProxyPolicy = ProxyPolicy.ALL_NODES) -> ClusterBuilder:
    """A database that these nodes serve."""
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),), proxy_policy=policy)
    return builder.with_records(replace(builder.view.endpoints[ENDPOINT], nodes=tuple(map(NodeUid, nodes))))


def named(builder: ClusterBuilder, own: int) -> str:
    return places(builder.view, NodeUid(own))["orders"].address


@pytest.mark.parametrize("own", [1, 2, 3])
def test_a_node_names_itself_where_it_serves(own: int) -> None:
    assert places(served(1, 2, 3).view, NodeUid(own))["orders"] == FoundAddress(f"127.0.0.{own}", PORT)


def test_a_node_that_does_not_serve_names_the_first_that_does() -> None:
    assert named(served(2, 3), 1) == "127.0.0.2"


def test_a_node_without_a_daemon_comes_last() -> None:
    assert named(served(2, 3).without_daemon(2), 1) == "127.0.0.3"
    assert named(served(2).without_daemon(2), 1) == "127.0.0.2", "there is no other"


@pytest.mark.parametrize("mark", ["is_quorum_only", "is_decommissioning"])
def test_a_node_in_maintenance_or_removal_names_others_first(mark: str) -> None:
    assert named(served(1, 2).with_node_changed(1, **{mark: True}), 1) == "127.0.0.2"


def test_a_node_whose_clients_are_to_leave_names_others_first_and_a_closing_one_never_itself() -> None:
    for is_closing in (False, True):
        builder = served(1, 2)
        leaving = (LeavingNode(NodeUid(1), NOW, is_closing=is_closing),)
        assert named(builder.with_records(replace(builder.view.endpoints[ENDPOINT], leaving=leaving)), 1) == "127.0.0.2"
    closing = replace(builder.view.endpoints[ENDPOINT], nodes=(NodeUid(1),), leaving=leaving)
    assert places(builder.with_records(closing).view, NodeUid(1)) == {}


def test_the_external_address_is_named_and_the_internal_one_on_demand() -> None:
    found = places(served(1, 2).with_node_changed(1, external_addresses=("198.51.100.7",)).view, NodeUid(1))
    assert found == {"orders": FoundAddress("198.51.100.7", PORT), "orders@internal": FoundAddress("127.0.0.1", PORT)}


def test_with_policy_single_every_node_names_the_one_address() -> None:
    builder = served(2, policy=ProxyPolicy.SINGLE)
    address = builder.view.endpoints[ENDPOINT].address
    assert {named(builder, own) for own in (1, 2, 3)} == {address}


@pytest.mark.parametrize("status", [DatabaseStatus.PENDING, DatabaseStatus.CREATION_FAILED, DatabaseStatus.DELETE_PENDING])
def test_a_database_that_does_not_serve_is_not_named(status: DatabaseStatus) -> None:
    assert places(served(1).with_database_changed(1, status=status).view, NodeUid(1)) == {}


def test_the_other_services_are_those_of_nodes_with_a_daemon() -> None:
    builder = served(1).with_node_changed(3, external_addresses=("198.51.100.9",))
    found = others(builder.view, NodeUid(1), 8001)
    assert found == [(NodeUid(2), FoundAddress("127.0.0.2", 8001)), (NodeUid(3), FoundAddress("198.51.100.9", 8001))]
    assert [uid for uid, _ in others(builder.without_daemon(2).view, NodeUid(1), 8001)] == [3]
