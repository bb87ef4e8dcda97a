"""Writes the records of a restore into the new, empty store. Called by the first daemon that runs after ``cluster restore``.

May be interrupted at any instant and repeated: ``move.py`` marks the store as incomplete until the last transaction. A store
with other records is left as it is.
"""

from enum import StrEnum

from shardwright.clock import SystemClock
from shardwright.errors import Permanent, Rejected
from shardwright.model.cluster import Restored
from shardwright.model.codes import Code
from shardwright.store import keys, records
from shardwright.store.backup import Backup
from shardwright.store.memory import MemoryStore
from shardwright.store.move import OnProgress, batches, copy_store
from shardwright.store.protocol import PutKey, Store, Transaction
from shardwright.store.seal import Sealing


class Filled(StrEnum):
    """What the store said."""

    NOW = "now"
    BEFORE = "before"
    """An earlier attempt had written all of it."""


async def fill_store(store: Store, backup: Backup, sealing: Sealing, on_progress: OnProgress) -> Filled:
    """Write all records, once. ``backup``: of ``raising.py``, sealed with ``sealing``. Raises Permanent
    ``restore_file_unusable`` if it comes from no restore or the store has a cluster already, StoreUnavailable."""
    wanted = backup.items.get(keys.RESTORED)
    if wanted is None:
        raise Permanent(Code.RESTORE_FILE_UNUSABLE, "the records to restore do not come from a restore")
    found = await store.get(keys.RESTORED)
    if await store.get(keys.CLUSTER) is not None:
        if found is not None and _uid_in(found.value) == _uid_in(wanted):
            return Filled.BEFORE
        text = "the store has a cluster's records already, and not those that were to be restored"
        raise Permanent(Code.RESTORE_FILE_UNUSABLE, text)
    source = MemoryStore(SystemClock())
    try:
        for batch in batches([PutKey(key, value) for key, value in backup.items.items()], reserved_bytes=0):
            await source.transact(Transaction((), batch))
        await copy_store(source, store, on_progress, source_sealing=sealing, target_sealing=sealing, is_source_running=False)
    except Rejected as e:
        raise Permanent(Code.RESTORE_FILE_UNUSABLE, e.text) from e
    finally:
        await source.close()
    return Filled.NOW


def _uid_in(value: bytes) -> str:
    record = records.decode(keys.RESTORED, value)
    return record.uid if isinstance(record, Restored) else ""
