"""The end of a relocation: the old copy's process ends, and its files go when the new copy has its own. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.commands import SaveNow
from shardwright.model.database import Database, GroupPhase, Persistence, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.liveness import has_ended, is_alive
from shardwright.model.move import MoveState, Relocation
from shardwright.model.reason import Grade
from shardwright.model.seen import Health, ServerSeen
from shardwright.model.view import ClusterView, Delete, Put, Write
from shardwright.moves.life import enter, reason, starting_over, wait
from shardwright.moves.way_back import give_up, is_out_of_reach, is_stranded, stranded
from shardwright.plan.standing import primary_lives


def clean(
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
    if (process is not None and process.files_are_deleted) or view.is_away(old.node_uid):
        # If the node is away, the shard stays recorded as unwanted: its agent deletes the files when it returns.
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
    if group.primary != new.uid and is_stranded(move, new, view, now):
        return give_up(move, new, view, now, stranded(move, new))
    if group.phase is not GroupPhase.SERVING:
        return wait(move, now, starting_over(move, group))
    waiting = reason(move, Code.NEW_COPY_NOT_IN_SYNC, "the new copy is currently not in sync", Grade.SOFT_LIMIT)
    return Decision(wake_at=now + timedelta(seconds=1), reasons=(waiting,))


def _stands(group: SlotGroup, new: Shard, view: ClusterView) -> bool:
    """Whether the new copy holds all data of the group. While a group starts, the sync mark proves nothing: the new copy
    may be a primary that died and came back empty, and the old copy may hold the only data."""
    seen = view.servers.get(new.uid)
    answers = seen is not None and seen.health is Health.OK
    is_marked = new.in_sync_generation == group.generation and group.phase is GroupPhase.SERVING
    return answers and is_alive(view.liveness(new)) and is_marked and not group.is_changing_roles


def _persist(
    move: Relocation, old: Shard, new: Shard | None, database: Database | None, view: ClusterView, now: datetime
) -> Decision:
    group = view.groups.get(old.group_uid)
    if new is not None and group is not None and group.primary is not None and is_out_of_reach(move, new, view, now):
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
