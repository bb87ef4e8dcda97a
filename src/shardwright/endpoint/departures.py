"""Decides which connections of a departing endpoint are passed next, and which ones must be ended.

Pure. ``passing.py`` supplies the observations and carries out the orders. The rules: the busiest connections go first, a few
at a time; a connection is frozen only during its own attempt, and never for longer than the attempt's limit; a connection
that cannot be passed within the grace time is ended, so that every departure ends, whatever its clients do.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shardwright.model.backoff import Backoff

BATCH = 16
"""Connections frozen at the same time: this many are packed and adopted within a few milliseconds."""
FREEZE = Backoff((0.1, 0.2, 0.4, 0.8))
"""Limit of each attempt's wait for the replies in flight; the last one repeats."""
RETRY = Backoff((0.05, 0.1, 0.2, 0.4))
"""Delays between attempts; the last one repeats."""
TIED_GRACE_S = 1.0
"""Grace time of a connection with state that cannot be passed (WATCH, a blocking command)."""
GRACE_S = 8.0
"""Grace time of a connection whose command does not end."""
CHECK_S = 0.05
"""Interval between checks of a tied connection."""


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """The observations of one connection."""

    is_quiet: bool
    """It is frozen, and nothing is in flight."""
    is_tied: bool
    """It has state that cannot be passed to another process."""


@dataclass(slots=True)
class Orders:
    """The connections, by uid, to freeze, thaw, pass and end now. ``wake_at``: time of the next call if nothing happens
    earlier."""

    freeze: list[int]
    thaw: list[int]
    passes: list[int]
    end: list[int]
    wake_at: float | None = None


class Departures:
    """The departure of one endpoint. ``order``: the uids of its connections, the busiest first."""

    def __init__(self, order: Iterable[int], *, now: float) -> None:
        self._waiting = deque(order)
        self._later: list[tuple[float, int]] = []
        self._frozen: dict[int, float] = {}  # until when
        self._tries: dict[int, int] = {}
        self._tied_until = now + TIED_GRACE_S
        self._until = now + GRACE_S

    @property
    def is_over(self) -> bool:
        """Whether every connection was passed or has ended."""
        return not (self._waiting or self._later or self._frozen)

    def next(self, now: float, status: Callable[[int], ConnectionStatus | None]) -> Orders:
        """The orders for now. ``status`` returns None for a connection that has ended, and is not called for a connection
        that was ordered to be passed or ended."""
        orders = Orders([], [], [], [])
        self._check_frozen(now, status, orders)
        while len(self._frozen) + len(orders.passes) < BATCH and (uid := self._next_due(now)) is not None:
            seen = status(uid)
            if seen is not None:
                self._begin(uid, seen, now, orders)
        times = list(self._frozen.values())
        if self._later and len(self._frozen) < BATCH:
            times.append(self._later[0][0])
        orders.wake_at = min(times, default=None)
        return orders

    def _check_frozen(self, now: float, status: Callable[[int], ConnectionStatus | None], orders: Orders) -> None:
        for uid, until in list(self._frozen.items()):
            seen = status(uid)
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
                self._postpone(uid, now + RETRY.delay_s(tries))

    def _next_due(self, now: float) -> int | None:
        if self._waiting:
            return self._waiting.popleft()
        return heapq.heappop(self._later)[1] if self._later and self._later[0][0] <= now else None

    def _begin(self, uid: int, seen: ConnectionStatus, now: float, orders: Orders) -> None:
        tries = self._tries.get(uid, 0)
        is_tried = seen.is_tied or tries > 0  # the grace time may end before the first attempt
        if is_tried and now >= (self._tied_until if seen.is_tied else self._until):
            orders.end.append(uid)
        elif seen.is_tied:
            self._postpone(uid, now + CHECK_S)
        else:
            orders.freeze.append(uid)
            self._frozen[uid] = now + FREEZE.delay_s(tries)

    def _postpone(self, uid: int, at: float) -> None:
        heapq.heappush(self._later, (at, uid))
