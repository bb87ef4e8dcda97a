"""Turns a decision's writes into one transaction that succeeds only if none of its premises has changed.

Used by the leader (with its fence) and by the API (without). Decides nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shardwright.errors import LostLeadership, Transient
from shardwright.model.codes import Code
from shardwright.model.event import Event
from shardwright.model.version import Feature, fields_too_new, may_write
from shardwright.model.view import Delete, Put, Write
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import (
    Compare,
    CreatedAt,
    DeleteKey,
    ModifiedAt,
    Operation,
    PutKey,
    Store,
    StoreUnavailable,
    Transaction,
)
from shardwright.store.seal import must_be_sealed

MIRROR_TIMEOUT_S = 5.0
"""Time limit for a mirror to show a commit; a longer delay means that the store has become unreachable."""


@dataclass(frozen=True, slots=True)
class Fence:
    """One leadership: the revision at which its ``leader`` key was created. Key and leadership have the same lifetime."""

    revision_created: int


class Conflict(Transient):
    """Another writer changed one of the records first; nothing happened. Decide again from the present state."""


NOTHING_MORE = Transaction()


async def commit(
    store: Store,
    mirror: Mirror,
    writes: Sequence[Write],
    *,
    fence: Fence | None,
    random_text: Callable[[], str],
    extra: Transaction = NOTHING_MORE,
    view_revision: int | None = None,
) -> int:
    """Write all of it, or nothing. Returns the revision once the mirror shows it.

    Every record must be unchanged since the mirror's state at the time of the call. Call it without an await after taking
    the view, or give ``view_revision``: then a record that has changed in the mirror since is a conflict too. The last of
    several writes of one record counts. ``extra`` adds compares and operations (locks, names, ports).

    Raises Conflict, LostLeadership, TooLarge, LeaseLost, StoreUnavailable (then the outcome is unknown), Transient
    ``cluster_key_awaited``.
    """
    operations, compares = _parts(mirror, writes, random_text=random_text, view_revision=view_revision)
    operations += extra.operations
    compares += extra.compares
    if fence is not None:
        compares.append(CreatedAt(keys.LEADER, fence.revision_created))
    if not operations and not compares:
        return mirror.revision
    result = await store.transact(Transaction(tuple(compares), tuple(operations)))
    if not result.succeeded and fence is not None:
        leader = await store.get(keys.LEADER)
        if leader is None or leader.create_revision != fence.revision_created:
            raise LostLeadership
    try:
        # Also after a conflict: the next decision must see the change that caused it.
        async with asyncio.timeout(MIRROR_TIMEOUT_S):
            await mirror.reach(result.revision)
    except TimeoutError as e:
        raise StoreUnavailable(Code.STORE_BEHIND, f"the mirror has not reached revision {result.revision}") from e
    if not result.succeeded:
        raise Conflict(Code.CONFLICT, "another writer changed one of these records first: " + _names(compares))
    return result.revision


def _parts(
    mirror: Mirror, writes: Sequence[Write], *, random_text: Callable[[], str], view_revision: int | None
) -> tuple[list[Operation], list[Compare]]:
    operations: dict[str, Operation] = {}
    compares: dict[str, Compare] = {}
    for write in writes:
        record = write.record
        if isinstance(record, Event):
            if isinstance(write, Put):
                key = keys.event_key(record, random_text())
                operations[key] = PutKey(key, records.encode(record))
            continue
        key = keys.key_of(record)
        if view_revision is not None and mirror.touched_at(key) > view_revision:
            raise Conflict(Code.CONFLICT, f"another writer changed {key} since it was read")
        compares[key] = _unchanged(key, mirror)
        match write:
            case Put():
                operations[key] = PutKey(key, _value(key, record, mirror))
                if must_be_sealed(key):
                    # While the cluster key is changed: a writer that was frozen meanwhile must not seal with the old one.
                    compares.setdefault(keys.KEY_ROTATION, _unchanged(keys.KEY_ROTATION, mirror))
            case Delete():
                operations[key] = DeleteKey(key)
    return list(operations.values()), list(compares.values())


def _unchanged(key: str, mirror: Mirror) -> Compare:
    return ModifiedAt(key, mirror.modified_at(key))


def _value(key: str, record: StoredRecord, mirror: Mirror) -> bytes:
    version = mirror.cluster_version
    if too_new := fields_too_new(record, version):
        raise AssertionError(f"{', '.join(too_new)} of {key} must not be written at cluster version {version}")
    value = records.encode(record)
    return mirror.sealing.seal(key, value, mirror.sealing_uid) if may_write(Feature.SEALED_VALUES, version) else value


def _names(compares: Sequence[Compare]) -> str:
    return ", ".join(compare.key for compare in compares)
