"""The records of a restore are written completely or not at all, whatever interrupts it."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from shardwright.clock import SystemClock
from shardwright.errors import Permanent
from shardwright.model.cluster import Cluster, Restored
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.backup import Backup, backup_of
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import KeyValue, PutKey, Store, StoreUnavailable, Transaction, TransactionResult
from shardwright.store.restore import Filled, fill_store
from shardwright.store.seal import IN_CLEAR
from shardwright.store.whole import read_whole

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLUSTER = records.encode(Cluster("prod", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION))


def backup(uid: str = "5eed", count: int = 300) -> Backup:
    items = {keys.CLUSTER: CLUSTER, keys.RESTORED: records.encode(Restored(uid, NOW, NOW, 1))}
    items |= {f"names/{number:04d}": b"1" for number in range(count)}
    return backup_of([KeyValue(key, value, 2, 2) for key, value in items.items()], revision=9, node_uid=NodeUid(1), at=NOW)


class Unreliable:
    """Fails at the n-th transaction, after it happened. Otherwise the store behind it."""

    def __init__(self, store: Store, at: int) -> None:
        self._store = store
        self._left = at

    async def transact(self, transaction: Transaction) -> TransactionResult:
        result = await self._store.transact(transaction)
        self._left -= 1
        if self._left == 0:
            raise StoreUnavailable(Code.STORE_UNAVAILABLE, "no answer")
        return result

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def run(scenario: Callable[[MemoryStore], Awaitable[None]]) -> None:
    async def main() -> None:
        store = MemoryStore(SystemClock())
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(main())


async def held(store: Store) -> dict[str, bytes]:
    return {key: item.value for key, item in (await read_whole(store)).items.items()}


@pytest.mark.parametrize("at", range(1, 6))
def test_an_interrupted_restore_continues(at: int) -> None:
    async def scenario(store: MemoryStore) -> None:
        unreliable: Store = Unreliable(store, at)  # type: ignore[assignment]
        try:
            await fill_store(unreliable, backup(), IN_CLEAR, lambda _: None)
        except StoreUnavailable:
            found = await held(store)
            assert (keys.CLUSTER in found) is (keys.INCOMPLETE_COPY not in found), "no daemon takes a part for a cluster"
        assert await fill_store(store, backup(), IN_CLEAR, lambda _: None) in Filled
        assert await held(store) == dict(backup().items)

    run(scenario)


def test_it_happens_once() -> None:
    async def scenario(store: MemoryStore) -> None:
        assert await fill_store(store, backup(), IN_CLEAR, lambda _: None) is Filled.NOW
        await store.transact(Transaction((), (PutKey("names/later", b"2"),)))
        assert await fill_store(store, backup(), IN_CLEAR, lambda _: None) is Filled.BEFORE
        assert "names/later" in await held(store), "what was written since stays"

    run(scenario)


def test_a_store_with_a_cluster_is_left_as_it_is() -> None:
    async def scenario(store: MemoryStore) -> None:
        await store.transact(Transaction((), (PutKey(keys.CLUSTER, CLUSTER),)))
        with pytest.raises(Permanent) as refused:
            await fill_store(store, backup(), IN_CLEAR, lambda _: None)
        assert refused.value.code is Code.RESTORE_FILE_UNUSABLE
        assert await held(store) == {keys.CLUSTER: CLUSTER}

    run(scenario)


def test_a_restore_from_another_file_takes_over_an_incomplete_one() -> None:
    async def scenario(store: MemoryStore) -> None:
        unreliable: Store = Unreliable(store, 2)  # type: ignore[assignment]
        with pytest.raises(StoreUnavailable):
            await fill_store(unreliable, backup("one", 400), IN_CLEAR, lambda _: None)
        await fill_store(store, backup("two", 10), IN_CLEAR, lambda _: None)
        assert await held(store) == dict(backup("two", 10).items)

    run(scenario)


def test_a_backup_that_was_not_raised_is_not_written() -> None:
    async def scenario(store: MemoryStore) -> None:
        plain = Backup(backup().header, {keys.CLUSTER: CLUSTER})
        with pytest.raises(Permanent):
            await fill_store(store, plain, IN_CLEAR, lambda _: None)
        assert await held(store) == {}

    run(scenario)
