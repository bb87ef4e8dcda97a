"""Deletes a purged cluster's records from its etcd. Called by ``down``; no process of the cluster runs.

Deletes nothing of another cluster: secrets that the cluster's key does not open show that the etcd is another's.
"""

from shardwright.errors import Permanent
from shardwright.local.access import is_on_etcd, sealing_of, store_settings
from shardwright.local.layout import Layout
from shardwright.store import keys
from shardwright.store.admission import check_store
from shardwright.store.open import open_store
from shardwright.store.protocol import TRANSACTION_OPERATIONS_MAX, DeleteKey, Store, StoreError, Transaction


async def erase_records(layout: Layout) -> str:
    """Delete all records of a cluster on etcd; nothing happens to a cluster on a file. Returns why some may be left; empty:
    none is. May be repeated."""
    if not is_on_etcd(layout):
        return ""
    try:
        store = await open_store(store_settings(layout))
        try:
            await check_store(store, sealing_of(layout))
            await erase(store)
        finally:
            await store.close()
    except (StoreError, Permanent) as e:
        return e.text
    return ""


async def erase(store: Store) -> None:
    """Delete all records. Raises StoreError."""
    # First: no daemon starts on what is left if this is interrupted.
    await store.transact(Transaction((), (DeleteKey(keys.CLUSTER),)))
    while True:
        page = await store.range("", limit=TRANSACTION_OPERATIONS_MAX)
        if not page.items:
            return
        await store.transact(Transaction((), tuple(DeleteKey(item.key) for item in page.items)))
