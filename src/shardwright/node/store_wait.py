"""The daemon's wait for the store, the foundation of the cluster on its first machine, and what follows a restore.

After a restore, the first daemon writes the records into the new store, and each daemon says what runs on its machine
(``survey.py``). Called before the composition starts. Must not start, stop or change anything of the node: what should run
here is known from the store's records only.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from shardwright.backup_files import load_backup
from shardwright.errors import ClusterError, Permanent, Rejected, Transient
from shardwright.machine.files import sync_directory
from shardwright.model.codes import Code
from shardwright.node.daemon_settings import founding_file, restoring_file
from shardwright.node.founding_file import StoreAnswer, found_cluster
from shardwright.node.known_store import forget_learned, known_store
from shardwright.node.missing_keys import fetch_missing_keys
from shardwright.node.recorded import record_key
from shardwright.node.settings import NodeSettings
from shardwright.node.survey import survey
from shardwright.store import keys
from shardwright.store.admission import check_cluster, check_store
from shardwright.store.move import Copied
from shardwright.store.open import open_store
from shardwright.store.protocol import Store, StoreError, StoreReplaced
from shardwright.store.restore import Filled, fill_store
from shardwright.store.seal import Sealing
from shardwright.store.settings import EtcdSettings

AGAIN_S = 0.5
"""Pause before another attempt to reach the store."""
REMIND_EVERY_S = 30.0
"""A reason that stays is logged again after this time."""

Say = Callable[[str], None]

_log = structlog.get_logger(__name__)


async def wait_for_store(settings: NodeSettings, sealing: Sealing, *, say: Say) -> EtcdSettings:
    """Return when the store contains the cluster and this node's record. ``say``: tells the operator what is waited for.
    Returns how the store was reached.

    Raises Permanent if the daemon must not work on this store: another cluster than the one founded here, a newer version, a
    missing key."""
    loop = asyncio.get_running_loop()
    told, told_at = "", 0.0
    while True:
        place = await asyncio.to_thread(known_store, settings)
        try:
            await _look(settings, sealing, place)
            if told:
                _log.info("the store answers")
            return place
        except (StoreError, Transient, _NotYet) as e:
            if e.text != told or loop.time() - told_at >= REMIND_EVERY_S:
                told, told_at = e.text, loop.time()
                _log.warning("the daemon waits for the store", code=e.code, reason=e.text, remedy=e.code.remedy)
                say(f"waits for the store: {e.text}")
            if isinstance(e, StoreReplaced) and place.cluster_id:
                await _forget(settings)
        await asyncio.sleep(AGAIN_S)


class _NotYet(ClusterError):
    """The store answers, but this node has no place in it yet, or any more."""


async def _forget(settings: NodeSettings) -> None:
    """Another etcd answers than the one whose members were learned: it was restored from a copy, for example. They are not
    believed any more; only what the settings say counts, as at the first start."""
    try:
        await asyncio.to_thread(forget_learned, settings)
    except OSError as e:
        _log.warning("what was learned of the store's members cannot be removed", path=e.filename, reason=e.strerror)
    else:
        _log.warning("what was learned of the store's members is forgotten: another etcd answers there")


async def _look(settings: NodeSettings, sealing: Sealing, place: EtcdSettings) -> None:
    store = await open_store(place)
    try:
        await _found(settings, store)
        await _restore(settings, sealing, store)
        await check_cluster(store)
        if await store.get(keys.CLUSTER) is None:
            raise _NotYet(Code.NODE_NOT_RECORDED, "the store contains no cluster")
        if await store.get(record_key(settings.node_uid)) is None:
            raise _NotYet(Code.NODE_NOT_RECORDED, f"the cluster has no record of node {settings.node_uid}")
        await fetch_missing_keys(settings, sealing, store)
        await check_store(store, sealing)
        await survey(store, settings.node_uid, settings.directories.shards)
    finally:
        await store.close()


async def _found(settings: NodeSettings, store: Store) -> None:
    path = founding_file(settings.directories)
    try:
        outcome = await found_cluster(path, store)
    except OSError as e:
        raise Permanent(Code.FOUNDING_FILE_UNUSABLE, f"{path}: {e.strerror}") from e
    match outcome:
        case None:
            pass
        case StoreAnswer.COMMITTED:
            _log.info("the cluster was founded")
        case StoreAnswer.WAS_COMMITTED:
            _log.info("the cluster had been founded by an earlier start")


async def _restore(settings: NodeSettings, sealing: Sealing, store: Store) -> None:
    """Write the records that ``cluster restore`` has left, if it has, and delete its file afterwards."""
    path = restoring_file(settings.directories)
    if not await asyncio.to_thread(path.exists):
        return

    def say(copied: Copied) -> None:
        _log.info("restoring the records", written=copied.records, of=copied.records_total)

    try:
        backup = await asyncio.to_thread(load_backup, path)
        outcome = await fill_store(store, backup, sealing, say)
        await asyncio.to_thread(_delete, path)
    except Rejected as e:
        raise Permanent(Code.RESTORE_FILE_UNUSABLE, e.text) from e
    except OSError as e:
        raise Permanent(Code.RESTORE_FILE_UNUSABLE, f"{path}: {e.strerror}") from e
    _log.warning("the cluster's records were restored", earlier=outcome is Filled.BEFORE, backup_at=str(backup.header.at))


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync_directory(path.parent)
