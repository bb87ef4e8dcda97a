"""The mirror converges, survives the failures of stores, and shows the records as a view."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

from shardwright.clock import SystemClock
from shardwright.model.cluster import DaemonPresence, Leadership, Node, Policy
from shardwright.model.codes import Code
from shardwright.model.database import Shard
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.seen import Health, NodeSeen, ProcessSeen, ProcessState, ServerSeen
from shardwright.model.view import ClusterView
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import (
    RANGE_PAGE_ITEMS_MAX,
    Compacted,
    DeleteKey,
    KeyValue,
    PutKey,
    RangePage,
    StoreUnavailable,
    Transaction,
    WatchBatch,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODE = Node(NodeUid(1), "127.0.0.1", NOW)
SHARD = Shard(ShardUid(7), DatabaseUid(1), GroupUid("1:1"), NodeUid(1), 20000, NOW, incarnation=2)


class RestlessStore(MemoryStore):
    """Another writer writes between two pages, and the first watches fail as requested."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.between_pages: Callable[[], Awaitable[None]] | None = None
        self.failures: list[Exception] = []
        self.pages_read = 0
        self.revisions_asked = 0

    async def revision(self) -> int:
        self.revisions_asked += 1
        return await super().revision()

    async def range(self, prefix: str, *, start: str | None = None, limit: int = RANGE_PAGE_ITEMS_MAX) -> RangePage:
        page = await super().range(prefix, start=start, limit=2)
        self.pages_read += 1
        if self.between_pages is not None:
            await self.between_pages()
        return page

    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[WatchBatch]:
        if self.failures:
            raise self.failures.pop()
        async for batch in super().watch(prefix, from_revision=from_revision):
            yield batch


async def put(store: MemoryStore, *what: StoredRecord) -> int:
    operations = tuple(PutKey(keys.key_of(record), records.encode(record)) for record in what)
    return (await store.transact(Transaction(operations=operations))).revision


async def delete(store: MemoryStore, *what: str) -> int:
    return (await store.transact(Transaction(operations=tuple(DeleteKey(key) for key in what)))).revision


@asynccontextmanager
async def mirrored(store: MemoryStore) -> AsyncIterator[Mirror]:
    mirror = Mirror(store)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(mirror.run())
        try:
            await mirror.ready()
            yield mirror
        finally:
            task.cancel()
    await store.close()


def test_it_converges_while_others_write_between_its_pages() -> None:
    async def main() -> None:
        store = RestlessStore()
        await store.transact(Transaction(operations=tuple(PutKey(f"k/{n}", b"0") for n in range(8))))
        round_of_write = 0

        async def meddle() -> None:
            nonlocal round_of_write
            round_of_write += 1
            if round_of_write > 6:
                return
            await delete(store, f"k/{round_of_write}")
            await store.transact(Transaction(operations=(PutKey("k/0", str(round_of_write).encode()), PutKey("k/9", b"9"))))
            if round_of_write == 3:
                await delete(store, "k/9")

        store.between_pages = meddle
        async with mirrored(store) as mirror:
            await mirror.fresh()
            store.between_pages = None
            found: list[KeyValue] = []
            start: str | None = ""
            while start is not None:
                page = await store.range("", start=start)
                found += page.items
                start = page.next_start
            assert mirror.range("") == found
            assert round_of_write > 3
            assert mirror.revision == await store.revision()

    asyncio.run(main())


def test_it_reads_everything_after_a_compaction_and_notices_deletions() -> None:
    async def main() -> None:
        store = RestlessStore()
        other = replace(NODE, uid=NodeUid(2))
        await put(store, NODE, other)
        store.failures = [Compacted(Code.STORE_COMPACTED, "told to"), StoreUnavailable(Code.STORE_UNAVAILABLE, "told to")]
        async with mirrored(store) as mirror:
            # Its watch has just failed; the next one finds that the deletion is no longer in the history.
            revision = await delete(store, keys.key_of(NODE))
            await mirror.reach(revision)
            assert store.failures == []
            assert mirror.view().nodes == {other.uid: other}
            assert mirror.touched_at(keys.key_of(NODE)) == revision
            last = await put(store, NODE)
            await mirror.reach(last)
            assert len(mirror.view().nodes) == 2

    asyncio.run(main())


def test_a_view_is_of_one_revision_and_never_changes() -> None:
    async def main() -> None:
        store = RestlessStore()
        await put(store, NODE, Policy(slave_ha=False))
        async with mirrored(store) as mirror:
            first = mirror.view()
            assert first == ClusterView(revision=mirror.revision, nodes={NODE.uid: NODE}, policy=Policy(slave_ha=False))
            assert mirror.view() is first
            await put(store, replace(NODE, rack="b"), SHARD, Leadership(NODE.uid, 3))
            revision = await delete(store, keys.POLICY)
            await mirror.fresh()
            second = mirror.view()
            assert first.nodes == {NODE.uid: NODE}
            assert first.shards == {}
            assert second == ClusterView(
                revision=revision,
                nodes={NODE.uid: replace(NODE, rack="b")},
                shards={SHARD.uid: SHARD},
                leadership=Leadership(NODE.uid, 3),
            )
            await delete(store, keys.LEADER, keys.key_of(NODE))
            await mirror.fresh()
            assert mirror.view().leadership is None
            assert mirror.view().nodes == {}

    asyncio.run(main())


def test_observations_of_another_incarnation_are_not_shown() -> None:
    async def main() -> None:
        store = RestlessStore()

        def process(incarnation: int) -> NodeSeen:
            return NodeSeen(NODE.uid, NOW, processes=(ProcessSeen(SHARD.uid, incarnation, ProcessState.RUNNING),))

        def server(incarnation: int) -> ServerSeen:
            return ServerSeen(SHARD.uid, incarnation, NOW, Health.OK)

        await put(store, NODE, SHARD, process(1), server(1))
        async with mirrored(store) as mirror:
            assert mirror.view().node_seen == {NODE.uid: process(1)}
            assert (mirror.view().processes, mirror.view().servers) == ({}, {})
            await put(store, process(2), server(2))
            await mirror.fresh()
            assert mirror.view().processes == {SHARD.uid: process(2).processes[0]}
            assert mirror.view().servers == {SHARD.uid: server(2)}
            await put(store, replace(SHARD, incarnation=3))
            await mirror.fresh()
            assert (mirror.view().processes, mirror.view().servers) == ({}, {})
            await put(store, replace(SHARD, incarnation=2), replace(process(2), node_uid=NodeUid(2)))
            await delete(store, keys.key_of(process(2)))
            await mirror.fresh()
            assert mirror.view().processes == {}
            assert mirror.view().servers == {SHARD.uid: server(2)}
            await delete(store, keys.key_of(server(2)))
            await mirror.fresh()
            assert mirror.view().servers == {}

    asyncio.run(main())


def test_an_unreadable_record_is_skipped() -> None:
    async def main() -> None:
        store = RestlessStore()
        bad = keys.key_of(replace(NODE, uid=NodeUid(2)))
        await put(store, NODE)
        await store.transact(Transaction(operations=(PutKey(bad, b"{"), PutKey(keys.port_key(10000), b"4"))))
        async with mirrored(store) as mirror:
            assert mirror.records(keys.NODES) == [NODE]
            assert mirror.record(bad) is None
            assert mirror.view().nodes == {NODE.uid: NODE}
            assert mirror.bare(keys.port_key(10000)) == "4"
            assert mirror.bare(keys.port_key(10001)) is None
            await put(store, replace(NODE, uid=NodeUid(2)))
            await mirror.fresh()
            assert len(mirror.view().nodes) == 2

    asyncio.run(main())


def test_it_reports_revisions_and_waits_for_changes() -> None:
    async def main() -> None:
        store = RestlessStore()
        created = await put(store, NODE)
        modified = await put(store, NODE)
        key = keys.key_of(NODE)
        async with mirrored(store) as mirror:
            assert (mirror.created_at(key), mirror.modified_at(key), mirror.touched_at(key)) == (created, modified, modified)
            assert await mirror.wait_change(mirror.revision, 0.01) == modified
            assert await mirror.wait_change(0, None) == modified
            removed = await delete(store, key)
            assert await mirror.wait_change(modified, 5) == removed
            assert (mirror.created_at(key), mirror.modified_at(key), mirror.touched_at(key)) == (0, 0, removed)
            assert mirror.get(key) is None

    asyncio.run(main())


def test_it_asks_the_store_again_only_for_what_may_have_ended_since() -> None:
    async def main() -> None:
        store = RestlessStore()
        async with mirrored(store) as mirror:
            before = mirror.now()
            await mirror.fresh(before)
            assert store.revisions_asked == 1
            await mirror.fresh(before)
            assert store.revisions_asked == 1
            written = await put(store, NODE)
            await mirror.fresh(mirror.now())
            assert (store.revisions_asked, mirror.revision) == (2, written)
            written = await put(store, SHARD)
            await mirror.fresh()
            assert (store.revisions_asked, mirror.revision) == (3, written)

    asyncio.run(main())


def test_daemons_are_in_the_view() -> None:
    async def main() -> None:
        store = RestlessStore()
        presence = DaemonPresence(NODE.uid, 1, 2, "boot", 3, "0", "https://127.0.0.1:9443", NOW)
        await put(store, presence)
        async with mirrored(store) as mirror:
            assert mirror.view().daemons == {NODE.uid: presence}

    asyncio.run(main())


def test_a_subscriber_is_called_for_each_change_until_it_ends() -> None:
    async def run() -> None:
        store = MemoryStore(SystemClock())
        async with mirrored(store) as mirror:
            received: list[tuple[str, ...]] = []
            shown: list[int] = []

            def record_keys(changed: Collection[str]) -> None:
                received.append(tuple(changed))
                shown.append(mirror.revision)

            end = mirror.subscribe(record_keys)
            first = await put(store, NODE, SHARD)
            await mirror.reach(first)
            second = await delete(store, keys.key_of(NODE))
            await mirror.reach(second)
            end()
            await mirror.reach(await put(store, NODE))
            assert received == [(keys.key_of(NODE), keys.key_of(SHARD)), (keys.key_of(NODE),)]
            assert shown == [first, second], "it is called when the mirror shows the change"
        await store.close()

    asyncio.run(run())
