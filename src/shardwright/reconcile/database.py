"""Databases: from an accepted request to a served database, through every change, to its deletion.

Called by the leader each turn for every database. Places a new database, adds and removes replicas when the replication
setting changes, reports the end of a creation or change, and removes the rest of a deleted database. Roles belong to
``group.py``.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import (
    SLOTS,
    Database,
    DatabaseStatus,
    Endpoint,
    GroupPhase,
    Role,
    Shard,
    ShardWanted,
    SlotGroup,
)
from shardwright.model.decision import NOTHING, Decision, earlier
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid, ShardUid, uid_of_endpoint, uid_of_group
from shardwright.model.move import Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import EndpointState, Health, ProcessState
from shardwright.model.serving import endpoint_address, serving_nodes
from shardwright.model.view import ClusterView, Delete, Put, Write
from shardwright.plan.placement import Unplaceable, place_copy, place_database
from shardwright.plan.ports import shard_port
from shardwright.plan.standing import primary_lives
from shardwright.reconcile.endpoint import is_access_old, is_mode_old
from shardwright.reconcile.strictness import decide_strictness

BIRTH_LIMIT = timedelta(seconds=10)
"""A new shard whose node has had no daemon for this long is created elsewhere. A daemon that has only crashed returns
sooner."""


def decide_database(database: Database, view: ClusterView, now: datetime) -> Decision:
    """The next step for a database."""
    match database.status:
        case DatabaseStatus.PENDING:
            return _go_on_creating(database, view, now) if view.groups_of(database.uid) else _create(database, view, now)
        case DatabaseStatus.ACTIVE_CHANGE_PENDING | DatabaseStatus.ACTIVE:
            return _beside(_change(database, view, now), decide_strictness(database, view, now))
        case DatabaseStatus.DELETE_PENDING:
            return _delete(database, view, now)
        case DatabaseStatus.CREATION_FAILED:
            return NOTHING


def _beside(decision: Decision, other: Decision) -> Decision:
    """Both: the other has only commands."""
    commands = (*decision.commands, *other.commands)
    return replace(decision, commands=commands, wake_at=earlier(decision.wake_at, other.wake_at))


# -- creation ----------------------------------------------------------------------------------------------------------


def _create(database: Database, view: ClusterView, now: datetime) -> Decision:
    ending = [s for s in _shards(database, view) if not view.is_away(s.node_uid)]
    if ending:
        # They belong to an attempt that a dead node ended. Until their records are deleted, they occupy room.
        reasons = tuple(Reason(Code.SHARD_ENDING, f"shard {s.uid} must end first", shard_uid=s.uid) for s in ending)
        return Decision(wake_at=now + timedelta(seconds=1), reasons=reasons)
    placed = place_database(view, database)
    if isinstance(placed, Unplaceable):
        text = "; ".join(r.text for r in placed.reasons) or "no node has room"
        failed = replace(database, status=DatabaseStatus.CREATION_FAILED, failure=text, changed_at=now, action_uid=None)
        event = Event(now, EventKind.BDB_CREATION_FAILED, Severity.ERROR, text, database_uid=database.uid)
        return Decision(writes=(Put(failed), Put(event)), reasons=placed.reasons)
    writes: list[Write] = []
    for number, nodes in enumerate(placed.groups, start=1):
        group, shards = _new_group(database, number, nodes, view, now)
        writes.append(Put(group))
        for shard in shards:
            writes.append(Put(shard))
            view = view.with_writes((Put(shard), Put(replace(view.counters, next_shard=shard.uid + 1))))
    endpoint = Endpoint(
        uid=uid_of_endpoint(database.uid),
        database_uid=database.uid,
        address=endpoint_address(view),
        port=database.port,
        nodes=serving_nodes(database, view, (placed.endpoint_node,)),
    )
    return Decision(writes=(*writes, Put(endpoint), Put(view.counters)))


def _go_on_creating(database: Database, view: ClusterView, now: datetime) -> Decision:
    """Wait for the new shards. If a node dies before the first client is admitted, place them again: no data can be lost."""
    has_served = any(g.generation > 0 for g in view.groups_of(database.uid))
    stranded = [s for s in _shards(database, view) if s.wanted is ShardWanted.RUNNING and _is_stranded(s, view, now)]
    if has_served or not stranded or any(m.database_uid == database.uid for m in view.live_moves()):
        return _settle(database, view, now)
    nodes = ", ".join(str(uid) for uid in sorted({s.node_uid for s in stranded}))
    text = f"database {database.name} is being created again on other nodes: node {nodes} has no running daemon"
    return Decision(
        writes=(
            *(Delete(e) for e in view.endpoints_of(database.uid)),
            *(Delete(g) for g in view.groups_of(database.uid)),
            *(Put(replace(s, wanted=ShardWanted.GONE)) for s in _shards(database, view)),
            Put(Event(now, EventKind.BDB_CREATION_MOVED, Severity.WARNING, text, database_uid=database.uid)),
        )
    )


def _is_stranded(shard: Shard, view: ClusterView, now: datetime) -> bool:
    """Whether its node has had no daemon for a long time."""
    since = shard.missing_since
    return since is not None and view.is_away(shard.node_uid) and now - since > BIRTH_LIMIT


def _new_group(
    database: Database, number: int, nodes: tuple[NodeUid, ...], view: ClusterView, now: datetime
) -> tuple[SlotGroup, list[Shard]]:
    width = SLOTS // database.shards_count
    last = SLOTS - 1 if number == database.shards_count else number * width - 1
    group = SlotGroup(
        uid=uid_of_group(database.uid, number),
        database_uid=database.uid,
        number=number,
        slot_first=(number - 1) * width,
        slot_last=last,
    )
    shards: list[Shard] = []
    for node in nodes:
        shards.append(_new_shard(database, group, node, view, now))
        view = view.with_writes((Put(shards[-1]), Put(replace(view.counters, next_shard=shards[-1].uid + 1))))
    return group, shards


def _new_shard(database: Database, group: SlotGroup, node: NodeUid, view: ClusterView, now: datetime) -> Shard:
    uid = ShardUid(view.counters.next_shard)
    return Shard(
        uid=uid,
        database_uid=database.uid,
        group_uid=group.uid,
        node_uid=node,
        port=shard_port(view, node, uid, 1),
        created_at=now,
        settings=database.settings_fingerprint,
    )


# -- changes -----------------------------------------------------------------------------------------------------------


def _change(database: Database, view: ClusterView, now: datetime) -> Decision:
    """Adjust the number of copies to the setting; a change has ended when everything matches."""
    if database.status is DatabaseStatus.ACTIVE:
        return NOTHING
    for group in view.groups_of(database.uid):
        if group.is_restored:
            # Which copies there are is not known yet.
            reason = Reason(Code.GROUP_STARTING, f"slot group {group.uid} is starting", database_uid=database.uid)
            return Decision(reasons=(reason,))
        copies = [s for s in view.shards_of_group(group.uid) if s.wanted is ShardWanted.RUNNING]
        if len(copies) == database.copies and not _is_replaced(copies, group, view):
            continue
        if group.is_changing_roles or view.live_move_of_group(group.uid) is not None:
            text = f"slot group {group.uid} waits for the end of another change"
            reason = Reason(Code.GROUP_BUSY, text, Grade.SOFT_LIMIT, database_uid=database.uid)
            return Decision(wake_at=now + timedelta(seconds=1), reasons=(reason,))
        if len(copies) < database.copies:
            return _add_copy(database, group, view, now)
        return _drop_copy(database, group, copies, view, now)
    unwanted = [s for s in _shards(database, view) if s.wanted is ShardWanted.GONE and _is_deleted(s, view)]
    if unwanted:
        return Decision(writes=tuple(Delete(s) for s in unwanted))
    return _settle(database, view, now)


def _is_replaced(copies: list[Shard], group: SlotGroup, view: ClusterView) -> bool:
    """Whether two of the copies count as one: a relocation may have begun when the change was requested, and one of its two
    copies goes when it ends."""
    move = view.live_move_of_group(group.uid)
    return isinstance(move, Relocation) and {move.shard_uid, move.new_shard_uid} <= {s.uid for s in copies}


def _drop_copy(database: Database, group: SlotGroup, copies: list[Shard], view: ClusterView, now: datetime) -> Decision:
    extra = [s for s in copies if s.uid != group.primary]
    if not extra:
        return NOTHING
    if not primary_lives(group, view, now):
        # The copy to remove may be the only one left.
        text = f"slot group {group.uid} keeps all copies until its primary is observed to serve"
        reason = Reason(Code.PRIMARY_UNSEEN, text, Grade.SOFT_LIMIT, database_uid=database.uid)
        return Decision(wake_at=now + timedelta(seconds=1), reasons=(reason,))
    return Decision(writes=(Put(replace(extra[-1], wanted=ShardWanted.GONE)),))


def _add_copy(database: Database, group: SlotGroup, view: ClusterView, now: datetime) -> Decision:
    node = place_copy(view, group, database=database, leaving=None)
    if isinstance(node, Unplaceable):
        return Decision(reasons=node.reasons)
    shard = _new_shard(database, group, node, view, now)
    return Decision(writes=(Put(shard), Put(replace(view.counters, next_shard=shard.uid + 1))))


def _settle(database: Database, view: ClusterView, now: datetime) -> Decision:
    """ACTIVE once every copy is in place, in sync and configured, and the endpoint listens."""
    reasons = unsettled(database, view)
    if reasons:
        return Decision(reasons=reasons)
    was_new = database.status is DatabaseStatus.PENDING
    settled = replace(database, status=DatabaseStatus.ACTIVE, changed_at=now, action_uid=None)
    kind, text = (EventKind.BDB_CREATED, "was created") if was_new else (EventKind.BDB_UPDATED, "was changed")
    event = Event(now, kind, Severity.INFO, f"database {database.name} {text}", database_uid=database.uid)
    return Decision(writes=(Put(settled), Put(event)))


def unsettled(database: Database, view: ClusterView) -> tuple[Reason, ...]:
    """Everything that does not match the desired state yet; empty if the database serves."""
    reasons: list[Reason] = []
    for group in view.groups_of(database.uid):
        if group.phase is not GroupPhase.SERVING or group.is_changing_roles:
            reasons.append(Reason(Code.GROUP_STARTING, f"slot group {group.uid} is starting", database_uid=database.uid))
            continue
        running = [s for s in view.shards_of_group(group.uid) if s.wanted is ShardWanted.RUNNING]
        if len(running) > database.copies:
            # A move added a copy while the number of copies was changing: one copy is removed after the move.
            text = f"slot group {group.uid} has {len(running)} copies instead of {database.copies}"
            reasons.append(Reason(Code.COPIES_TOO_MANY, text, database_uid=database.uid))
        reasons.extend(
            Reason(Code.SHARD_NOT_READY, text, shard_uid=shard.uid, database_uid=database.uid)
            for shard in running
            if (text := _shard_unsettled(database, group, shard, view))
        )
    for endpoint in view.endpoints_of(database.uid):
        for node in _nodes_to_wait_for(endpoint, view):
            process = view.endpoint_processes.get(node)
            seen = process.endpoint(endpoint.uid) if process is not None else None
            if seen is None or seen.state is not EndpointState.LISTENING or seen.generation < 0:
                text = f"endpoint {endpoint.uid} does not listen on node {node}: {seen.text if seen else 'no answer'}"
                reasons.append(Reason(Code.ENDPOINT_NOT_READY, text, database_uid=database.uid, node_uid=node))
            elif is_access_old(seen, endpoint, view):
                text = f"endpoint {endpoint.uid} on node {node} has not received the new password yet"
                reasons.append(Reason(Code.ENDPOINT_NOT_READY, text, database_uid=database.uid, node_uid=node))
            elif is_mode_old(seen, endpoint, view):
                text = f"endpoint {endpoint.uid} on node {node} has not received the strict mode setting yet"
                reasons.append(Reason(Code.ENDPOINT_NOT_READY, text, database_uid=database.uid, node_uid=node))
    return tuple(reasons)


def _nodes_to_wait_for(endpoint: Endpoint, view: ClusterView) -> tuple[NodeUid, ...]:
    """Of several nodes that serve, those without a daemon are not waited for, nor those on their way out: clients use the
    others."""
    staying = tuple(uid for uid in endpoint.nodes if endpoint.leaving_of(uid) is None)
    return tuple(uid for uid in staying if uid in view.daemons) or staying


def _shard_unsettled(database: Database, group: SlotGroup, shard: Shard, view: ClusterView) -> str:
    seen = view.servers.get(shard.uid)
    if seen is None or seen.health is not Health.OK:
        return f"shard {shard.uid} does not answer yet"
    if shard.settings != database.settings_fingerprint:
        return f"shard {shard.uid} has not received its new settings yet"
    if shard.uid == group.primary:
        return "" if seen.role is Role.PRIMARY and not seen.is_fenced else f"shard {shard.uid} does not accept writes yet"
    return "" if shard.in_sync_generation == group.generation else f"shard {shard.uid} is not in sync yet"


# -- deletion ----------------------------------------------------------------------------------------------------------


def _delete(database: Database, view: ClusterView, now: datetime) -> Decision:
    shards = _shards(database, view)
    doomed = tuple(Put(replace(s, wanted=ShardWanted.GONE)) for s in shards if s.wanted is not ShardWanted.GONE)
    endpoints = tuple(Delete(e) for e in view.endpoints_of(database.uid))
    groups = tuple(
        Put(replace(g, handoff=None, parking=None, phase=GroupPhase.STARTING))
        for g in view.groups_of(database.uid)
        if g.is_changing_roles or g.phase is not GroupPhase.STARTING
    )
    if doomed or endpoints or groups:
        return Decision(writes=(*groups, *doomed, *endpoints))
    deleted = tuple(Delete(s) for s in shards if _is_deleted(s, view))
    if len(deleted) < len(shards):
        return Decision(writes=deleted)
    secrets = view.secrets.get(database.uid)
    event = Event(
        now, EventKind.BDB_DELETED, Severity.INFO, f"database {database.name} was deleted", database_uid=database.uid
    )
    return Decision(
        writes=(
            *deleted,
            *(Delete(g) for g in view.groups_of(database.uid)),
            *((Delete(secrets),) if secrets is not None else ()),
            Delete(database),
            Put(event),
        )
    )


def _shards(database: Database, view: ClusterView) -> list[Shard]:
    return sorted((s for s in view.shards.values() if s.database_uid == database.uid), key=lambda s: s.uid)


def _is_deleted(shard: Shard, view: ClusterView) -> bool:
    """Whether nothing of the shard is left, or no agent can report on it: its node is no longer a member, or has no daemon
    and no process runs there. A daemon that returns ends and deletes shards without a record."""
    process = view.processes.get(shard.uid)
    if shard.node_uid not in view.nodes or view.is_lost(shard):
        return True
    return process is not None and process.state is not ProcessState.RUNNING and process.files_are_deleted
