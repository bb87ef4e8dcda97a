"""Which nodes are away, and whether this leader is the one that is cut off. Pure: the leader's own observations are input.

A presence key in the store proves nothing by its absence: a store may lose every lease at once while all daemons live.
``observe.py`` keeps a ``Presence`` and asks. A node without a key counts as away only after some time of the leader's own
clock in which its agent does not answer either, or at once if the leader's own machine has no such process. Nothing here
proves that a server has ended: ``model/liveness.py`` does.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime

from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid

AWAY_AFTER_S = 3.0
"""How long a key must have been absent. A daemon that lost its lease takes a new one within a second or two."""
RETURN_S = 15.0
"""How long a daemon that has ended is awaited: what watches over it starts it again at once, which takes seconds on a busy
machine. Until then a copy or an endpoint that has no other place waits for the node, and no action fails for lack of it."""
STORM_WINDOW_S = 1.0
"""Keys that vanish within this time vanish together."""
STORM_S = 10.0
"""How long all nodes stay as they were after more than half of the keys have vanished together."""
CUT_OFF_AFTER_S = 5.0
"""How long a leader that reaches fewer than half of the agents keeps the leadership."""
YIELD_EVERY_S = 60.0
"""A daemon yields for this cause at most once in this time: the other daemons may reach no more agents than it does."""


@dataclass(frozen=True, slots=True)
class Presence:
    """What a leader remembers of the presence keys. Times are by its monotonic clock."""

    present: Set[NodeUid] | None = None
    """None: this leader has not looked yet."""
    absent_since: Mapping[NodeUid, float] = field(default_factory=dict)
    """Of members without a key: since when, as far as this leader has watched."""
    vanished: tuple[tuple[float, NodeUid], ...] = ()
    """Keys that vanished within the window, also those that have returned."""
    storm_at: float | None = None
    """When the last storm began."""
    storm_of: tuple[NodeUid, ...] = ()
    """The nodes whose keys it took; empty: it may have been before this leader's first look."""

    def has_storm(self, now: float) -> bool:
        """Whether all nodes stay as they were."""
        return self.storm_at is not None and now - self.storm_at < STORM_S


def noted(before: Presence, *, present: Set[NodeUid], members: Set[NodeUid], ended: Set[NodeUid], now: float) -> Presence:
    """The memory after a look at the keys. ``ended``: nodes whose daemon has certainly ended; their keys vanish for a known
    cause and count for no storm."""
    absent = sorted(members - present)
    if before.present is None:
        # How long the missing ones have been missing is not known: most of them may have vanished a moment ago.
        is_storm = 2 * len(members - present - ended) > len(members)
        return Presence(present, dict.fromkeys(absent, now), storm_at=now if is_storm else None)
    gone = [(now, uid) for uid in sorted(before.present - present)]
    vanished = tuple((at, uid) for at, uid in (*before.vanished, *gone) if now - at < STORM_WINDOW_S and uid in members)
    together = {uid for _, uid in vanished} - ended
    absent_since = {uid: before.absent_since.get(uid, now) for uid in absent}
    if gone and 2 * len(together) > len(together | present) and not before.has_storm(now):
        return Presence(present, absent_since, vanished, now, tuple(sorted(together)))
    return Presence(present, absent_since, vanished, before.storm_at, before.storm_of)


def away(memory: Presence, *, answering: Set[NodeUid], ended: Set[NodeUid], now: float) -> frozenset[NodeUid]:
    """Members that are away. ``answering``: nodes whose agent answers this leader. ``ended``: nodes whose daemon has
    certainly ended."""
    silent = {uid: since for uid, since in memory.absent_since.items() if uid not in answering}
    return frozenset(uid for uid, since in silent.items() if uid in ended or _is_long(memory, since, now))


def returning(memory: Presence, away: Set[NodeUid], now: float) -> frozenset[NodeUid]:
    """Those of the nodes that are away whose key vanished a moment ago."""
    return frozenset(uid for uid in away if now - memory.absent_since.get(uid, now) < RETURN_S)


def _is_long(memory: Presence, since: float, now: float) -> bool:
    if memory.storm_at is not None and memory.has_storm(now):
        return memory.storm_at - since >= AWAY_AFTER_S  # It was away before the storm.
    return now - since >= AWAY_AFTER_S


def storm_event(memory: Presence, at: datetime) -> Event:
    """The event of a storm that has just begun."""
    nodes = ", ".join(map(str, memory.storm_of))
    text = f"the presence of the nodes {nodes} vanished within {STORM_WINDOW_S:g} s: the store has lost their leases. "
    text += f"No node counts as away because of it for {STORM_S:g} s"
    return Event(at, EventKind.PRESENCE_STORM, Severity.WARNING, text)


# -- a leader that is cut off --------------------------------------------------------------------------------------------


def reaches_few(*, own: NodeUid | None, present: Set[NodeUid], answering: Set[NodeUid]) -> bool:
    """Whether fewer than half of the present agents answer this leader, although its own agent does. An own agent that does
    not answer is a fault of this machine that no other leader would mend."""
    return own in answering and 2 * len(present & answering) < len(present)


def is_to_yield(few_since: float | None, yielded_at: float | None, now: float) -> bool:
    """Whether a leader that has reached few agents since then gives the leadership to another daemon. ``few_since`` None: it
    reaches enough. ``yielded_at``: when this daemon last did so."""
    if few_since is None or now - few_since < CUT_OFF_AFTER_S:
        return False
    return yielded_at is None or now - yielded_at >= YIELD_EVERY_S


@dataclass(slots=True)
class Lasting:
    """What a daemon remembers beyond its leaderships. A storm takes the leader's own lease too: the next leader must know of
    it."""

    presence: Presence = field(default_factory=Presence)
    """Of the keys as this daemon's mirror shows them, whichever daemon leads."""
    yielded_at: float | None = None
    """When it last yielded because it reached few agents; None: never."""
