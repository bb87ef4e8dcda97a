"""Copies all records of a stopped cluster into another store, in batches; called by ``local/move_store.py``.

May be interrupted at any instant and repeated. The target has the key ``incomplete_copy`` from the first write on, and gets
the cluster's record, without which no daemon starts, in the transaction that deletes that key. Until then the target is
never taken for a cluster, and a repetition continues. The source is only read.

What belongs to a lease is not copied: it says what runs, and nothing does. Secrets are opened with the source's key and
sealed with the target's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.model.cluster import Cluster
from shardwright.model.codes import Code
from shardwright.model.version import Feature, may_write
from shardwright.store import keys, records
from shardwright.store.admission import check_item
from shardwright.store.protocol import (
    TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX,
    DeleteKey,
    KeyValue,
    ModifiedAt,
    Operation,
    PutKey,
    Store,
    Transaction,
)
from shardwright.store.seal import Sealing, is_as_wanted

NAMED_MAX = 5
"""Keys named in one error."""


@dataclass(frozen=True, slots=True)
class Copied:
    """How far a copy is. A repetition begins with what the target already holds."""

    records: int
    records_total: int


OnProgress = Callable[[Copied], None]


async def copy_store(
    source: Store,
    target: Store,
    on_progress: OnProgress,
    *,
    source_sealing: Sealing,
    target_sealing: Sealing,
    is_source_running: bool,
) -> Copied:
    """Copy everything, compare both stores, and make the target complete. A copy that is complete already is only compared.

    Raises Rejected: the source is running, is no cluster, or has secrets that the target would have in clear; the target
    holds something else; another process writes to it. Raises Permanent: the source is itself incomplete or of a newer
    version, a secret in it cannot be opened, or the stores differ after the copy, because something else wrote to one of
    them. Raises StoreUnavailable, TooLarge. Whatever it raises, the target is unchanged or marked as incomplete, and a
    repetition continues.
    """
    if is_source_running:
        raise Rejected(Refusal.CONFLICT, "cluster_running", "the cluster is running", remedy="stop it first")
    wanted = await _readable(source, source_sealing)
    cluster = _cluster_in(wanted)
    _check_keys(cluster, source_sealing, target_sealing)
    name = f"{cluster.name}, created at {cluster.created_at.isoformat()}"
    total = len(wanted)
    held = await _items(target)
    marker = held.pop(keys.INCOMPLETE_COPY, None)
    if marker is None and held:
        if differences(wanted, held, target_sealing):
            text = "the target store is not empty"
            raise Rejected(Refusal.CONFLICT, "target_not_empty", text, remedy="name an empty store")
        return Copied(total, total)
    fence = await _mark(target, marker, name)
    last = wanted.pop(keys.CLUSTER)
    missing = differences(wanted, held, target_sealing)
    copied = total - 1 - sum(isinstance(operation, PutKey) for operation in missing)
    on_progress(Copied(copied, total))
    for batch in batches(missing, reserved_bytes=len(fence.key)):
        await _write(target, fence, batch)
        copied += sum(isinstance(operation, PutKey) for operation in batch)
        on_progress(Copied(copied, total))
    await _compare(source, target, wanted | {keys.CLUSTER: last}, source_sealing, target_sealing)
    await _write(target, fence, (PutKey(keys.CLUSTER, last), DeleteKey(keys.INCOMPLETE_COPY)))
    on_progress(Copied(total, total))
    return Copied(total, total)


# -- decisions -------------------------------------------------------------------------------------------------------------


def differences(wanted: Mapping[str, bytes], held: Mapping[str, KeyValue], sealing: Sealing) -> list[Operation]:
    """The operations that make the held items the wanted ones, which are in clear, in the order of their keys. A value that
    is sealed with another key than ``sealing`` uses, or that should be sealed and is not, is written again."""
    puts = [
        PutKey(key, sealing.seal(key, value))
        for key, value in wanted.items()
        if key not in held or not _is_the_same(held[key], value, sealing)
    ]
    deletes = [DeleteKey(key) for key in held if key not in wanted]
    return sorted([*puts, *deletes], key=lambda operation: operation.key)


def _is_the_same(item: KeyValue, value: bytes, sealing: Sealing) -> bool:
    if item.lease is not None or not is_as_wanted(item.key, item.value, sealing.uid):
        return False
    try:
        return sealing.open(item.key, item.value) == value
    except Permanent:
        return False


def batches(operations: Sequence[Operation], *, reserved_bytes: int) -> Iterator[tuple[Operation, ...]]:
    """The operations in transactions within the store's limits. ``reserved_bytes``: the size of their compares. An operation
    that alone exceeds the limit comes alone: the store refuses it."""
    batch: list[Operation] = []
    size = 0
    for operation in operations:
        added = len(operation.key.encode()) + (len(operation.value) if isinstance(operation, PutKey) else 0)
        is_full = len(batch) >= TRANSACTION_OPERATIONS_MAX or size + added + reserved_bytes > TRANSACTION_BYTES_MAX
        if batch and is_full:
            yield tuple(batch)
            batch, size = [], 0
        batch.append(operation)
        size += added
    if batch:
        yield tuple(batch)


def _cluster_in(wanted: Mapping[str, bytes]) -> Cluster:
    value = wanted.get(keys.CLUSTER)
    cluster = None if value is None else records.decode(keys.CLUSTER, value)
    if not isinstance(cluster, Cluster):
        raise Rejected(Refusal.NOT_FOUND, "no_cluster", "the source store contains no cluster")
    return cluster


def _check_keys(cluster: Cluster, source: Sealing, target: Sealing) -> None:
    if source.uid is not None and target.uid is None:
        text = "the source's secrets are sealed, and the target has no cluster key"
        raise Rejected(Refusal.CONFLICT, "target_without_key", text, remedy="name a key file for the target")
    if target.uid is not None and not may_write(Feature.SEALED_VALUES, cluster.cluster_version):
        text = f"the records are of cluster version {cluster.cluster_version}, in which secrets cannot be sealed"
        raise Rejected(
            Refusal.CONFLICT,
            "cluster_version_too_old",
            text,
            remedy="start the cluster with this version once, then stop it",
        )


# -- the stores ------------------------------------------------------------------------------------------------------------


async def _items(store: Store) -> dict[str, KeyValue]:
    found: dict[str, KeyValue] = {}
    start: str | None = ""
    while start is not None:
        page = await store.range("", start=start)
        found |= {item.key: item for item in page.items}
        start = page.next_start
    return found


async def _readable(source: Store, sealing: Sealing) -> dict[str, bytes]:
    """The values to copy, in clear."""
    found = [item for item in (await _items(source)).values() if item.lease is None]
    for item in found:
        check_item(item, sealing)
    return {item.key: sealing.open(item.key, item.value) for item in found}


async def _mark(target: Store, marker: KeyValue | None, name: str) -> ModifiedAt:
    """Begin or continue: from now on, only this copy writes. Returns the compare that says so."""
    if marker is not None and marker.value != name.encode():
        other = marker.value.decode(errors="replace")
        text = f"the target store holds an incomplete copy of another cluster: {other}"
        raise Rejected(Refusal.CONFLICT, "target_not_empty", text, remedy="name an empty store")
    compares = [
        ModifiedAt(keys.INCOMPLETE_COPY, 0 if marker is None else marker.modify_revision),
        ModifiedAt(keys.CLUSTER, 0),
    ]
    put = PutKey(keys.INCOMPLETE_COPY, name.encode())
    result = await target.transact(Transaction(tuple(compares), (put,)))
    if not result.succeeded:
        raise _interfered()
    return ModifiedAt(keys.INCOMPLETE_COPY, result.revision)


async def _write(target: Store, fence: ModifiedAt, operations: Sequence[Operation]) -> None:
    if not (await target.transact(Transaction((fence,), tuple(operations)))).succeeded:
        raise _interfered()


def _interfered() -> Rejected:
    text = "another process writes to the target store"
    return Rejected(Refusal.CONFLICT, "busy", text, remedy="end it, then copy again")


async def _compare(
    source: Store, target: Store, copied: Mapping[str, bytes], source_sealing: Sealing, target_sealing: Sealing
) -> None:
    """Read both stores again. Raises Permanent if the source has changed, or if the target is not what was read first."""
    changed = _differing(copied, await _readable(source, source_sealing))
    if changed:
        raise Permanent(Code.STORE_COPY_DIFFERS, f"the source changed during the copy: {_named(changed)}")
    held = await _items(target)
    held.pop(keys.INCOMPLETE_COPY, None)
    wanted = {key: value for key, value in copied.items() if key != keys.CLUSTER}
    wrong = [operation.key for operation in differences(wanted, held, target_sealing)]
    if wrong:
        raise Permanent(Code.STORE_COPY_DIFFERS, f"the target does not hold what was written: {_named(wrong)}")


def _differing(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))


def _named(found: Sequence[str]) -> str:
    more = len(found) - NAMED_MAX
    return ", ".join(found[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
