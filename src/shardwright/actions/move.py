"""Moves: the durable state machine that moves one shard, role or endpoint from node to node.

Called by the leader each turn for every live move. The ordering rule is *new copy first, old copy last*: a slot group never
has fewer in-sync copies than before, and the old copy's files are deleted only when the new copy has its own persistence.
Nothing here waits: observations decide the next state, so a restart, a retry and a new leader take the same path.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.actions.handoff import PASSING_CODES, RETRY
from shardwright.actions.life import AGENT_ABSENT_LIMIT, age, end, enter, reason, starting_over, wait
from shardwright.actions.rebind import decide_rebind
from shardwright.model.codes import Code
from shardwright.model.commands import HandOff, SaveNow
from shardwright.model.database import Database, GroupPhase, Persistence, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.ids import ShardUid
from shardwright.model.liveness import has_ended, has_ended_after_start
from shardwright.model.move import (
    GroupMove,
    HandoffMove,
    Move,
    MoveState,
    Rebind,
    Relocation,
)
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health, ProcessState, ServerSeen
from shardwright.model.view import ClusterView, Delete, Put, Write
from shardwright.plan.ports import shard_port
from shardwright.plan.standing import primary_lives

START_LIMIT = timedelta(seconds=60)
"""Limit from the record of a new shard to its server's first answer."""
SYNC_SILENCE_LIMIT = timedelta(seconds=120)
"""A sync without progress for this long is given up."""
HANDOFF_ATTEMPTS_MAX = 8
"""Limit of handoffs that fail for a reason other than a busy command; then the move ends."""
LAG_READY_BYTES = 1 << 20
_NEXT_OF_HEIR = {
    MoveState.STARTING: MoveState.SYNCING,
    MoveState.SYNCING: MoveState.READY,
    MoveState.READY: MoveState.CLEANING,
}
GiveUp = Callable[..., Decision]
"""``give_up(*reasons)``: ends the move, or undoes it."""


def decide_move(move: Move, view: ClusterView, now: datetime) -> Decision:
    """The next step of a live move."""
    match move:
        case Rebind():
            return decide_rebind(move, view, now)
        case HandoffMove():
            return _handoff_only(move, view, now)
        case Relocation():
            return _relocate(move, view, now)


# -- the primary role --------------------------------------------------------------------------------------------------


def _handoff_only(move: HandoffMove, view: ClusterView, now: datetime) -> Decision:
    group = view.groups.get(move.group_uid)
    if group is None:
        return end(move, now, reason(move, Code.DATABASE_DELETED, "the database has been deleted"))
    if move.state is MoveState.PLANNED:
        if move.is_cancel_wanted:
            return end(move, now)
        return Decision(writes=(Put(enter(move, MoveState.HANDOFF, now)),))
    if group.primary == move.new_shard_uid and group.handoff is None:
        return Decision(writes=(Put(enter(move, MoveState.DONE, now, reasons=())),))
    return _hand_over(move, group, view, now, give_up=lambda *reasons: end(move, now, *reasons))


def _hand_over(move: GroupMove, group: SlotGroup, view: ClusterView, now: datetime, *, give_up: GiveUp) -> Decision:
    """Request the handoff until it has happened; between attempts, a cancellation or too many failures end the move."""
    if group.handoff is not None:
        return NOTHING
    if move.is_cancel_wanted:
        return give_up()
    if group.primary != move.shard_uid or move.new_shard_uid is None or move.new_shard_uid not in view.shards:
        return give_up(reason(move, Code.ROLES_CHANGED, "another shard has become the primary"))
    passes = any(r.code in PASSING_CODES for r in move.reasons)
    if move.attempts >= HANDOFF_ATTEMPTS_MAX and not passes:
        return give_up(*move.reasons)
    if RETRY.is_waiting(move.not_before, now):
        return Decision(wake_at=move.not_before, reasons=move.reasons)
    if group.phase is not GroupPhase.SERVING:
        return wait(move, now, starting_over(move, group))
    return Decision(commands=(HandOff(group.uid, move.shard_uid, move.new_shard_uid),))


# -- a copy ------------------------------------------------------------------------------------------------------------


def _relocate(move: Relocation, view: ClusterView, now: datetime) -> Decision:
    group = view.groups.get(move.group_uid)
    database = view.databases.get(move.database_uid)
    old = view.shards.get(move.shard_uid)
    new = view.shards.get(move.new_shard_uid) if move.new_shard_uid is not None else None
    if move.state is MoveState.UNDOING:
        return _undo(move, new, view, now)
    if move.state is MoveState.CLEANING:
        return _clean(move, old, new, database, view, now)
    if group is None or database is None or old is None:
        return _give_up(move, new, view, now, reason(move, Code.DATABASE_DELETED, "the shard or database has been deleted"))
    if move.state is MoveState.PLANNED:
        return _plan(move, group, database, view, now)
    if new is None:
        return _end_lost(move, now)
    if group.primary == new.uid and move.state in _NEXT_OF_HEIR:
        # A failover has promoted it: the group depends on it now, so it is not given up.
        return Decision(writes=(Put(enter(move, _NEXT_OF_HEIR[move.state], now, reasons=())),))
    match move.state:
        case MoveState.STARTING:
            return _starting(move, group, new, view, now)
        case MoveState.SYNCING:
            return _syncing(move, group, new, view, now)
        case MoveState.READY:
            return _ready(move, group, new, view, now)
        case MoveState.HANDOFF:
            if group.primary == new.uid and group.handoff is None:
                return Decision(writes=(Put(enter(move, MoveState.CLEANING, now, reasons=())),))
            return _hand_over(move, group, view, now, give_up=lambda *reasons: _give_up(move, new, view, now, *reasons))
        case _:
            raise AssertionError(f"a live relocation in state {move.state}")


def _plan(move: Relocation, group: SlotGroup, database: Database, view: ClusterView, now: datetime) -> Decision:
    """Record the new shard; then the agent starts it."""
    if move.is_cancel_wanted:
        return end(move, now)
    target = move.to_node
    if target not in view.nodes:
        return end(move, now, reason(move, Code.NODE_GONE, f"node {target} is no longer a member"))
    uid = ShardUid(view.counters.next_shard)
    shard = Shard(
        uid=uid,
        database_uid=database.uid,
        group_uid=group.uid,
        node_uid=target,
        port=shard_port(view, target, uid, 1),
        created_at=now,
        settings=database.settings_fingerprint,
    )
    writes = (
        Put(replace(view.counters, next_shard=uid + 1)),
        Put(shard),
        Put(enter(move, MoveState.STARTING, now, new_shard_uid=shard.uid, bytes_total=_estimate(move, group, view))),
    )
    return Decision(writes=writes)


def _estimate(move: Relocation, group: SlotGroup, view: ClusterView) -> int:
    seen = view.servers.get(group.primary) if group.primary is not None else None
    return move.bytes_total if seen is None else seen.used_memory_bytes


def _starting(move: Relocation, group: SlotGroup, new: Shard, view: ClusterView, now: datetime) -> Decision:
    state = view.process_state(new.uid)
    liveness = view.liveness(new)
    seen = view.servers.get(new.uid)
    if move.is_cancel_wanted:
        return _give_up(move, new, view, now)
    if _has_no_source(group, new, view):
        return _give_up(move, new, view, now, _no_source(move, group))
    if has_ended_after_start(liveness):
        process = view.processes.get(new.uid)
        text = f"the new server on node {new.node_uid} did not start: {process.text if process else state}"
        return _give_up(move, new, view, now, reason(move, Code.SHARD_START_FAILED, text))
    if seen is not None and seen.health in (Health.OK, Health.LOADING):
        # The server was started ahead of time; the slot group attaches it when the move is in this state.
        if seen.role is not Role.REPLICA and not has_sync_to_spare(view):
            return Decision(wake_at=now + timedelta(seconds=1))
        return Decision(writes=(Put(enter(move, MoveState.SYNCING, now, sync_began_at=now, reasons=())),))
    if _is_stranded(move, new, view, now):
        return _give_up(move, new, view, now, _stranded(move, new))
    if age(move, now) > START_LIMIT:
        text = f"the new server on node {new.node_uid} did not answer within {START_LIMIT.seconds} s"
        return _give_up(move, new, view, now, reason(move, Code.SHARD_START_TIMEOUT, text))
    return Decision(wake_at=now + timedelta(seconds=1))


def _syncing(move: Relocation, group: SlotGroup, new: Shard, view: ClusterView, now: datetime) -> Decision:
    if move.is_cancel_wanted:
        return _give_up(move, new, view, now)
    if _has_no_source(group, new, view):
        return _give_up(move, new, view, now, _no_source(move, group))
    if has_ended_after_start(view.liveness(new)):
        text = f"the new server on node {new.node_uid} ended during its sync"
        return _give_up(move, new, view, now, reason(move, Code.SHARD_LOST, text))
    if _is_stranded(move, new, view, now):
        return _give_up(move, new, view, now, _stranded(move, new))
    seen = view.servers.get(new.uid)
    source = view.servers.get(group.primary) if group.primary is not None else None
    if seen is not None and source is not None and _holds_everything(source, seen):
        done = max(move.bytes_done, move.bytes_total)
        return Decision(writes=(Put(enter(move, MoveState.READY, now, bytes_done=done, reasons=())),))
    if seen is not None and seen.sync_done_bytes > move.bytes_done:
        total = max(seen.sync_total_bytes, seen.sync_done_bytes, move.bytes_total)
        moved = replace(move, bytes_done=seen.sync_done_bytes, bytes_total=total, state_since=now)
        return Decision(writes=(Put(moved),))
    if age(move, now) > SYNC_SILENCE_LIMIT:
        text = f"the sync to node {new.node_uid} did not advance for {SYNC_SILENCE_LIMIT.seconds} s"
        return _give_up(move, new, view, now, reason(move, Code.SYNC_STALLED, text))
    if group.phase is not GroupPhase.SERVING:
        return wait(move, now, starting_over(move, group))
    return Decision(wake_at=now + timedelta(seconds=1))


def _is_stranded(move: Relocation, new: Shard, view: ClusterView, now: datetime) -> bool:
    """Whether the new server does not run and its node has had no daemon for a long time."""
    seen = view.servers.get(new.uid)
    answers = seen is not None and seen.health in (Health.OK, Health.LOADING)
    is_agent_away = new.node_uid not in view.daemons and view.process_state(new.uid) is not ProcessState.RUNNING
    return is_agent_away and not answers and age(move, now) > AGENT_ABSENT_LIMIT


def _stranded(move: Relocation, new: Shard) -> Reason:
    text = f"node {new.node_uid} has no running daemon that could start the new server"
    return reason(move, Code.NODE_DOWN, text)


def has_sync_to_spare(view: ClusterView) -> bool:
    """Whether the policy allows one more full sync in addition to the running ones."""
    limit = view.policy.max_slave_full_syncs
    return limit == 0 or sum(m.state is MoveState.SYNCING for m in view.live_moves()) < limit


def _has_no_source(group: SlotGroup, new: Shard, view: ClusterView) -> bool:
    """Whether every other copy has ended and no daemon can restart one: waiting would not help."""
    others = [shard for shard in view.shards_of_group(group.uid) if shard.uid != new.uid]
    return all(view.is_lost(shard) for shard in others)


def _no_source(move: Relocation, group: SlotGroup) -> Reason:
    return reason(move, Code.NO_LIVE_COPY, f"slot group {group.uid} has no live copy that the new copy could follow")


def _holds_everything(source: ServerSeen, seen: ServerSeen) -> bool:
    return (
        seen.health is Health.OK
        and seen.role is Role.REPLICA
        and seen.is_link_up
        and not seen.is_syncing
        and seen.replication_id == source.replication_id
        and source.offset - seen.offset <= LAG_READY_BYTES
    )


def _ready(move: Relocation, group: SlotGroup, new: Shard, view: ClusterView, now: datetime) -> Decision:
    """The new copy holds all data of the primary. Only now may the old one lose its role or leave."""
    if move.is_cancel_wanted:
        return _give_up(move, new, view, now)
    if _is_stranded(move, new, view, now):
        return _give_up(move, new, view, now, _stranded(move, new))
    if group.primary == move.shard_uid or (move.hands_over and group.primary != new.uid):
        return Decision(writes=(Put(enter(move, MoveState.HANDOFF, now, hands_over=True)),))
    if new.in_sync_generation != group.generation:
        return Decision(wake_at=now + timedelta(seconds=1))
    return Decision(writes=(Put(enter(move, MoveState.CLEANING, now)),))


def _clean(
    move: Relocation, old: Shard | None, new: Shard | None, database: Database | None, view: ClusterView, now: datetime
) -> Decision:
    """End the old copy's process; once the new copy has its own persistence, delete the old copy's files."""
    if old is None:
        return Decision(writes=(Put(enter(move, MoveState.DONE, now, has_left=True, reasons=())),))
    if old.wanted is ShardWanted.RUNNING:
        return _stop_old(move, old, new, view, now)
    process = view.processes.get(old.uid)
    is_over = has_ended(view.liveness(old))
    if is_over and not move.has_left:
        return Decision(writes=(Put(replace(move, has_left=True, left_at=now)),))
    if not is_over:
        return Decision(wake_at=now + timedelta(seconds=1))
    if old.wanted is ShardWanted.STOPPED:
        return _persist(move, old, new, database, view, now)
    if (process is not None and process.files_are_deleted) or old.node_uid not in view.daemons:
        # If the node's daemon is absent, the shard stays recorded as unwanted: its agent deletes the files when it returns.
        deleted: tuple[Write, ...] = (Delete(old),) if process is not None and process.files_are_deleted else ()
        return Decision(writes=(*deleted, Put(enter(move, MoveState.DONE, now, reasons=()))))
    return Decision(wake_at=now + timedelta(seconds=1))


def _stop_old(move: Relocation, old: Shard, new: Shard | None, view: ClusterView, now: datetime) -> Decision:
    """End the old copy, unless a failover has promoted it or the new copy is currently not in sync."""
    group = view.groups.get(old.group_uid)
    if move.has_left:
        # The group starts over, and compares the data of this copy with that of the others.
        return Decision(writes=(Put(replace(move, has_left=False, left_at=None)),))
    if group is not None and group.primary == old.uid:
        return Decision(writes=(Put(enter(move, MoveState.HANDOFF, now, attempts=0)),))
    if group is None or new is None or _stands(group, new, view):
        return Decision(writes=(Put(replace(old, wanted=ShardWanted.STOPPED)),))
    if group.primary != new.uid and _is_stranded(move, new, view, now):
        return _give_up(move, new, view, now, _stranded(move, new))
    if group.phase is not GroupPhase.SERVING:
        return wait(move, now, starting_over(move, group))
    waiting = reason(move, Code.NEW_COPY_NOT_IN_SYNC, "the new copy is currently not in sync", Grade.SOFT_LIMIT)
    return Decision(wake_at=now + timedelta(seconds=1), reasons=(waiting,))


def _stands(group: SlotGroup, new: Shard, view: ClusterView) -> bool:
    """Whether the new copy holds all data of the group. While a group starts, the sync mark proves nothing: the new copy
    may be a primary that died and came back empty, and the old copy may hold the only data."""
    seen = view.servers.get(new.uid)
    answers = seen is not None and seen.health is Health.OK
    is_running = view.process_state(new.uid) is ProcessState.RUNNING
    is_marked = new.in_sync_generation == group.generation and group.phase is GroupPhase.SERVING
    return answers and is_running and is_marked and group.handoff is None


def _persist(
    move: Relocation, old: Shard, new: Shard | None, database: Database | None, view: ClusterView, now: datetime
) -> Decision:
    group = view.groups.get(old.group_uid)
    if new is not None and group is not None and group.primary is not None and _is_stranded(move, new, view, now):
        # Its files are unreachable. The primary's own files will do; without a primary, the old files may be the only ones.
        new = view.shards.get(group.primary) if primary_lives(group, view, now) else new
    seen = view.servers.get(new.uid) if new is not None else None
    if group is not None and group.phase is not GroupPhase.SERVING:
        # The new copy may have come back empty; it would then not save the data of these files. The group takes them back.
        return wait(move, now, starting_over(move, group))
    if database is None or new is None or is_persisted(database.persistence, seen):
        return Decision(writes=(Put(replace(old, wanted=ShardWanted.GONE)),))
    if seen is None or seen.health is not Health.OK:
        text = f"the files of shard {old.uid} are kept until shard {new.uid}, which does not answer, has written its own"
        return wait(move, now, reason(move, Code.PERSISTENCE_PENDING, text, Grade.SOFT_LIMIT))
    waiting = reason(move, Code.PERSISTENCE_PENDING, "the new copy's persistence file is being written", Grade.SOFT_LIMIT)
    save = () if seen.is_persistence_busy else (SaveNow(new.uid),)
    return Decision(commands=save, wake_at=now + timedelta(seconds=1), reasons=(waiting,))


def is_persisted(persistence: Persistence, seen: ServerSeen | None) -> bool:
    """Whether a copy's own persistence is in place: the end of its process would not lose persistent data."""
    if persistence is Persistence.DISABLED:
        return True
    if seen is None or seen.health is not Health.OK or seen.is_persistence_busy or not seen.is_persistence_ok:
        return False
    return seen.is_aof_on if persistence is Persistence.AOF else seen.saves_since_start > 0


# -- the way back ------------------------------------------------------------------------------------------------------


def _give_up(move: Relocation, new: Shard | None, view: ClusterView, now: datetime, *reasons: Reason) -> Decision:
    """Undo the move: the old copy never left, so only the new one must go, unless it may be the only copy left."""
    group = None if new is None else view.groups.get(new.group_uid)
    if group is not None and new is not None and _may_be_heir(group, new, view) and not primary_lives(group, view, now):
        text = f"shard {new.uid} is kept until the primary of slot group {group.uid} is observed to serve"
        return wait(move, now, reason(move, Code.PRIMARY_UNSEEN, text, Grade.SOFT_LIMIT))
    if move.state is MoveState.PLANNED or new is None:
        return end(move, now, *reasons) if move.state is MoveState.PLANNED else _end_lost(move, now, *reasons)
    undoing = enter(move, MoveState.UNDOING, now, reasons=reasons or move.reasons)
    return Decision(writes=(Put(undoing), Put(replace(new, wanted=ShardWanted.GONE))))


def _may_be_heir(group: SlotGroup, new: Shard, view: ClusterView) -> bool:
    """Whether the new copy may hold the data of its group."""
    seen = view.servers.get(new.uid)
    if has_ended(view.liveness(new)) or seen is None:
        return False
    follows = seen.health is Health.OK and seen.role is Role.REPLICA and not seen.is_syncing and seen.keys > 0
    return follows or new.in_sync_generation == group.generation


def _end_lost(move: Relocation, now: datetime, *reasons: Reason) -> Decision:
    undoing = enter(move, MoveState.UNDOING, now, reasons=reasons or move.reasons)
    return Decision(writes=(Put(undoing),))


def _undo(move: Relocation, new: Shard | None, view: ClusterView, now: datetime) -> Decision:
    if new is None:
        return end(move, now)
    process = view.processes.get(new.uid)
    if process is not None and process.files_are_deleted:
        ended = end(move, now)
        return Decision(writes=(Delete(new), *ended.writes))
    if new.node_uid not in view.daemons:
        # It never served. Its record stays as unwanted, and its agent ends it and deletes its files when the agent returns.
        return end(move, now)
    return Decision(wake_at=now + timedelta(seconds=1))
