"""Whether a command that was decided earlier still fits the newest view."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from shardwright.leader import fitting
from shardwright.leader.fitting import Serving
from shardwright.model.commands import (
    ApplySettings,
    Attach,
    Command,
    DropEndpoint,
    EndStuckServer,
    HandOff,
    Open,
    Park,
    PassEndpoint,
    Promote,
    RecoverHandoff,
    RetireEndpoint,
    SaveNow,
    ServeEndpoint,
    YieldLeadership,
)
from shardwright.model.database import GroupPhase, Handoff, LeavingNode, Role, ServerSecrets, ShardWanted, SlotGroup
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.parking import Parked, Parking
from shardwright.model.seen import EndpointSeen, EndpointState, ProcessState, ServerSeen
from shardwright.model.view import ClusterView, Delete, Put
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, DATABASE, ENDPOINT = GroupUid("1:1"), DatabaseUid(1), EndpointUid("1:1")
PRIMARY, REPLICA, NODE = ShardUid(1), ShardUid(2), NodeUid(1)


def ready() -> ClusterBuilder:
    return cluster(3).with_database(on=((1, 2),)).with_records(ServerSecrets(DATABASE, "a", "b", "c", "d", "e"))


def in_handoff() -> ClusterBuilder:
    return ready().with_records(replace(ready().view.groups[GROUP], handoff=Handoff(PRIMARY, REPLICA, 2, 1, NOW)))


def starting() -> ClusterBuilder:
    return ready().with_records(replace(ready().view.groups[GROUP], phase=GroupPhase.STARTING))


def parking(*, term: int = 1) -> ClusterBuilder:
    group = replace(ready().view.groups[GROUP], parking=Parking(PRIMARY, term, NOW))
    return ready().with_records(group)


def without_database() -> ClusterBuilder:
    return ready().with_writes(Delete(ready().view.databases[DATABASE]))


OF_ONE_DATABASE: tuple[Command, ...] = (
    Attach(REPLICA, PRIMARY),
    Promote(PRIMARY),
    Park(REPLICA),
    Open(PRIMARY),
    ApplySettings(PRIMARY, ""),
    SaveNow(PRIMARY),
    EndStuckServer(PRIMARY),
    HandOff(GROUP, PRIMARY, REPLICA),
    RecoverHandoff(GROUP),
    ServeEndpoint(NODE, ENDPOINT),
    DropEndpoint(NODE, ENDPOINT),
    PassEndpoint(ENDPOINT, DATABASE, NODE, NodeUid(2)),
)


@pytest.mark.parametrize("command", OF_ONE_DATABASE, ids=lambda c: type(c).__name__)
def test_commands_of_one_database_wait_in_one_queue(command: Command) -> None:
    assert fitting.queue_of(command, ready().view) == DATABASE


@pytest.mark.parametrize("command", [YieldLeadership(), Open(ShardUid(9))], ids=lambda c: type(c).__name__)
def test_commands_of_no_database_share_a_queue(command: Command) -> None:
    assert fitting.queue_of(command, ready().view) == fitting.NO_DATABASE


def test_a_replica_is_attached_to_where_its_primary_is_now() -> None:
    moved = ready().with_records(replace(ready().view.shards[PRIMARY], incarnation=2, port=20_500))
    found = fitting.attachment(Attach(REPLICA, PRIMARY), moved.view)
    assert found is not None
    assert (found.shard.uid, found.address, found.port) == (REPLICA, "127.0.0.1", 20_500)


def test_a_shard_is_not_attached_to_itself_or_to_a_former_primary() -> None:
    assert fitting.attachment(Attach(PRIMARY, PRIMARY), ready().view) is None
    assert fitting.attachment(Attach(PRIMARY, REPLICA), ready().view) is None


def test_only_the_committed_primary_is_promoted() -> None:
    promoted = fitting.to_promote(Promote(PRIMARY), ready().view)
    assert promoted is not None
    assert promoted.uid == PRIMARY
    assert fitting.to_promote(Promote(REPLICA), ready().view) is None


@pytest.mark.parametrize("uid", [PRIMARY, REPLICA])
def test_primary_and_replicas_are_opened(uid: ShardUid) -> None:
    assert fitting.to_open(Open(uid), ready().view) == ready().view.shards[uid]


ROLES: dict[str, Callable[[ClusterView], object]] = {
    "attach": lambda view: fitting.attachment(Attach(REPLICA, PRIMARY), view),
    "promote": lambda view: fitting.to_promote(Promote(PRIMARY), view),
    "open": lambda view: fitting.to_open(Open(PRIMARY), view),
}


@pytest.mark.parametrize("role", ROLES)
def test_roles_are_left_alone_while_others_change_them_and_while_the_group_starts(role: str) -> None:
    ask = ROLES[role]
    assert ask(ready().view) is not None
    for builder in (in_handoff(), starting(), parking()):
        assert ask(builder.view) is None
    assert ask(ready().view.with_writes((Delete(ready().view.groups[GROUP]),))) is None


# -- parking -----------------------------------------------------------------------------------------------------------


def test_a_copy_is_parked_at_a_port_of_its_own_address_where_nothing_listens() -> None:
    found = fitting.to_park(Park(REPLICA), parking().view)
    assert found is not None
    assert (found.shard.uid, found.address, found.port) == (REPLICA, "127.0.0.2", 1)


def test_a_copy_that_is_to_go_is_parked_too() -> None:
    leaving = replace(parking().view.shards[REPLICA], wanted=ShardWanted.GONE)
    assert fitting.to_park(Park(REPLICA), parking().with_records(leaving).view) is not None


def test_nothing_is_parked_without_the_intent_and_never_the_primary() -> None:
    assert fitting.to_park(Park(PRIMARY), parking().view) is None
    for builder in (ready(), in_handoff(), starting()):
        assert fitting.to_park(Park(REPLICA), builder.view) is None
    assert fitting.to_park(Park(ShardUid(9)), parking().view) is None


FOLLOWING = ready().view.servers[REPLICA]
DETACHED = replace(FOLLOWING, primary_address="127.0.0.2", primary_port=1, is_link_up=False, offset=1234)


def test_what_a_copy_held_is_recorded_with_its_parking() -> None:
    view = parking().view
    (write,) = fitting.parked(view, view.shards[REPLICA], 1, FOLLOWING, DETACHED)
    assert isinstance(write, Put)
    mine = Parked(REPLICA, 1, "replication-1:1", 1234)
    assert write.record == replace(view.groups[GROUP], parking=Parking(PRIMARY, 1, NOW, (mine,)))
    again = view.with_writes((write,))
    (write,) = fitting.parked(again, again.shards[REPLICA], 1, DETACHED, replace(DETACHED, offset=1235))
    assert isinstance(write, Put)
    assert write.record == replace(view.groups[GROUP], parking=Parking(PRIMARY, 1, NOW, (replace(mine, offset=1235),)))


@pytest.mark.parametrize(
    "before",
    [
        replace(FOLLOWING, is_syncing=True),
        replace(FOLLOWING, role=Role.PRIMARY),
        replace(FOLLOWING, replication_id="another"),
    ],
    ids=["in a full sync", "followed no one", "its history changed meanwhile"],
)
def test_a_copy_without_a_whole_data_set_cannot_take_over(before: ServerSeen) -> None:
    view = parking().view
    (write,) = fitting.parked(view, view.shards[REPLICA], 1, before, DETACHED)
    assert isinstance(write, Put)
    assert isinstance(write.record, SlotGroup)
    assert write.record.parking is not None
    assert [p.offset for p in write.record.parking.parked] == [-1]


def test_a_parking_that_has_ended_or_is_of_another_term_records_nothing() -> None:
    shard = ready().view.shards[REPLICA]
    for builder in (ready(), parking(term=2), parking().with_records(replace(shard, incarnation=2))):
        assert fitting.parked(builder.view, shard, 1, FOLLOWING, DETACHED) == ()


@pytest.mark.parametrize("still", [{"is_link_up": True}, {"primary_port": 20_001}, {"role": Role.PRIMARY}])
def test_only_a_server_that_follows_no_one_is_parked(still: dict[str, object]) -> None:
    assert fitting.is_parked(DETACHED)
    assert not fitting.is_parked(replace(DETACHED, **still))  # type: ignore[arg-type]


def test_settings_are_applied_while_they_are_those_of_the_database_also_during_a_handoff() -> None:
    wanted = ready().view.databases[DATABASE].settings_fingerprint
    for builder in (ready(), in_handoff(), starting()):
        found = fitting.to_configure(ApplySettings(REPLICA, wanted), builder.view)
        assert found is not None
        assert (found[0].uid, found[1].uid) == (REPLICA, DATABASE)
    changed = ready().with_database_changed(1, eviction_policy="allkeys-lru")
    assert fitting.to_configure(ApplySettings(REPLICA, wanted), changed.view) is None
    assert fitting.to_configure(ApplySettings(ShardUid(9), wanted), ready().view) is None


def test_applied_settings_are_recorded_of_the_incarnation_that_received_them() -> None:
    view = ready().view
    shard = view.shards[REPLICA]
    assert fitting.configured(view, shard, "new") == (Put(replace(shard, settings="new")),)
    restarted = view.with_writes((Put(replace(shard, incarnation=2)),))
    assert fitting.configured(restarted, shard, "new") == ()
    assert fitting.configured(view.with_writes((Delete(shard),)), shard, "new") == ()
    lost = view.with_writes((Put(replace(shard, missing_since=NOW)),))
    assert fitting.configured(lost, shard, "new") == (Put(replace(lost.shards[REPLICA], settings="new")),)


def test_a_file_is_saved_as_the_database_keeps_it() -> None:
    found = fitting.to_save(SaveNow(REPLICA), ready().view)
    assert found is not None
    assert (found[0].uid, found[1].uid) == (REPLICA, DATABASE)
    assert fitting.to_save(SaveNow(REPLICA), without_database().view) is None


def test_only_a_process_that_its_agent_reported_is_ended() -> None:
    view = ready().view
    assert fitting.to_end(EndStuckServer(PRIMARY), view) == (1, view.processes[PRIMARY].identity)
    gone = ready().with_process(PRIMARY, ProcessState.GONE)
    assert fitting.to_end(EndStuckServer(PRIMARY), gone.view) is None
    assert fitting.to_end(EndStuckServer(ShardUid(9)), view) is None


def test_an_endpoint_is_served_unless_a_handoff_switches_it() -> None:
    spec = fitting.to_serve(ServeEndpoint(NODE, ENDPOINT), ready().view)
    assert spec is not None
    assert spec.target is not None
    assert (spec.uid, spec.target.shard_uid) == (ENDPOINT, PRIMARY)
    assert fitting.to_serve(ServeEndpoint(NODE, ENDPOINT), in_handoff().view) is None
    assert fitting.to_serve(ServeEndpoint(NODE, EndpointUid("9:1")), ready().view) is None
    assert fitting.to_serve(ServeEndpoint(NODE, ENDPOINT), without_database().view) is None


@pytest.mark.parametrize(
    ("is_open", "is_bound", "held", "asked"),
    [
        (True, True, None, Serving.SERVE),
        (True, True, 2, Serving.RELEASE),
        (True, False, None, Serving.RELEASE),
        (True, False, 2, Serving.RELEASE),
        (False, True, None, Serving.SERVE),
        (False, True, 2, Serving.SERVE),
        (False, False, None, Serving.NOTHING),
        (False, False, 2, Serving.NOTHING),
    ],
)
def test_what_an_endpoint_process_is_asked(is_open: bool, is_bound: bool, held: int | None, asked: Serving) -> None:
    builder = ready() if is_open else starting()
    spec = fitting.to_serve(ServeEndpoint(NODE, ENDPOINT), builder.view)
    assert spec is not None
    seen = EndpointSeen(ENDPOINT, EndpointState.LISTENING, held_generation=held)
    assert fitting.serving(spec, seen, is_bound=is_bound) is asked


def test_a_process_retires_only_an_endpoint_that_is_not_bound_to_its_node() -> None:
    view = ready().view
    assert not fitting.to_retire(RetireEndpoint(NODE, ENDPOINT), view)
    assert not fitting.to_retire(RetireEndpoint(NODE, EndpointUid("9:1")), view)
    endpoint = view.endpoints[ENDPOINT]
    closing = replace(endpoint, leaving=(LeavingNode(NODE, NOW, is_closing=True),))
    assert fitting.to_retire(RetireEndpoint(NODE, ENDPOINT), ready().with_records(closing).view)
    leaving = replace(endpoint, leaving=(LeavingNode(NODE, NOW),))
    assert not fitting.to_retire(RetireEndpoint(NODE, ENDPOINT), ready().with_records(leaving).view)
