"""Background tasks: the one place that creates them. Each has a name, is kept by a reference and says when it fails.

Also what tasks wait for: an early end of a pause, and work that has the right of way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from typing import Any, Final, Generic, TypeVar

import structlog

GIVE_WAY_S: Final = 0.05
"""How long work gives way at most. Longer than most pauses of clients; nothing else may wait for long."""

_kept: set[asyncio.Task[Any]] = set()
_log = structlog.get_logger(__name__)


def spawn(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run ``work`` in the background. Its failure is logged with a traceback; who needs the result awaits the task."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _kept.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _kept.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a background task failed", task=task.get_name(), exc_info=error)


class Wake:
    """Ends the pause of one task: like an ``asyncio.Event`` that one task waits for, never longer than it says."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None
        # Asking asyncio for it costs a system call each time.
        self._loop: asyncio.AbstractEventLoop | None = None

    def set(self) -> None:
        """End the pause, or the next one before it begins."""
        self._is_set = True
        _end(self._waiter)

    def clear(self) -> None:
        """Forget that it was set."""
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it was set since it was last cleared."""
        return self._is_set

    async def wait(self, seconds: float) -> None:
        """Return when it is set, or after ``seconds``."""
        if self._is_set:
            return
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._waiter = waiter = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), _end, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            timer.cancel()


class RightOfWay:
    """Work that clients wait for, or are about to. While some of it is under way, the other work of this process gives way:
    it would share the event loop with it, and lengthen it."""

    def __init__(self) -> None:
        self._under_way: set[Hashable] = set()
        self._waiters: set[asyncio.Future[None]] = set()

    def is_taken(self) -> bool:
        """Whether some of this work is under way."""
        return bool(self._under_way)

    def begin(self, what: Hashable) -> None:
        """This work begins; its caller ends it."""
        self._under_way.add(what)

    def end(self, what: Hashable) -> None:
        """This work has ended; it may have ended before."""
        self._under_way.discard(what)
        if not self._under_way:
            for waiter in self._waiters:
                _end(waiter)

    async def give_way(self, limit_s: float = GIVE_WAY_S) -> None:
        """Return when none of this work is under way, or after ``limit_s``."""
        if not self._under_way:
            return
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        timer = loop.call_later(limit_s, _end, waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)
            timer.cancel()


Key = TypeVar("Key")


class Polls(Generic[Key]):
    """Things that are looked at again and again, each by a task of its own. ``pause_s`` says how long to wait between two
    looks at a thing. A look that has begun is finished, also when the thing is no longer to be looked at."""

    def __init__(self, name: str, look: Callable[[Key], Awaitable[None]], pause_s: Callable[[Key], float]) -> None:
        self._name = name
        self._look = look
        self._pause_s = pause_s
        self._wanted: set[Key] = set()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._pokes: dict[Key, Wake] = {}

    def follow(self, keys: Iterable[Key]) -> None:
        """Look at these, at new ones immediately, and at no others."""
        before, self._wanted = self._wanted, set(keys)
        for key in before - self._wanted:
            self.poke(key)
        for key in self._wanted - before:
            self.add(key)

    def add(self, key: Key) -> None:
        """Look at this one too."""
        self._wanted.add(key)
        if key not in self._tasks:
            self._pokes[key] = Wake()
            self._tasks[key] = spawn(f"{self._name} {key}", self._poll(key, self._pokes[key]))

    def poke(self, key: Key) -> None:
        """Look at it now, if it is looked at at all."""
        if (poke := self._pokes.get(key)) is not None:
            poke.set()

    async def close(self) -> None:
        """Look at nothing any more."""
        tasks = list(self._tasks.values())
        self._wanted.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, key: Key, poke: Wake) -> None:
        try:
            while key in self._wanted:
                await self._look(key)
                if key in self._wanted:
                    await poke.wait(self._pause_s(key))
                    poke.clear()
        finally:
            del self._tasks[key], self._pokes[key]


def _end(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
