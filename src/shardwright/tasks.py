"""Background tasks: the one place that creates them. Each has a name, is kept by a reference and says when it fails."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

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


def _end(waiter: "asyncio.Future[None] | None") -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
