"""Has the cluster's state backed up when a daemon of a newer version appears, before its records change.

Part of a leadership, in a task of its own, because a backup waits for the disk. ``plan/upgrade.py`` decides when. Until it
is written, the cluster's version is not raised; a leader that dies before it noted it leaves that to the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

import structlog

from shardwright.clock import Clock
from shardwright.errors import LostLeadership, ShardwrightError
from shardwright.leader.handoff import Commit
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.view import ClusterView, Put, Write
from shardwright.plan.upgrade import version_to_prepare
from shardwright.tasks import spawn

LOOK_S = 2.0
AGAIN_S = 30.0
"""After a failure, such as a full disk."""
BackUp = Callable[[str], Awaitable[str]]
"""Writes a backup of the cluster's state before the upgrade to a version. Returns where it is, for people; empty: this
cluster keeps none. Raises ShardwrightError, OSError."""

_log = structlog.get_logger(__name__)


class UpgradePreparation:
    """See the module's text. ``on_lost`` is called when the term is over."""

    def __init__(
        self,
        back_up: BackUp,
        *,
        commit: Commit,
        current: Callable[[], ClusterView],
        clock: Clock,
        on_lost: Callable[[], None],
    ) -> None:
        self._back_up = back_up
        self._commit = commit
        self._current = current
        self._clock = clock
        self._on_lost = on_lost
        self._complaint = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now, and from now on. Call it once."""
        self._task = spawn("upgrade", self._run())

    async def close(self) -> None:
        """Stop immediately."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            pause_s = LOOK_S
            try:
                await self._look()
            except LostLeadership:
                self._on_lost()
                return
            except (ShardwrightError, OSError) as e:
                pause_s = AGAIN_S
                _log.warning("the state could not be backed up before an upgrade", reason=str(e))
                await self._complain(str(e))
            except Exception:
                pause_s = AGAIN_S
                _log.exception("the look at an upgrade failed; a defect")
            await self._clock.sleep(pause_s)

    async def _look(self) -> None:
        version = version_to_prepare(self._current())
        if version is None:
            return
        place = await self._back_up(version)
        await self._commit(lambda view: prepared(view, version, place, self._clock.now()))
        self._complaint = ""
        _log.info("the cluster is prepared for an upgrade", version=version, backup=place)

    async def _complain(self, why: str) -> None:
        """An event, once for each cause."""
        if why == self._complaint:
            return
        self._complaint = why
        text = f"the cluster's state could not be backed up before an upgrade, which waits: {why}"
        event = Event(self._clock.now(), EventKind.BACKUP_FAILED, Severity.WARNING, text)
        try:
            await self._commit(lambda view: [Put(event)])
        except ShardwrightError as e:
            _log.warning("the event about it could not be written", reason=str(e))


def prepared(view: ClusterView, version: str, place: str, now: datetime) -> list[Write]:
    """The writes that note the backup; none if it was noted meanwhile."""
    if view.cluster is None or version_to_prepare(view) is None:
        return []
    where = f"the cluster's state was backed up to {place}" if place else "this cluster keeps no backups"
    text = f"a daemon of version {version} runs for the first time: {where}"
    event = Event(now, EventKind.UPGRADE_PREPARED, Severity.INFO, text)
    return [Put(replace(view.cluster, prepared_for=version)), Put(event)]
