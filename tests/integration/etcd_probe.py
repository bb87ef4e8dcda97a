"""A client under load on a real etcd: writes, reads, watches and renews all the time, and keeps what it was told.

``check`` is the judge: the watch has shown every acknowledged transaction, and none twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from shardwright.store.etcd import EtcdStore
from shardwright.store.protocol import Compacted, LeaseLost, PutKey, StoreError, StoreUnavailable, Transaction
from shardwright.store.settings import EtcdSettings
from shardwright.tasks import spawn
from testkit.deadlines import until_async

PAUSE_S = 0.01


class Probe:
    """Its own clients: one for transactions and the watch, one for reads, one for the lease, as in a daemon."""

    def __init__(self, store: EtcdStore, reader: EtcdStore, keeper: EtcdStore) -> None:
        """Private; call ``probing``."""
        self._store, self._reader, self._keeper = store, reader, keeper
        self._first = 0
        self.acknowledged: dict[int, str] = {}
        """Revision and value of each transaction that was answered."""
        self.seen: list[tuple[int, str]] = []
        """Revision and value of each change that the watch has shown, in its order."""
        self.errors: list[StoreError] = []
        """Of transactions."""
        self.leases_lost = 0
        self.watches = 0
        self.last = {"transaction": 0.0, "read": 0.0, "watch": 0.0, "renewal": 0.0}
        self.gaps = dict.fromkeys(self.last, 0.0)
        """The longest time between two successes, by kind; of the watch: between two messages."""

    def note(self, kind: str) -> None:
        """One more success."""
        now = time.monotonic()
        if self.last[kind]:
            self.gaps[kind] = max(self.gaps[kind], now - self.last[kind])
        self.last[kind] = now

    def forget_gaps(self) -> None:
        """Measure from now on."""
        self.gaps = dict.fromkeys(self.last, 0.0)

    async def write(self) -> None:
        number = 0
        while True:
            number += 1
            try:
                result = await self._store.transact(Transaction(operations=(PutKey("probe", str(number).encode()),)))
            except StoreUnavailable as e:
                self.errors.append(e)
            else:
                assert result.revision not in self.acknowledged
                self.acknowledged[result.revision] = str(number)
                self.note("transaction")
            await asyncio.sleep(PAUSE_S)

    async def read(self) -> None:
        while True:
            before = max(self.acknowledged, default=0)
            try:
                assert await self._reader.revision() >= before, "a read was older than an acknowledged transaction"
            except StoreUnavailable:
                await asyncio.sleep(PAUSE_S)
            else:
                self.note("read")
            await asyncio.sleep(PAUSE_S)

    async def follow(self) -> None:
        """As a mirror does: go on after the last revision that was shown."""
        next_revision = self._first = await self._store.revision() + 1
        while True:
            self.watches += 1
            try:
                async for batch in self._store.watch("", from_revision=next_revision):
                    assert batch.revision >= next_revision, "a revision was shown twice"
                    next_revision = batch.revision + 1
                    self.note("watch")
                    for change in batch.changes:
                        if change.key == "probe" and change.current is not None:
                            self.seen.append((batch.revision, change.current.value.decode()))
            except StoreUnavailable:
                await asyncio.sleep(PAUSE_S)
            except Compacted as e:
                raise AssertionError("the watch lost a revision") from e

    async def renew(self, ttl: timedelta) -> None:
        lease = None
        while True:
            try:
                if lease is None:
                    lease = await self._keeper.grant(ttl)
                await self._keeper.renew(lease)
                self.note("renewal")
            except LeaseLost:
                self.leases_lost += 1
                lease = None
                continue
            except StoreUnavailable:
                await asyncio.sleep(0.1)
                continue
            await asyncio.sleep(0.5)

    async def succeed(
        self, kinds: tuple[str, ...] = ("transaction", "read", "watch", "renewal"), seconds: float = 15.0
    ) -> None:
        """Wait until each kind succeeds, from now on."""
        began = time.monotonic()
        await until_async(
            "everything succeeds again",
            lambda: all(self.last[k] > began for k in kinds),
            seconds=seconds,
            state=self.__str__,
        )

    async def check(self) -> None:
        """Every acknowledged transaction was seen, at its revision, once; what was seen and not acknowledged is one whose
        outcome was unknown."""
        last = max(self.acknowledged)
        await until_async(
            "the watch has shown everything", lambda: self.seen and self.seen[-1][0] >= last, seconds=10, state=self.__str__
        )
        shown = dict(self.seen)
        assert len(shown) == len(self.seen), "a revision was shown twice"
        assert len({value for _, value in self.seen}) == len(self.seen), "a transaction happened twice"
        missing = {r: v for r, v in self.acknowledged.items() if r >= self._first and shown.get(r) != v}
        assert not missing, f"acknowledged and not seen: {missing}\n{self}"

    def __str__(self) -> str:
        gaps = ", ".join(f"{kind} {seconds:.2f} s" for kind, seconds in self.gaps.items())
        errors = sorted({error.text for error in self.errors})
        return (
            f"{len(self.acknowledged)} acknowledged, {len(self.seen)} seen, {len(self.errors)} without an answer, "
            f"{self.watches} watches, {self.leases_lost} leases lost; longest gaps: {gaps}; {errors}"
        )


@asynccontextmanager
async def probing(settings: EtcdSettings, *, lease: timedelta = timedelta(seconds=12)) -> AsyncIterator[Probe]:
    """A probe that is at work; everything has succeeded once."""
    stores = [await EtcdStore.open(settings) for _ in range(3)]
    probe = Probe(*stores)
    works: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("probe: watch", probe.follow),
        ("probe: write", probe.write),
        ("probe: read", probe.read),
        ("probe: renew", lambda: probe.renew(lease)),
    ]
    tasks = [spawn(name, _run(work)) for name, work in works]
    try:
        await probe.succeed()
        probe.forget_gaps()
        yield probe
        assert not [task for task in tasks if task.done()], f"a part of the probe has failed: {probe}"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for store in stores:
            await store.close()


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()
