"""The store's file: all of its transactions, without asyncio. Owns the SQL connection and the meaning of its tables.

Called by ``sqlite.py`` from one worker thread, never from an event loop. Does no other I/O during an open write
transaction.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store import sqlite_sql as sql
from shardwright.store.boot import BootClock
from shardwright.store.bounds import HISTORY_REVISIONS_MAX, check_transaction, check_version, lease_lost, page_of, prefix_end
from shardwright.store.protocol import (
    LEASE_TTL_MIN,
    RANGE_PAGE_BYTES_MAX,
    RANGE_PAGE_ITEMS_MAX,
    Compacted,
    Compare,
    DeleteKey,
    KeyChange,
    KeyValue,
    LeaseLost,
    ModifiedAt,
    Operation,
    PutKey,
    RangePage,
    StoreUnavailable,
    Transaction,
    TransactionResult,
    WatchBatch,
)

BUSY_TIMEOUT_S = 5.0
"""Maximum wait for another process's write lock. A process holds it for one commit; a longer time means that it is
frozen."""
BUSY_STEP_S = 0.001
BUSY_STEP_LONG_S = 0.01
BUSY_STEPS_SHORT = 50
"""Number of short waiting steps before longer ones."""
HISTORY_SLICE_REVISIONS = 200
"""Revisions read for a watcher at once, and deleted by one writer at once."""

_T = TypeVar("_T")
_opening = threading.Lock()


@dataclass(frozen=True, slots=True)
class HistorySlice:
    """Part of the history. ``next_revision`` is the start of the next slice; ``is_head``: the slice reaches the end."""

    batches: tuple[WatchBatch, ...]
    next_revision: int
    is_head: bool


class SqliteFile:
    """One connection to the store's file. Every method raises StoreUnavailable if the file is unusable."""

    def __init__(self, path: Path, boot: BootClock, *, history_max: int = HISTORY_REVISIONS_MAX) -> None:
        """``history_max``: minimum number of revisions kept for watchers."""
        self._path = path
        self._boot = boot
        self._history_max = history_max
        self._revision = 0
        self._compacted = 0
        try:
            with _opening:
                _create(path)
                self._connection = connect(path)
            try:
                for setting in sql.SETTINGS:
                    self._retry_while_locked(lambda setting=setting: self._execute(setting).fetchall())  # type: ignore[misc]
                self._migrate()
            except BaseException:
                self._connection.close()
                raise
        except (sqlite3.Error, OSError) as e:
            raise _unavailable(e, path) from e

    def close(self) -> None:
        """Close the connection; no call may be running."""
        self._connection.close()

    # -- reads -------------------------------------------------------------------------------------------------------

    def get(self, key: str) -> KeyValue | None:
        """See ``Store.get``."""
        return self._read(lambda: _item(self._execute(sql.GET_ITEM, key).fetchone()))

    def revision(self) -> int:
        """See ``Store.revision``."""
        return self._read(lambda: self._revision)

    def range(self, prefix: str, start: str | None, limit: int) -> RangePage:
        """See ``Store.range``."""
        first = prefix if start is None else max(prefix, start)
        end = prefix_end(prefix)
        rows = min(max(limit, 1), RANGE_PAGE_ITEMS_MAX) + 1

        def read() -> RangePage:
            items = self._execute(sql.RANGE_ITEMS, first, end, end, rows)
            return page_of((KeyValue(*row) for row in items), revision=self._revision, limit=limit)

        return self._read(read)

    def history(self, prefix: str, from_revision: int) -> HistorySlice:
        """Complete revisions from ``from_revision`` on, about a page of them. Raises Compacted."""
        end = prefix_end(prefix)

        def read() -> HistorySlice:
            if from_revision < self._compacted:
                text = f"revision {from_revision} is no longer kept; the oldest is {self._compacted}"
                raise Compacted(Code.STORE_COMPACTED, text)
            last = min(self._revision, from_revision + HISTORY_SLICE_REVISIONS - 1)
            batches: list[WatchBatch] = []
            size = 0
            rows = self._execute(sql.READ_HISTORY, from_revision, last, prefix, end, end)
            for revision, group in groupby(rows, key=lambda row: int(row[0])):
                if size > RANGE_PAGE_BYTES_MAX:
                    last = revision - 1
                    break
                changes = tuple(_change(row) for row in group)
                size += sum(len(change.current.value) for change in changes if change.current is not None)
                batches.append(WatchBatch(revision, changes))
            return HistorySlice(tuple(batches), max(from_revision, last + 1), last >= self._revision)

        return self._read(read)

    # -- transactions ------------------------------------------------------------------------------------------------

    def transact(self, transaction: Transaction) -> TransactionResult:
        """See ``Store.transact``."""
        check_transaction(transaction)

        def write() -> TransactionResult:
            if not all(self._holds(compare) for compare in transaction.compares):
                return TransactionResult(False, self._revision)
            for operation in transaction.operations:
                if isinstance(operation, PutKey) and operation.lease is not None:
                    self._check_lease(operation.lease)
            self._apply(transaction.operations)
            return TransactionResult(True, self._revision)

        return self._write(write)

    def _holds(self, compare: Compare) -> bool:
        row = self._execute(sql.GET_REVISIONS, compare.key).fetchone()
        created, modified = (0, 0) if row is None else row
        return bool(compare.revision == (modified if isinstance(compare, ModifiedAt) else created))

    def _apply(self, operations: Iterable[Operation]) -> None:
        revision = self._revision + 1
        for operation in operations:
            key = operation.key
            old = self._execute(sql.GET_REVISIONS, key).fetchone()
            match operation:
                case PutKey():
                    created = revision if old is None else old[0]
                    self._execute(sql.PUT_ITEM, key, operation.value, created, revision, operation.lease)
                    self._execute(sql.ADD_HISTORY, revision, key, operation.value, created, operation.lease)
                    self._revision = revision
                case DeleteKey() if old is not None:
                    self._execute(sql.DELETE_ITEM, key)
                    self._execute(sql.ADD_HISTORY, revision, key, None, None, None)
                    self._revision = revision
                case DeleteKey():
                    pass

    def compact(self, revision: int) -> None:
        """See ``Store.compact``."""
        self._write(lambda: self._forget_before(min(revision, self._revision)))

    def _forget_before(self, revision: int) -> None:
        if revision > self._compacted:
            self._execute(sql.FORGET_HISTORY, revision)
            self._compacted = revision

    def _compact_excess(self) -> None:
        """Automatic compaction, in slices, so that no single writer bears the whole cost."""
        excess = self._revision - self._compacted - self._history_max
        if excess >= HISTORY_SLICE_REVISIONS:
            self._forget_before(self._compacted + min(excess, 2 * HISTORY_SLICE_REVISIONS))

    # -- leases ------------------------------------------------------------------------------------------------------

    def grant(self, ttl: timedelta) -> LeaseId:
        """See ``Store.grant``."""
        ttl_s = max(ttl, LEASE_TTL_MIN).total_seconds()

        def write() -> LeaseId:
            (lease,) = self._execute(sql.NEXT_LEASE).fetchone()
            self._execute(sql.ADD_LEASE, lease, ttl_s, self._boot.now() + ttl_s, self._boot.boot_id())
            return LeaseId(lease)

        return self._write(write)

    def renew(self, lease: LeaseId) -> None:
        """See ``Store.renew``."""

        def write() -> None:
            self._check_lease(lease)
            self._execute(sql.RENEW_LEASE, self._boot.now(), lease)

        # A renewal need not reach the disk: after a power cut, the boot id changes and all leases have ended. So a slow
        # disk (for instance during a large full sync on the same machine) does not cost the leadership.
        self._execute(sql.SYNC_AT_CHECKPOINTS)
        try:
            self._write(write)
        finally:
            self._execute(sql.SYNC_EVERY_COMMIT)

    def revoke(self, lease: LeaseId) -> None:
        """See ``Store.revoke``."""
        self._write(lambda: self._end_lease(lease))

    def end_expired(self) -> bool:
        """End expired leases; returns whether there were any. Writes only then."""
        if not self._read(self._expired):
            return False
        self._write(lambda: None)
        return True

    def _expired(self) -> list[LeaseId]:
        rows = self._execute(sql.ENDED_LEASES, self._boot.boot_id(), self._boot.now()).fetchall()
        return [LeaseId(row[0]) for row in rows]

    def _end_lease(self, lease: LeaseId) -> None:
        keys = [key for (key,) in self._execute(sql.LEASE_KEYS, lease)]
        self._execute(sql.END_LEASE, lease)
        self._apply([DeleteKey(key) for key in keys])

    def _check_lease(self, lease: LeaseId) -> None:
        if self._execute(sql.HAS_LEASE, lease).fetchone() is None:
            raise lease_lost(lease)

    # -- the connection ----------------------------------------------------------------------------------------------

    def _execute(self, statement: str, *arguments: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, arguments)

    def _read(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` in one consistent read; ``_revision`` and ``_compacted`` belong to that read."""
        try:
            self._execute(sql.BEGIN_READ)
            try:
                self._retry_while_locked(self._load_state)
                return work()
            finally:
                self._execute(sql.COMMIT)
        except sqlite3.Error as e:
            self._roll_back()
            raise _unavailable(e, self._path) from e

    def _write(self, work: Callable[[], _T]) -> _T:
        """Run ``work`` in one write transaction, after ending the expired leases, each at its own revision. So a process
        that was frozen finds its lease ended, whatever its first call.

        ``work`` raises LeaseLost before it changes anything: leases ended by then are still committed.
        """
        try:
            self._retry_while_locked(lambda: self._execute(sql.BEGIN_WRITE))
            self._load_state()
            before = (self._revision, self._compacted)
            for lease in self._expired():
                self._end_lease(lease)
            try:
                result: _T | LeaseLost = work()
            except LeaseLost as e:
                result = e
            self._compact_excess()
            if (self._revision, self._compacted) != before:
                self._execute(sql.SET_STATE, self._revision, self._compacted)
            self._execute(sql.COMMIT)
        except sqlite3.Error as e:
            self._roll_back()
            raise _unavailable(e, self._path) from e
        except BaseException:
            self._roll_back()
            raise
        if isinstance(result, LeaseLost):
            raise result
        return result

    def _load_state(self) -> None:
        self._revision, self._compacted = self._execute(sql.GET_STATE).fetchone()

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._execute(sql.ROLLBACK)

    def _retry_while_locked(self, call: Callable[[], _T]) -> _T:
        """Repeat a call that finds the file locked, for up to BUSY_TIMEOUT_S."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        steps = 0
        while True:
            try:
                return call()
            except sqlite3.OperationalError as e:
                # The low byte is the primary code: SQLITE_BUSY has extended codes for recovery and snapshots.
                if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
            time.sleep(BUSY_STEP_S if steps < BUSY_STEPS_SHORT else BUSY_STEP_LONG_S)
            steps += 1

    def _migrate(self) -> None:
        """Bring the schema up to date. Only an old schema needs the write lock: a supervisor must be able to open the file
        while a frozen daemon holds that lock, for it ends that daemon."""
        if self._retry_while_locked(self._schema_version) == len(sql.MIGRATIONS):
            return
        self._retry_while_locked(lambda: self._execute(sql.BEGIN_WRITE))
        try:
            version = self._schema_version()
            check_version(f"{self._path} has schema", version, len(sql.MIGRATIONS), StoreUnavailable)
            self._execute(sql.CREATE_SCHEMA_VERSION)
            for statements in sql.MIGRATIONS[version:]:
                for statement in statements:
                    self._execute(statement)
            if version < len(sql.MIGRATIONS):
                self._execute(sql.SET_SCHEMA_VERSION, len(sql.MIGRATIONS))
            self._execute(sql.COMMIT)
        except BaseException:
            self._roll_back()
            raise

    def _schema_version(self) -> int:
        """0: the file has no tables yet."""
        if self._execute(sql.HAS_SCHEMA_VERSION).fetchone() is None:
            return 0
        row = self._execute(sql.GET_SCHEMA_VERSION).fetchone()
        return 0 if row is None else int(row[0])


def connect(path: Path) -> sqlite3.Connection:
    """A connection with explicit transactions only, which never waits for a lock by itself."""
    return sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)


def _create(path: Path) -> None:
    """Create the file, readable by its owner only; SQLite gives its companions (-wal, -shm) the same mode.

    An existing file is not opened here: closing any descriptor of it would release the locks that SQLite holds for the
    other connections of this process.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _item(row: Any) -> KeyValue | None:
    return None if row is None else KeyValue(*row)


def _change(row: Any) -> KeyChange:
    revision, key, value, created, lease = row
    return KeyChange(key, None if value is None else KeyValue(key, value, created, revision, lease))


def _unavailable(error: Exception, path: Path) -> StoreUnavailable:
    return StoreUnavailable(Code.STORE_UNAVAILABLE, f"{path}: {error}")
