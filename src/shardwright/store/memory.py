"""The store in memory: for simulations and unit tests; the shortest definition of a backend.

Belongs to one event loop. Time comes from the given clock, so that leases end in virtual time. Must enforce the same limits
as the other backends, and keep nothing durable.
"""

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from shardwright.clock import Clock
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store.bounds import FIRST_REVISION, HISTORY_REVISIONS_MAX, check_transaction, lease_lost, page_of
from shardwright.store.protocol import (
    LEASE_TTL_MIN,
    RANGE_PAGE_ITEMS_MAX,
    Compacted,
    Compare,
    DeleteKey,
    KeyChange,
    KeyValue,
    ModifiedAt,
    Operation,
    PutKey,
    RangePage,
    StoreUnavailable,
    Transaction,
    TransactionResult,
    WatchBatch,
)
from shardwright.tasks import spawn


@dataclass(slots=True)
class _Lease:
    ttl_s: float
    ends_at: float
    """In terms of the clock's ``monotonic``."""


class MemoryStore:
    """Implements ``protocol.Store``. No await between reading and changing, so every call is atomic."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._items: dict[str, KeyValue] = {}
        self._order: list[str] = []
        self._history: deque[WatchBatch] = deque()
        self._revision = FIRST_REVISION
        self._compacted = 0
        self._leases: dict[LeaseId, _Lease] = {}
        self._last_lease = 0
        self._changed = asyncio.Event()
        self._expirer: asyncio.Task[None] | None = None
        self._is_closed = False

    # -- reads -------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> KeyValue | None:
        self._check_open()
        return self._items.get(key)

    async def range(self, prefix: str, *, start: str | None = None, limit: int = RANGE_PAGE_ITEMS_MAX) -> RangePage:
        self._check_open()
        return page_of(self._from(prefix, start), revision=self._revision, limit=limit)

    def _from(self, prefix: str, start: str | None) -> Iterator[KeyValue]:
        first = prefix if start is None else max(prefix, start)
        for index in range(bisect_left(self._order, first), len(self._order)):
            key = self._order[index]
            if not key.startswith(prefix):
                return
            yield self._items[key]

    async def revision(self) -> int:
        self._check_open()
        return self._revision

    # -- transactions ------------------------------------------------------------------------------------------------

    async def transact(self, transaction: Transaction) -> TransactionResult:
        self._check_open()
        check_transaction(transaction)
        self._end_expired()
        if not all(self._holds(compare) for compare in transaction.compares):
            return TransactionResult(False, self._revision)
        for operation in transaction.operations:
            if isinstance(operation, PutKey) and operation.lease is not None and operation.lease not in self._leases:
                raise lease_lost(operation.lease)
        self._apply(transaction.operations)
        return TransactionResult(True, self._revision)

    def _holds(self, compare: Compare) -> bool:
        item = self._items.get(compare.key)
        if item is None:
            return compare.revision == 0
        return compare.revision == (item.modify_revision if isinstance(compare, ModifiedAt) else item.create_revision)

    def _apply(self, operations: tuple[Operation, ...]) -> None:
        revision = self._revision + 1
        changes: list[KeyChange] = []
        for operation in sorted(operations, key=lambda o: o.key):
            key = operation.key
            old = self._items.get(key)
            match operation:
                case PutKey():
                    created = revision if old is None else old.create_revision
                    item = KeyValue(key, operation.value, created, revision, operation.lease)
                    self._items[key] = item
                    if old is None:
                        insort(self._order, key)
                    changes.append(KeyChange(key, item))
                case DeleteKey() if old is not None:
                    del self._items[key]
                    del self._order[bisect_left(self._order, key)]
                    changes.append(KeyChange(key, None))
                case DeleteKey():
                    pass
        if not changes:
            return
        self._revision = revision
        self._history.append(WatchBatch(revision, tuple(changes)))
        self._forget_before(revision - HISTORY_REVISIONS_MAX)
        self._wake()

    # -- watch and history -------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[WatchBatch]:
        wanted = from_revision
        while True:
            self._check_open()
            if wanted < self._compacted:
                raise Compacted(
                    Code.STORE_COMPACTED, f"revision {wanted} is no longer kept; the oldest is {self._compacted}"
                )
            if wanted > self._revision:
                await self._changed.wait()
                continue
            # The first revisions of a store are not transactions and have no batch.
            wanted = max(wanted, self._history[0].revision if self._history else self._revision + 1)
            if wanted > self._revision:
                continue
            batch = self._history[wanted - self._history[0].revision]
            wanted += 1
            changes = tuple(change for change in batch.changes if change.key.startswith(prefix))
            if changes:
                yield WatchBatch(batch.revision, changes)

    async def compact(self, revision: int) -> None:
        self._check_open()
        self._forget_before(min(revision, self._revision))

    def _forget_before(self, revision: int) -> None:
        self._compacted = max(self._compacted, revision)
        while self._history and self._history[0].revision < self._compacted:
            self._history.popleft()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # -- leases ------------------------------------------------------------------------------------------------------

    async def grant(self, ttl: timedelta) -> LeaseId:
        self._check_open()
        self._end_expired()
        self._last_lease += 1
        lease = LeaseId(self._last_lease)
        ttl_s = max(ttl, LEASE_TTL_MIN).total_seconds()
        self._leases[lease] = _Lease(ttl_s, self._clock.monotonic() + ttl_s)
        if self._expirer is None or self._expirer.done():
            self._expirer = spawn("memory store: end leases", self._expire())
        return lease

    async def renew(self, lease: LeaseId) -> None:
        self._check_open()
        self._end_expired()
        current = self._leases.get(lease)
        if current is None:
            raise lease_lost(lease)
        current.ends_at = self._clock.monotonic() + current.ttl_s

    async def revoke(self, lease: LeaseId) -> None:
        self._check_open()
        self._end_expired()
        self._end(lease)

    async def _expire(self) -> None:
        while self._leases:
            due = min(lease.ends_at for lease in self._leases.values())
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
            self._end_expired()

    def _end_expired(self) -> None:
        now = self._clock.monotonic()
        ended = [(lease.ends_at, uid) for uid, lease in self._leases.items() if lease.ends_at <= now]
        for _, uid in sorted(ended):
            self._end(uid)

    def _end(self, lease: LeaseId) -> None:
        if self._leases.pop(lease, None) is not None:
            self._apply(tuple(DeleteKey(item.key) for item in self._items.values() if item.lease == lease))

    # -- end ---------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreUnavailable(Code.STORE_CLOSED, "the store was closed")

    async def close(self) -> None:
        self._is_closed = True
        self._wake()
        if self._expirer is not None:
            self._expirer.cancel()
            with suppress(asyncio.CancelledError):
                await self._expirer
