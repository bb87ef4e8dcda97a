"""What endpoint processes are told when they differ from the records."""

from dataclasses import replace

import pytest

from shardwright.model.commands import DropEndpoint, PassEndpoint, ServeEndpoint
from shardwright.model.database import Handoff, ServerSecrets, access_fingerprint
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.seen import EndpointState, VirtualSeen, VirtualState
from shardwright.model.view import ClusterView
from shardwright.model.virtual_address import VirtualAddress
from shardwright.reconcile.database import unsettled
from shardwright.reconcile.endpoint import decide_endpoint, decide_strays
from testkit.builders import NOW, cluster
from testkit.moves import rebind

ENDPOINT = EndpointUid("1:1")
SECRETS = ServerSecrets(DatabaseUid(1), "application", "replication", "observation", "management", "0" * 16)


def told(*, recorded: str, known: str | None) -> ClusterView:
    """A database with the recorded password, whose endpoint process goes by the known one (None: it does not say)."""
    builder = cluster(nodes=3).with_database(on=((1, 2),), password=recorded).with_records(SECRETS).with_endpoints_seen()
    access = "" if known is None else access_fingerprint(application_secret="application", password=known)
    process = builder.view.endpoint_processes[NodeUid(1)]
    seen = tuple(replace(one, access=access) for one in process.endpoints)
    return replace(builder.view, endpoint_processes={NodeUid(1): replace(process, endpoints=seen)})


def test_a_process_that_goes_by_another_password_is_told() -> None:
    view = told(recorded="new", known="old")
    assert decide_endpoint(view.endpoints[ENDPOINT], view).commands == (ServeEndpoint(NodeUid(1), ENDPOINT),)
    assert any("password" in reason.text for reason in unsettled(view.databases[DatabaseUid(1)], view))


def test_a_process_in_another_mode_is_told() -> None:
    view = told(recorded="", known="")
    database = replace(view.databases[DatabaseUid(1)], is_strict=True)
    view = replace(view, databases={database.uid: database})
    assert decide_endpoint(view.endpoints[ENDPOINT], view).commands == (ServeEndpoint(NodeUid(1), ENDPOINT),)
    assert any("strict" in reason.text for reason in unsettled(database, view))
    process = view.endpoint_processes[NodeUid(1)]
    knowing = replace(process, endpoints=tuple(replace(one, is_strict=True) for one in process.endpoints))
    view = replace(view, endpoint_processes={NodeUid(1): knowing})
    assert decide_endpoint(view.endpoints[ENDPOINT], view).commands == ()
    assert not any("strict" in reason.text for reason in unsettled(database, view))


def test_a_process_that_knows_the_password_or_does_not_say_is_left_alone() -> None:
    for known in ("new", None):
        view = told(recorded="new", known=known)
        assert decide_endpoint(view.endpoints[ENDPOINT], view).commands == ()
        assert not any("password" in reason.text for reason in unsettled(view.databases[DatabaseUid(1)], view))


def changed(view: ClusterView, **changes: object) -> ClusterView:
    """The process of node 1 shows its endpoint so."""
    process = view.endpoint_processes[NodeUid(1)]
    seen = tuple(replace(one, **changes) for one in process.endpoints)  # type: ignore[arg-type]
    return replace(view, endpoint_processes={NodeUid(1): replace(process, endpoints=seen)})


@pytest.mark.parametrize(
    "changes", [{"state": EndpointState.ABSENT}, {"held_generation": 2}, {"generation": 0}, {"generation": -1}]
)
def test_a_bound_process_that_lags_behind_is_told_unless_a_handoff_does_it(changes: dict[str, object]) -> None:
    view = told(recorded="", known="")
    assert decide_endpoint(view.endpoints[ENDPOINT], view).commands == ()
    view = changed(view, **changes)
    assert decide_endpoint(view.endpoints[ENDPOINT], view).commands == (ServeEndpoint(NodeUid(1), ENDPOINT),)
    group = replace(view.groups[GroupUid("1:1")], handoff=Handoff(ShardUid(1), ShardUid(2), 2, 1, NOW))
    view = replace(view, groups={group.uid: group})
    assert decide_endpoint(view.endpoints[ENDPOINT], view).commands == ()


def test_what_is_recorded_no_more_is_dropped_where_a_process_answers() -> None:
    view = told(recorded="", known="")
    assert decide_strays(view).commands == ()
    without = replace(view, endpoints={})
    assert decide_strays(without).commands == (DropEndpoint(NodeUid(1), ENDPOINT),)
    assert decide_strays(changed(without, state=EndpointState.ABSENT)).commands == ()
    silent = replace(without.endpoint_processes[NodeUid(1)], answers=False)
    assert decide_strays(replace(without, endpoint_processes={NodeUid(1): silent})).commands == ()


def test_a_fingerprint_tells_passwords_apart_and_nothing_else() -> None:
    found = {access_fingerprint(application_secret=s, password=p) for s in ("s", "t") for p in ("", "a", "b")}
    assert len(found) == 6
    assert all(len(text) == 16 and "a:s" not in text for text in found)


def test_a_bound_process_that_passed_its_endpoint_on_without_a_move_listens_again() -> None:
    """A thawed leader's command came after its successor had undone the move."""
    view = told(recorded="", known="")
    process = view.endpoint_processes[NodeUid(1)]
    drained = tuple(replace(one, state=EndpointState.DRAINING, connections=0) for one in process.endpoints)
    view = replace(view, endpoint_processes={NodeUid(1): replace(process, endpoints=drained)})
    assert decide_endpoint(view.endpoints[ENDPOINT], view).commands == (ServeEndpoint(NodeUid(1), ENDPOINT),)


def test_what_cannot_listen_elsewhere_is_dropped_once_its_connections_have_left() -> None:
    view = told(recorded="", known="")
    endpoint = replace(view.endpoints[ENDPOINT], nodes=(NodeUid(2),))
    process = view.endpoint_processes[NodeUid(1)]
    for connections, commands in ((2, ()), (0, (DropEndpoint(NodeUid(1), ENDPOINT),))):
        seen = tuple(
            replace(one, state=EndpointState.BIND_FAILED, connections=connections, held_generation=None)
            for one in process.endpoints
        )
        now = replace(view, endpoint_processes={NodeUid(1): replace(process, endpoints=seen)})
        assert decide_endpoint(endpoint, now).commands == commands


def test_what_an_unbound_process_serves_goes_to_the_bound_one_with_its_clients() -> None:
    """The move that had passed it on was cancelled in that moment; both processes were told by a leader that saw neither."""
    view = told(recorded="", known="")
    bound = view.endpoint_processes[NodeUid(1)]
    (seen,) = bound.endpoints
    draining = replace(bound, endpoints=(replace(seen, state=EndpointState.DRAINING, connections=1),))
    other = replace(bound, node_uid=NodeUid(2), endpoints=(replace(seen, connections=3),))
    both = replace(view, endpoint_processes={NodeUid(1): draining, NodeUid(2): other})
    endpoint = view.endpoints[ENDPOINT]
    assert decide_endpoint(endpoint, both).commands == (PassEndpoint(ENDPOINT, DatabaseUid(1), NodeUid(2), NodeUid(1)),)
    silent = replace(bound, answers=False)
    alone = replace(view, endpoint_processes={NodeUid(1): silent, NodeUid(2): other})
    assert decide_endpoint(endpoint, alone).commands == ()
    old = replace(other, endpoints=(replace(seen, generation=seen.generation - 1),))
    late = replace(view, endpoint_processes={NodeUid(1): silent, NodeUid(2): old})
    assert decide_endpoint(endpoint, late).commands == (ServeEndpoint(NodeUid(2), ENDPOINT),)


@pytest.mark.parametrize("source", [EndpointState.BIND_FAILED, EndpointState.LISTENING])
def test_a_listener_that_neither_node_of_a_rebind_has_goes_to_the_bound_one(source: EndpointState) -> None:
    """An earlier rebind left it on a third node; the source cannot listen beside it, and the target waits for the source."""
    view = told(recorded="", known="")
    bound = view.endpoint_processes[NodeUid(1)]
    (seen,) = bound.endpoints
    processes = {
        NodeUid(1): replace(bound, endpoints=(replace(seen, state=source),)),
        NodeUid(2): replace(bound, node_uid=NodeUid(2), endpoints=(seen,)),
        NodeUid(3): replace(bound, node_uid=NodeUid(3), endpoints=(replace(seen, connections=3),)),
    }
    move = rebind(state=MoveState.HANDOFF, from_node=NodeUid(1), to_node=NodeUid(2))
    moving = replace(view, endpoint_processes=processes, moves={move.uid: move})
    found = decide_endpoint(view.endpoints[ENDPOINT], moving).commands
    assert found == (PassEndpoint(ENDPOINT, DatabaseUid(1), NodeUid(3), NodeUid(1)),)


def test_a_process_that_does_not_know_the_virtual_addresses_is_told() -> None:
    view = told(recorded="", known="")
    address = VirtualAddress("10.0.0.9", 24, "eth0", NOW, holder=NodeUid(1), generation=1)
    endpoint = view.endpoints[ENDPOINT]

    def commands(recorded: VirtualAddress, *known: VirtualSeen) -> tuple[object, ...]:
        process = view.endpoint_processes[NodeUid(1)]
        (seen,) = process.endpoints
        shown = replace(process, endpoints=(replace(seen, virtual=known),))
        there = replace(view, endpoint_processes={NodeUid(1): shown}, virtual_addresses={recorded.address: recorded})
        return decide_endpoint(endpoint, there).commands

    told_so = (ServeEndpoint(NodeUid(1), ENDPOINT),)
    listening, left = VirtualSeen("10.0.0.9", VirtualState.LISTENING), VirtualSeen("10.0.0.9", VirtualState.LEFT)
    leaving = replace(address, leaving_since=NOW)
    assert commands(address) == told_so
    assert commands(address, listening) == ()
    assert commands(leaving, listening) == told_so
    assert commands(leaving, left) == ()
    assert commands(address, left) == told_so
    assert commands(replace(address, database_uid=DatabaseUid(9)), listening) == told_so
