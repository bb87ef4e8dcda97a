"""Which connection of a departing endpoint is passed on next, and what becomes of those that cannot be.

Pure. ``passing.py`` tells it what is seen and carries out what it orders. The rules: the busiest go first, a few at a time;
a connection is frozen only while its own turn lasts, and never for longer than its limit; what cannot be passed within the
grace time is ended, so that a departure ends whatever clients do.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shardwright.model.backoff import Backoff

BATCH = 16
"""Frozen at once: so many are packed, offered and taken in a few milliseconds."""
FREEZE = Backoff((0.1, 0.2, 0.4, 0.8))
"""How long what is in flight may take to come in, at the first attempt and the next; the last one repeats."""
RETRY = Backoff((0.05, 0.1, 0.2, 0.4))
"""Until the next attempt."""
TIED_GRACE_S = 1.0
"""How long a connection may go on with what cannot be passed (WATCH, a blocking command) before it is ended."""
GRACE_S = 8.0
"""The same for one whose command does not end."""
LOOK_S = 0.05
"""Between looks at a tied connection."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is to be known of one connection."""

    is_quiet: bool
    """It is frozen, and nothing is in flight."""
    is_tied: bool
    """Has state that another process cannot be given."""


@dataclass(slots=True)
class Orders:
    """What to do now with which connections, by uid. ``look_at``: when to ask again if nothing happens before."""

    freeze: list[int]
    thaw: list[int]
    passes: list[int]
    end: list[int]
    look_at: float | None = None


class Departures:
    """One endpoint's departure. ``order``: the uids of its connections, the busiest first."""

    def __init__(self, order: Iterable[int], *, now: float) -> None:
        self._waiting = deque(order)
        self._later: list[tuple[float, int]] = []
        self._frozen: dict[int, float] = {}  # until when
        self._tries: dict[int, int] = {}
        self._tied_until = now + TIED_GRACE_S
        self._until = now + GRACE_S

    @property
    def is_over(self) -> bool:
        """Every connection has gone, or has been ended."""
        return not (self._waiting or self._later or self._frozen)

    def next(self, now: float, standing: Callable[[int], Standing | None]) -> Orders:
        """What to do now. ``standing`` of one that has gone is None. What is passed or ended is not asked for again."""
        orders = Orders([], [], [], [])
        self._look_at_frozen(now, standing, orders)
        while len(self._frozen) + len(orders.passes) < BATCH and (uid := self._candidate(now)) is not None:
            seen = standing(uid)
            if seen is not None:
                self._begin(uid, seen, now, orders)
        times = list(self._frozen.values())
        if self._later and len(self._frozen) < BATCH:
            times.append(self._later[0][0])
        orders.look_at = min(times, default=None)
        return orders

    def _look_at_frozen(self, now: float, standing: Callable[[int], Standing | None], orders: Orders) -> None:
        for uid, until in list(self._frozen.items()):
            seen = standing(uid)
            if seen is None:
                del self._frozen[uid]
            elif seen.is_quiet:
                del self._frozen[uid]
                orders.passes.append(uid)
            elif now >= until:
                del self._frozen[uid]
                tries = self._tries.get(uid, 0)
                self._tries[uid] = tries + 1
                orders.thaw.append(uid)
                self._put_off(uid, now + RETRY.delay_s(tries))

    def _candidate(self, now: float) -> int | None:
        if self._waiting:
            return self._waiting.popleft()
        return heapq.heappop(self._later)[1] if self._later and self._later[0][0] <= now else None

    def _begin(self, uid: int, seen: Standing, now: float, orders: Orders) -> None:
        tries = self._tries.get(uid, 0)
        is_tried = seen.is_tied or tries > 0  # one whose turn comes late has had no chance yet
        if is_tried and now >= (self._tied_until if seen.is_tied else self._until):
            orders.end.append(uid)
        elif seen.is_tied:
            self._put_off(uid, now + LOOK_S)
        else:
            orders.freeze.append(uid)
            self._frozen[uid] = now + FREEZE.delay_s(tries)

    def _put_off(self, uid: int, at: float) -> None:
        heapq.heappush(self._later, (at, uid))
