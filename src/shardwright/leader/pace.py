"""The leader's pace: which changes need a turn, which servers are queried often, and when the next turn is due. Pure.

``loop.py`` sleeps as long as these functions say. A lost event must be harmless: a turn runs once a second anyway.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from shardwright.leader.observe import HOT_S, IDLE_S
from shardwright.model.database import DatabaseStatus, GroupPhase, ShardWanted, SlotGroup
from shardwright.model.decision import earlier
from shardwright.model.ids import ShardUid
from shardwright.model.move import GroupMove
from shardwright.model.seen import ProcessState
from shardwright.model.view import ClusterView
from shardwright.store import keys

TURN_MAX_S = 1.0
"""Longest time between two turns: the loss of every event must be harmless."""
BUSY_TURN_S = 0.1
"""The same while moves, starts or changes are in progress."""
SLEEP_MIN_S = 0.005
"""Shortest sleep: a wake time in the past must not make the turns run without a pause."""
STILL_AFTER_S = 30.0
"""If nothing has changed for this long, the work in progress waits for something that may take hours, such as a node that is
down. Until something changes, the leader queries no server more often than it would without work in progress."""
UNDECIDING = (keys.EVENTS, keys.SEEN_SERVERS)
"""Records that no decision uses: a change of them needs no turn."""
RETENTION_EVERY = timedelta(minutes=5)
"""Interval between two deletions of expired records."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Intervals of turns and queries without any event, in seconds."""

    turn_s: float = TURN_MAX_S
    busy_turn_s: float = BUSY_TURN_S
    idle_poll_s: float = IDLE_S
    hot_poll_s: float = HOT_S


NORMAL_PACE = Pace()


class Call(StrEnum):
    """What a change of the store requires."""

    NOTHING = "nothing"
    """Nothing: the change is the leader's own publication, or an event."""
    TURN = "turn"
    """One turn: an agent has reported new figures of its machine, as it does every few seconds."""
    STIR = "stir"
    """A turn, and frequent turns after it: work may be in progress."""


def call_of(changed: Collection[str], *, has_new_processes: bool) -> Call:
    """What a change of these keys requires. ``has_new_processes``: the processes that the agents report have changed."""
    if all(key.startswith(UNDECIDING) for key in changed):
        return Call.NOTHING
    if all(key.startswith(keys.SEEN_NODES) for key in changed) and not has_new_processes:
        return Call.TURN
    return Call.STIR


def is_still(changed_at: float, now: float) -> bool:
    """Whether nothing has changed for so long that frequent queries are useless."""
    return now - changed_at > STILL_AFTER_S


def hot_shards(view: ClusterView) -> frozenset[ShardUid]:
    """Shards whose next answer a decision waits for."""
    unsettled = {d.uid for d in view.databases.values() if d.status is not DatabaseStatus.ACTIVE}
    moving = {m.group_uid for m in view.live_moves() if isinstance(m, GroupMove)}
    starting = {g.uid for g in view.groups.values() if g.phase is not GroupPhase.SERVING or g.is_changing_roles}
    behind = {g.uid for g in view.groups.values() if _is_behind(g, view) or _has_silent_copy(g, view)}
    return frozenset(
        s.uid
        for s in view.shards.values()
        if s.wanted is ShardWanted.RUNNING and (s.database_uid in unsettled or s.group_uid in moving | starting | behind)
    )


def _is_behind(group: SlotGroup, view: ClusterView) -> bool:
    """Whether a running copy must still be observed in sync (as after every handoff), or alive (as before a failover)."""
    primary = None if group.primary is None else view.shards.get(group.primary)
    return (primary is not None and primary.missing_since is not None) or any(
        s.wanted is ShardWanted.RUNNING
        and s.in_sync_generation != group.generation
        and view.process_state(s.uid) is ProcessState.RUNNING
        for s in view.shards_of_group(group.uid)
    )


def _has_silent_copy(group: SlotGroup, view: ClusterView) -> bool:
    """Whether its replicas are about to be asked if they still hear of their primary; in strict mode, which writes nothing
    without a replica, also whether the primary is about to be asked if it still hears of its replica."""
    database = view.databases.get(group.database_uid)
    copies = view.shards_of_group(group.uid) if database is not None and database.is_strict else ()
    judged = {group.primary, *(s.uid for s in copies if s.wanted is ShardWanted.RUNNING)}
    found = (view.servers.get(uid) for uid in judged if uid is not None)
    return any(seen is not None and seen.unanswered_since is not None for seen in found)


def is_busy(view: ClusterView) -> bool:
    """Whether frequent turns advance some work."""
    return bool(view.live_moves()) or bool(hot_shards(view))


def look_again_at(wake_at: datetime | None, now: datetime, pace: Pace, *, is_busy: bool) -> datetime | None:
    """When the next turn is due; None: after the longest interval. ``wake_at``: the earliest wake time of the decisions."""
    return earlier(wake_at, now + timedelta(seconds=pace.busy_turn_s) if is_busy else None)


def sleep_s(look_again: datetime | None, now: datetime, pace: Pace) -> float:
    """How long to sleep if no event occurs."""
    if look_again is None:
        return pace.turn_s
    return min(pace.turn_s, max(SLEEP_MIN_S, (look_again - now).total_seconds()))


def is_retention_due(retained_at: datetime | None, now: datetime) -> bool:
    """Whether to delete expired records now."""
    return retained_at is None or now - retained_at >= RETENTION_EVERY
