"""The store's protocol: get, range, transaction with compare, watch from a revision, lease. Modeled on etcd.

Owns the terms and limits that every backend keeps; one contract suite (``tests/contract``) checks each of them. Does not
know the stored records.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from shardwright.errors import ClusterError
from shardwright.model.ids import LeaseId

TRANSACTION_OPERATIONS_MAX = 128
"""Maximum number of compares, and of writes, in one transaction (etcd's ``--max-txn-ops``)."""
TRANSACTION_BYTES_MAX = 1024 * 1024
"""Total size of the keys and values of one transaction."""
RANGE_PAGE_BYTES_MAX = 2 * 1024 * 1024
"""A page ends before it exceeds this size (one item is always returned)."""
RANGE_PAGE_ITEMS_MAX = 1000
LEASE_TTL_MIN = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key with its value and its history."""

    key: str
    value: bytes
    create_revision: int
    modify_revision: int
    lease: LeaseId | None = None


@dataclass(frozen=True, slots=True)
class ModifiedAt:
    """Compare: the key was last changed at exactly this revision; 0 means it does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class CreatedAt:
    """Compare: the key was created at exactly this revision (and has existed since); 0 means it does not exist."""

    key: str
    revision: int


Compare = ModifiedAt | CreatedAt


@dataclass(frozen=True, slots=True)
class PutKey:
    """Create or replace. With ``lease`` the key disappears when the lease ends."""

    key: str
    value: bytes
    lease: LeaseId | None = None


@dataclass(frozen=True, slots=True)
class DeleteKey:
    """Delete; without effect if the key does not exist."""

    key: str


Operation = PutKey | DeleteKey


@dataclass(frozen=True, slots=True)
class Transaction:
    """If all compares hold, all operations happen, at one revision; otherwise none does. A key occurs in at most one
    operation."""

    compares: tuple[Compare, ...] = ()
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """``revision`` is the store's revision after the transaction (the transaction's own, if it succeeded and changed
    something)."""

    succeeded: bool
    revision: int


@dataclass(frozen=True, slots=True)
class RangePage:
    """Items in the order of their keys. ``next_start`` is the start of the next page; None: this was the last page. Each
    page is consistent and states its revision; pages of one range may have different revisions."""

    items: tuple[KeyValue, ...]
    revision: int
    next_start: str | None = None


@dataclass(frozen=True, slots=True)
class KeyChange:
    """``current`` is None if the key was deleted (by a transaction or with its lease)."""

    key: str
    current: KeyValue | None


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """All changes under the prefix at one revision. Batches come in the order of revisions, each once."""

    revision: int
    changes: tuple[KeyChange, ...]


class StoreError(ClusterError):
    """Base of the store's own errors."""


class StoreUnavailable(StoreError):
    """The store is unreachable or locked; the outcome of a transaction is unknown."""


class StoreFull(StoreUnavailable):
    """The store has no room. A transaction at that moment may have happened nevertheless."""


class StoreReplaced(StoreError):
    """Another store answers than before: restored from a copy, or another one. What is known of the store is wrong, so its
    user must end or open it again."""


class TooLarge(StoreError):
    """A limit above is exceeded; nothing happened."""


class LeaseLost(StoreError):
    """The lease does not exist (any longer); nothing happened."""


class Compacted(StoreError):
    """A watch asked for a revision that is no longer kept: read everything again."""


class Store(Protocol):
    """A key-value store with etcd's guarantees. Safe for concurrent use by tasks of one event loop."""

    async def get(self, key: str) -> KeyValue | None:
        """The current value. Linearizable: it reflects every transaction that ended before the call. Raises
        StoreUnavailable."""
        ...

    async def range(self, prefix: str, *, start: str | None = None, limit: int = RANGE_PAGE_ITEMS_MAX) -> RangePage:
        """Keys that begin with ``prefix``, from ``start`` (inclusive) on. Raises StoreUnavailable."""
        ...

    async def revision(self) -> int:
        """The current revision. Linearizable. Raises StoreUnavailable."""
        ...

    async def transact(self, transaction: Transaction) -> TransactionResult:
        """Execute a transaction. Raises TooLarge, LeaseLost (an operation names an ended lease), StoreUnavailable."""
        ...

    def watch(self, prefix: str, *, from_revision: int) -> AsyncIterator[WatchBatch]:
        """Changes from ``from_revision`` (inclusive) on, then live, without end. Raises Compacted, StoreUnavailable."""
        ...

    async def grant(self, ttl: timedelta) -> LeaseId:
        """A new lease of at least LEASE_TTL_MIN (shorter ones are lengthened)."""
        ...

    async def renew(self, lease: LeaseId) -> None:
        """Restart the lease's time. Raises LeaseLost, StoreUnavailable."""
        ...

    async def revoke(self, lease: LeaseId) -> None:
        """End a lease now and delete its keys; without effect if it has already ended."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget the history before ``revision``. Current values stay."""
        ...

    async def close(self) -> None:
        """Close files and connections; leases expire by themselves."""
        ...
