"""The SQLite store between processes: killed writers, and the delay until a watcher sees another process's write."""

import asyncio
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardwright.store.file_events import FileEvents
from shardwright.store.protocol import PutKey, Transaction
from shardwright.store.sqlite import SqliteStore
from testkit.deadlines import Stopwatch

SCRIPT = Path(__file__).with_name("store_process.py")
SOURCES = Path(__file__).parents[2] / "src"


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of the test; killed and reaped at the end."""
    command = [sys.executable, str(SCRIPT), *(str(argument) for argument in arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(SOURCES)}
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_writer_killed_in_the_middle_leaves_a_consistent_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    for kills in range(4):
        acknowledged = 0
        with process("write", path) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                acknowledged = int(line)
                if acknowledged >= 10 + 7 * kills:
                    writer.send_signal(signal.SIGKILL)
                    break
            for line in writer.stdout:
                acknowledged = int(line) if line.endswith("\n") else acknowledged
        assert asyncio.run(_number_of(path)) >= acknowledged


async def _number_of(path: Path) -> int:
    """The last complete pair; asserts that both halves belong to one transaction."""
    store = await SqliteStore.open(path)
    try:
        left, right = await store.get("left"), await store.get("right")
        assert left is not None
        assert right is not None
        assert left.modify_revision == right.modify_revision
        assert left.value == right.value.rstrip(b"\0")
        return int(left.value)
    finally:
        await store.close()


@pytest.mark.parametrize("has_events", [True, False], ids=["told by the kernel", "not told"])
def test_a_write_of_another_process_is_seen_within_20_ms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_events: bool
) -> None:
    pauses = 60
    path = tmp_path / "store.db"
    if not has_events:
        monkeypatch.setattr(FileEvents, "of", lambda path: None)

    async def main() -> list[float]:
        store = await SqliteStore.open(path)
        seen: list[float] = []
        with process("stamp", path, pauses):
            async with asyncio.timeout(30):
                batches = store.watch("stamp", from_revision=1)
                while len(seen) < pauses:
                    batch = await anext(batches)
                    arrived = time.monotonic()
                    for change in batch.changes:
                        assert change.current is not None
                        seen.append(1000 * (arrived - float(change.current.value)))
        await store.close()
        return seen

    watch = Stopwatch()
    taken_ms = asyncio.run(main())
    print(
        f"\nwrite to watcher between processes: median {statistics.median(taken_ms):.1f} ms,"
        f" p90 {statistics.quantiles(taken_ms, n=10)[-1]:.1f} ms, max {max(taken_ms):.1f} ms"
    )
    assert watch.is_within(0.02, took_s=statistics.median(taken_ms) / 1000), watch


def test_writes_in_a_row_wake_a_watcher_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store.db"
    wakes: list[float] = []
    notice = SqliteStore._notice_write

    def noted(store: SqliteStore) -> None:
        wakes.append(time.monotonic())
        notice(store)

    async def main() -> None:
        writer = await SqliteStore.open(path)
        watcher = await SqliteStore.open(path, poll_s=0.09)
        monkeypatch.setattr(SqliteStore, "_notice_write", noted)
        batches = watcher.watch("", from_revision=1)
        for n in range(40):
            await writer.transact(Transaction(operations=(PutKey(f"{n}", b""),)))
            assert (await asyncio.wait_for(anext(batches), 20)).changes[0].key == f"{n}"
        await batches.aclose()  # type: ignore[attr-defined]
        await watcher.close()
        await writer.close()

    asyncio.run(main())
    assert len(wakes) < 10, wakes


def test_a_check_for_changes_is_cheap(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def main() -> float:
        store = await SqliteStore.open(path)
        for n in range(50):
            await store.transact(Transaction(operations=(PutKey(f"{n}", bytes(500)),)))
        task = asyncio.ensure_future(anext(store.watch("none", from_revision=1)))
        await asyncio.sleep(0)
        began, cpu = time.monotonic(), time.process_time()
        await asyncio.sleep(1)  # The measured period.
        used = (time.process_time() - cpu) / (time.monotonic() - began)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.close()
        return used

    share = asyncio.run(main())
    print(f"\nan idle watcher uses {100 * share:.1f} % of a core")
    assert share < 0.05


def test_two_processes_may_create_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with process("stamp", path, 5) as one, process("stamp", path, 5) as two, process("stamp", path, 5) as three:
        assert [one.wait(20), two.wait(20), three.wait(20)] == [0, 0, 0]
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT revision FROM state").fetchone() == (16,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
