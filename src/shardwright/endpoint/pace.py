"""Shares the event loop among connections, so that the leader and every client are served within milliseconds.

One pass of the loop processes everything that is ready, which may be megabytes of small commands from each of a thousand
clients. ``LoopPace`` decides when a pass has worked long enough. ``Inflow`` then keeps the received bytes, stops reading the
socket, and continues in later passes, in turn with other connections and in small pieces. Does not know commands.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

SLICE_S = 0.004
"""Time that one pass spends on waiting clients before all other work gets its turn."""
DIRECT_SLICE_S = SLICE_S / 2
"""The same for bytes that are processed as they arrive. A pass may have two of these slices."""
SLICE_BYTES = 32 * 1024
"""Bytes processed in one piece: some thousand of the smallest commands, two to four milliseconds."""


class LoopPace:
    """The loop's time, shared by all connections of the process."""

    __slots__ = ("_is_due", "_is_marked", "_loop", "_waiting", "now", "until")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float] = time.perf_counter) -> None:
        self._loop = loop
        self.now = now
        self.until = 0.0
        """End of the slice that has begun. Before it there is time, and the data path saves the call of ``has_time``."""
        self._is_marked = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_due = False

    def has_time(self) -> bool:
        """Whether this pass may continue to work for clients.

        A clock cannot distinguish one pass from the next, but a callback can: it runs in the pass after the one that
        scheduled it. A callback is scheduled only at the end of a slice, so that a quiet loop has none. So a pass works for
        at most two slices: the rest of a slice that an earlier pass began, and one of its own."""
        now = self.now()
        if now < self.until:
            return True
        if self._is_marked:
            return False
        self._is_marked = True
        self._loop.call_soon(self._next_pass)
        self.until = now + DIRECT_SLICE_S
        return True

    def _next_pass(self) -> None:
        self._is_marked = False

    def later(self, resume: Callable[[], None]) -> None:
        """Call ``resume`` in its turn in a later pass."""
        self._waiting.append(resume)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        waiting = self._waiting
        until = self.now() + SLICE_S
        while waiting and self.now() < until:
            waiting.popleft()()
        self._is_due = bool(waiting)
        if waiting:
            self._loop.call_soon(self._work)


class Inflow:
    """The received bytes of one socket. While more bytes are kept here than one small chunk, the socket is not read."""

    __slots__ = ("_at", "_is_cheap", "_pace", "_parts", "_reading", "_take", "is_empty", "may_read")

    def __init__(
        self, pace: LoopPace, take: Callable[[bytes], None], *, is_cheap: Callable[[int], bool], reading: Callable[[], None]
    ) -> None:
        """``take`` processes a piece. ``is_cheap``: whether the next bytes, in this number, cost almost no time.
        ``reading`` is called when ``may_read`` has changed."""
        self._pace = pace
        self._take = take
        self._is_cheap = is_cheap
        self._reading = reading
        self._parts: deque[bytes] = deque()
        self._at = 0  # number of processed bytes of the first part
        self.is_empty = True
        """Whether all received bytes are processed."""
        self.may_read = True
        """Whether the socket may be read. Still true when one small chunk is kept: a client that waits for its replies sends
        no second one, and to stop and resume reading costs as much as to process a few commands."""

    def put(self, data: bytes) -> None:
        """Process received bytes now, or keep them for their turn."""
        pace = self._pace
        if (
            self.is_empty
            and (pace.now() < pace.until or pace.has_time())
            and (len(data) <= SLICE_BYTES or self._is_cheap(len(data)))
        ):
            self._take(data)
            return
        is_first = self.is_empty
        self._parts.append(data)
        if is_first:
            self.is_empty = False
            self._pace.later(self._resume)
        self._allow_reading(is_first and len(data) <= SLICE_BYTES)

    def _allow_reading(self, may_read: bool) -> None:
        if may_read is not self.may_read:
            self.may_read = may_read
            self._reading()

    def take_rest(self) -> list[bytes]:
        """Remove and return the kept bytes, which are then not processed here."""
        parts = list(self._parts)
        if parts:
            parts[0] = parts[0][self._at :]
        self._parts.clear()
        self._at = 0
        self.is_empty = self.may_read = True
        return parts

    def close(self) -> None:
        """Called when the socket has ended. Forgets its owner: an ended connection without reference cycles needs no garbage
        collection, which would stop the loop while it examines thousands of connections."""
        self.take_rest()
        self._take = _nothing
        self._is_cheap = _never_cheap
        self._reading = _no_change

    def _resume(self) -> None:
        if self.is_empty:
            return  # taken meanwhile
        first = self._parts[0]
        at = self._at
        left = len(first) - at
        size = left if left <= SLICE_BYTES or self._is_cheap(left) else SLICE_BYTES
        if size == left:
            self._parts.popleft()
            self._at = 0
        else:
            self._at = at + size
        is_last = not self._parts
        self.is_empty = is_last
        self._take(first if size == len(first) else first[at : at + size])
        if is_last:
            self._allow_reading(True)
        elif not self.is_empty:
            self._pace.later(self._resume)


def _nothing(_data: bytes) -> None: ...


def _never_cheap(_size: int) -> bool:
    return False


def _no_change() -> None: ...
