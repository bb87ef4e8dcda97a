"""Memory and SQLite give the same answers to every sequence of calls, revision by revision."""

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.model.ids import LeaseId
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import (
    CreatedAt,
    DeleteKey,
    ModifiedAt,
    PutKey,
    RangePage,
    Store,
    StoreError,
    Transaction,
    TransactionResult,
    WatchBatch,
)
from shardwright.store.sqlite import SqliteStore
from tests.contract.store_worlds import ManualClock, WallManualClock


@dataclass(frozen=True)
class Grant:
    ttl_s: int


@dataclass(frozen=True)
class Renew:
    lease: int


@dataclass(frozen=True)
class Revoke:
    lease: int


@dataclass(frozen=True)
class PassTime:
    seconds: float


@dataclass(frozen=True)
class Compact:
    revision: int


@dataclass(frozen=True)
class Range:
    prefix: str
    start: str | None
    limit: int


Call = Transaction | Grant | Renew | Revoke | PassTime | Compact | Range

KEYS = st.sampled_from(["a", "a/1", "a/2", "a0", "b", "ä", "a/\U0001f600"])
LEASES = st.integers(1, 4)
REVISIONS = st.integers(0, 12)
COMPARES = st.builds(ModifiedAt, KEYS, REVISIONS) | st.builds(CreatedAt, KEYS, REVISIONS)
PUTS = st.builds(PutKey, KEYS, st.binary(max_size=3), st.none() | st.none() | LEASES.map(LeaseId))
OPERATIONS = st.lists(PUTS | st.builds(DeleteKey, KEYS), max_size=4, unique_by=lambda o: o.key).map(tuple)
TRANSACTIONS = st.builds(Transaction, st.lists(COMPARES, max_size=1).map(tuple), OPERATIONS)
CALLS = (
    TRANSACTIONS
    | st.builds(Transaction, st.just(()), OPERATIONS)
    | st.builds(Grant, st.integers(0, 6))
    | st.builds(Renew, LEASES)
    | st.builds(Revoke, LEASES)
    | st.builds(PassTime, st.sampled_from([0.5, 1.5, 3.0, 7.0]))
    | st.builds(Compact, REVISIONS)
    | st.builds(Range, st.sampled_from(["", "a", "a/", "b", "ä"]), st.none() | KEYS, st.integers(1, 4))
)


async def answer(store: Store, call: Call) -> TransactionResult | RangePage | int | str | None:
    try:
        match call:
            case Transaction():
                return await store.transact(call)
            case Grant():
                return await store.grant(timedelta(seconds=call.ttl_s))
            case Renew():
                await store.renew(LeaseId(call.lease))
            case Revoke():
                await store.revoke(LeaseId(call.lease))
            case Compact():
                await store.compact(call.revision)
            case Range():
                return await store.range(call.prefix, start=call.start, limit=call.limit)
            case PassTime():
                # Both end leases at the next write; they need to agree only then.
                return (await store.transact(Transaction())).revision
    except StoreError as e:
        return type(e).__name__
    return None


async def history(store: Store, last: int) -> list[WatchBatch] | str:
    """All batches up to a revision that is known to be the last."""
    found: list[WatchBatch] = []
    batches = store.watch("", from_revision=0)
    try:
        while not found or found[-1].revision < last:
            found.append(await anext(batches))
    except StoreError as e:
        return type(e).__name__
    return found


async def compare(calls: list[Call], directory: Path) -> None:
    wall, boot = WallManualClock(), ManualClock()
    memory, sqlite = MemoryStore(wall), await SqliteStore.open(directory / "store.db", boot=boot)
    try:
        for call in calls:
            if isinstance(call, PassTime):
                wall.advance(call.seconds)
                boot.advance(call.seconds)
            assert await answer(memory, call) == await answer(sqlite, call), call
        last = (await memory.transact(Transaction(operations=(PutKey("end", b""),)))).revision
        assert last == (await sqlite.transact(Transaction(operations=(PutKey("end", b""),)))).revision
        assert await memory.range("") == await sqlite.range("")
        assert await history(memory, last) == await history(sqlite, last)
    finally:
        await memory.close()
        await sqlite.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(CALLS, max_size=14))
def test_memory_and_sqlite_agree(calls: list[Call]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(compare(calls, Path(directory)))
