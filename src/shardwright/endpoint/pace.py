"""Shares the event loop among connections, so that a word of the leader, and every client, is heard within milliseconds.

One pass of the loop works off whatever is ready, and that may be megabytes of small commands of each of a thousand clients.
``Pace`` says when a pass has worked long enough; ``Inflow`` keeps what a socket delivers beyond that, stops reading the
socket, and goes on in later passes, in turns and in small pieces. Knows nothing of commands.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

SLICE_S = 0.004
"""How long one pass works for clients before everything else gets its turn."""
DIRECT_SLICE_S = SLICE_S / 2
"""The same for what is processed as it comes, of which a pass may have two."""
SLICE_BYTES = 32 * 1024
"""What is processed in one piece: some thousand of the smallest commands, two to four milliseconds."""


class Pace:
    """The loop's time, shared by all connections of the process."""

    __slots__ = ("_is_due", "_is_marked", "_loop", "_now", "_until", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, now: Callable[[], float] = time.perf_counter) -> None:
        self._loop = loop
        self._now = now
        self._is_marked = False
        self._until = 0.0
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_due = False

    def has_time(self) -> bool:
        """Whether this pass may go on working for clients.

        No clock tells one pass from the next, but a callback does: it runs in the pass behind the one that asked for it. One
        is asked for only when a slice is over, which keeps a quiet loop free of them; so a pass works for two slices at
        most: the rest of one that an earlier pass began, and one of its own."""
        now = self._now()
        if now < self._until:
            return True
        if self._is_marked:
            return False
        self._is_marked = True
        self._loop.call_soon(self._next_pass)
        self._until = now + DIRECT_SLICE_S
        return True

    def _next_pass(self) -> None:
        self._is_marked = False

    def later(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` in its turn in a later pass."""
        self._waiting.append(go_on)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        waiting = self._waiting
        until = self._now() + SLICE_S
        while waiting and self._now() < until:
            waiting.popleft()()
        self._is_due = bool(waiting)
        if waiting:
            self._loop.call_soon(self._work)


class Inflow:
    """What one socket delivers. While something is kept here the socket is not read: ``is_empty`` says so."""

    __slots__ = ("_at", "_is_mere_body", "_pace", "_parts", "_reading", "_take", "is_empty")

    def __init__(
        self, pace: Pace, take: Callable[[bytes], None], *, is_mere_body: Callable[[int], bool], reading: Callable[[], None]
    ) -> None:
        """``take`` processes a piece; ``is_mere_body`` says of the next so many bytes that they cost nothing; ``reading`` is
        told when ``is_empty`` has changed."""
        self._pace = pace
        self._take = take
        self._is_mere_body = is_mere_body
        self._reading = reading
        self._parts: deque[bytes] = deque()
        self._at = 0  # of the first part: what has been processed
        self.is_empty = True

    def put(self, data: bytes) -> None:
        """Bytes have come: process them now, or keep them for their turn."""
        if self.is_empty and self._pace.has_time() and (len(data) <= SLICE_BYTES or self._is_mere_body(len(data))):
            self._take(data)
            return
        self._parts.append(data)
        if self.is_empty:
            self.is_empty = False
            self._reading()
            self._pace.later(self._go_on)

    def give_up(self) -> list[bytes]:
        """What is kept here and will not be processed any more."""
        parts = list(self._parts)
        if parts:
            parts[0] = parts[0][self._at :]
        self._parts.clear()
        self._at = 0
        self.is_empty = True
        return parts

    def close(self) -> None:
        """Nothing comes any more. Forgets its owner: without cycles an ended connection needs no garbage collection, which
        would stop the loop for as long as it looks at thousands of them."""
        self.give_up()
        self._take = _nothing
        self._is_mere_body = _no_body
        self._reading = _nothing_to_say

    def _go_on(self) -> None:
        if self.is_empty:
            return  # given up meanwhile
        first = self._parts[0]
        at = self._at
        left = len(first) - at
        size = left if left <= SLICE_BYTES or self._is_mere_body(left) else SLICE_BYTES
        if size == left:
            self._parts.popleft()
            self._at = 0
        else:
            self._at = at + size
        is_last = not self._parts
        self.is_empty = is_last
        self._take(first if size == len(first) else first[at : at + size])
        if is_last:
            self._reading()
        elif not self.is_empty:
            self._pace.later(self._go_on)


def _nothing(_data: bytes) -> None: ...


def _no_body(_size: int) -> bool:
    return False


def _nothing_to_say() -> None: ...
