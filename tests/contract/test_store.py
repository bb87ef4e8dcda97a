"""The behavior that every store backend must have, in the terms of ``store/protocol.py``."""

import asyncio
from datetime import timedelta

import pytest

from shardwright.store.protocol import (
    RANGE_PAGE_BYTES_MAX,
    RANGE_PAGE_ITEMS_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    Compacted,
    Compare,
    CreatedAt,
    DeleteKey,
    KeyValue,
    LeaseLost,
    ModifiedAt,
    Operation,
    PutKey,
    Store,
    StoreUnavailable,
    TooLarge,
    Transaction,
)
from tests.contract.store_worlds import World, on_every_backend, run, watching


async def put(store: Store, *operations: Operation) -> int:
    result = await store.transact(Transaction(operations=operations))
    assert result.succeeded
    return result.revision


async def all_keys(store: Store, prefix: str = "") -> list[str]:
    return [item.key for item in (await store.range(prefix)).items]


@on_every_backend()
def test_an_item_has_its_history(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        assert await store.get("a") is None
        empty = await store.revision()
        first = await put(store, PutKey("a", b"1"))
        assert first == empty + 1
        second = await put(store, PutKey("a", b"2"), PutKey("b", b""))
        assert await store.get("a") == KeyValue("a", b"2", first, second)
        assert await store.get("b") == KeyValue("b", b"", second, second)
        await put(store, DeleteKey("a"))
        assert await store.get("a") is None
        again = await put(store, PutKey("a", b"3"))
        assert await store.get("a") == KeyValue("a", b"3", again, again)

    run(backend, scenario)


@on_every_backend()
def test_a_transaction_without_changes_has_no_revision(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        revision = await put(store, PutKey("a", b"1"))
        assert await put(store, DeleteKey("b")) == revision
        assert await put(store) == revision
        result = await store.transact(Transaction((ModifiedAt("a", 0),), (PutKey("a", b"2"),)))
        assert (result.succeeded, result.revision) == (False, revision)
        assert await store.revision() == revision

    run(backend, scenario)


@on_every_backend()
def test_compare_and_set(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        created = await put(store, PutKey("a", b"1"))
        modified = await put(store, PutKey("a", b"2"))
        compares: list[tuple[Compare, bool]] = [
            (ModifiedAt("a", modified), True),
            (ModifiedAt("a", created), False),
            (ModifiedAt("a", 0), False),
            (CreatedAt("a", created), True),
            (CreatedAt("a", modified), False),
            (CreatedAt("a", 0), False),
            (ModifiedAt("none", 0), True),
            (CreatedAt("none", 0), True),
            (ModifiedAt("none", modified), False),
        ]
        for compare, holds in compares:
            assert (await store.transact(Transaction((compare,)))).succeeded is holds, compare
        both = Transaction((ModifiedAt("a", modified), ModifiedAt("b", 1)), (PutKey("a", b"3"), PutKey("b", b"3")))
        assert not (await store.transact(both)).succeeded
        assert await all_keys(store) == ["a"]

    run(backend, scenario)


@on_every_backend()
def test_exactly_one_of_many_creators_wins(backend: str) -> None:
    async def scenario(world: World) -> None:
        stores = [await world.open() for _ in range(3)]

        async def create(store: Store, name: str) -> bool:
            return (
                await store.transact(Transaction((ModifiedAt("leader", 0),), (PutKey("leader", name.encode()),)))
            ).succeeded

        won = await asyncio.gather(*(create(store, f"{n}") for n, store in enumerate(stores * 3)))
        assert sum(won) == 1
        leader = await stores[0].get("leader")
        assert leader is not None
        assert leader.value == str(won.index(True)).encode()

    run(backend, scenario)


@on_every_backend()
def test_reads_see_the_writes_of_another_store(backend: str) -> None:
    async def scenario(world: World) -> None:
        one, other = await world.open(), await world.open()
        for n in range(20):
            revision = await put(one, PutKey("a", str(n).encode()))
            seen = await other.get("a")
            assert seen is not None
            assert seen.value == str(n).encode()
            assert await other.revision() == revision

    run(backend, scenario)


@on_every_backend()
def test_ranges_come_in_pages(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        names = [f"n/{n:04d}" for n in range(RANGE_PAGE_ITEMS_MAX + 5)]
        for first in range(0, len(names), 100):
            await put(store, *(PutKey(name, b"x") for name in names[first : first + 100]))
        await put(store, PutKey("m", b""), PutKey("n0", b""), PutKey("n", b""))
        page = await store.range("n/")
        assert [item.key for item in page.items] == names[:RANGE_PAGE_ITEMS_MAX]
        assert page.next_start == names[RANGE_PAGE_ITEMS_MAX]
        assert page.revision == await store.revision()
        rest = await store.range("n/", start=page.next_start)
        assert [item.key for item in rest.items] == names[RANGE_PAGE_ITEMS_MAX:]
        assert rest.next_start is None
        three = await store.range("n/", start="n/0002", limit=3)
        assert [item.key for item in three.items] == names[2:5]
        assert three.next_start == names[5]
        more = await store.range("n/", limit=10 * RANGE_PAGE_ITEMS_MAX)
        assert len(more.items) == RANGE_PAGE_ITEMS_MAX
        assert (await store.range("o")).items == ()
        assert (await store.range("n/", start="o")).items == ()
        assert await all_keys(store, "n0") == ["n0"]

    run(backend, scenario)


@on_every_backend()
def test_pages_are_bounded_in_bytes(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        large = b"x" * (RANGE_PAGE_BYTES_MAX * 2 // 5)
        for n in range(3):
            await put(store, PutKey(f"{n}", large))
        page = await store.range("")
        assert [item.key for item in page.items] == ["0", "1"]
        assert page.next_start == "2"

    run(backend, scenario)


@on_every_backend()
def test_transactions_are_bounded(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        most = tuple(PutKey(f"{n:03d}", b"") for n in range(TRANSACTION_OPERATIONS_MAX))
        compares = tuple(ModifiedAt(f"{n:03d}", 0) for n in range(TRANSACTION_OPERATIONS_MAX))
        revision = (await store.transact(Transaction(compares, most))).revision
        with pytest.raises(TooLarge):
            await store.transact(Transaction(operations=(*most, PutKey("more", b""))))
        with pytest.raises(TooLarge):
            await store.transact(Transaction((*compares, ModifiedAt("more", 0))))
        await put(store, PutKey("k", b"x" * (TRANSACTION_BYTES_MAX - 1)))
        with pytest.raises(TooLarge):
            await store.transact(Transaction(operations=(PutKey("k", b"x" * TRANSACTION_BYTES_MAX),)))
        assert await store.revision() == revision + 1
        with pytest.raises(AssertionError):
            await store.transact(Transaction(operations=(PutKey("k", b""), DeleteKey("k"))))
        assert await store.revision() == revision + 1

    run(backend, scenario)


@on_every_backend()
def test_a_watch_delivers_everything_once_and_in_order(backend: str) -> None:
    async def scenario(world: World) -> None:
        store, other = await world.open(), await world.open()
        await put(store, PutKey("p/old", b"0"))
        start = await put(store, PutKey("p/a", b"1"), PutKey("q", b""))
        await put(store, PutKey("q", b"1"))
        async with watching(other, "p/", start) as watcher, watching(store, "p/", start + 5) as late:
            await put(store, PutKey("p/b", b"2"))
            await put(other, DeleteKey("p/a"), PutKey("p/c", b"3"), DeleteKey("p/none"))
            for n in range(300):
                last = await put(store if n % 2 else other, PutKey("p/n", str(n).encode()))
            await watcher.until(last)
            await late.until(last)
        assert watcher.keys() == [
            (start, "p/a", b"1"),
            (start + 2, "p/b", b"2"),
            (start + 3, "p/a", None),
            (start + 3, "p/c", b"3"),
            *((start + 4 + n, "p/n", str(n).encode()) for n in range(300)),
        ]
        assert late.keys() == watcher.keys()[5:]
        assert [batch.revision for batch in watcher.batches] == [start, *range(start + 2, last + 1)]
        change = watcher.batches[0].changes[0].current
        assert change == KeyValue("p/a", b"1", start, start)

    run(backend, scenario)


@on_every_backend()
def test_a_watch_from_a_compacted_revision_raises_an_error(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        revisions = [await put(store, PutKey("a", str(n).encode())) for n in range(5)]
        await store.compact(revisions[3])
        async with watching(store, "", revisions[2]) as watcher:
            assert isinstance(await watcher.until_error(), Compacted)
        async with watching(store, "", revisions[3] + 1) as watcher:
            await watcher.until(revisions[4])
            assert watcher.keys() == [(revisions[4], "a", b"4")]
        await store.compact(revisions[1])
        await store.compact(10**9)
        item = await store.get("a")
        assert item is not None
        assert item.create_revision == revisions[0]
        async with watching(store, "", revisions[4] + 1) as watcher:
            last = await put(store, PutKey("b", b""))
            await watcher.until(last)
            assert watcher.keys() == [(last, "b", b"")]

    run(backend, scenario)


@on_every_backend(takes_time=True)
def test_keys_disappear_with_their_lease_and_watchers_see_it(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        lease = await store.grant(timedelta(seconds=3))
        put_at = await put(store, PutKey("d/1", b"", lease), PutKey("d/2", b"", lease), PutKey("stays", b""))
        await put(store, PutKey("d/2", b"without"))
        async with watching(store, "", put_at + 2) as watcher:
            await world.pass_time(2.5)
            await store.renew(lease)
            await world.pass_time(2.5)
            await store.renew(lease)
            assert watcher.batches == []
            await world.pass_time(3.1)
            # No one writes: an idle store must notice by itself.
            await watcher.until(put_at + 2)
            assert watcher.keys() == [(put_at + 2, "d/1", None)]
        assert await all_keys(store) == ["d/2", "stays"]
        with pytest.raises(LeaseLost):
            await store.renew(lease)

    run(backend, scenario)


@on_every_backend(takes_time=True)
def test_a_frozen_holder_finds_that_its_lease_has_ended(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        lease = await store.grant(timedelta(seconds=3))
        created = await put(store, PutKey("leader", b"", lease))
        await world.pass_time(10, ends_leases=True)
        fenced = await store.transact(Transaction((CreatedAt("leader", created),), (PutKey("a", b""),)))
        assert (fenced.succeeded, fenced.revision) == (False, created + 1)
        assert await all_keys(store) == []

    run(backend, scenario)


@on_every_backend(takes_time=True)
def test_a_put_with_a_dead_lease_changes_nothing(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        lease = await store.grant(timedelta(seconds=3))
        await world.pass_time(3.1, ends_leases=True)
        revision = await put(store, PutKey("a", b""))
        with pytest.raises(LeaseLost):
            await store.transact(Transaction(operations=(PutKey("b", b""), PutKey("c", b"", lease))))
        assert await all_keys(store) == ["a"]
        assert await store.revision() == revision
        failed = await store.transact(Transaction((ModifiedAt("a", 0),), (PutKey("c", b"", lease),)))
        assert not failed.succeeded

    run(backend, scenario)


@on_every_backend(takes_time=True)
def test_a_lease_is_never_shorter_than_the_minimum(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        lease = await store.grant(timedelta(milliseconds=10))
        await put(store, PutKey("a", b"", lease))
        await world.pass_time(1.9)
        await store.renew(lease)
        await world.pass_time(1.9)
        await put(store, PutKey("b", b""))
        assert await all_keys(store) == ["a", "b"]

    run(backend, scenario)


@on_every_backend()
def test_a_revoked_lease_ends_at_once(backend: str) -> None:
    async def scenario(world: World) -> None:
        store, other = await world.open(), await world.open()
        lease, kept = await store.grant(timedelta(seconds=3)), await store.grant(timedelta(seconds=3))
        assert lease != kept
        revision = await put(store, PutKey("a", b"", lease), PutKey("b", b"", kept))
        async with watching(other, "", revision + 1) as watcher:
            await store.revoke(lease)
            await watcher.until(revision + 1)
            assert watcher.keys() == [(revision + 1, "a", None)]
        await store.revoke(lease)
        assert await store.revision() == revision + 1
        with pytest.raises(LeaseLost):
            await store.renew(lease)
        await store.renew(kept)

    run(backend, scenario)


@on_every_backend()
def test_a_closed_store_is_unavailable_and_ends_its_watches(backend: str) -> None:
    async def scenario(world: World) -> None:
        store = await world.open()
        async with watching(store, "", 1) as watcher:
            revision = await put(store, PutKey("a", b""))
            await watcher.until(revision)
            await store.close()
            assert isinstance(await watcher.until_error(), StoreUnavailable)
        with pytest.raises(StoreUnavailable):
            await store.get("a")
        await store.close()

    run(backend, scenario)
