"""The specification of an endpoint, from the records."""

from dataclasses import replace

import pytest

from shardwright.endpoint.protocol import LeaseTerms, Target, VirtualPlace
from shardwright.endpoint.spec import spec_of, target_of, terms_of
from shardwright.model.database import GroupPhase, ServerSecrets
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.lease import Lease, Waiver
from shardwright.model.view import ClusterView
from shardwright.model.virtual_address import HeldAddress, VirtualAddress
from testkit.builders import NOW, cluster

GROUP = GroupUid("1:1")
SECRETS = ServerSecrets(DatabaseUid(1), "app", "rep", "obs", "man", "0" * 16)
PAIR = cluster(3).with_database("orders", on=((2, 1),), password="hush", is_strict=True).with_records(SECRETS)
TARGET = Target(ShardUid(1), 1, "127.0.0.2", 20_001, "run-1")


def test_a_specification_contains_the_passwords_of_clients_and_servers() -> None:
    spec = spec_of(PAIR.view, PAIR.view.endpoints[EndpointUid("1:1")], NodeUid(1))
    assert spec is not None
    assert (spec.uid, spec.database_uid, spec.database_name) == ("1:1", 1, "orders")
    assert (spec.address, spec.port) == ("127.0.0.1", 10_001)
    assert (spec.password, spec.application_secret, spec.is_strict) == ("hush", "app", True)
    assert spec.target == TARGET


def test_it_contains_the_virtual_addresses_of_its_database_wherever_they_are() -> None:
    all_databases = VirtualAddress("10.0.0.9", 24, "eth0", NOW, holder=NodeUid(1), generation=1)
    other = replace(all_databases, address="10.0.0.7", database_uid=DatabaseUid(2))
    leaving = replace(all_databases, address="10.0.0.8", database_uid=DatabaseUid(1), leaving_since=NOW)
    view = PAIR.with_records(all_databases, other, leaving).view

    def virtual(node: int) -> tuple[VirtualPlace, ...]:
        spec = spec_of(view, view.endpoints[EndpointUid("1:1")], NodeUid(node))
        assert spec is not None
        return spec.virtual

    assert virtual(1) == (VirtualPlace("10.0.0.8", is_closing=True), VirtualPlace("10.0.0.9"))
    assert virtual(2) == (VirtualPlace("10.0.0.8"), VirtualPlace("10.0.0.9")), "only its holder closes the clients"


def test_a_node_that_still_has_an_address_of_another_accepts_no_clients_there() -> None:
    address = VirtualAddress("10.0.0.9", 24, "eth0", NOW, holder=NodeUid(1), generation=2)
    view = PAIR.with_records(address).view

    def is_closing(*held: HeldAddress) -> bool:
        seen = replace(view.node_seen[NodeUid(2)], virtual_addresses=held)
        there = replace(view, node_seen={**view.node_seen, NodeUid(2): seen})
        spec = spec_of(there, view.endpoints[EndpointUid("1:1")], NodeUid(2))
        assert spec is not None
        return spec.virtual[0].is_closing

    assert not is_closing()
    assert is_closing(HeldAddress("10.0.0.9", 1))
    assert not is_closing(HeldAddress("10.0.0.9", 1, "it could not be added"))
    assert not is_closing(HeldAddress("10.0.0.8", 1))


def test_a_printed_specification_shows_no_secret() -> None:
    spec = spec_of(PAIR.view, PAIR.view.endpoints[EndpointUid("1:1")], NodeUid(1))
    assert "hush" not in repr(spec)
    assert "app" not in repr(spec)


def test_without_its_database_or_its_secrets_an_endpoint_has_no_specification() -> None:
    endpoint = PAIR.view.endpoints[EndpointUid("1:1")]
    assert spec_of(replace(PAIR.view, databases={}), endpoint, NodeUid(1)) is None
    assert spec_of(replace(PAIR.view, secrets={}), endpoint, NodeUid(1)) is None
    assert spec_of(replace(PAIR.view, groups={}), endpoint, NodeUid(1)) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": {}},
        {"shards": {}},
        {"nodes": {}},
        {"groups": {GROUP: replace(PAIR.view.groups[GROUP], phase=GroupPhase.STARTING)}},
        {"groups": {GROUP: replace(PAIR.view.groups[GROUP], primary=None)}},
    ],
)
def test_there_is_no_target_while_no_primary_is_open(changes: dict[str, object]) -> None:
    view: ClusterView = replace(PAIR.view, **changes)  # type: ignore[arg-type]
    assert target_of(view, GROUP) is None


def test_a_target_follows_the_groups_primary_and_generation() -> None:
    assert target_of(PAIR.view, GROUP) == TARGET
    moved = replace(PAIR.view.groups[GROUP], primary=ShardUid(2), generation=7)
    assert target_of(PAIR.with_records(moved).view, GROUP) == Target(ShardUid(2), 7, "127.0.0.1", 20_002, "run-2")
    unseen = target_of(PAIR.without_server(1).view, GROUP)
    assert unseen == replace(TARGET, run_id=""), "an unknown run id is not checked"


def test_the_address_of_a_target_is_that_of_the_shards_node() -> None:
    moved = replace(PAIR.view.shards[ShardUid(1)], node_uid=NodeUid(3), port=5)
    found = target_of(PAIR.with_records(moved).view, GROUP)
    assert found is not None
    assert (found.address, found.port) == ("127.0.0.3", 5)


def test_it_contains_the_lease_with_the_processes_that_are_known() -> None:
    group = PAIR.view.groups[GROUP]
    waived = (Waiver(NodeUid(1), "i1"), Waiver(NodeUid(2), ""))
    view = PAIR.with_records(replace(group, lease=Lease(4, True, waived))).view
    spec = spec_of(view, view.endpoints[EndpointUid("1:1")], NodeUid(1))
    assert spec is not None
    assert spec.lease == LeaseTerms(4, 1, True, ("i1",))
    assert terms_of(group) is None
