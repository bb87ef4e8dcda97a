"""The store in a SQLite file: the default, for all daemons of one machine.

Owns the worker thread that executes every call (so that no event loop ever waits for a disk or a lock), the watchers, and
the one poller that wakes them: often after a write to the file, seldom while there is none. ``sqlite_file.py`` executes
transactions.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import structlog

from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store import sqlite_sql as sql
from shardwright.store.boot import BootClock, SystemBootClock
from shardwright.store.file_events import FileEvents
from shardwright.store.protocol import (
    RANGE_PAGE_ITEMS_MAX,
    KeyValue,
    RangePage,
    StoreUnavailable,
    Transaction,
    TransactionResult,
    WatchBatch,
)
from shardwright.store.settings import POLL_QUIET_S, POLL_S
from shardwright.store.sqlite_file import SqliteFile, connect
from shardwright.tasks import spawn

LEASE_CHECK_S = 0.25
"""Interval at which an idle store checks for expired leases; a lease may end half a second late."""

_SOON = 0.2
"""The first check after a write, in intervals."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class SqliteStore:
    """Implements ``protocol.Store``. Belongs to the event loop in which it was opened; one or more processes may have the
    same file open several times."""

    def __init__(
        self,
        file: SqliteFile,
        executor: ThreadPoolExecutor,
        poll: sqlite3.Connection,
        *,
        poll_s: float,
        events: FileEvents | None,
    ) -> None:
        """Private; call ``open``."""
        self._file = file
        self._executor = executor
        self._poll_connection = poll
        self._poll_s = poll_s
        self._loop = asyncio.get_running_loop()
        self._events = events
        """Of the write-ahead log, to which each commit writes; None: the kernel gives none."""
        self._is_listening = False
        self._written_at = self._loop.time()
        self._watchers: set[asyncio.Event] = set()
        self._revision_seen = 0
        self._data_version = 0
        self._poll_timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._lease_task = spawn("sqlite store: end leases", self._end_leases())

    @classmethod
    async def open(cls, path: Path, *, boot: BootClock | None = None, poll_s: float = POLL_S) -> "SqliteStore":
        """Open the file; create it (mode 0600) or migrate its schema if necessary. Raises StoreUnavailable.

        ``poll_s``: usual delay until a watcher sees another process's write.
        """
        executor = ThreadPoolExecutor(1, thread_name_prefix="sqlite-store")
        clock = boot or SystemBootClock()
        loop = asyncio.get_running_loop()
        try:
            file = await loop.run_in_executor(executor, SqliteFile, path, clock)
            poll = await loop.run_in_executor(executor, connect, path)
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(file, executor, poll, poll_s=poll_s, events=FileEvents.of(path.with_name(f"{path.name}-wal")))

    # -- reads -------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> KeyValue | None:
        return await self._call(self._file.get, key)

    async def range(self, prefix: str, *, start: str | None = None, limit: int = RANGE_PAGE_ITEMS_MAX) -> RangePage:
        page = await self._call(self._file.range, prefix, start, limit)
        self._note(page.revision)
        return page

    async def revision(self) -> int:
        revision = await self._call(self._file.revision)
        self._note(revision)
        return revision

    # -- writes ------------------------------------------------------------------------------------------------------

    async def transact(self, transaction: Transaction) -> TransactionResult:
        result = await self._call(self._file.transact, transaction)
        self._note(result.revision)
        return result

    async def compact(self, revision: int) -> None:
        await self._call(self._file.compact, revision)

    async def grant(self, ttl: timedelta) -> LeaseId:
        return await self._call(self._file.grant, ttl)

    async def renew(self, lease: LeaseId) -> None:
        await self._call(self._file.renew, lease)

    async def revoke(self, lease: LeaseId) -> None:
        await self._call(self._file.revoke, lease)
        self._wake_watchers()

    # -- watch -------------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[WatchBatch]:
        wake = asyncio.Event()
        self._watchers.add(wake)
        self._start_polling()
        wanted = from_revision
        try:
            while True:
                # Cleared before the look: a change during the look sets it again.
                wake.clear()
                part = await self._call(self._file.history, prefix, wanted)
                wanted = part.next_revision
                for batch in part.batches:
                    yield batch
                if part.is_head:
                    await wake.wait()
        finally:
            self._watchers.discard(wake)

    def _note(self, revision: int) -> None:
        """Wake the watchers after any call that sees a newer revision; they need not wait for the poller."""
        if revision > self._revision_seen:
            self._revision_seen = revision
            self._wake_watchers()

    def _wake_watchers(self) -> None:
        for wake in self._watchers:
            wake.set()

    def _start_polling(self) -> None:
        if self._poll_timer is None and not self._is_closed:
            self._poll_later()

    def _stop_polling(self) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None
            self._stop_listening()

    def _poll_later(self) -> None:
        pause_s = self._pause_s()
        self._poll_timer = self._loop.call_later(pause_s, self._poll)
        if pause_s > self._poll_s:
            self._listen()

    def _listen(self) -> None:
        if self._events is not None and not self._is_listening:
            self._is_listening = True
            self._loop.add_reader(self._events.descriptor, self._notice_write)

    def _stop_listening(self) -> None:
        if self._events is not None and self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._events.descriptor)

    def _notice_write(self) -> None:
        """A write is seen before its commit is: the log is synced in between. So the checks begin soon, and go on. They look
        for further writes themselves: a commit writes several times, and each write would wake every daemon."""
        self._stop_listening()
        self._note_writes()
        assert self._poll_timer is not None
        self._poll_timer.cancel()
        self._poll_later()

    def _note_writes(self) -> None:
        if self._events is not None and self._events.take():
            self._written_at = self._loop.time()

    def _pause_s(self) -> float:
        """Until the next check: the longer ago the last write, the longer. A commit that takes long after its write is seen
        after at most twice that time."""
        if self._events is None:
            return self._poll_s
        return min(POLL_QUIET_S, max(self._poll_s * _SOON, self._loop.time() - self._written_at))

    def _poll(self) -> None:
        """Check for commits of other connections. Runs in the event loop: it takes about four microseconds, while a round
        trip to the worker takes twenty times as long. Its connection never waits for a lock."""
        if not self._watchers:
            self._stop_polling()
            return
        self._note_writes()
        try:
            (version,) = self._poll_connection.execute(sql.DATA_VERSION).fetchone()
        except sqlite3.Error:
            # The file is in recovery, or damaged: the watchers will find out and report it.
            version = -1
        if version != self._data_version:
            self._data_version = version
            self._wake_watchers()
        self._poll_later()

    # -- the worker --------------------------------------------------------------------------------------------------

    async def _call(self, work: Callable[..., _T], *arguments: Any) -> _T:
        if self._is_closed:
            raise StoreUnavailable(Code.STORE_CLOSED, "the store was closed")
        return await self._loop.run_in_executor(self._executor, work, *arguments)

    async def _end_leases(self) -> None:
        while True:
            await asyncio.sleep(LEASE_CHECK_S)
            try:
                if await self._call(self._file.end_expired):
                    self._wake_watchers()
            except StoreUnavailable as e:
                _log.warning("leases could not be checked", reason=e.text)

    async def close(self) -> None:
        """See ``Store.close``. Running calls end first; watchers end with StoreUnavailable."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stop_polling()
        if self._events is not None:
            self._events.close()
        self._lease_task.cancel()
        self._wake_watchers()
        with suppress(asyncio.CancelledError):
            await self._lease_task
        self._poll_connection.close()
        await self._loop.run_in_executor(self._executor, self._file.close)
        self._executor.shutdown(wait=True)
