"""The limits of ``protocol.py`` as functions, so that every backend refuses the same transactions with the same text.

Called by the backends only. Must do no I/O.
"""

from collections.abc import Iterable

from shardwright.errors import ClusterError
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store.protocol import (
    RANGE_PAGE_BYTES_MAX,
    RANGE_PAGE_ITEMS_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    KeyValue,
    LeaseLost,
    PutKey,
    RangePage,
    TooLarge,
    Transaction,
)

HISTORY_REVISIONS_MAX = 10_000
"""Revisions kept for watchers. A watcher further behind reads everything again, which is then cheaper than catching up."""

FIRST_REVISION = 1
"""Revision of an empty store, as in etcd."""

_LAST_CHARACTER = "\U0010ffff"


def check_transaction(transaction: Transaction) -> None:
    """Raises TooLarge; AssertionError if a key occurs in two operations (a bug of the caller)."""
    compares, operations = transaction.compares, transaction.operations
    if max(len(compares), len(operations)) > TRANSACTION_OPERATIONS_MAX:
        raise TooLarge(
            Code.STORE_TRANSACTION_TOO_LARGE,
            f"{len(compares)} compares and {len(operations)} operations; the limit is {TRANSACTION_OPERATIONS_MAX} of each",
        )
    size = sum(len(part.key.encode()) for part in (*compares, *operations))
    size += sum(len(operation.value) for operation in operations if isinstance(operation, PutKey))
    if size > TRANSACTION_BYTES_MAX:
        raise TooLarge(
            Code.STORE_TRANSACTION_TOO_LARGE,
            f"the transaction has {size} bytes; the limit is {TRANSACTION_BYTES_MAX}",
        )
    if len({operation.key for operation in operations}) != len(operations):
        raise AssertionError("a key occurs in two operations of one transaction")


def check_version(what: str, found: int, supported: int, error: type[ClusterError]) -> None:
    """Refuse what a newer version of Shardwright wrote: the tables of a store's file, or a cluster's records. Raises
    ``error``. ``what`` is the beginning of its sentence."""
    if found > supported:
        text = (
            f"{what} version {found}; this version of Shardwright supports {supported}: {Code.STORE_SCHEMA_TOO_NEW.remedy}"
        )
        raise error(Code.STORE_SCHEMA_TOO_NEW, text)


def page_of(items: Iterable[KeyValue], *, revision: int, limit: int) -> RangePage:
    """The first page of ``items`` (in the order of their keys); reads at most one item more than it returns."""
    taken: list[KeyValue] = []
    size = 0
    for item in items:
        size += len(item.key.encode()) + len(item.value)
        if len(taken) >= min(max(limit, 1), RANGE_PAGE_ITEMS_MAX) or (taken and size > RANGE_PAGE_BYTES_MAX):
            return RangePage(tuple(taken), revision, next_start=item.key)
        taken.append(item)
    return RangePage(tuple(taken), revision)


def prefix_end(prefix: str) -> str | None:
    """The smallest text greater than every text with this prefix; None if there is none."""
    head = prefix.rstrip(_LAST_CHARACTER)
    if not head:
        return None
    following = ord(head[-1]) + 1
    # Surrogates are not characters and cannot be encoded.
    return head[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)


def lease_lost(lease: LeaseId) -> LeaseLost:
    """The error for a lease that has ended or never existed."""
    return LeaseLost(Code.STORE_LEASE_LOST, f"lease {lease} has ended")
