"""Troubles: faults of a database in its desired state, reported once, until they pass.

Called by the leader each turn for every database. Records each trouble, so that any node can show it, and writes one event
at its beginning and one at its end. Repairs nothing. A shard or endpoint that cannot be observed keeps its last state:
neither a new leader nor a silent server counts as a change.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import (
    Database,
    DatabaseStatus,
    DatabaseTroubles,
    Endpoint,
    GroupPhase,
    Persistence,
    Role,
    Shard,
    ShardWanted,
    SlotGroup,
    reason_about,
)
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.move import Rebind
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import EndpointState, Health, ProcessState, ServerSeen, ServerTrouble
from shardwright.model.serving import listening_address
from shardwright.model.view import ClusterView, Delete, Put, Write
from shardwright.plan.absence import remedy_of_absence
from shardwright.plan.placement import Unplaceable, place_copy
from shardwright.plan.standing import Standing, is_candidate, standing_of
from shardwright.reconcile.copies import copies_of
from shardwright.reconcile.parking import continue_parking

LINK_DOWN_MAX_S = 10
"""A replica whose link has been down this long has more than a brief interruption."""
SYNC_LONG = timedelta(seconds=30)
"""A restarted copy becomes a trouble if it is not in sync after this long."""
AWAY_MAX = timedelta(seconds=10)
"""Longer than a restart or a failover takes."""


TROUBLES = frozenset(
    {
        Code.ENDPOINT_CANNOT_LISTEN,
        Code.WRITES_REFUSED,
        Code.PERSISTENCE_FAILED,
        Code.MEMORY_FULL,
        Code.CLIENTS_FULL,
        Code.REPLICA_NOT_FOLLOWING,
        Code.COPY_NOT_RUNNING,
        Code.PRIMARY_OUT_OF_REACH,
    }
)
"""Codes that are recorded for databases."""
STOPPING = frozenset({Code.ENDPOINT_CANNOT_LISTEN, Code.WRITES_REFUSED, Code.PRIMARY_OUT_OF_REACH})
"""With one of these, the database does not serve. With the others, reads and most writes still work, or the limit is
intended."""


def decide_troubles(uid: DatabaseUid, view: ClusterView, now: datetime) -> Decision:
    """Record which troubles have begun and which have ended."""
    noted, database = view.troubles.get(uid), view.databases.get(uid)
    before = () if noted is None else noted.reasons
    if database is None or database.status in (DatabaseStatus.DELETE_PENDING, DatabaseStatus.CREATION_FAILED):
        return NOTHING if noted is None else Decision(writes=(Delete(noted),))
    after = tuple(_troubles(database, view, before, now))
    if after == before:
        return Decision(reasons=after)
    record = DatabaseTroubles(uid, after)
    write: Write = Put(record) if after else Delete(record)
    return Decision(writes=(write, *_events(database, before, after, now)), reasons=after)


def _events(database: Database, before: tuple[Reason, ...], after: tuple[Reason, ...], now: datetime) -> Iterator[Write]:
    """A reason whose text changes, because another process now holds the port, has neither begun nor ended."""
    old, new = {_subject(r) for r in before}, {_subject(r) for r in after}
    for reason in (r for r in after if _subject(r) not in old):
        severity = Severity.ERROR if reason.code in STOPPING else Severity.WARNING
        remedy = f"; remedy: {reason.remedy}" if reason.remedy else ""
        yield _event(EventKind.BDB_TROUBLE_BEGAN, severity, f"database {database.name}: {reason.text}{remedy}", reason, now)
    for reason in (r for r in before if _subject(r) not in new):
        text = f"database {database.name}: resolved: {reason.text}"
        yield _event(EventKind.BDB_TROUBLE_ENDED, Severity.INFO, text, reason, now)


def _event(kind: EventKind, severity: Severity, text: str, reason: Reason, now: datetime) -> Put:
    extra: dict[str, object] = {"code": str(reason.code)}
    if reason.shard_uid is not None:
        extra["shard_uid"] = str(reason.shard_uid)
    return Put(Event(now, kind, severity, text, node_uid=reason.node_uid, database_uid=reason.database_uid, extra=extra))


def _subject(reason: Reason) -> tuple[object, ...]:
    return reason.code, reason.shard_uid, reason.node_uid


def _troubles(database: Database, view: ClusterView, before: tuple[Reason, ...], now: datetime) -> Iterator[Reason]:
    for endpoint in view.endpoints_of(database.uid):
        if not any(isinstance(m, Rebind) and m.endpoint_uid == endpoint.uid for m in view.live_moves()):
            for node_uid in endpoint.bound_nodes:
                yield from _of_endpoint(endpoint, node_uid, view, before)
    for group in view.groups_of(database.uid):
        yield from _of_takeover(group, database, view, now)
        for shard in view.shards_of_group(group.uid):
            if shard.wanted is ShardWanted.RUNNING:
                earlier = [r for r in before if r.shard_uid == shard.uid and r.code != Code.PRIMARY_OUT_OF_REACH]
                yield from _of_server(database, group, shard, view, earlier)
                yield from _of_process(database, group, shard, view, earlier, now)
                yield from _of_sync(group, shard, view, earlier, now)


# -- endpoints -----------------------------------------------------------------------------------------------------------


def _of_endpoint(endpoint: Endpoint, node_uid: NodeUid, view: ClusterView, before: tuple[Reason, ...]) -> Iterator[Reason]:
    process = view.endpoint_processes.get(node_uid)
    if process is None or not process.answers:
        code = Code.ENDPOINT_CANNOT_LISTEN
        yield from (r for r in before if r.code == code and r.node_uid == node_uid)
        return
    seen = process.endpoint(endpoint.uid)
    if seen.state is EndpointState.BIND_FAILED:
        text = f"the endpoint process of node {node_uid} {seen.text or f'cannot listen on port {endpoint.port}'}"
        address = listening_address(endpoint, node_uid, view)
        remedy = f"end the process that uses {address}:{endpoint.port}; the endpoint then listens within a second"
        yield Reason(
            Code.ENDPOINT_CANNOT_LISTEN,
            text,
            Grade.HARD_LIMIT,
            remedy=remedy,
            database_uid=endpoint.database_uid,
            node_uid=node_uid,
        )


# -- slot groups ---------------------------------------------------------------------------------------------------------


def _of_takeover(group: SlotGroup, database: Database, view: ClusterView, now: datetime) -> Iterator[Reason]:
    """What a failover without a proof has been waiting for, for longer than it takes."""
    if group.parking is None or now - group.parking.began_at < AWAY_MAX:
        return
    primary = next((copy for copy in copies_of(group, view) if copy.shard.uid == group.parking.from_shard), None)
    if primary is not None and not primary.has_ended:
        decision = continue_parking(group, database, primary, view, now)
        yield from (reason for reason in decision.reasons if reason.grade is Grade.HARD_LIMIT)


# -- servers -------------------------------------------------------------------------------------------------------------


def _of_server(
    database: Database, group: SlotGroup, shard: Shard, view: ClusterView, earlier: list[Reason]
) -> Iterator[Reason]:
    seen = view.servers.get(shard.uid)
    if seen is None or seen.health is not Health.OK:
        # A silent server keeps its troubles; those that concern only primaries end with the role.
        kept = [r for r in earlier if r.code != Code.COPY_NOT_RUNNING]
        yield from (r for r in kept if group.primary == shard.uid or r.code not in _OF_PRIMARIES)
        return
    if group.primary != shard.uid and shard.in_sync_generation != group.generation:
        # A replica with a full disk dies repeatedly; between two deaths it looks healthy for a moment.
        yield from (r for r in earlier if r.code == Code.PERSISTENCE_FAILED and not _failed_files(shard, seen))
    found = [_files(group, shard, seen, view), _clients(seen, earlier)]
    if group.primary == shard.uid:
        found.append(_memory(database, seen, earlier))
    elif _has_lost_its_link(group, seen, view):
        text = f"has not followed its primary for more than {LINK_DOWN_MAX_S} s (master_link_status:down)"
        remedy = f"check the server's log on node {shard.node_uid} and the network between the nodes"
        found.append(Reason(Code.REPLICA_NOT_FOLLOWING, text, Grade.HARD_LIMIT, remedy=remedy))
    for reason in found:
        if reason is not None:
            text = f"shard {shard.uid} on node {shard.node_uid} {reason.text}"
            yield Reason(
                reason.code,
                text,
                reason.grade,
                remedy=reason.remedy,
                shard_uid=shard.uid,
                database_uid=database.uid,
                node_uid=shard.node_uid,
            )


def _of_process(
    database: Database, group: SlotGroup, shard: Shard, view: ClusterView, earlier: list[Reason], now: datetime
) -> Iterator[Reason]:
    """A copy that is not running, or dies repeatedly before it is in sync."""
    if shard.missing_since is None or now - shard.missing_since < AWAY_MAX:
        return
    before = [r for r in earlier if r.code == Code.COPY_NOT_RUNNING]
    seen, process = view.servers.get(shard.uid), view.processes.get(shard.uid)
    if seen is not None and seen.health is Health.OK:
        follows = seen.is_link_up and shard.in_sync_generation == group.generation
        is_in_step = shard.uid == group.primary or follows
        yield from () if is_in_step and process is not None and process.state is ProcessState.RUNNING else before
        return
    why = shard.failure or ("" if process is None else process.text)
    remedy = f"check the server's log on node {shard.node_uid}"
    if view.is_away(shard.node_uid):
        why, remedy = "the node has no running daemon", remedy_of_absence(view, shard.node_uid)
    elif not why and before:
        yield from before  # The result of the current attempt is not known yet.
        return
    how = "does not answer" if _is_out_of_reach(shard, seen, view) else "is not running"
    text = f"shard {shard.uid} on node {shard.node_uid} {how}{f': {why}' if why else ''}"
    if _keeps_writes_back(database, group, shard, view):
        text += "; writes wait for a replica, and no other node can take one"
        remedy += ", or add a node"
    code = Code.COPY_NOT_RUNNING
    yield reason_about(shard, code, text, Grade.HARD_LIMIT, remedy=remedy)


def _is_out_of_reach(shard: Shard, seen: ServerSeen | None, view: ClusterView) -> bool:
    """Whether nothing is known of its process, although its node does not count as away."""
    return not view.is_away(shard.node_uid) and seen is not None and seen.health in (Health.TIMEOUT, Health.UNREACHABLE)


def _keeps_writes_back(database: Database, group: SlotGroup, shard: Shard, view: ClusterView) -> bool:
    """Whether a strict database has lost its only replica, and has no place for another one."""
    if not database.is_strict or group.primary in (None, shard.uid) or view.live_move_of_group(group.uid) is not None:
        return False
    return isinstance(place_copy(view, group, database=database, leaving=shard), Unplaceable)


def _of_sync(group: SlotGroup, shard: Shard, view: ClusterView, earlier: list[Reason], now: datetime) -> Iterator[Reason]:
    """A restarted replica that does not get its data: the full sync takes very long, or fails repeatedly, for instance
    because its disk is full. Between two attempts it looks healthy for a moment."""
    seen = view.servers.get(shard.uid)
    if seen is None or seen.health is not Health.OK or group.primary == shard.uid:
        return
    if shard.in_sync_generation == group.generation or _has_lost_its_link(group, seen, view):
        return
    since = shard.missing_since or shard.restart_not_before
    noted = [r for r in earlier if r.code == Code.REPLICA_NOT_FOLLOWING]
    if noted:
        yield from noted
    elif seen.is_syncing and since is not None and now - since >= SYNC_LONG:
        text = f"shard {shard.uid} on node {shard.node_uid} restarted at {since:%H:%M:%S} UTC and is not in sync yet"
        remedy = f"check the server's log on node {shard.node_uid}, and its disk"
        code = Code.REPLICA_NOT_FOLLOWING
        yield reason_about(shard, code, text, Grade.SOFT_LIMIT, remedy=remedy)


_OF_PRIMARIES = frozenset({Code.WRITES_REFUSED, Code.MEMORY_FULL})
_REWRITE = "its append-only file cannot be rewritten (aof_last_bgrewrite_status:err)"


def _files(group: SlotGroup, shard: Shard, seen: ServerSeen, view: ClusterView) -> Reason | None:
    failed = _failed_files(shard, seen)
    if not failed:
        return None
    if group.primary != shard.uid or failed == _REWRITE:
        text = f"cannot keep its files up to date: {failed}"
        return Reason(Code.PERSISTENCE_FAILED, text, Grade.HARD_LIMIT, remedy=_disk(shard))
    return Reason(
        Code.WRITES_REFUSED, f"refuses writes: {failed}", Grade.HARD_LIMIT, remedy=_handing_over(group, shard, view)
    )


def _memory(database: Database, seen: ServerSeen, earlier: list[Reason]) -> Reason | None:
    if not _is_full(Code.MEMORY_FULL, (ServerTrouble.MEMORY_FULL, ServerTrouble.MEMORY_SHORT), seen, earlier):
        return None
    text = f"has reached its memory limit and evicts nothing ({database.eviction_policy}): it refuses commands that add data"
    remedy = f"raise memory_size of database {database.uid}, delete keys, or choose another eviction_policy"
    return Reason(Code.MEMORY_FULL, text, Grade.CONFIGURATION, remedy=remedy)


def _clients(seen: ServerSeen, earlier: list[Reason]) -> Reason | None:
    if not _is_full(Code.CLIENTS_FULL, (ServerTrouble.CLIENTS_FULL, ServerTrouble.CLIENTS_SHORT), seen, earlier):
        return None
    text = "has reached its connection limit (maxclients): it rejects new clients"
    return Reason(Code.CLIENTS_FULL, text, Grade.HARD_LIMIT, remedy="close unused connections")


def _is_full(
    code: Code, full_and_short: tuple[ServerTrouble, ServerTrouble], seen: ServerSeen, earlier: list[Reason]
) -> bool:
    """A resource near its limit fluctuates: the trouble has passed only when there is some room again."""
    full, short = full_and_short
    was_full = any(r.code == code for r in earlier)
    return full in seen.troubles or (was_full and short in seen.troubles)


def _failed_files(shard: Shard, seen: ServerSeen) -> str:
    """The failing write of the server's own files, the worst first; empty: none. A failed snapshot does not count if
    snapshots are disabled: the server accepts writes."""
    if ServerTrouble.AOF_WRITE_FAILED in seen.troubles:
        return "its append-only file cannot be written (aof_last_write_status:err)"
    if ServerTrouble.SNAPSHOT_FAILED in seen.troubles and shard.kept is Persistence.SNAPSHOT:
        return "its snapshot cannot be written (rdb_last_bgsave_status:err)"
    return _REWRITE if ServerTrouble.AOF_REWRITE_FAILED in seen.troubles else ""


def _has_lost_its_link(group: SlotGroup, seen: ServerSeen, view: ClusterView) -> bool:
    is_still = (
        group.phase is GroupPhase.SERVING and not group.is_changing_roles and view.live_move_of_group(group.uid) is None
    )
    is_down = seen.role is Role.REPLICA and not seen.is_link_up and not seen.is_syncing
    return is_still and is_down and seen.link_down_s >= LINK_DOWN_MAX_S


def _disk(shard: Shard) -> str:
    return f"free disk space on node {shard.node_uid}, or repair its disk"


def _handing_over(group: SlotGroup, primary: Shard, view: ClusterView) -> str:
    """A healthy replica can be promoted; the repair of the primary's disk can wait."""
    for shard in view.shards_of_group(group.uid):
        seen = view.servers.get(shard.uid)
        is_other = shard.uid != primary.uid and shard.wanted is ShardWanted.RUNNING
        is_able = is_other and is_candidate(view, shard, primary.node_uid, ())
        if is_able and standing_of(view, shard, primary) is Standing.PROVEN and seen is not None and not _is_ill(seen):
            step_down = (
                f"step down node {primary.node_uid} (enslave_node): shard {shard.uid} on node {shard.node_uid} takes over"
            )
            return f"{step_down}; then {_disk(primary)}"
    return _disk(primary)


def _is_ill(seen: ServerSeen) -> bool:
    return any(t not in (ServerTrouble.MEMORY_SHORT, ServerTrouble.CLIENTS_SHORT) for t in seen.troubles)
