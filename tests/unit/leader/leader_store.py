"""A store in memory, in virtual time, over a connection that may be cut."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import KeyValue, RangePage, StoreUnavailable, Transaction, TransactionResult, WatchBatch
from sim.loop import SimLoop
from testkit.builders import NOW


class VirtualClock:
    """The loop's time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self._loop.now)

    def monotonic(self) -> float:
        return self._loop.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Client:
    """The store over a connection that may be cut, lose an answer, or bring one late."""

    def __init__(self, store: MemoryStore, clock: VirtualClock) -> None:
        self.store = store
        self.clock = clock
        self.is_cut = False
        self.loses_answer_to = ""
        """Key of the next transaction that is executed without an answer."""
        self.delays = ""
        """Key of the next transaction that stays on its way: no answer comes, and ``delayed`` may be executed later."""
        self.delayed = Transaction()
        self.overtaken_by_delayed = ""
        """Key of the next transaction before which the delayed one is executed."""
        self.next_renewal_late_s = 0.0

    def _reach(self) -> None:
        if self.is_cut:
            raise StoreUnavailable(Code.STORE_CLOSED, "cut")

    async def get(self, key: str) -> KeyValue | None:
        self._reach()
        return await self.store.get(key)

    async def range(self, prefix: str) -> RangePage:
        self._reach()
        return await self.store.range(prefix)

    async def revision(self) -> int:
        self._reach()
        return await self.store.revision()

    async def transact(self, transaction: Transaction) -> TransactionResult:
        self._reach()
        if self.delays and any(o.key == self.delays for o in transaction.operations):
            self.delays, self.delayed = "", transaction
            raise StoreUnavailable(Code.STORE_CLOSED, "no answer")
        if self.overtaken_by_delayed and any(o.key == self.overtaken_by_delayed for o in transaction.operations):
            self.overtaken_by_delayed = ""
            await self.store.transact(self.delayed)
        result = await self.store.transact(transaction)
        if self.loses_answer_to and any(o.key == self.loses_answer_to for o in transaction.operations):
            self.loses_answer_to = ""
            raise StoreUnavailable(Code.STORE_CLOSED, "no answer")
        return result

    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[WatchBatch]:
        self._reach()
        async for batch in self.store.watch(prefix, from_revision=from_revision):
            self._reach()
            yield batch

    async def grant(self, ttl: timedelta) -> LeaseId:
        self._reach()
        return await self.store.grant(ttl)

    async def renew(self, lease: LeaseId) -> None:
        self._reach()
        await self.store.renew(lease)
        late_s, self.next_renewal_late_s = self.next_renewal_late_s, 0.0
        if late_s:
            await self.clock.sleep(late_s)

    async def revoke(self, lease: LeaseId) -> None:
        self._reach()
        await self.store.revoke(lease)
