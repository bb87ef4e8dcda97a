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
