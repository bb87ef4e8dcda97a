"""What is wrong with a database: when it is said, what would help, when it has passed."""

from dataclasses import replace

import pytest

from shardwright.model.codes import Code
from shardwright.model.database import DatabaseStatus, DatabaseTroubles, GroupPhase, Role, Shard
from shardwright.model.event import Event, Severity
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.parking import Parking
from shardwright.model.reason import Reason
from shardwright.model.seen import (
    EndpointProcessSeen,
    EndpointSeen,
    EndpointState,
    Health,
    ProcessSeen,
    ProcessState,
    ServerTrouble,
)
from shardwright.model.view import Delete, Put
from shardwright.reconcile.troubles import AWAY_MAX, LINK_DOWN_MAX_S, SYNC_LONG, decide_troubles
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import rebind

ONE = DatabaseUid(1)
HELD = "cannot listen on 127.0.0.1:10001: Address already in use, the port is held by process 7 (nc)"
SNAPSHOTS = "1|noeviction|snapshot|appendfsync-every-sec|1/1"


def healthy(*nodes: int) -> ClusterBuilder:
    return cluster().with_database(on=(nodes or (1, 2),)).with_endpoints_seen()


def told(builder: ClusterBuilder) -> list[Reason]:
    """What is noted after a decision."""
    return list(noted(builder).reasons)


def noted(builder: ClusterBuilder) -> DatabaseTroubles:
    after = decided(builder).view.troubles.get(ONE)
    return after or DatabaseTroubles(ONE, ())


def decided(builder: ClusterBuilder) -> ClusterBuilder:
    return builder.with_writes(*decide_troubles(ONE, builder.view, NOW).writes)


def events(builder: ClusterBuilder) -> list[Event]:
    writes = decide_troubles(ONE, builder.view, NOW).writes
    return [w.record for w in writes if isinstance(w, Put) and isinstance(w.record, Event)]


def with_endpoint(builder: ClusterBuilder, node: int, state: EndpointState, text: str = "") -> ClusterBuilder:
    seen = EndpointProcessSeen(
        NodeUid(node), NOW, answers=True, endpoints=(EndpointSeen(EndpointUid("1:1"), state, text=text),)
    )
    return ClusterBuilder(replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, NodeUid(node): seen}))


def with_shard(builder: ClusterBuilder, uid: int, **changes: object) -> ClusterBuilder:
    shard: Shard = builder.view.shards[ShardUid(uid)]
    return builder.with_records(replace(shard, **changes))  # type: ignore[arg-type]


def test_a_healthy_database_has_none() -> None:
    assert decide_troubles(ONE, healthy().view, NOW).writes == ()


def test_a_port_that_another_process_holds() -> None:
    builder = with_endpoint(healthy(), 1, EndpointState.BIND_FAILED, HELD)
    (reason,) = told(builder)
    assert (reason.code, reason.node_uid, reason.database_uid) == ("endpoint_cannot_listen", 1, 1)
    assert HELD in reason.text
    assert ":10001" in reason.remedy
    (event,) = events(builder)
    assert (event.kind, event.severity, event.database_uid, event.node_uid) == ("bdb_trouble_began", Severity.ERROR, 1, 1)
    assert event.extra == {"code": "endpoint_cannot_listen"}
    assert HELD in event.text


def test_another_holder_is_the_same_trouble() -> None:
    builder = decided(with_endpoint(healthy(), 1, EndpointState.BIND_FAILED, HELD))
    other = with_endpoint(builder, 1, EndpointState.BIND_FAILED, HELD.replace("7 (nc)", "8 (nginx)"))
    assert events(other) == []
    assert "8 (nginx)" in told(other)[0].text


def test_it_ends_when_the_endpoint_listens() -> None:
    builder = decided(with_endpoint(healthy(), 1, EndpointState.BIND_FAILED, HELD))
    better = with_endpoint(builder, 1, EndpointState.LISTENING)
    (event,) = events(better)
    assert (event.kind, event.severity) == ("bdb_trouble_ended", Severity.INFO)
    assert ONE not in decided(better).view.troubles
    assert events(decided(better)) == []


def test_an_endpoint_process_that_was_not_asked_yet_is_no_news() -> None:
    builder = decided(with_endpoint(healthy(), 1, EndpointState.BIND_FAILED, HELD))
    unseen = ClusterBuilder(replace(builder.view, endpoint_processes={}))
    assert decide_troubles(ONE, unseen.view, NOW).writes == ()


def test_an_endpoint_that_is_on_its_way_is_left_to_its_move() -> None:
    builder = with_endpoint(healthy(), 1, EndpointState.BIND_FAILED, HELD)
    move = rebind(state=MoveState.HANDOFF)
    assert told(builder.with_move(move)) == []


def test_a_primary_that_refuses_writes_and_a_replica_that_could_take_over() -> None:
    (reason,) = told(healthy().with_server(1, troubles=(ServerTrouble.AOF_WRITE_FAILED,)))
    assert (reason.code, reason.shard_uid, reason.node_uid) == ("writes_refused", 1, 1)
    assert "aof_last_write_status" in reason.text
    assert reason.remedy.startswith("step down node 1 (enslave_node): shard 2 on node 2 takes over; then free disk space")


@pytest.mark.parametrize("hindrance", ["none", "no link", "ill too", "in maintenance"])
def test_without_a_healthy_replica_only_the_disk_helps(hindrance: str) -> None:
    builder = healthy(1) if hindrance == "none" else healthy()
    builder = builder.with_server(1, troubles=(ServerTrouble.AOF_WRITE_FAILED,))
    match hindrance:
        case "no link":
            builder = builder.with_server(2, is_link_up=False)
        case "ill too":
            builder = builder.with_server(2, troubles=(ServerTrouble.AOF_WRITE_FAILED,))
        case "in maintenance":
            builder = builder.with_node_changed(2, is_quorum_only=True)
    assert told(builder)[0].remedy == "free disk space on node 1, or repair its disk"


def test_a_failed_snapshot_refuses_writes_only_where_snapshots_are_kept() -> None:
    builder = healthy().with_server(1, troubles=(ServerTrouble.SNAPSHOT_FAILED,))
    assert told(builder) == []
    (reason,) = told(with_shard(builder, 1, settings=SNAPSHOTS))
    assert reason.code == "writes_refused"
    assert "rdb_last_bgsave_status" in reason.text


def test_files_that_fail_without_refusing_writes() -> None:
    (rewrite,) = told(healthy().with_server(1, troubles=(ServerTrouble.AOF_REWRITE_FAILED,)))
    (replica,) = told(healthy().with_server(2, troubles=(ServerTrouble.AOF_WRITE_FAILED,)))
    assert {rewrite.code, replica.code} == {"persistence_failed"}
    assert (rewrite.shard_uid, replica.shard_uid) == (1, 2)
    assert {e.severity for e in events(healthy().with_server(2, troubles=(ServerTrouble.AOF_WRITE_FAILED,)))} == {
        Severity.WARNING
    }


def test_full_memory_has_passed_only_when_there_is_room_again() -> None:
    short = healthy().with_server(1, troubles=(ServerTrouble.MEMORY_SHORT,))
    assert told(short) == []
    full = decided(healthy().with_server(1, troubles=(ServerTrouble.MEMORY_FULL,)))
    assert [r.code for r in told(full)] == ["memory_full"]
    assert events(full.with_server(1, troubles=(ServerTrouble.MEMORY_SHORT,))) == []
    assert [e.kind for e in events(full.with_server(1, troubles=()))] == ["bdb_trouble_ended"]
    assert told(healthy().with_server(2, troubles=(ServerTrouble.MEMORY_FULL,))) == []  # replicas obey no limit


def test_no_connection_is_left() -> None:
    full = decided(healthy().with_server(1, troubles=(ServerTrouble.CLIENTS_FULL,)))
    assert [r.code for r in told(full)] == ["clients_full"]
    assert events(full.with_server(1, troubles=(ServerTrouble.CLIENTS_SHORT,))) == []
    assert [e.kind for e in events(full.with_server(1, troubles=()))] == ["bdb_trouble_ended"]
    assert told(healthy().with_server(1, troubles=(ServerTrouble.CLIENTS_SHORT,))) == []


def test_a_replica_that_does_not_follow() -> None:
    lost = healthy().with_server(2, is_link_up=False, link_down_s=LINK_DOWN_MAX_S)
    assert [(r.code, r.shard_uid) for r in told(lost)] == [("replica_not_following", 2)]
    assert told(lost.with_server(2, link_down_s=LINK_DOWN_MAX_S - 1)) == []
    assert told(lost.with_server(2, is_syncing=True)) == []
    group = lost.view.groups[lost.view.shards[ShardUid(2)].group_uid]
    assert told(lost.with_records(replace(group, phase=GroupPhase.STARTING))) == []


def test_a_silent_server_stays_as_it_was() -> None:
    builder = decided(healthy().with_server(1, troubles=(ServerTrouble.AOF_WRITE_FAILED,)))
    assert decide_troubles(ONE, builder.with_server(1, health=Health.TIMEOUT).view, NOW).writes == ()
    assert decide_troubles(ONE, builder.without_server(1).view, NOW).writes == ()


def test_a_replica_that_dies_of_its_disk_looks_well_only_when_it_is_in_step() -> None:
    builder = decided(healthy().with_server(2, troubles=(ServerTrouble.AOF_WRITE_FAILED,)))
    back = with_shard(builder.with_server(2, troubles=()), 2, in_sync_generation=0)
    assert decide_troubles(ONE, back.view, NOW).writes == ()
    assert [e.kind for e in events(with_shard(back, 2, in_sync_generation=1))] == ["bdb_trouble_ended"]


def test_a_copy_that_does_not_run() -> None:
    away = with_shard(healthy().with_process(2, ProcessState.FAILED), 2, missing_since=NOW - AWAY_MAX)
    process = ProcessSeen(ShardUid(2), 1, ProcessState.FAILED, text="[Errno 28] No space left on device")
    away = ClusterBuilder(replace(away.view, processes={**away.view.processes, ShardUid(2): process}))
    away = away.with_server(2, health=Health.REFUSED)
    (reason,) = told(away)
    assert (reason.code, reason.shard_uid) == ("copy_not_running", 2)
    assert reason.text.endswith("No space left on device")
    assert reason.remedy == "check the server's log on node 2"
    assert told(with_shard(away, 2, missing_since=NOW - AWAY_MAX / 2)) == []
    (alone,) = told(away.without_daemon(2))
    assert alone.remedy == "start the daemon of node 2"
    # It runs for a moment before it dies again; then it is in step, although it is still watched.
    back = decided(away).with_process(2, ProcessState.RUNNING).with_server(2, health=Health.OK)
    assert decide_troubles(ONE, with_shard(back, 2, in_sync_generation=0).view, NOW).writes == ()
    assert [e.kind for e in events(back)] == ["bdb_trouble_ended"]


def test_a_copy_out_of_reach_whose_daemon_holds_its_lease() -> None:
    """The leader and the primary hear nothing of its machine; whether it runs, nobody knows."""
    silent = with_shard(healthy().with_server(2, health=Health.TIMEOUT), 2, missing_since=NOW - AWAY_MAX)
    (reason,) = told(silent)
    assert reason.text == "shard 2 on node 2 does not answer"
    (alone,) = told(silent.without_daemon(2))
    assert alone.text == "shard 2 on node 2 is not running: the node has no running daemon"


def test_a_strict_database_without_a_place_for_another_replica_says_so() -> None:
    lost = with_shard(healthy().with_dead_node(2), 2, missing_since=NOW - AWAY_MAX)
    strict = lost.with_database_changed(1, is_strict=True)
    assert "writes wait" not in told(strict)[0].text, "node 3 can take it"
    (reason,) = told(strict.with_node_changed(3, is_closed=True))
    assert reason.text.endswith("; writes wait for a replica, and no other node can take one")
    assert reason.remedy == "start the daemon of node 2, or add a node"
    (default,) = told(lost.with_node_changed(3, is_closed=True))
    assert "writes wait" not in default.text


def test_what_hinders_a_primary_ends_with_its_role() -> None:
    builder = decided(healthy().with_server(1, troubles=(ServerTrouble.AOF_WRITE_FAILED,)))
    group = builder.view.groups[builder.view.shards[ShardUid(1)].group_uid]
    over = builder.with_records(replace(group, primary=ShardUid(2))).with_server(2, role=Role.PRIMARY, is_link_up=False)
    assert told(over.with_dead_shard(1)) == []
    assert [r.code for r in told(over)] == ["persistence_failed"]


@pytest.mark.parametrize("is_deleted", [True, False])
def test_the_note_goes_with_its_database(is_deleted: bool) -> None:
    builder = decided(with_endpoint(healthy(), 1, EndpointState.BIND_FAILED, HELD))
    if is_deleted:
        builder = builder.with_writes(Delete(builder.view.databases[ONE]))
    else:
        builder = builder.with_database_changed(1, status=DatabaseStatus.DELETE_PENDING)
    decision = decide_troubles(ONE, builder.view, NOW)
    assert decision.writes == (Delete(builder.view.troubles[ONE]),)
    assert decide_troubles(ONE, builder.with_writes(*decision.writes).view, NOW).writes == ()


@pytest.mark.parametrize("mark", ["missing_since", "restart_not_before"])
def test_a_copy_that_is_back_and_whose_full_sync_does_not_end_is_named(mark: str) -> None:
    """A replica whose disk is full may run, and fail to save what its primary sends, again and again."""
    back = healthy().with_server(2, is_link_up=False, is_syncing=True, role=Role.REPLICA)
    back = with_shard(back, 2, in_sync_generation=-1, **{mark: NOW - SYNC_LONG})
    (reason,) = told(back)
    assert (reason.code, reason.shard_uid) == ("replica_not_following", 2)
    assert told(with_shard(back, 2, **{mark: NOW - SYNC_LONG / 2})) == []
    between = decided(back).with_server(2, is_link_up=False, is_syncing=False)
    assert events(between) == []
    generation = back.view.groups[GroupUid("1:1")].generation
    in_sync = with_shard(between.with_server(2, is_link_up=True), 2, in_sync_generation=generation, **{mark: None})
    assert [e.kind for e in events(in_sync)] == ["bdb_trouble_ended"]


def test_a_takeover_that_waits_for_a_copy_out_of_reach_is_named() -> None:
    builder = cluster(nodes=4).with_database(on=((1, 2, 3),), is_strict=True, is_strict_everywhere=True)
    builder = builder.with_endpoints_seen()
    for uid in (1, 3):
        builder = builder.with_server(uid, health=Health.TIMEOUT, unanswered_since=NOW)
    group = builder.view.groups[GroupUid("1:1")]
    began = replace(group, parking=Parking(ShardUid(1), 1, NOW - AWAY_MAX))
    (reason,) = told(builder.with_records(began))
    assert (reason.code, reason.shard_uid) == (Code.PRIMARY_OUT_OF_REACH, 3)
    assert reason.remedy == "bring back node 1 or 3, or if the machine is off: shardwright node declare-off 3"
    assert told(decided(builder.with_records(began))) == [reason], "it is named once, though the copy stays silent"
    (event,) = events(builder.with_records(began))
    assert event.severity is Severity.ERROR, "the database does not serve"
    short = replace(group, parking=Parking(ShardUid(1), 1, NOW))
    assert told(builder.with_records(short)) == [], "it takes a moment"
