"""Virtual addresses: what is refused, what is recorded, what is shown."""

from dataclasses import replace
from typing import Any

import pytest

from shardwright.api.schemas.v1.requests import NodeBody, VirtualAddressBody
from shardwright.api.schemas.v1.virtual_addresses import virtual_address
from shardwright.api.services import nodes
from shardwright.api.services import virtual_addresses as service
from shardwright.errors import Rejected
from shardwright.model.cluster import ClusterKind
from shardwright.model.event import EventKind
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.view import ClusterView, Put
from shardwright.model.virtual_address import HeldAddress, VirtualAddress
from testkit.builders import NOW, cluster
from tests.unit.api.api_looks import events_of, look_at

WISH = VirtualAddressBody(address="10.0.0.9/24", interface="eth0")
ADDRESS = VirtualAddress("10.0.0.9", 24, "eth0", NOW)


def machines(*addresses: VirtualAddress, kind: ClusterKind = ClusterKind.MACHINES, interface: str = "eth0") -> ClusterView:
    """Three machines and a database; the agents of two of them could add addresses to the interface."""
    builder = cluster(nodes=3).with_database(on=((1, 2),)).with_node_changed(3, external_addresses=("10.0.0.3",))
    assert builder.view.cluster is not None
    view = builder.with_records(replace(builder.view.cluster, kind=kind), *addresses).view
    able = {uid: replace(view.node_seen[uid], virtual_interfaces=(interface,)) for uid in (NodeUid(1), NodeUid(2))}
    return view.changed(node_seen={**view.node_seen, **able})


def test_it_is_recorded_without_a_holder() -> None:
    intent = service.add(look_at(machines()), WISH)
    assert intent.answer == ADDRESS
    (event,) = events_of(intent)
    assert (event.kind, event.by) == (EventKind.VIRTUAL_ADDRESS_ADDED, "admin@example.com")
    of_one = service.add(look_at(machines()), VirtualAddressBody(address="10.0.0.9/24", interface="eth0", bdb_uid=1))
    assert of_one.answer == replace(ADDRESS, database_uid=DatabaseUid(1))


def test_a_node_cannot_take_it_as_its_external_address() -> None:
    view = machines(ADDRESS)
    given = NodeBody(external_addr=["10.0.0.9"])
    with pytest.raises(Rejected) as refused:
        nodes.change(look_at(view), NodeUid(1), given)
    assert refused.value.code == "virtual_address_taken"
    assert nodes.change(look_at(machines()), NodeUid(1), given).answer.external_addresses == ("10.0.0.9",)


def test_the_same_request_again_changes_nothing() -> None:
    held = replace(ADDRESS, holder=NodeUid(2), generation=3)
    intent = service.add(look_at(machines(held)), WISH)
    assert (intent.answer, intent.writes) == (held, ())


@pytest.mark.parametrize(
    ("view", "wish", "code"),
    [
        (machines(kind=ClusterKind.LOCAL), {}, "local_cluster"),
        (machines(), {"address": "10.0.0.9"}, "invalid_parameter"),
        (machines(), {"address": "10.0.0.9/33"}, "invalid_parameter"),
        (machines(), {"address": "eth0/24"}, "invalid_parameter"),
        (machines(), {"address": "10.0.0.0/24"}, "invalid_parameter"),
        (machines(), {"address": "10.0.0.255/24"}, "invalid_parameter"),
        (machines(), {"address": "127.0.0.9/8"}, "invalid_parameter"),
        (machines(), {"address": "224.0.0.9/24"}, "invalid_parameter"),
        (machines(), {"address": "0.0.0.0/0"}, "invalid_parameter"),
        (machines(), {"address": "fd00::9/64"}, "invalid_configuration"),
        (machines(), {"interface": ""}, "invalid_parameter"),
        (machines(), {"interface": "lo"}, "invalid_parameter"),
        (machines(), {"interface": "a name with spaces"}, "invalid_parameter"),
        (machines(), {"interface": "eth1"}, "virtual_address_impossible"),
        (machines(), {"bdb_uid": 7}, "db_not_found"),
        (machines(), {"address": "10.0.0.3/24"}, "virtual_address_taken"),
        (machines(ADDRESS), {"interface": "eth1"}, "virtual_address_exists"),
        (machines(ADDRESS), {"address": "10.0.0.9/16"}, "virtual_address_exists"),
        (machines(ADDRESS), {"bdb_uid": 1}, "virtual_address_exists"),
        (machines(replace(ADDRESS, is_ending=True)), {}, "virtual_address_exists"),
    ],
)
def test_it_is_refused(view: ClusterView, wish: dict[str, Any], code: str) -> None:
    with pytest.raises(Rejected) as refused:
        service.add(look_at(view), WISH.model_copy(update=wish))
    assert refused.value.code == code


def test_a_removal_marks_it_and_repeats_nothing() -> None:
    intent = service.remove(look_at(machines(ADDRESS)), "10.0.0.9")
    assert intent.writes[0] == Put(replace(ADDRESS, is_ending=True))
    assert [e.kind for e in events_of(intent)] == [EventKind.VIRTUAL_ADDRESS_REMOVE_REQUEST]
    assert service.remove(look_at(machines(replace(ADDRESS, is_ending=True))), "10.0.0.9").writes == ()
    with pytest.raises(Rejected) as refused:
        service.remove(look_at(machines()), "10.0.0.9")
    assert refused.value.code == "virtual_address_not_found"


def test_its_status_is_what_the_agent_of_its_holder_says() -> None:
    held = replace(ADDRESS, holder=NodeUid(2), generation=3)

    def status(one: VirtualAddress, *seen: HeldAddress) -> str:
        view = machines(one)
        agent = replace(view.node_seen[NodeUid(2)], virtual_addresses=seen)
        return virtual_address(one, view.changed(node_seen={**view.node_seen, NodeUid(2): agent}))["status"]

    assert status(ADDRESS) == "pending"
    assert status(held) == "pending"
    assert status(held, HeldAddress("10.0.0.9", 2)) == "pending"
    assert status(held, HeldAddress("10.0.0.9", 3, "no such device")) == "pending"
    assert status(held, HeldAddress("10.0.0.9", 3)) == "active"
    assert status(replace(held, leaving_since=NOW), HeldAddress("10.0.0.9", 3)) == "moving"
    assert status(replace(held, leaving_since=NOW, is_ending=True)) == "ending"


def test_it_is_shown_with_the_nodes_that_can_have_it() -> None:
    assert virtual_address(ADDRESS, machines(ADDRESS)) == {
        "addr": "10.0.0.9",
        "prefix_length": 24,
        "interface": "eth0",
        "bdb_uid": None,
        "node_uid": None,
        "generation": 0,
        "status": "pending",
        "able_nodes": [1, 2],
        "added": "2026-01-02T03:04:05Z",
    }
