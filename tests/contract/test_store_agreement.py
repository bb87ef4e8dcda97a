"""All backends give the same answers to every sequence of calls, revision by revision.

etcd takes part without leases, whose time it cannot turn forward, and with one etcd for all sequences.
"""

import asyncio
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.model.ids import LeaseId
from shardwright.store.bounds import FIRST_REVISION
from shardwright.store.etcd import EtcdStore
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import (
    CreatedAt,
    DeleteKey,
    KeyChange,
    KeyValue,
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
from testkit.etcd import EtcdCluster, require_etcd
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

NAMES = ["a", "a/1", "a/2", "a0", "b", "ä", "a/\U0001f600"]
KEYS = st.sampled_from(NAMES)
LEASES = st.integers(1, 4)
REVISIONS = st.integers(0, 12)
COMPARES = st.builds(ModifiedAt, KEYS, REVISIONS) | st.builds(CreatedAt, KEYS, REVISIONS)


def transactions(leases: st.SearchStrategy[LeaseId | None]) -> st.SearchStrategy[Transaction]:
    puts = st.builds(PutKey, KEYS, st.binary(max_size=3), leases)
    operations = st.lists(puts | st.builds(DeleteKey, KEYS), max_size=4, unique_by=lambda o: o.key).map(tuple)
    compares = st.lists(COMPARES, max_size=1).map(tuple)
    return st.builds(Transaction, compares, operations) | st.builds(Transaction, st.just(()), operations)


CALLS_WITHOUT_LEASES = st.builds(Compact, REVISIONS) | st.builds(
    Range, st.sampled_from(["", "a", "a/", "b", "ä"]), st.none() | KEYS, st.integers(1, 4)
)
CALLS = (
    transactions(st.none() | st.none() | LEASES.map(LeaseId))
    | st.builds(Grant, st.integers(0, 6))
    | st.builds(Renew, LEASES)
    | st.builds(Revoke, LEASES)
    | st.builds(PassTime, st.sampled_from([0.5, 1.5, 3.0, 7.0]))
    | CALLS_WITHOUT_LEASES
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


async def history(store: Store, last: int, *, from_revision: int = 0) -> list[WatchBatch] | str:
    """All batches up to a revision that is known to be the last."""
    found: list[WatchBatch] = []
    batches = store.watch("", from_revision=from_revision)
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


class LaterStore:
    """A store that was used before, as if it were new: its revisions are counted from the present one."""

    def __init__(self, store: Store, revision: int) -> None:
        self._store = store
        self._before = revision - FIRST_REVISION

    async def answer(self, call: Transaction | Compact | Range) -> TransactionResult | RangePage | str | None:
        match call:
            case Transaction():
                compares = tuple(type(c)(c.key, c.revision + self._before if c.revision else 0) for c in call.compares)
                result = await answer(self._store, Transaction(compares, call.operations))
                assert isinstance(result, TransactionResult), result
                return TransactionResult(result.succeeded, result.revision - self._before)
            case Compact():
                await self._store.compact(call.revision + self._before)
                return None
            case Range():
                page = await answer(self._store, call)
                assert isinstance(page, RangePage), page
                items = tuple(self._shifted(item) for item in page.items)
                return RangePage(items, page.revision - self._before, page.next_start)

    async def history(self, last: int, *, from_revision: int) -> list[WatchBatch] | str:
        found = await history(self._store, last + self._before, from_revision=from_revision + self._before)
        if isinstance(found, str):
            return found
        return [
            WatchBatch(
                batch.revision - self._before,
                tuple(KeyChange(c.key, c.current and self._shifted(c.current)) for c in batch.changes),
            )
            for batch in found
        ]

    def _shifted(self, item: KeyValue) -> KeyValue:
        created, modified = item.create_revision - self._before, item.modify_revision - self._before
        return KeyValue(item.key, item.value, created, modified, item.lease)


async def compare_with_etcd(calls: list[Transaction | Compact | Range], etcd: EtcdCluster) -> None:
    memory, real = MemoryStore(WallManualClock()), await EtcdStore.open(etcd.settings())
    try:
        cleared = await real.transact(Transaction(operations=tuple(DeleteKey(name) for name in [*NAMES, "end"])))
        later = LaterStore(real, cleared.revision)
        compacted = FIRST_REVISION
        for call in calls:
            assert await answer(memory, call) == await later.answer(call), call
            if isinstance(call, Compact):
                compacted = max(compacted, min(call.revision, await memory.revision()))
        end = Transaction(operations=(PutKey("end", b""),))
        last = (await memory.transact(end)).revision
        assert await later.answer(end) == TransactionResult(True, last)
        everything = Range("", None, 100)
        assert await answer(memory, everything) == await later.answer(everything)
        # At exactly the revision of a compaction, etcd may have forgotten deletions, and its store says Compacted.
        first = compacted + 1
        assert await history(memory, last, from_revision=first) == await later.history(last, from_revision=first)
        if compacted > FIRST_REVISION:
            assert await later.history(last, from_revision=compacted - 1) == "Compacted"
    finally:
        await memory.close()
        await real.close()


@pytest.mark.proof
def test_memory_and_etcd_agree(tmp_path: Path) -> None:
    require_etcd()
    etcd = EtcdCluster(tmp_path / "etcd")

    @settings(max_examples=60, deadline=None)
    @given(st.lists(transactions(st.none()) | CALLS_WITHOUT_LEASES, max_size=14))
    def agree(calls: list[Transaction | Compact | Range]) -> None:
        asyncio.run(compare_with_etcd(calls, etcd))

    try:
        asyncio.run(etcd.start(*etcd.members))
        agree()
    finally:
        asyncio.run(etcd.stop(*etcd.members))
