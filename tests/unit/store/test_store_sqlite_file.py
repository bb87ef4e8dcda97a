"""Behavior of the SQLite backend only: its file's mode, schema version, automatic compaction, boots."""

import asyncio
import sqlite3
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from shardwright.store import sqlite_file
from shardwright.store.protocol import Compacted, LeaseLost, PutKey, StoreUnavailable, Transaction
from shardwright.store.sqlite import SqliteStore
from shardwright.store.sqlite_file import SqliteFile
from testkit.deadlines import Stopwatch
from tests.contract.store_worlds import ManualClock


def put(file: SqliteFile, key: str, value: bytes = b"") -> int:
    return file.transact(Transaction(operations=(PutKey(key, value),))).revision


def test_the_file_and_its_companions_are_private(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    file = SqliteFile(path, ManualClock())
    put(file, "a")
    modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in tmp_path.iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    file.close()
    path.chmod(0o644)
    SqliteFile(path, ManualClock()).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_data_and_revisions_survive_the_process(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "store.db", ManualClock())
    revision = put(file, "a", b"1")
    file.close()
    again = SqliteFile(tmp_path / "store.db", ManualClock())
    item = again.get("a")
    assert item is not None
    assert (item.value, item.modify_revision, again.revision()) == (b"1", revision, revision)
    again.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    SqliteFile(path, ManualClock()).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE schema_version SET version = 99")
    connection.commit()
    connection.close()
    with pytest.raises(StoreUnavailable, match="schema version 99"):
        SqliteFile(path, ManualClock())


def test_a_missing_directory_makes_the_store_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        asyncio.run(SqliteStore.open(tmp_path / "none" / "store.db"))


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreUnavailable):
        SqliteFile(tmp_path / "store.db", ManualClock())


def test_writers_forget_old_history_in_slices(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "store.db", ManualClock(), history_max=50)
    last = 0
    for n in range(600):
        last = put(file, "a", str(n).encode())
    found = file.history("", last - 50)
    assert found.batches[0].revision == last - 50
    assert found.is_head
    with pytest.raises(Compacted):
        file.history("", last - 50 - 2 * sqlite_file.HISTORY_SLICE_REVISIONS)
    file.close()


def test_a_large_history_is_read_in_slices_of_whole_revisions(tmp_path: Path) -> None:
    file = SqliteFile(tmp_path / "store.db", ManualClock())
    revisions = [put(file, "a", bytes(900_000)) for _ in range(5)]
    first = file.history("", revisions[0])
    assert [batch.revision for batch in first.batches] == revisions[:3]
    assert not first.is_head
    rest = file.history("", first.next_revision)
    assert [batch.revision for batch in rest.batches] == revisions[3:]
    assert rest.is_head
    file.close()


def test_a_lease_of_another_boot_has_ended(tmp_path: Path) -> None:
    clock = ManualClock()
    file = SqliteFile(tmp_path / "store.db", clock)
    lease = file.grant(timedelta(seconds=3))
    file.transact(Transaction(operations=(PutKey("leader", b"", lease),)))
    # The boot clock starts again; by its time alone the lease would live for long.
    clock.boot, clock.seconds = "second", 1.0
    assert file.end_expired()
    assert file.get("leader") is None
    with pytest.raises(LeaseLost):
        file.renew(lease)
    file.close()


def test_a_write_lock_is_awaited(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    file = SqliteFile(path, ManualClock())
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    release.start()
    watch = Stopwatch()
    put(file, "a")
    waited_s = watch.seconds
    release.join()
    other.close()
    file.close()
    assert waited_s > 0.1
    assert watch.is_within(2, took_s=waited_s), watch


def test_a_permanent_lock_makes_the_store_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "store.db"
    file = SqliteFile(path, ManualClock())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        put(file, "a")
    # Reads still work.
    assert file.get("a") is None
    other.close()
    put(file, "a")
    file.close()


def test_a_file_whose_write_lock_is_held_can_be_opened_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "store.db"
    file = SqliteFile(path, ManualClock())
    put(file, "a", b"1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    opened = SqliteFile(path, ManualClock())
    item = opened.get("a")
    assert item is not None
    assert item.value == b"1"
    for connection in (opened, other, file):
        connection.close()
