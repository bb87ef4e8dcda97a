"""The store of a simulation: the product's own ``MemoryStore`` behind a network, with a client for each process.

Owns delays, lost answers and broken watches; transactions are the product's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

from shardwright.clock import Clock
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store.memory import MemoryStore, _Lease
from shardwright.store.protocol import (
    RANGE_PAGE_ITEMS_MAX,
    KeyChange,
    KeyValue,
    RangePage,
    StoreUnavailable,
    Transaction,
    TransactionResult,
    WatchBatch,
)
from sim.loop import SimLoop, SimProcess, result_of
from sim.network import STORE, Answer, Network, NoReply, Refused

TIMEOUT_S = 1.5


class CentralStore(MemoryStore):
    """All committed state. ``on_batch`` is called with every revision at once, before any client sees it."""

    def __init__(self, clock: Clock, loop: SimLoop) -> None:
        super().__init__(clock)
        self.loop = loop
        self.process = SimProcess("store")
        self.watchers: list[Watcher] = []
        self.on_lead: Callable[[int], None] | None = None
        self.on_batch: list[Callable[[tuple[KeyChange, ...]], None]] = []
        self._seen = self._revision

    def _wake(self) -> None:
        super()._wake()
        for batch in self.since(self._seen + 1):
            self._seen = batch.revision
            for call in self.on_batch:
                call(batch.changes)
        history = self._history
        for watcher in self.watchers:
            if watcher.cares(history[-1]):
                watcher.announce()

    def since(self, revision: int) -> list[WatchBatch]:
        """All batches from a revision on."""
        found = []
        for batch in reversed(self._history):
            if batch.revision < revision:
                break
            found.append(batch)
        return found[::-1]

    async def grant(self, ttl: timedelta) -> LeaseId:
        self._end_expired()
        self._last_lease += 1
        lease = LeaseId(self._last_lease)
        self._leases[lease] = _Lease(ttl.total_seconds(), self._clock.monotonic() + ttl.total_seconds())
        self._watch_lease(lease)
        return lease

    def _watch_lease(self, lease: LeaseId) -> None:
        found = self._leases.get(lease)
        if found is not None:
            self.loop.at(max(0.0, found.ends_at - self.loop.now) + 0.01, self._look_at_lease, lease)

    def _look_at_lease(self, lease: LeaseId) -> None:
        self._end_expired()
        self._watch_lease(lease)


class Watcher:
    """One watch of one client: sees revisions after a delay, sees some twice, and breaks occasionally."""

    def __init__(self, client: "StoreClient", prefix: str, revision: int) -> None:
        self.client = client
        self.prefix = prefix
        self.wanted = revision
        self.known = revision - 1
        self.is_announced = False
        self.is_broken = False
        self.future: asyncio.Future[None] | None = None
        client.store.watchers.append(self)
        self.announce()

    def cares(self, batch: WatchBatch) -> bool:
        """Whether a changed key is watched."""
        prefix = self.prefix
        return not prefix or any(change.key.startswith(prefix) for change in batch.changes)

    def announce(self) -> None:
        """The store has a new revision: the client sees it later."""
        client = self.client
        if self.is_announced or not client.process.is_alive or not client.network.passes(STORE, client.place):
            return
        self.is_announced = True
        delay = client.network.latency(STORE, client.place)
        if client.watch_stalls_until > client.loop.now:
            delay += client.watch_stalls_until - client.loop.now
        client.loop.at(delay, self._arrive, process=client.process)

    def _arrive(self) -> None:
        self.is_announced = False
        self.known = self.client.store._revision
        self.wake()

    def wake(self) -> None:
        """Wake the reader."""
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_result(None)


class StoreClient:
    """The ``Store`` of one process at one place."""

    def __init__(self, store: CentralStore, network: Network, process: SimProcess, place: int) -> None:
        self.store = store
        self.network = network
        self.loop = network.loop
        self.process = process
        self.place = place
        self.watch_stalls_until = 0.0
        self.repeats_watch = False
        self.on_transact: Callable[[Transaction, str], None] | None = None

    async def ask(self, work: Callable[[], Any]) -> Any:
        """Execute ``work`` at the store. Raises StoreUnavailable, and the exceptions of ``work``."""

        def execute(answer: Answer) -> None:
            try:
                answer(result_of(work()))
            except Exception as e:
                answer(e)

        try:
            return await self.network.call(self.place, STORE, lambda: self.store.process, execute, timeout_s=TIMEOUT_S)
        except (NoReply, Refused) as e:
            raise StoreUnavailable(Code.STORE_UNAVAILABLE, "the store does not answer") from e

    async def get(self, key: str) -> KeyValue | None:
        found: KeyValue | None = await self.ask(lambda: self.store.get(key))
        return found

    async def range(self, prefix: str, *, start: str | None = None, limit: int = RANGE_PAGE_ITEMS_MAX) -> RangePage:
        page: RangePage = await self.ask(lambda: self.store.range(prefix, start=start, limit=limit))
        return page

    async def revision(self) -> int:
        """A store that reads a newer revision wakes its watchers."""
        found: int = await self.ask(self.store.revision)
        for watcher in self.store.watchers:
            if watcher.client is self:
                watcher.announce()
        return found

    async def transact(self, transaction: Transaction) -> TransactionResult:
        if self.on_transact is not None:
            self.on_transact(transaction, "before")
        result: TransactionResult = await self.ask(lambda: self.store.transact(transaction))
        if self.on_transact is not None:
            self.on_transact(transaction, "after")
            if not self.process.runs:
                await asyncio.sleep(0)
        return result

    async def grant(self, ttl: timedelta) -> LeaseId:
        lease: LeaseId = await self.ask(lambda: self.store.grant(ttl))
        return lease

    async def renew(self, lease: LeaseId) -> None:
        await self.ask(lambda: self.store.renew(lease))

    async def revoke(self, lease: LeaseId) -> None:
        await self.ask(lambda: self.store.revoke(lease))

    async def compact(self, revision: int) -> None:
        await self.ask(lambda: self.store.compact(revision))

    async def close(self) -> None:
        return None

    def break_watches(self) -> None:
        """End the connection of every watch: their readers start again."""
        for watcher in self.store.watchers:
            if watcher.client is self:
                watcher.is_broken = True
                watcher.wake()

    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[WatchBatch]:
        if not self.network.passes(self.place, STORE):
            raise StoreUnavailable(Code.STORE_UNAVAILABLE, "the store does not answer")
        watcher = Watcher(self, prefix, from_revision)
        try:
            while True:
                if watcher.is_broken:
                    raise StoreUnavailable(Code.STORE_UNAVAILABLE, "the watch broke")
                if watcher.wanted > watcher.known:
                    watcher.future = self.loop.create_future()
                    await watcher.future
                    continue
                for batch in self.store.since(watcher.wanted):
                    if batch.revision > watcher.known:
                        break
                    changes = tuple(c for c in batch.changes if c.key.startswith(prefix)) if prefix else batch.changes
                    watcher.wanted = batch.revision + 1
                    if changes:
                        yield WatchBatch(batch.revision, changes)
                        if self.repeats_watch and self.network.rng.random() < 0.3:
                            yield WatchBatch(batch.revision, changes)
                watcher.wanted = max(watcher.wanted, watcher.known + 1)
        finally:
            if watcher in self.store.watchers:
                self.store.watchers.remove(watcher)


class LeaderStore:
    """The store of a leader: calls ``on_lead`` with the leader's term for each transaction that succeeds."""

    def __init__(self, client: StoreClient, term: int) -> None:
        self._client = client
        self._term = term

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def transact(self, transaction: Transaction) -> TransactionResult:
        client, store = self._client, self._client.store

        async def work() -> TransactionResult:
            done = await store.transact(transaction)
            if done.succeeded and store.on_lead is not None:
                store.on_lead(self._term)
            return done

        if client.on_transact is not None:
            client.on_transact(transaction, "before")
        result: TransactionResult = await client.ask(work)
        if client.on_transact is not None:
            client.on_transact(transaction, "after")
            if not client.process.runs:
                await asyncio.sleep(0)
        return result
