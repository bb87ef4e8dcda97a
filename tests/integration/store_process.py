"""What the store's integration tests run in processes of their own: a writer, or a daemon's lease keeper.

    python store_process.py write <file>            writes pairs of keys as fast as it can
    python store_process.py lead <file> <node uid>  campaigns; while it leads, writes its term, fenced

Both print one line per success, so that a test knows what was acknowledged.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path

import structlog

from shardwright.errors import LostLeadership
from shardwright.leader.election import LeaseKeeper
from shardwright.model.cluster import DaemonPresence
from shardwright.model.ids import NodeUid
from shardwright.store import keys
from shardwright.store.commit import Conflict, commit
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Transaction
from shardwright.store.sqlite import SqliteStore
from shardwright.tasks import spawn


def presence(uid: int) -> DaemonPresence:
    """A daemon's presence, as far as the election needs it."""
    return DaemonPresence(NodeUid(uid), os.getpid(), 0, "", 0, "0", "", datetime.now(UTC))


def say(*words: object) -> None:
    print(*words, flush=True)


async def write(path: Path) -> None:
    """Both keys always contain the same number. Monotonic times, so that the processes of one machine can compare them."""
    store = await SqliteStore.open(path)
    number = 0
    while True:
        number += 1
        value = str(number).encode()
        await store.transact(Transaction(operations=(PutKey("left", value), PutKey("right", value + bytes(2000)))))
        say(number)


async def stamp(path: Path, count: int) -> None:
    """Write the time of each write, with pauses."""
    store = await SqliteStore.open(path)
    for _ in range(count):
        await asyncio.sleep(0.02)
        await store.transact(Transaction(operations=(PutKey("stamp", str(time.monotonic()).encode()),)))
    await store.close()


async def lead(path: Path, uid: int) -> None:
    def open_store() -> Awaitable[SqliteStore]:
        return SqliteStore.open(path)

    store = await SqliteStore.open(path)
    mirror = Mirror(store)
    spawn("mirror", mirror.run())
    await mirror.ready()
    keeper = LeaseKeeper(open_store, presence(uid))
    await keeper.start()
    say("present")
    held = None
    while True:
        if held is None:
            held = await keeper.wait_change(None)
            say("leads", held.term if held else None)
            continue
        try:
            value = f"{held.term}".encode()
            extra = Transaction(operations=(PutKey(f"ruled/{held.term:04d}", value), PutKey(keys.REMOVE_LOCK, value)))
            await commit(store, mirror, [], fence=held.fence, extra=extra, random_text=str)
            await asyncio.sleep(0.01)
        except (LostLeadership, Conflict) as e:
            say("lost", held.term, type(e).__name__, keeper.is_leader())
            held = await keeper.wait_change(held)


if __name__ == "__main__":
    # Standard output is the test's input.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    command, file = sys.argv[1], Path(sys.argv[2])
    match command:
        case "write":
            asyncio.run(write(file))
        case "stamp":
            asyncio.run(stamp(file, int(sys.argv[3])))
        case "lead":
            asyncio.run(lead(file, int(sys.argv[3])))
