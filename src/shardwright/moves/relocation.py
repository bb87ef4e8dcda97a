"""A relocation's next step: a new copy on another node replaces a copy and takes its role. Pure.

The ordering rule is *new copy first, old copy last*: a slot group never has fewer in-sync copies than before, and the old
copy's files are deleted only when the new copy has its own persistence.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import Database, GroupPhase, Role, Shard, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.ids import ShardUid
from shardwright.model.liveness import has_ended_after_start
from shardwright.model.move import MoveState, Relocation
from shardwright.model.reason import Reason
from shardwright.model.seen import Health, ServerSeen
from shardwright.model.view import ClusterView, Put
from shardwright.moves.cleaning import clean
from shardwright.moves.handoff import hand_over
from shardwright.moves.life import age, end, enter, reason, starting_over, wait
from shardwright.moves.way_back import end_lost, give_up, is_stranded, stranded, undo
from shardwright.plan.ports import shard_port

START_LIMIT = timedelta(seconds=60)
"""Limit from the record of a new shard to its server's first answer."""
SYNC_SILENCE_LIMIT = timedelta(seconds=120)
"""A sync without progress for this long is given up."""
LAG_READY_BYTES = 1 << 20
"""A new copy that lags by no more than this holds all data of the primary."""
_NEXT_OF_HEIR = {
    MoveState.STARTING: MoveState.SYNCING,
    MoveState.SYNCING: MoveState.READY,
    MoveState.READY: MoveState.CLEANING,
}


def decide_relocation(move: Relocation, view: ClusterView, now: datetime) -> Decision:
    """The next step of a live relocation."""
    group = view.groups.get(move.group_uid)
    database = view.databases.get(move.database_uid)
    old = view.shards.get(move.shard_uid)
    new = view.shards.get(move.new_shard_uid) if move.new_shard_uid is not None else None
    if move.state is MoveState.UNDOING:
        return undo(move, new, view, now)
    if move.state is MoveState.CLEANING:
        return clean(move, old, new, database, view, now)
    if group is None or database is None or old is None:
        return give_up(move, new, view, now, reason(move, Code.DATABASE_DELETED, "the shard or database has been deleted"))
    if move.state is MoveState.PLANNED:
        return _plan(move, group, database, view, now)
    if new is None:
        return end_lost(move, now)
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
            return hand_over(move, group, view, now, give_up=lambda *reasons: give_up(move, new, view, now, *reasons))
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
        return give_up(move, new, view, now)
    if _has_no_source(group, new, view):
        return give_up(move, new, view, now, _no_source(move, group))
    if has_ended_after_start(liveness):
        process = view.processes.get(new.uid)
        text = f"the new server on node {new.node_uid} did not start: {process.text if process else state}"
        return give_up(move, new, view, now, reason(move, Code.SHARD_START_FAILED, text))
    if seen is not None and seen.health in (Health.OK, Health.LOADING):
        # The server was started ahead of time; the slot group attaches it when the move is in this state.
        if seen.role is not Role.REPLICA and not has_sync_to_spare(view):
            return Decision(wake_at=now + timedelta(seconds=1))
        return Decision(writes=(Put(enter(move, MoveState.SYNCING, now, sync_began_at=now, reasons=())),))
    if is_stranded(move, new, view, now):
        return give_up(move, new, view, now, stranded(move, new))
    if age(move, now) > START_LIMIT:
        text = f"the new server on node {new.node_uid} did not answer within {START_LIMIT.seconds} s"
        return give_up(move, new, view, now, reason(move, Code.SHARD_START_TIMEOUT, text))
    return Decision(wake_at=now + timedelta(seconds=1))


def _syncing(move: Relocation, group: SlotGroup, new: Shard, view: ClusterView, now: datetime) -> Decision:
    if move.is_cancel_wanted:
        return give_up(move, new, view, now)
    if _has_no_source(group, new, view):
        return give_up(move, new, view, now, _no_source(move, group))
    if has_ended_after_start(view.liveness(new)):
        text = f"the new server on node {new.node_uid} ended during its sync"
        return give_up(move, new, view, now, reason(move, Code.SHARD_LOST, text))
    if is_stranded(move, new, view, now):
        return give_up(move, new, view, now, stranded(move, new))
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
        return give_up(move, new, view, now, reason(move, Code.SYNC_STALLED, text))
    if group.phase is not GroupPhase.SERVING:
        return wait(move, now, starting_over(move, group))
    return Decision(wake_at=now + timedelta(seconds=1))


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
        return give_up(move, new, view, now)
    if is_stranded(move, new, view, now):
        return give_up(move, new, view, now, stranded(move, new))
    if group.primary == move.shard_uid or (move.hands_over and group.primary != new.uid):
        return Decision(writes=(Put(enter(move, MoveState.HANDOFF, now, hands_over=True)),))
    if new.in_sync_generation != group.generation:
        return Decision(wake_at=now + timedelta(seconds=1))
    return Decision(writes=(Put(enter(move, MoveState.CLEANING, now)),))
