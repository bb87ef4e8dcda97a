"""Lost copies: a copy that is missing for the grace period is rebuilt on another node, as a move of the cluster itself.

Called by the leader each turn. A rebuild is a relocation without an action: the new copy first, the lost copy's record
last. If the lost copy returns before the new one is in sync, it stays, and the rebuild is withdrawn; after that, the new
one stays. So a slot group never keeps more copies than its database demands. Only replicas are rebuilt: ``group.py``
chooses the primary.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TypeGuard

from shardwright.model.action import Action, ActionName, ActionParameters, ActionStatus, MaintenanceOnParameters
from shardwright.model.backoff import Backoff
from shardwright.model.codes import Code
from shardwright.model.database import Database, DatabaseStatus, GroupPhase, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import Decision, earlier
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid, number_of_move, uid_of_move
from shardwright.model.liveness import has_ended, has_ended_after_start
from shardwright.model.move import Move, MoveState, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health
from shardwright.model.view import ClusterView, Put, Write
from shardwright.plan.explain import about_node
from shardwright.plan.placement import Unplaceable, place_copy
from shardwright.reconcile.reach import is_unheard, silent_nodes

MANY_RESTARTS = 3
"""A copy that restarted this often in a row without running for a minute is unsound, regardless of its present state."""
RETRY = Backoff((5.0, 30.0, 300.0))
"""Delay before a failed rebuild is retried; the last value repeats."""
STRICT_GRACE_S = 5
"""Limit of the grace period in strict mode: without a replica, no write is answered. A restart takes less. None of it is
left for a replica that has become unheard (``reach.py``): it was silent for that long before it counted as lost."""
LOOK_AGAIN = timedelta(seconds=5)
"""Retry interval while a lost copy has no place."""
NOTED_AT_ONCE = 40
"""Limit of missing copies recorded in one decision; below the store's limit for one transaction."""

_SYNCING = frozenset({MoveState.PLANNED, MoveState.STARTING, MoveState.SYNCING})
_EMPTYING = frozenset({ActionName.REMOVE, ActionName.MAINTENANCE_ON})
_SILENT = frozenset({Health.REFUSED, Health.UNREACHABLE, Health.TIMEOUT})


@dataclass(frozen=True, slots=True)
class _Lost:
    """A copy that is due for a rebuild, with its failed attempts per node."""

    shard: Shard
    group: SlotGroup
    database: Database
    failures: Counter[NodeUid]
    number: int
    is_early: bool
    """It counts as lost before its node counts as away: then others that have died with it do not count as away either."""


def decide_repair(view: ClusterView, now: datetime) -> Decision:
    """Record which copies are missing and since when; withdraw unnecessary rebuilds; begin at most one more."""
    noted = _note_missing(view, now)
    if noted:
        # A rebuild begins only after the record is committed: every later leader then measures the same time.
        return Decision(writes=noted)
    withdrawn = _withdraw(view, now)
    if withdrawn:
        return Decision(writes=withdrawn)
    return _rebuild(view, now)


def is_missing(view: ClusterView, shard: Shard) -> bool:
    """Whether the copy does not serve and will not recover by itself: its process has certainly ended or repeatedly fails
    to start, or its node is away and nothing answers. A copy that has not been observed yet is not missing."""
    liveness = view.liveness(shard)
    if has_ended_after_start(liveness):
        return True  # Its observation is older than its loss.
    seen = view.servers.get(shard.uid)
    if seen is not None and seen.health in (Health.OK, Health.LOADING):
        return False
    if view.is_away(shard.node_uid):
        return has_ended(liveness) or (seen is not None and seen.health in _SILENT)
    return shard.restarts >= MANY_RESTARTS


def is_sound(view: ClusterView, group: SlotGroup, shard: Shard) -> bool:
    """Whether the copy works as intended: it serves as the primary, or follows and is in sync. Never true of a missing
    copy: otherwise its record would be removed and written again in every turn."""
    seen = view.servers.get(shard.uid)
    if seen is None or seen.health is not Health.OK or shard.restarts >= MANY_RESTARTS:
        return False
    if is_missing(view, shard):
        return False
    if group.primary == shard.uid:
        return seen.role is Role.PRIMARY
    return seen.role is Role.REPLICA and seen.is_link_up and shard.in_sync_generation == group.generation


# -- start times ---------------------------------------------------------------------------------------------------------


def _note_missing(view: ClusterView, now: datetime) -> tuple[Write, ...]:
    writes: list[Write] = []
    for shard in view.shards.values():
        group = view.groups.get(shard.group_uid)
        if shard.wanted is not ShardWanted.RUNNING or group is None:
            continue
        since = shard.missing_since
        has_proof = group.primary == shard.uid and has_ended_after_start(view.liveness(shard))
        if since is None and (is_missing(view, shard) or is_unheard(view, shard, now)):
            writes.append(Put(replace(shard, missing_since=now, ended_since=now if has_proof else None)))
        elif since is not None and is_sound(view, group, shard):
            writes.append(Put(replace(shard, missing_since=None, ended_since=None)))
        elif since is not None and has_proof and _is_unnoted(shard, now):
            writes.append(Put(replace(shard, ended_since=now)))
        elif since is not None and since > now + LOOK_AGAIN:
            # The record was written by a clock ahead of this one: the grace period begins now.
            writes.append(Put(replace(shard, missing_since=now)))
        if len(writes) == NOTED_AT_ONCE:
            break
    return tuple(writes)


def _is_unnoted(shard: Shard, now: datetime) -> bool:
    """Whether the end is not on record, or by a clock ahead of this one: for long, no copy would be observed after that. A
    later time is safe, because it lets fewer copies take over."""
    return shard.ended_since is None or shard.ended_since > now + LOOK_AGAIN


# -- rebuilds under way --------------------------------------------------------------------------------------------------


def is_rebuild(move: Move) -> TypeGuard[Relocation]:
    """Whether the move is the cluster's own, for a lost copy."""
    return move.action_uid is None and isinstance(move, Relocation)


def _withdraw(view: ClusterView, now: datetime) -> tuple[Write, ...]:
    """Withdraw rebuilds whose copy returned in time, or whose target no longer accepts shards."""
    writes: list[Write] = []
    for move in view.live_moves():
        if not is_rebuild(move) or move.is_cancel_wanted or move.state not in _SYNCING:
            continue
        why = _not_wanted(move, view)
        if why:
            text = f"the rebuild of shard {move.shard_uid} on node {move.to_node} is withdrawn: {why}"
            event = Event(
                now,
                EventKind.REPLICA_REBUILD_WITHDRAWN,
                Severity.INFO,
                text,
                node_uid=move.to_node,
                database_uid=move.database_uid,
            )
            writes += [Put(replace(move, is_cancel_wanted=True)), Put(event)]
    return tuple(writes)


def _not_wanted(move: Relocation, view: ClusterView) -> str:
    """Why the rebuild must end; empty if it continues."""
    shard = view.shards.get(move.shard_uid)
    group = view.groups.get(move.group_uid)
    if shard is not None and group is not None and is_sound(view, group, shard):
        return "the lost copy came back"
    database = view.databases.get(move.database_uid)
    if database is None or not database.has_replica:
        return "its database no longer has replication"
    target = view.nodes.get(move.to_node)
    if target is None or not target.accepts_placement or target.uid in nodes_being_emptied(view):
        return "the target node no longer accepts new shards"
    return ""


def nodes_being_emptied(view: ClusterView) -> set[NodeUid]:
    """Nodes whose action moves shards away and names its blockers."""
    return {a.node_uid for a in _emptying(view)}


def _emptying(view: ClusterView) -> Iterator[Action]:
    """These actions. A cancelled one no longer moves anything away."""
    return (a for a in view.live_actions() if a.name in _EMPTYING and a.status is not ActionStatus.CANCELLING)


def _is_left_to_an_action(shard: Shard, view: ClusterView) -> bool:
    """Whether an action replaces this copy, wherever it has a place. A maintenance may leave replicas on the node."""
    return any(a.node_uid == shard.node_uid and _evicts(a.parameters, shard) for a in _emptying(view))


def _evicts(parameters: ActionParameters, shard: Shard) -> bool:
    if not isinstance(parameters, MaintenanceOnParameters):
        return True
    if parameters.evict_databases is None:
        return parameters.evict_replicas
    return shard.database_uid in parameters.evict_databases


# -- a new rebuild -------------------------------------------------------------------------------------------------------


def _rebuild(view: ClusterView, now: datetime) -> Decision:
    lost, wake_at = _lost(view, now)
    if not lost or _syncs_left(view) == 0:
        return Decision(wake_at=wake_at)
    reasons: list[Reason] = []
    silent = silent_nodes(view)
    for one in lost:
        failed = {uid for uid in one.failures if one.failures[uid] == max(one.failures.values())}
        target = place_copy(view, one.group, database=one.database, leaving=one.shard, avoid=failed | silent)
        if isinstance(target, Unplaceable):
            reasons.extend(target.reasons)
            continue
        if one.is_early and target in silent:
            reasons.append(about_node(view.nodes[target], Code.NODE_DOWN, "{} does not answer", grade=Grade.SOFT_LIMIT))
            continue
        return Decision(writes=_begin(one, target, view, now), wake_at=wake_at)
    return Decision(reasons=tuple(reasons), wake_at=earlier(wake_at, now + LOOK_AGAIN))


def _begin(one: _Lost, target: NodeUid, view: ClusterView, now: datetime) -> tuple[Write, ...]:
    shard, primary = one.shard, one.group.primary
    seen = None if primary is None else view.servers.get(primary)
    move = Relocation(
        uid=uid_of_move(f"rebuild-{shard.uid}", one.number),
        action_uid=None,
        state=MoveState.PLANNED,
        database_uid=one.database.uid,
        created_at=now,
        group_uid=one.group.uid,
        shard_uid=shard.uid,
        from_node=shard.node_uid,
        to_node=target,
        state_since=now,
        bytes_total=0 if seen is None else seen.used_memory_bytes,
    )
    text = (
        f"shard {shard.uid} on node {shard.node_uid} has been missing since {shard.missing_since}: "
        f"a new copy is built on node {target}"
    )
    event = Event(now, EventKind.REPLICA_REBUILD, Severity.WARNING, text, node_uid=target, database_uid=one.database.uid)
    return (Put(move), Put(event))


def _grace(database: Database, view: ClusterView, *, is_unheard: bool) -> timedelta:
    if is_unheard:
        return timedelta(0)
    seconds = view.policy.slave_ha_grace_period_s
    return timedelta(seconds=min(seconds, STRICT_GRACE_S) if database.is_strict else seconds)


def _lost(view: ClusterView, now: datetime) -> tuple[list[_Lost], datetime | None]:
    """Copies that are due, the most urgent first, and the time at which the next one will be due."""
    missing = [s for s in view.shards.values() if s.missing_since is not None and s.wanted is ShardWanted.RUNNING]
    if not missing:
        return [], None
    found: list[_Lost] = []
    wake_at: datetime | None = None
    for shard in missing:
        group, database = view.groups.get(shard.group_uid), view.databases.get(shard.database_uid)
        if group is None or database is None or not _is_to_rebuild(shard, group, database, view):
            continue
        if _is_left_to_an_action(shard, view):
            continue  # The rebuild names its own blockers.
        moves = [m for m in view.moves.values() if is_rebuild(m) and m.shard_uid == shard.uid]
        unheard = is_unheard(view, shard, now)
        due = max((shard.missing_since or now) + _grace(database, view, is_unheard=unheard), retry_at(moves, now))
        if now < due:
            wake_at = earlier(wake_at, due)
            continue
        failures = Counter(m.to_node for m in moves if m.state is MoveState.FAILED)
        number = 1 + max((number_of(m) for m in moves), default=0)
        is_early = unheard and not view.is_away(shard.node_uid)
        found.append(_Lost(shard, group, database, failures, number, is_early))
    return sorted(found, key=lambda one: (-one.database.rebuild_priority, one.shard.uid)), wake_at


def _is_to_rebuild(shard: Shard, group: SlotGroup, database: Database, view: ClusterView) -> bool:
    """Whether a new copy is needed and a source exists."""
    policy = view.policy.slave_ha
    is_wanted = database.has_replica and (policy if database.is_rebuilt is None else database.is_rebuilt)
    is_kept = database.status not in (DatabaseStatus.DELETE_PENDING, DatabaseStatus.CREATION_FAILED)
    if not (is_wanted and is_kept) or group.phase is not GroupPhase.SERVING or group.is_changing_roles:
        return False
    if group.primary in (None, shard.uid) or view.live_move_of_group(group.uid) is not None:
        return False
    copies = [s for s in view.shards_of_group(group.uid) if s.wanted is ShardWanted.RUNNING]
    primary = next((s for s in copies if s.uid == group.primary), None)
    if primary is None or len(copies) > database.copies:
        return False
    seen = view.servers.get(primary.uid)
    serves = seen is not None and seen.health is Health.OK and seen.role is Role.PRIMARY
    return serves and not is_sound(view, group, shard)


def retry_at(moves: Sequence[Move], now: datetime) -> datetime:
    """The earliest time of the next attempt."""
    failed = [m for m in moves if m.state is MoveState.FAILED]
    if not failed:
        return now
    last = max(m.ended_at or m.created_at for m in failed)
    at = last + RETRY.delay(len(failed) - 1)
    return at if RETRY.is_waiting(at, now) else min(at, now)


def _syncs_left(view: ClusterView) -> int | None:
    """Number of full syncs that may still start; None: no limit."""
    limit = view.policy.max_slave_full_syncs
    running = sum(isinstance(m, Relocation) and m.state in _SYNCING for m in view.live_moves())
    return None if limit == 0 else max(0, limit - running)


def number_of(move: Move) -> int:
    """Number of the cluster's own moves for the same shard or endpoint, including this one."""
    return number_of_move(move.uid)
