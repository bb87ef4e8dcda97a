"""Keeps backups of the cluster's state on this machine: one each hour, the newest of them; and one before an upgrade.

The hourly ones are part of a daemon whose node runs a member of the store. One that cannot be written is a warning and an
event, and nothing else: no other part waits for it. The one before an upgrade is wanted by the leader
(``leader/upgrade.py``). Must change no record.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from shardwright.backup_files import keep_newest, newest_at, write_backup, write_backup_before
from shardwright.clock import Clock
from shardwright.errors import ShardwrightError
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid
from shardwright.model.store_member import StoreRole
from shardwright.model.view import Put
from shardwright.store.backup import Backup, backup_of
from shardwright.store.commit import commit
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import Store
from shardwright.store.whole import read_whole

EVERY: Final = timedelta(hours=1)
KEPT: Final = 48
"""Two days of them: a few megabytes each at most."""
LOOK_S: Final = 60.0
"""Between two looks at what is there."""

_log = structlog.get_logger(__name__)


async def back_up_before(version: str, *, node_uid: NodeUid, directory: Path | None, store: Store, clock: Clock) -> str:
    """Write a backup before the upgrade to a version, wherever the leader is. Returns where it is, for people; empty: the
    cluster keeps none. Raises ShardwrightError, OSError."""
    if directory is None:
        return ""
    backup = await _backup_now(store, node_uid, clock.now())
    path = await asyncio.to_thread(write_backup_before, version, directory, backup)
    return f"{path} on node {node_uid}"


async def _backup_now(store: Store, node_uid: NodeUid, now: datetime) -> Backup:
    whole = await read_whole(store)
    return backup_of(whole.items.values(), revision=whole.revision, node_uid=node_uid, at=now)


class Backups:
    """See the module's text."""

    def __init__(
        self,
        node_uid: NodeUid,
        directory: Path,
        store: Store,
        *,
        mirror: Mirror,
        clock: Clock,
        random_text: Callable[[], str],
    ) -> None:
        self._node_uid = node_uid
        self._directory = directory
        self._store = store
        self._mirror = mirror
        self._clock = clock
        self._random_text = random_text
        self._complaint = ""

    async def run(self) -> None:
        """Eternal task."""
        await self._mirror.ready()
        while True:
            try:
                await self.look()
                self._complaint = ""
            except (ShardwrightError, OSError) as e:
                await self._complain(str(e))
            except Exception:
                _log.exception("the look at the backups failed; a defect")
            await self._clock.sleep(LOOK_S)

    async def look(self) -> Path | None:
        """Write a backup if the newest is too old. None: none is due. Raises ShardwrightError, OSError."""
        node, now = self._mirror.view().nodes.get(self._node_uid), self._clock.now()
        if node is None or node.store_role is StoreRole.NONE:
            return None
        newest = await asyncio.to_thread(newest_at, self._directory)
        rotation = self._mirror.view().key_rotation
        sealed_at = None if rotation is None else rotation.sealed_at
        if newest is not None and not _is_due(newest, now, sealed_at=sealed_at):
            return None
        backup = await _backup_now(self._store, self._node_uid, now)
        path = await asyncio.to_thread(write_backup, self._directory, backup)
        await asyncio.to_thread(keep_newest, self._directory, KEPT)
        _log.info("wrote a backup of the cluster's state", path=str(path), records=backup.header.records)
        return path

    async def _complain(self, why: str) -> None:
        """Once for each cause, until a look succeeds."""
        if why == self._complaint:
            return
        self._complaint = why
        _log.warning("no backup of the cluster's state could be written", reason=why)
        text = f"node {self._node_uid} could not write a backup of the cluster's state: {why}"
        event = Event(self._clock.now(), EventKind.BACKUP_FAILED, Severity.WARNING, text, node_uid=self._node_uid)
        try:
            await commit(self._store, self._mirror, [Put(event)], fence=None, random_text=self._random_text)
        except ShardwrightError as e:
            _log.warning("the event about it could not be written", reason=e.text)


def _is_due(newest: datetime, now: datetime, *, sealed_at: datetime | None) -> bool:
    """Whether a backup is to be written. ``sealed_at``: when everything was sealed with the present cluster key, if it was
    changed: an older backup does not open with that one."""
    # One from the future was written before the clock was corrected.
    return not timedelta(0) <= now - newest < EVERY or (sealed_at is not None and newest < sealed_at)
