"""Whether a daemon may work on what a store holds. Called before a daemon starts, and by its mirror at every change.

A daemon that cannot understand all records must decide nothing: to it, a record that it cannot read does not exist. So it
refuses a store of a newer version, an incomplete copy, and values that are sealed with a key that it does not have. A single
damaged record is no reason to stop: ``mirror.py`` skips it.
"""

from collections.abc import AsyncIterator

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import KeyUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.bounds import check_version
from shardwright.store.protocol import KeyValue, Store
from shardwright.store.seal import IN_CLEAR, SEALED, Sealing, uid_in


def check_item(item: KeyValue, sealing: Sealing) -> None:
    """Raises Permanent if a daemon with this sealing must not work on a store with this item."""
    if item.key == keys.CLUSTER:
        check_version("the cluster has", records.cluster_version_of(item.value), CLUSTER_VERSION, Permanent)
    elif item.key == keys.INCOMPLETE_COPY:
        code = Code.STORE_INCOMPLETE
        raise Permanent(code, f"the records of {item.value.decode(errors='replace')} were copied in part: {code.remedy}")
    else:
        sealing.check_key(item.key, item.value)


async def check_cluster(store: Store) -> None:
    """The same for what says of which version the store is, and whether it is complete. Raises Permanent,
    StoreUnavailable."""
    for key in (keys.CLUSTER, keys.INCOMPLETE_COPY):
        if (found := await store.get(key)) is not None:
            check_item(found, IN_CLEAR)


async def check_store(store: Store, sealing: Sealing) -> None:
    """The same for the whole store. Raises Permanent, StoreUnavailable."""
    await check_cluster(store)
    async for item in _secrets(store):
        check_item(item, sealing)


async def missing_keys(store: Store, sealing: Sealing) -> tuple[KeyUid, ...]:
    """The uids of the cluster keys that the store's values need and that are not among these. Raises StoreUnavailable."""
    found = {uid_in(item.value) async for item in _secrets(store)}
    return tuple(sorted(uid for uid in found if uid is not None and uid not in sealing.uids))


async def _secrets(store: Store) -> AsyncIterator[KeyValue]:
    for prefix in SEALED:
        start: str | None = prefix
        while start is not None:
            page = await store.range(prefix, start=start)
            for item in page.items:
                yield item
            start = page.next_start
