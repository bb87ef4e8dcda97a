"""The store on etcd: for the daemons of many machines, which share nothing else.

Owns the meaning of the store's terms in etcd's. The etcd is the cluster's alone: all its keys are below ``etcd_json.ROOT``.
``etcd_wire.py`` owns connections, limits of time and the choice of a member. Must never send a transaction twice.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import timedelta

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store import etcd_json
from shardwright.store.bounds import FIRST_REVISION, check_transaction, lease_lost, page_of
from shardwright.store.endpoints import EndpointBook
from shardwright.store.etcd_errors import EtcdCode, Refused, error_of
from shardwright.store.etcd_json import Json, number
from shardwright.store.etcd_watch import WatchMessages
from shardwright.store.etcd_wire import EtcdWire
from shardwright.store.protocol import (
    LEASE_TTL_MIN,
    RANGE_PAGE_BYTES_MAX,
    RANGE_PAGE_ITEMS_MAX,
    KeyValue,
    PutKey,
    RangePage,
    StoreUnavailable,
    Transaction,
    TransactionResult,
    WatchBatch,
)
from shardwright.store.settings import EtcdSettings

RANGE_ITEMS_ASKED = (100, 25, 5, 1)
"""Records of one answer, and of further attempts when it did not come in time: etcd bounds no answer in bytes, and sends
12 MB too slowly."""
WATCH_SILENCE_S = 1.0
"""A watch without news for this time asks whether its member still answers, so a frozen one is noticed although nothing
else is asked of it."""

_RANGE, _TRANSACTION, _COMPACTION = "/v3/kv/range", "/v3/kv/txn", "/v3/kv/compaction"
_GRANT, _KEEPALIVE, _REVOKE = "/v3/lease/grant", "/v3/lease/keepalive", "/v3/lease/revoke"
_WATCH = "/v3/watch"


class EtcdStore:
    """Implements ``protocol.Store``. Belongs to the event loop in which it was opened. All calls raise StoreReplaced when
    another etcd answers than before; StoreFull is a StoreUnavailable."""

    def __init__(self, wire: EtcdWire, book: EndpointBook, *, reads_alone: bool = False) -> None:
        """Private; call ``open``."""
        self._wire = wire
        self._reads_alone = reads_alone
        self._identity = book.identity

    @classmethod
    async def open(cls, settings: EtcdSettings, book: EndpointBook | None = None) -> "EtcdStore":
        """Open the store. ``book``: what the clients of this etcd share; None: this one shares nothing. Raises Permanent
        (the settings, the version or foreign keys make this etcd unusable), StoreUnavailable, StoreReplaced (it is not the
        etcd to be believed)."""
        book = book or EndpointBook(settings)
        wire = EtcdWire(settings, book)
        store = cls(wire, book, reads_alone=settings.reads_alone)
        try:
            await store._check_is_ours()
        except BaseException as e:
            await wire.close()
            if isinstance(e, StoreUnavailable) and e.code is Code.STORE_VERSION_UNSUITABLE:
                raise Permanent(e.code, e.text) from e
            raise
        return store

    @property
    def cluster_id(self) -> str:
        """Identifies this etcd; a restored one has another id. Decimal."""
        return self._identity.cluster_id

    async def _check_is_ours(self) -> None:
        for request in etcd_json.foreign_requests():
            found = etcd_json.foreign_key(await self._ask(_RANGE, request))
            if found is not None:
                raise Permanent(
                    Code.STORE_SHARED, f"the etcd has keys of another program, such as {found!r}; the cluster needs its own"
                )

    # -- reads -------------------------------------------------------------------------------------------------------

    async def get(self, key: str) -> KeyValue | None:
        items = (await self._ask(_RANGE, etcd_json.get_request(key))).get("kvs")
        return etcd_json.item_of(items[0]) if items else None

    async def range(self, prefix: str, *, start: str | None = None, limit: int = RANGE_PAGE_ITEMS_MAX) -> RangePage:
        at = prefix if start is None else max(prefix, start)
        wanted = min(max(limit, 1), RANGE_PAGE_ITEMS_MAX) + 1  # One more shows where the next page begins.
        items: list[KeyValue] = []
        size = revision = 0
        while True:
            counts = [min(count, wanted - len(items)) for count in RANGE_ITEMS_ASKED]
            requests = [etcd_json.range_request(prefix, at, limit=count, revision=revision) for count in counts]
            answer = await self._ask(_RANGE, *requests)
            # All answers of one page are of the revision of the first.
            revision = revision or _revision(answer)
            found = [etcd_json.item_of(item) for item in answer.get("kvs", ())]
            items += found
            size += sum(len(item.key.encode()) + len(item.value) for item in found)
            is_full = len(items) >= wanted or (len(items) > 1 and size > RANGE_PAGE_BYTES_MAX)
            if is_full or not answer.get("more"):
                return page_of(items, revision=revision, limit=limit)
            at = items[-1].key + "\0"

    async def revision(self) -> int:
        return _revision(await self._ask(_RANGE, etcd_json.revision_request()))

    async def _ask(self, path: str, *requests: Json) -> Json:
        if self._reads_alone and path == _RANGE:
            requests = tuple(etcd_json.alone(request) for request in requests)
        try:
            return await self._wire.ask(path, *requests)
        except Refused as e:
            raise error_of(e) from e

    # -- writes ------------------------------------------------------------------------------------------------------

    async def transact(self, transaction: Transaction) -> TransactionResult:
        check_transaction(transaction)
        try:
            answer = await self._wire.tell(_TRANSACTION, etcd_json.transaction_request(transaction))
        except Refused as e:
            if e.code == EtcdCode.NOT_FOUND:
                raise lease_lost(_lease_of(transaction)) from e
            raise error_of(e) from e
        return TransactionResult(bool(answer.get("succeeded")), _revision(answer))

    async def compact(self, revision: int) -> None:
        wanted = min(revision, await self.revision())
        if wanted <= FIRST_REVISION:
            return
        try:
            await self._wire.ask(_COMPACTION, {"revision": str(wanted)})
        except Refused as e:
            # Compacted further already: by another daemon, by etcd itself, or by an attempt without an answer.
            if e.code != EtcdCode.OUT_OF_RANGE:
                raise error_of(e) from e

    # -- leases ------------------------------------------------------------------------------------------------------

    async def grant(self, ttl: timedelta) -> LeaseId:
        seconds = math.ceil(max(ttl, LEASE_TTL_MIN).total_seconds())
        try:
            return LeaseId(number(await self._wire.tell(_GRANT, {"TTL": str(seconds)}), "ID"))
        except Refused as e:
            raise error_of(e) from e

    async def renew(self, lease: LeaseId) -> None:
        if number(await self._ask(_KEEPALIVE, {"ID": str(lease)}), "TTL") <= 0:
            raise lease_lost(lease)

    async def revoke(self, lease: LeaseId) -> None:
        try:
            await self._wire.ask(_REVOKE, {"ID": str(lease)})
        except Refused as e:
            if e.code != EtcdCode.NOT_FOUND:
                raise error_of(e) from e

    # -- watch -------------------------------------------------------------------------------------------------------

    async def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[WatchBatch]:
        messages = WatchMessages(from_revision=from_revision, sees_all=prefix == "")
        stream = await self._wire.stream(_WATCH, etcd_json.watch_request(prefix, from_revision=messages.asked_from))
        try:
            while True:
                try:
                    async with asyncio.timeout(WATCH_SILENCE_S):
                        message = await stream.next()
                except TimeoutError:
                    messages.note_silence(await self.revision())
                    continue
                self._identity.check_answer(message)
                for batch in messages.take(message):
                    yield batch
        finally:
            stream.close()

    async def close(self) -> None:
        """See ``Store.close``. Calls under way and watches end with StoreUnavailable."""
        await self._wire.close()


def _revision(answer: Json) -> int:
    return number(answer["header"], "revision")


def _lease_of(transaction: Transaction) -> LeaseId:
    """A lease that the transaction names; etcd does not say which of several has ended."""
    return next(
        operation.lease
        for operation in transaction.operations
        if isinstance(operation, PutKey) and operation.lease is not None
    )
