"""A new leader counts durations itself: the times of its predecessors came from other clocks."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shardwright.leader.takeover import WRITES_MAX, decide_takeover
from shardwright.model.action import ActionName
from shardwright.model.database import Endpoint, LeavingNode, ProxyPolicy
from shardwright.model.ids import ActionUid, EndpointUid, MoveUid, NodeUid
from shardwright.model.move import Move, MoveState, Relocation
from shardwright.model.view import ClusterView, Put
from shardwright.model.virtual_address import VirtualAddress
from shardwright.reconcile.serving import decide_serving
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import relocation

LONG = timedelta(hours=1)
ENDPOINT = EndpointUid("1:1")


def view_with(move: Move) -> ClusterView:
    return cluster(nodes=3).with_database(on=((1, 2),)).with_records(move).view


def leaving(*nodes: LeavingNode) -> ClusterView:
    """Every node serves the endpoint, and these are on their way out."""
    view = cluster(nodes=3).with_database(on=((1, 2),), proxy_policy=ProxyPolicy.ALL_NODES).view
    endpoint = replace(view.endpoints[ENDPOINT], nodes=(NodeUid(1), NodeUid(2), NodeUid(3)), leaving=nodes)
    return view.with_writes([Put(endpoint)])


def moving(**changes: Any) -> Relocation:
    return relocation(**{"state": MoveState.SYNCING, **changes})


def test_states_that_others_dated_begin_anew_whether_their_clock_was_ahead_or_behind() -> None:
    for since in (NOW - LONG, NOW + LONG):
        decision = decide_takeover(view_with(moving(state_since=since)), NOW, began_at=NOW)
        assert [w.record for w in decision.writes if isinstance(w, Put)] == [moving(state_since=NOW)]


def test_what_is_dated_in_this_leadership_stays_and_so_does_what_has_ended() -> None:
    for move in (moving(), moving(state=MoveState.DONE, state_since=NOW - LONG)):
        assert decide_takeover(view_with(move), NOW, began_at=NOW).writes == ()


def test_when_it_has_been_done_nothing_is_left_to_do() -> None:
    view = view_with(moving(state_since=NOW + LONG))
    done = view.with_writes(decide_takeover(view, NOW, began_at=NOW).writes)
    assert decide_takeover(done, NOW + timedelta(seconds=1), began_at=NOW).writes == ()


def test_a_request_cannot_have_begun_after_now() -> None:
    for started_at, is_mended in ((NOW + LONG, True), (NOW, False), (NOW - LONG, False), (None, False)):
        builder = cluster(nodes=3).with_action(ActionName.MAINTENANCE_ON, 1, started_at=started_at)
        writes = decide_takeover(builder.view, NOW, began_at=NOW).writes
        action = builder.view.actions[ActionUid("action-1")]
        assert writes == ((Put(replace(action, started_at=NOW)),) if is_mended else ())


def test_what_a_predecessor_began_is_counted_anew_though_its_clock_was_right() -> None:
    """A limit may then last longer, and is never reached too early."""
    began = NOW - timedelta(seconds=10)
    for since, is_mended in ((began - timedelta(seconds=1), True), (began, False), (NOW - timedelta(seconds=3), False)):
        decision = decide_takeover(view_with(moving(state_since=since)), NOW, began_at=began)
        assert bool(decision.writes) == is_mended


@pytest.mark.parametrize("is_closing", [False, True])
def test_a_node_that_leaves_an_endpoint_gets_its_time_anew_by_this_clock(is_closing: bool) -> None:
    """By a clock that was behind, its clients would be cut short; by one that was ahead, an endpoint without a client would
    wait for the difference."""
    began = NOW - timedelta(seconds=10)
    mine = LeavingNode(NodeUid(2), began + timedelta(seconds=1))
    for since in (NOW - LONG, began - timedelta(seconds=1), NOW + LONG):
        view = leaving(LeavingNode(NodeUid(1), since, is_closing), mine)
        (write,) = decide_takeover(view, NOW, began_at=began).writes
        endpoint = view.endpoints[ENDPOINT]
        assert write == Put(replace(endpoint, leaving=(LeavingNode(NodeUid(1), NOW, is_closing), mine)))
        assert decide_takeover(view.with_writes([write]), NOW + timedelta(seconds=1), began_at=began).writes == ()


def test_a_drain_that_began_in_this_leadership_goes_on() -> None:
    for since in (NOW, NOW - timedelta(seconds=10)):
        view = leaving(LeavingNode(NodeUid(1), since))
        assert decide_takeover(view, NOW, began_at=NOW - timedelta(seconds=10)).writes == ()


def test_after_a_takeover_an_endpoint_process_without_clients_closes_as_soon_as_it_answers() -> None:
    """The former leader's clock was ahead: no answer would be of after the time that it wrote."""
    later = NOW + timedelta(seconds=1)
    view = leaving(LeavingNode(NodeUid(3), NOW + LONG))
    view = view.with_writes([Put(replace(view.nodes[NodeUid(3)], is_quorum_only=True))])
    view = view.with_writes(decide_takeover(view, NOW, began_at=NOW).writes)
    seen = ClusterBuilder(view).with_endpoints_seen().view.endpoint_processes
    idle = {uid: replace(process, at=later) for uid, process in seen.items()}
    view = view.changed(endpoint_processes=idle)
    (write,) = decide_serving(view.endpoints[ENDPOINT], view, later).writes
    assert isinstance(write.record, Endpoint)
    assert write.record.leaving == (LeavingNode(NodeUid(3), later, is_closing=True),)


def test_a_bounded_number_is_written_at_once_and_the_rest_in_the_next_turn() -> None:
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    for number in range(WRITES_MAX + 3):
        builder = builder.with_move(moving(uid=MoveUid(f"m-{number}"), state_since=NOW + LONG))
    first = decide_takeover(builder.view, NOW, began_at=NOW).writes
    assert len(first) == WRITES_MAX
    assert len(decide_takeover(builder.view.with_writes(first), NOW, began_at=NOW).writes) == 3


def test_the_time_of_a_node_that_leaves_a_virtual_address_begins_anew() -> None:
    address = VirtualAddress("10.0.0.9", 24, "eth0", NOW, holder=NodeUid(1), generation=1, leaving_since=NOW - LONG)
    view = cluster(nodes=3).with_records(address).view
    assert decide_takeover(view, NOW, began_at=NOW).writes == (Put(replace(address, leaving_since=NOW)),)
    assert decide_takeover(view, NOW, began_at=NOW - 2 * LONG).writes == ()
