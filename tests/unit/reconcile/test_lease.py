"""When proofs are wanted of endpoint processes, who may serve without, and what they are told."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shardwright.model.cluster import ClusterKind
from shardwright.model.commands import TellLease
from shardwright.model.database import GroupPhase, Handoff, ShardWanted, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.lease import Lease, LeaseSeen, Waiver
from shardwright.model.parking import Parking
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, Health
from shardwright.model.version import CLUSTER_VERSION
from shardwright.model.view import ClusterView
from shardwright.reconcile.lease import REST, decide_lease
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, PRIMARY, REPLICA, UID = GroupUid("1:1"), ShardUid(1), ShardUid(2), EndpointUid("1:1:1")
NODES = (1, 2, 3)
ALL = tuple(Waiver(NodeUid(n), f"i{n}") for n in NODES)


def machines(lease: Lease | None = None, **changes: Any) -> ClusterBuilder:
    """A database in default mode with a copy on nodes 1 and 2, whose endpoint all nodes serve and whose lease they know."""
    builder = cluster(nodes=3).with_database(on=((1, 2),), **changes)
    assert builder.view.cluster is not None
    of_machines = replace(builder.view.cluster, kind=ClusterKind.MACHINES, cluster_version=CLUSTER_VERSION)
    endpoint = next(iter(builder.view.endpoints.values()))
    builder = builder.with_records(
        of_machines,
        replace(endpoint, nodes=tuple(map(NodeUid, NODES))),
        replace(builder.view.groups[GROUP], lease=lease),
    )
    for node in NODES:
        known = None if lease is None else (lease.version, Waiver(NodeUid(node), f"i{node}") in lease.waived)
        builder = process(builder, node, lease=known)
    return builder


def process(
    builder: ClusterBuilder,
    node: int,
    *,
    lease: tuple[int, bool] | None = None,
    unconfirmed_s: float | None = None,
    state: EndpointState = EndpointState.LISTENING,
    instance: str | None = None,
    **changes: Any,
) -> ClusterBuilder:
    """What the endpoint process of a node says. ``lease``: the version that it knows, and whether it may serve without a
    proof."""
    uid = next(iter(builder.view.endpoints))
    said = {} if lease is None else {uid: LeaseSeen(uid, *lease, unconfirmed_s)}
    endpoints = () if state is EndpointState.ABSENT else (EndpointSeen(uid, state, generation=1),)
    found = EndpointProcessSeen(
        NodeUid(node),
        NOW,
        answers=True,
        endpoints=endpoints,
        instance=f"i{node}" if instance is None else instance,
        leases=said,
    )
    found = replace(found, **changes)
    return ClusterBuilder(
        replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, NodeUid(node): found})
    )


def decide(builder: ClusterBuilder) -> Decision:
    return decide_lease(builder.view.groups[GROUP], builder.view, NOW)


def lease_after(builder: ClusterBuilder) -> Lease | None:
    decision = decide(builder)
    (write,) = decision.writes or (None,)
    if write is None:
        return builder.view.groups[GROUP].lease
    assert isinstance(write.record, SlotGroup)
    assert replace(write.record, lease=None) == replace(builder.view.groups[GROUP], lease=None), "nothing else changes"
    return write.record.lease


IN_FORCE = Lease(version=5, is_needed=True)
OFF = Lease(version=5, waived=ALL)


# -- the first lease ---------------------------------------------------------------------------------------------------


def test_the_first_lease_names_every_process_that_may_run() -> None:
    builder = process(machines(), 1, state=EndpointState.ABSENT)
    builder = process(builder, 2, answers=False)
    builder = process(builder, 3, instance="")
    expected = (Waiver(NodeUid(1), "i1"), Waiver(NodeUid(2), ""), Waiver(NodeUid(3), ""))
    assert lease_after(builder) == Lease(1, False, expected)
    ended = process(builder, 2, answers=False, has_ended=True)
    assert lease_after(ended) == Lease(1, False, (expected[0], expected[2]))


@pytest.mark.parametrize("changes", [{"is_strict": True}, {"has_replica": False}])
def test_there_is_none_where_proofs_are_never_needed(changes: dict[str, Any]) -> None:
    assert lease_after(machines(**changes)) is None


def test_there_is_none_in_a_local_cluster_nor_while_older_daemons_run() -> None:
    builder = machines()
    assert builder.view.cluster is not None
    for cluster_changes in ({"kind": ClusterKind.LOCAL}, {"cluster_version": 1}):
        other = builder.with_records(replace(builder.view.cluster, **cluster_changes))
        assert lease_after(other) is None


# -- the beginning -----------------------------------------------------------------------------------------------------


def test_proofs_are_wanted_when_a_replica_in_sync_answers() -> None:
    after = lease_after(machines(OFF))
    assert after == Lease(6, True, ALL)
    assert decide(machines(OFF)).commands == tuple(TellLease(NodeUid(n), view_uid(machines(OFF)), 6) for n in NODES)


def view_uid(builder: ClusterBuilder) -> EndpointUid:
    return next(iter(builder.view.endpoints))


@pytest.mark.parametrize(
    "changes", [{"health": Health.TIMEOUT}, {"is_link_up": False}, {"is_syncing": True}], ids=lambda c: next(iter(c))
)
def test_not_without_such_a_replica(changes: dict[str, Any]) -> None:
    assert lease_after(machines(OFF).with_server(REPLICA, **changes)) == OFF


def test_not_while_the_replica_is_not_marked_in_sync() -> None:
    builder = machines(OFF)
    assert lease_after(builder.with_records(replace(builder.view.shards[REPLICA], in_sync_generation=0))) == OFF


@pytest.mark.parametrize("changes", [{"health": Health.TIMEOUT}, {"is_fenced": True}], ids=lambda c: next(iter(c)))
def test_not_while_the_primary_does_not_serve(changes: dict[str, Any]) -> None:
    assert lease_after(machines(OFF).with_server(PRIMARY, **changes)) == OFF


def test_not_at_once_after_proofs_have_failed() -> None:
    failed = replace(OFF, ended_at=NOW - timedelta(seconds=1))
    assert lease_after(machines(failed)) == failed
    assert decide(machines(failed)).wake_at == NOW - timedelta(seconds=1) + REST
    assert lease_after(machines(replace(OFF, ended_at=NOW - REST))) == Lease(6, True, ALL, NOW - REST)
    ahead = replace(OFF, ended_at=NOW + timedelta(hours=1))
    assert lease_after(machines(ahead)) == replace(ahead, version=6, is_needed=True), "another leader's clock was ahead"


# -- who may serve without ---------------------------------------------------------------------------------------------

WANTED = Lease(6, True, ALL)


def test_a_process_leaves_when_it_shows_that_it_needs_proofs() -> None:
    builder = process(machines(WANTED), 2, lease=(6, False))
    assert lease_after(builder) == Lease(6, True, (ALL[0], ALL[2]))


@pytest.mark.parametrize(
    "changes",
    [
        {"lease": (6, True)},
        {"lease": (5, False)},
        {"lease": None},
        {"lease": (6, False), "answers": False},
        {"lease": (6, False), "instance": ""},
    ],
    ids=["it may serve without", "an older version", "it was not told", "it does not answer", "it is of an older version"],
)
def test_not_before(changes: dict[str, Any]) -> None:
    assert lease_after(process(machines(WANTED), 2, **changes)) == WANTED


@pytest.mark.parametrize(
    "changes",
    [{"answers": False, "has_ended": True}, {"instance": "another", "lease": (6, False)}],
    ids=["it has ended", "another listens in its place"],
)
def test_a_process_that_has_ended_leaves(changes: dict[str, Any]) -> None:
    assert lease_after(process(machines(WANTED), 2, **changes)) == Lease(6, True, (ALL[0], ALL[2]))


def test_a_process_that_is_not_known_must_show_it_too() -> None:
    unknown = Lease(6, True, (Waiver(NodeUid(2), ""),))
    assert lease_after(machines(unknown)) == Lease(6, True), "its present process has shown it"
    silent = process(machines(unknown), 2, answers=False)
    assert lease_after(silent) == unknown


def test_an_endpoint_that_a_process_does_not_serve_must_be_shown_too() -> None:
    """A late leader could tell it to serve as it was told before."""
    builder = process(machines(WANTED), 2, state=EndpointState.ABSENT, lease=(5, True))
    assert lease_after(builder) == WANTED
    assert TellLease(NodeUid(2), view_uid(builder), 6) in decide(builder).commands


def test_a_removed_node_is_not_waited_for() -> None:
    builder = machines(WANTED)
    nodes = {uid: node for uid, node in builder.view.nodes.items() if uid != 3}
    without = ClusterBuilder(replace(builder.view, nodes=nodes))
    assert lease_after(without) == Lease(6, True, ALL[:2])


def test_a_process_that_serves_without_a_proof_and_is_not_named_is_noticed() -> None:
    builder = process(machines(IN_FORCE), 2, lease=(5, True))
    assert lease_after(builder) == Lease(5, True, (ALL[1],))
    stranger = process(machines(IN_FORCE), 2, lease=None)
    assert lease_after(stranger) == Lease(5, True, (ALL[1],))
    idle = process(machines(IN_FORCE), 2, lease=None, state=EndpointState.ABSENT)
    assert lease_after(idle) == IN_FORCE


def test_a_new_process_needs_no_record_while_proofs_are_needed() -> None:
    assert lease_after(process(machines(IN_FORCE), 2, instance="new", lease=(5, False))) == IN_FORCE


def test_a_new_process_is_named_while_none_are_needed() -> None:
    builder = process(machines(OFF).with_server(REPLICA, is_link_up=False), 2, instance="new", lease=(5, False))
    after = lease_after(builder)
    assert after is not None
    assert (after.version, after.is_needed) == (6, False)
    assert after.waived == (ALL[0], Waiver(NodeUid(2), "new"), ALL[2])


# -- the end -----------------------------------------------------------------------------------------------------------


def test_proofs_are_given_up_when_one_of_the_processes_finds_no_replica() -> None:
    builder = process(machines(IN_FORCE), 3, lease=(5, False), unconfirmed_s=0.5)
    assert lease_after(builder) == Lease(7, False, ALL, ended_at=NOW)


def test_not_for_what_a_process_said_before_it_knew_this_lease() -> None:
    assert lease_after(process(machines(IN_FORCE), 3, lease=(4, False), unconfirmed_s=9.0)) == IN_FORCE


@pytest.mark.parametrize(
    "changes", [{"unconfirmed_s": 0.1}, {"unconfirmed_s": None}, {"unconfirmed_s": 9.0, "answers": False}]
)
def test_not_for_one_late_answer_nor_for_silence(changes: dict[str, Any]) -> None:
    assert lease_after(process(machines(IN_FORCE), 3, lease=(5, False), **changes)) == IN_FORCE


def test_not_while_the_primary_does_not_answer_the_leader() -> None:
    builder = process(machines(IN_FORCE), 3, lease=(5, False), unconfirmed_s=9.0)
    assert lease_after(builder.with_server(PRIMARY, health=Health.TIMEOUT)) == IN_FORCE


def test_they_are_given_up_when_the_last_replica_has_ended() -> None:
    assert lease_after(machines(IN_FORCE).with_dead_shard(REPLICA)) == Lease(7, False, ALL)


def test_they_are_given_up_when_the_last_replica_is_to_go() -> None:
    builder = machines(IN_FORCE)
    gone = replace(builder.view.shards[REPLICA], wanted=ShardWanted.GONE)
    assert lease_after(builder.with_records(gone)) == Lease(7, False, ALL)


@pytest.mark.parametrize("changes", [{"is_strict": True}, {"has_replica": False}])
def test_they_are_given_up_when_the_database_changes(changes: dict[str, Any]) -> None:
    assert lease_after(machines(IN_FORCE).with_database_changed(DatabaseUid(1), **changes)) == Lease(7, False, ALL)


def test_a_silent_process_keeps_what_it_was_told() -> None:
    """It may be cut off with the former primary: no one could tell it anything else later."""
    builder = process(machines(IN_FORCE), 1, answers=False).with_dead_shard(REPLICA)
    assert lease_after(builder) == Lease(7, False, ALL[1:])


def test_a_group_that_starts_over_needs_none() -> None:
    builder = machines(IN_FORCE)
    starting = replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING)
    assert lease_after(builder.with_records(starting)) == Lease(7, False, ALL)


def test_another_primary_begins_without() -> None:
    group = replace(machines(IN_FORCE).view.groups[GROUP])
    led = group.led_by(REPLICA, 2, GroupPhase.SERVING)
    assert led.lease == Lease(6, False)


# -- while roles change ------------------------------------------------------------------------------------------------


def test_nothing_changes_while_roles_change() -> None:
    builder = process(machines(IN_FORCE), 3, lease=(5, False), unconfirmed_s=9.0)
    group = builder.view.groups[GROUP]
    for changing in (
        replace(group, parking=Parking(PRIMARY, 1, NOW)),
        replace(group, handoff=Handoff(PRIMARY, REPLICA, 2, 1, NOW)),
    ):
        assert decide(builder.with_records(changing)).writes == ()


def test_a_handoff_tells_the_processes_itself() -> None:
    builder = process(machines(WANTED), 3, lease=(5, True))
    handoff = replace(builder.view.groups[GROUP], handoff=Handoff(PRIMARY, REPLICA, 2, 1, NOW))
    assert decide(builder).commands == (TellLease(NodeUid(3), view_uid(builder), 6),)
    assert decide(builder.with_records(handoff)).commands == ()


# -- telling -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"lease": (5, False)},
        {"lease": None, "instance": ""},
        {"lease": (4, False), "answers": False},
        {"lease": None, "state": EndpointState.ABSENT},
    ],
    ids=["it knows", "it is of an older version", "it does not answer", "it does not serve and is not named"],
)
def test_who_is_not_told(changes: dict[str, Any]) -> None:
    view: ClusterView = machines(IN_FORCE).view
    endpoint = next(iter(view.endpoints.values()))
    builder = ClusterBuilder(view).with_records(replace(endpoint, nodes=(NodeUid(1), NodeUid(3))))
    assert decide(process(builder, 2, **changes)).commands == ()
