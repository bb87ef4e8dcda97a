"""The end of an unfinished handoff by a new leader: which processes have ended, and the records that it writes.

Pure; ``leader/recovery.py`` commits what these functions return, and calls them again with a newer view if another writer
was faster. The table in ``moves/handoff_rules.py`` chooses the way out.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Handoff, Shard, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import GroupUid, ShardUid
from shardwright.model.liveness import has_ended_after_start
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView, Put, Write
from shardwright.moves.handoff_rules import EndpointsState

NOT_RECORDED = "a shard of a pending handoff no longer has a record"
"""Why the group starts over when one of the two shards has no record."""


def are_recorded(view: ClusterView, intent: Handoff) -> bool:
    """Whether both shards of the handoff have a record."""
    return intent.from_shard in view.shards and intent.to_shard in view.shards


def has_ended(view: ClusterView, shard: Shard, incarnation: int) -> bool:
    """Whether the process that the intent names has ended. A later incarnation proves it, because it starts only after that.
    ``incarnation`` 0: the shard's current process."""
    if incarnation and shard.incarnation != incarnation:
        return True
    return has_ended_after_start(view.liveness(shard))


def last_to_serve(intent: Handoff, endpoints: EndpointsState) -> ShardUid:
    """The copy that served clients last: the candidate if an endpoint was released to it, otherwise the old primary."""
    return intent.to_shard if endpoints is EndpointsState.NEW else intent.from_shard


def undo_reason(why: str) -> Reason:
    """The reason of an attempt that a new leader has undone."""
    return Reason(Code.HANDOFF_UNDONE, f"the leader that performed it ended; {why}", Grade.SOFT_LIMIT)


def failed_back(view: ClusterView, group_uid: GroupUid, intent: Handoff, now: datetime) -> Sequence[Write]:
    """The old primary serves again, with a later generation than any endpoint may have. The slot group's reconciliation
    promotes and opens it. Empty: the handoff is no longer pending, or the old primary no longer has a record."""
    group, old = _pending(view, group_uid, intent), view.shards.get(intent.from_shard)
    if group is None or old is None:
        return ()
    generation = intent.generation + 1
    text = f"a handoff was undone: shard {intent.to_shard} has ended, shard {old.uid} serves again"
    return (
        Put(group.led_by(old.uid, generation, group.phase)),
        Put(replace(old, in_sync_generation=generation)),
        _event(group, text, now),
    )


def started_over(
    view: ClusterView, group_uid: GroupUid, intent: Handoff, last: ShardUid | None, why: str, now: datetime
) -> Sequence[Write]:
    """The group starts over, and the rules for starting a shard choose its primary. ``last``: the copy that served last,
    which becomes the committed primary; None: the committed primary stays. Empty: the handoff is no longer pending, or that
    copy no longer has a record."""
    group = _pending(view, group_uid, intent)
    shard = None if last is None else view.shards.get(last)
    if group is None or (last is not None and shard is None):
        return ()
    starting = group.led_by(group.primary if shard is None else shard.uid, intent.generation, GroupPhase.STARTING)
    marked = () if shard is None else (Put(replace(shard, in_sync_generation=intent.generation)),)
    text = f"the copies of slot group {group.uid} are started and compared: {why}"
    return (Put(replace(starting, starting_since=now)), *marked, _event(group, text, now))


def _pending(view: ClusterView, group_uid: GroupUid, intent: Handoff) -> SlotGroup | None:
    group = view.groups.get(group_uid)
    return group if group is not None and group.handoff == intent else None


def _event(group: SlotGroup, text: str, now: datetime) -> Put:
    return Put(Event(now, EventKind.HANDOFF_RECOVERY, Severity.WARNING, text, database_uid=group.database_uid))
