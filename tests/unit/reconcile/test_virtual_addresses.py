"""Which node has a virtual address: it stays with a fit node, and goes to another fit one otherwise."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shardwright.model.cluster import ClusterKind
from shardwright.model.database import LeavingNode, ProxyPolicy
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid
from shardwright.model.reason import Grade
from shardwright.model.seen import VirtualSeen, VirtualState
from shardwright.model.serving import virtual_places
from shardwright.model.view import Delete, Put
from shardwright.model.virtual_address import HeldAddress, VirtualAddress
from shardwright.plan.virtual_addresses import held_by
from shardwright.reconcile.virtual_addresses import (
    BIND_FAILED_S,
    CLOSING_MAX,
    SILENT_AFTER,
    able_nodes,
    decide_virtual_address,
    endpoints_concerned,
    fit_nodes,
)
from testkit.builders import NOW, ClusterBuilder, cluster

N1, N2, N3 = NodeUid(1), NodeUid(2), NodeUid(3)
NAME, ENDPOINT = "10.0.0.9", EndpointUid("1:1")
ADDRESS = VirtualAddress(NAME, 24, "eth0", NOW)
HELD = replace(ADDRESS, holder=N1, generation=1)
LISTENING = VirtualState.LISTENING


def machines(address: VirtualAddress = HELD, policy: ProxyPolicy = ProxyPolicy.ALL_NODES, **changes: Any) -> ClusterBuilder:
    """Three machines whose processes serve a database at the address, and whose agents could add it."""
    builder = cluster(3).with_database(on=((1, 2),), proxy_policy=policy)
    assert builder.view.cluster is not None
    endpoint = replace(builder.view.endpoints[ENDPOINT], nodes=(N1, N2, N3), **changes)
    kind = replace(builder.view.cluster, kind=ClusterKind.MACHINES)
    builder = builder.with_records(kind, endpoint, address).with_endpoints_seen()
    for uid in (N1, N2, N3):
        builder = with_agent(with_virtual(builder, uid, LISTENING), uid, virtual_interfaces=("eth0", "eth1"))
    return builder


def with_process(builder: ClusterBuilder, uid: NodeUid, **changes: Any) -> ClusterBuilder:
    process = replace(builder.view.endpoint_processes[uid], **changes)
    return ClusterBuilder(builder.view.changed(endpoint_processes={**builder.view.endpoint_processes, uid: process}))


def with_virtual(builder: ClusterBuilder, uid: NodeUid, state: VirtualState, failed_s: float = 0.0) -> ClusterBuilder:
    seen = builder.view.endpoint_processes[uid].endpoint(ENDPOINT)
    return with_process(builder, uid, endpoints=(replace(seen, virtual=(VirtualSeen(NAME, state, failed_s),)),))


def with_agent(builder: ClusterBuilder, uid: NodeUid, **changes: Any) -> ClusterBuilder:
    seen = replace(builder.view.node_seen[uid], **changes)
    return ClusterBuilder(builder.view.changed(node_seen={**builder.view.node_seen, uid: seen}))


def silent(builder: ClusterBuilder, uid: NodeUid, since: datetime = NOW) -> ClusterBuilder:
    return with_process(builder, uid, answers=False, silent_since=since, endpoints=())


def after(builder: ClusterBuilder, now: datetime = NOW) -> ClusterBuilder:
    decision = decide_virtual_address(builder.view.virtual_addresses[NAME], builder.view, now)
    return builder.with_writes(*decision.writes)


def holder(builder: ClusterBuilder) -> tuple[NodeUid | None, int, bool]:
    """The holder, its generation, and whether the clients there are being closed."""
    found = builder.view.virtual_addresses[NAME]
    return found.holder, found.generation, found.leaving_since is not None


def test_a_new_address_goes_to_the_first_node_whose_process_listens_there() -> None:
    assert holder(after(machines(ADDRESS))) == (N1, 1, False)
    deaf = with_process(machines(ADDRESS), N1, endpoints=())
    assert holder(after(deaf)) == (N2, 1, False)


def test_no_node_gets_it_before_its_process_listens_there() -> None:
    builder = machines(ADDRESS)
    for uid in (N1, N2, N3):
        builder = with_process(builder, uid, endpoints=())
    assert holder(after(builder)) == (None, 0, False)


def test_the_node_with_the_fewest_addresses_is_preferred() -> None:
    other = replace(HELD, address="10.0.0.8")
    assert holder(after(machines(ADDRESS).with_records(other))) == (N2, 1, False)


def test_it_stays_with_a_fit_node_and_nothing_is_written() -> None:
    builder = machines()
    assert decide_virtual_address(HELD, builder.view, NOW).writes == ()


def test_it_does_not_go_back_by_itself() -> None:
    moved = replace(HELD, holder=N3, generation=2)
    assert holder(after(machines(moved))) == (N3, 2, False)


# -- a holder that is lost -------------------------------------------------------------------------------------------------


def test_a_silent_node_loses_it_after_three_seconds_and_not_before() -> None:
    builder = silent(machines(), N1)
    early = decide_virtual_address(HELD, builder.view, NOW + SILENT_AFTER - timedelta(milliseconds=1))
    assert (early.writes, early.wake_at) == ((), NOW + SILENT_AFTER)
    assert holder(after(builder, NOW + SILENT_AFTER)) == (N2, 2, False)


def test_the_move_is_an_event_that_says_why() -> None:
    builder = silent(machines(), N1)
    writes = decide_virtual_address(HELD, builder.view, NOW + SILENT_AFTER).writes
    (event,) = (w.record for w in writes if isinstance(w.record, Event))
    assert (event.kind, event.node_uid) == (EventKind.VIRTUAL_ADDRESS_MOVED, N2)
    assert "the endpoint process of node 1 does not answer" in event.text


def test_a_node_without_a_daemon_keeps_it_while_its_endpoint_process_answers() -> None:
    builder = machines().without_daemon(1)
    assert holder(after(builder, NOW + timedelta(hours=1))) == (N1, 1, False)


def test_a_node_that_was_not_asked_yet_keeps_it() -> None:
    builder = machines()
    processes = {uid: p for uid, p in builder.view.endpoint_processes.items() if uid != N1}
    assert holder(after(ClusterBuilder(builder.view.changed(endpoint_processes=processes)))) == (N1, 1, False)


def test_a_lost_node_keeps_it_while_no_other_is_fit() -> None:
    builder = machines().with_node_changed(2, is_quorum_only=True).with_node_changed(3, is_closed=True)
    assert holder(after(silent(builder, N1), NOW + SILENT_AFTER)) == (N1, 1, False)


def test_a_removed_node_loses_it() -> None:
    builder = machines()
    builder = builder.with_writes(Delete(builder.view.nodes[N1]))
    assert holder(after(builder)) == (N2, 2, False)


def test_a_node_that_cannot_add_it_loses_it_and_does_not_get_it_again() -> None:
    builder = with_agent(machines(), N1, virtual_addresses=(HeldAddress(NAME, 1, "Operation not permitted"),))
    moved = after(builder)
    assert holder(moved) == (N2, 2, False)
    assert fit_nodes(moved.view.virtual_addresses[NAME], moved.view) == [N3, N2]


def test_a_failure_of_an_earlier_generation_does_not_count() -> None:
    builder = with_agent(machines(replace(HELD, generation=2)), N1, virtual_addresses=(HeldAddress(NAME, 1, "no"),))
    assert holder(after(builder)) == (N1, 2, False)


# -- a holder that is to leave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"is_quorum_only": True}, {"is_decommissioning": True}])
def test_a_node_that_is_emptied_closes_the_clients_first(change: dict[str, bool]) -> None:
    builder = machines().with_node_changed(1, **change)
    asked = after(builder)
    assert holder(asked) == (N1, 1, True)
    assert holder(after(asked)) == (N1, 1, True), "they are not closed yet"
    closing = with_virtual(asked, N1, VirtualState.CLOSING)
    assert holder(after(closing)) == (N1, 1, True)
    left = with_virtual(asked, N1, VirtualState.LEFT)
    assert holder(after(left)) == (N2, 2, False)


def test_a_process_that_does_not_close_them_is_not_awaited_for_ever() -> None:
    asked = after(machines().with_node_changed(1, is_quorum_only=True))
    assert decide_virtual_address(asked.view.virtual_addresses[NAME], asked.view, NOW).wake_at == NOW + CLOSING_MAX
    assert holder(after(asked, NOW + CLOSING_MAX)) == (N2, 2, False)


def test_a_node_that_falls_silent_while_it_closes_them_loses_it() -> None:
    asked = silent(after(machines().with_node_changed(1, is_quorum_only=True)), N1)
    assert holder(after(asked)) == (N1, 1, True)
    assert holder(after(asked, NOW + SILENT_AFTER)) == (N2, 2, False)


def test_a_node_whose_maintenance_ends_meanwhile_keeps_it() -> None:
    asked = after(machines().with_node_changed(1, is_quorum_only=True))
    assert holder(after(asked.with_node_changed(1, is_quorum_only=False))) == (N1, 1, False)


def test_the_last_fit_node_keeps_it_in_maintenance() -> None:
    builder = machines().with_node_changed(1, is_quorum_only=True)
    for uid in (N2, N3):
        builder = with_agent(builder, uid, virtual_interfaces=())
    assert holder(after(builder)) == (N1, 1, False)


def test_an_occupied_port_moves_it_after_a_while() -> None:
    builder = with_virtual(machines(), N1, VirtualState.BIND_FAILED, BIND_FAILED_S - 0.1)
    assert holder(after(builder)) == (N1, 1, False)
    builder = with_virtual(machines(), N1, VirtualState.BIND_FAILED, BIND_FAILED_S)
    assert holder(after(builder)) == (N1, 1, True)


def test_a_process_that_was_just_started_keeps_it() -> None:
    assert holder(after(with_process(machines(), N1, endpoints=()))) == (N1, 1, False)


# -- databases -------------------------------------------------------------------------------------------------------------


def test_at_an_address_of_all_databases_those_of_some_nodes_do_not_count() -> None:
    view = machines(policy=ProxyPolicy.SINGLE).view
    assert endpoints_concerned(HELD, view) == []
    assert [e.uid for e in endpoints_concerned(replace(HELD, database_uid=DatabaseUid(1)), view)] == [ENDPOINT]


def test_the_address_of_one_database_follows_the_node_that_serves_it() -> None:
    address = replace(HELD, database_uid=DatabaseUid(1))
    builder = machines(address, ProxyPolicy.SINGLE)
    away = builder.with_records(replace(builder.view.endpoints[ENDPOINT], nodes=(N3,)))
    asked = after(away)
    assert holder(asked) == (N1, 1, True)
    assert holder(after(with_virtual(asked, N1, VirtualState.LEFT))) == (N3, 2, False)


def test_a_node_that_leaves_the_endpoint_does_not_get_it() -> None:
    builder = machines(ADDRESS, leaving=(LeavingNode(N1, NOW),))
    assert fit_nodes(ADDRESS, builder.view) == [N2, N3]


def test_the_address_of_a_deleted_database_ends() -> None:
    address = replace(HELD, database_uid=DatabaseUid(7))
    ending = after(machines(address)).view.virtual_addresses[NAME]
    assert ending.is_ending


# -- the end ---------------------------------------------------------------------------------------------------------------


def test_an_address_that_ends_closes_its_clients_and_is_deleted() -> None:
    asked = after(machines(replace(HELD, is_ending=True)))
    assert holder(asked) == (N1, 1, True)
    left = after(with_virtual(asked, N1, VirtualState.LEFT))
    assert left.view.virtual_addresses == {}


def test_an_address_that_ends_without_a_holder_is_deleted_at_once() -> None:
    address = replace(ADDRESS, is_ending=True)
    delete, event = decide_virtual_address(address, machines(address).view, NOW).writes
    assert delete == Delete(address)
    assert isinstance(event, Put)
    assert isinstance(event.record, Event)
    assert event.record.kind is EventKind.VIRTUAL_ADDRESS_REMOVED


def test_an_address_of_a_lost_node_ends_at_once() -> None:
    builder = silent(machines(replace(HELD, is_ending=True)), N1)
    assert after(builder, NOW + SILENT_AFTER).view.virtual_addresses == {}


def test_able_are_nodes_whose_agent_has_the_interface() -> None:
    builder = with_agent(machines(), N2, virtual_interfaces=("eth1",))
    assert able_nodes(HELD, builder.view) == [N1, N3]


# -- what processes and actions are told -------------------------------------------------------------------------------


def places(builder: ClusterBuilder, uid: NodeUid) -> tuple[tuple[str, bool], ...]:
    return virtual_places(builder.view.endpoints[ENDPOINT], uid, builder.view)


def test_every_process_listens_and_only_the_leaving_holder_closes() -> None:
    assert [places(machines(), uid) for uid in (N1, N2, N3)] == [((NAME, False),)] * 3
    leaving = machines(replace(HELD, leaving_since=NOW))
    assert [places(leaving, uid) for uid in (N1, N2)] == [((NAME, True),), ((NAME, False),)]
    assert places(machines(replace(HELD, database_uid=DatabaseUid(7))), N1) == ()


@pytest.mark.parametrize(("failure", "is_closing"), [("", True), ("no such device", False)])
def test_a_node_that_still_has_what_another_one_was_given_accepts_no_clients_there(failure: str, is_closing: bool) -> None:
    builder = with_agent(machines(), N2, virtual_addresses=(HeldAddress(NAME, 0, failure),))
    assert places(builder, N2) == ((NAME, is_closing),)


def test_an_action_waits_until_the_address_has_left_its_node() -> None:
    assert held_by(machines().view, N2) == []
    (stuck,) = held_by(machines().view, N1)
    assert (stuck.grade, "no other node can have" in stuck.text) == (Grade.CONFIGURATION, True)
    (leaving,) = held_by(machines(replace(HELD, leaving_since=NOW)).view, N1)
    assert (leaving.grade, leaving.remedy) == (Grade.SOFT_LIMIT, "")
