"""How often a leader looks and decides: what calls for a turn, which servers something waits for, when to look again. Pure.

``loop.py`` sleeps as long as these functions say. Losing every event must be harmless: a full turn comes anyway.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from shardwright.leader.observe import HOT_S, IDLE_S
from shardwright.model.database import DatabaseStatus, GroupPhase, ShardWanted, SlotGroup
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ProcessState
from shardwright.model.view import ClusterView
from shardwright.store import keys

TURN_MAX_S = 1.0
"""A turn at least this often: losing every event must be harmless."""
BUSY_TURN_S = 0.1
"""While moves, starts or changes are under way."""
SLEEP_MIN_S = 0.005
"""A wake time that has passed does not make the turns run in circles."""
STILL_AFTER_S = 30.0
"""When nothing has changed for this long, whatever is under way waits for something that may take hours, such as a node
that is down: it is asked no more often than if nothing were under way, until something changes."""
UNDECIDING = (keys.EVENTS, keys.SEEN_SERVERS)
"""Records on which no decision rests: a change of them calls for no turn."""
RETENTION_EVERY = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a leader looks and decides when no event calls it, in seconds."""

    turn_s: float = TURN_MAX_S
    busy_turn_s: float = BUSY_TURN_S
    idle_poll_s: float = IDLE_S
    hot_poll_s: float = HOT_S


NORMAL_PACE = Pace()


class Call(StrEnum):
    """What a change of the store calls for."""

    NOTHING = "nothing"
    """Only what the leader itself publishes, or the log of events."""
    TURN = "turn"
    """Figures of a machine, every few seconds: a turn, but nothing is going on."""
    STIR = "stir"
    """Something is going on: a turn, and frequent ones behind it."""


def call_of(changed: Collection[str], *, has_new_processes: bool) -> Call:
    """What a change of these keys calls for. ``has_new_processes``: an agent reports other processes than before."""
    if all(key.startswith(UNDECIDING) for key in changed):
        return Call.NOTHING
    if all(key.startswith(keys.SEEN_NODES) for key in changed) and not has_new_processes:
        return Call.TURN
    return Call.STIR


def is_still(changed_at: float, now: float) -> bool:
    """Whether nothing has been written or seen for so long that frequent looks are of no use."""
    return now - changed_at > STILL_AFTER_S


def hot_shards(view: ClusterView) -> frozenset[ShardUid]:
    """Shards whose next answer something waits for."""
    unsettled = {d.uid for d in view.databases.values() if d.status is not DatabaseStatus.ACTIVE}
    moving = {m.group_uid for m in view.live_moves()}
    starting = {g.uid for g in view.groups.values() if g.phase is not GroupPhase.SERVING or g.handoff is not None}
    behind = {g.uid for g in view.groups.values() if _is_behind(g, view)}
    return frozenset(
        s.uid
        for s in view.shards.values()
        if s.wanted is ShardWanted.RUNNING and (s.database_uid in unsettled or s.group_uid in moving | starting | behind)
    )


def _is_behind(group: SlotGroup, view: ClusterView) -> bool:
    """Whether a running copy has yet to be seen in sync, as after every handoff, or alive, as before a failover."""
    primary = None if group.primary is None else view.shards.get(group.primary)
    return (primary is not None and primary.missing_since is not None) or any(
        s.wanted is ShardWanted.RUNNING
        and s.in_sync_generation != group.generation
        and view.process_state(s.uid) is ProcessState.RUNNING
        for s in view.shards_of_group(group.uid)
    )


def is_busy(view: ClusterView) -> bool:
    """Whether something is under way that a frequent turn moves on."""
    return bool(view.live_moves()) or bool(hot_shards(view))


def look_again_at(wake_at: datetime | None, now: datetime, pace: Pace, *, is_busy: bool) -> datetime | None:
    """When the next turn is due before the full one; None: not before. ``wake_at``: what the decisions asked for."""
    return earlier(wake_at, now + timedelta(seconds=pace.busy_turn_s) if is_busy else None)


def sleep_s(look_again: datetime | None, now: datetime, pace: Pace) -> float:
    """How long to sleep unless an event comes: at the latest until the next full turn."""
    if look_again is None:
        return pace.turn_s
    return min(pace.turn_s, max(SLEEP_MIN_S, (look_again - now).total_seconds()))


def is_retention_due(retained_at: datetime | None, now: datetime) -> bool:
    """Whether to look for records that have been kept long enough."""
    return retained_at is None or now - retained_at >= RETENTION_EVERY


def earlier(a: datetime | None, b: datetime | None) -> datetime | None:
    """The earlier of two times; None: never."""
    if a is None or b is None:
        return a or b
    return min(a, b)
