"""The way back of a relocation: the old copy never left, so only the new one must go. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import Role, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.liveness import has_ended
from shardwright.model.move import MoveState, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health, ProcessState
from shardwright.model.view import ClusterView, Delete, Put
from shardwright.moves.life import AGENT_ABSENT_LIMIT, age, end, enter, reason, wait
from shardwright.plan.standing import primary_lives


def give_up(move: Relocation, new: Shard | None, view: ClusterView, now: datetime, *reasons: Reason) -> Decision:
    """Undo the move, unless the new copy may be the only one left."""
    group = None if new is None else view.groups.get(new.group_uid)
    if group is not None and new is not None and _may_be_heir(group, new, view) and not primary_lives(group, view, now):
        text = f"shard {new.uid} is kept until the primary of slot group {group.uid} is observed to serve"
        return wait(move, now, reason(move, Code.PRIMARY_UNSEEN, text, Grade.SOFT_LIMIT))
    if move.state is MoveState.PLANNED:
        return end(move, now, *reasons)
    if new is None:
        return end_lost(move, now, *reasons)
    undoing = enter(move, MoveState.UNDOING, now, reasons=reasons or move.reasons)
    return Decision(writes=(Put(undoing), Put(replace(new, wanted=ShardWanted.GONE))))


def _may_be_heir(group: SlotGroup, new: Shard, view: ClusterView) -> bool:
    """Whether the new copy may hold the data of its group."""
    seen = view.servers.get(new.uid)
    if has_ended(view.liveness(new)) or seen is None:
        return False
    follows = seen.health is Health.OK and seen.role is Role.REPLICA and not seen.is_syncing and seen.keys > 0
    return follows or new.in_sync_generation == group.generation


def end_lost(move: Relocation, now: datetime, *reasons: Reason) -> Decision:
    """The new copy has no record: nothing must go."""
    undoing = enter(move, MoveState.UNDOING, now, reasons=reasons or move.reasons)
    return Decision(writes=(Put(undoing),))


def undo(move: Relocation, new: Shard | None, view: ClusterView, now: datetime) -> Decision:
    """Forget the new copy once its files are deleted; then the move ends."""
    if new is None:
        return end(move, now)
    process = view.processes.get(new.uid)
    if process is not None and process.files_are_deleted:
        ended = end(move, now)
        return Decision(writes=(Delete(new), *ended.writes))
    if view.is_away(new.node_uid):
        # It never served. Its record stays as unwanted, and its agent ends it and deletes its files when the agent returns.
        return end(move, now)
    return Decision(wake_at=now + timedelta(seconds=1))


def is_stranded(move: Relocation, new: Shard, view: ClusterView, now: datetime) -> bool:
    """Whether the new server does not run and its node has had no daemon for a long time."""
    return is_out_of_reach(move, new, view, now) and view.process_state(new.uid) is not ProcessState.RUNNING


def is_out_of_reach(move: Relocation, new: Shard, view: ClusterView, now: datetime) -> bool:
    """Whether the new server does not answer and its node has had no daemon for a long time. On a machine that is cut off it
    may run."""
    seen = view.servers.get(new.uid)
    answers = seen is not None and seen.health in (Health.OK, Health.LOADING)
    return view.is_away(new.node_uid) and not answers and age(move, now) > AGENT_ABSENT_LIMIT


def stranded(move: Relocation, new: Shard) -> Reason:
    """The reason of a move whose new server is stranded."""
    text = f"node {new.node_uid} has no running daemon that could start the new server"
    return reason(move, Code.NODE_DOWN, text)
