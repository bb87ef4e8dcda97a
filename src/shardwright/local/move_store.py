"""Moves the records of a stopped local cluster into another store. Called by ``shardwright cluster move-store``.

Owns what must hold before: the cluster's lock, so that no ``up`` starts it meanwhile, and no process of it runs.
``store/move.py`` copies. The cluster's own store stays as it is.
"""

import asyncio
import os
from pathlib import Path

from shardwright.errors import Refusal, Rejected
from shardwright.local.access import read_sealing, sealing_of, store_settings
from shardwright.local.layout import layout_of
from shardwright.local.lock import try_lock
from shardwright.local.stop import find_running
from shardwright.store.move import Copied, OnProgress, copy_store
from shardwright.store.open import open_store
from shardwright.store.settings import StoreSettings


async def move_store(directory: Path, target: StoreSettings, target_key: Path, on_progress: OnProgress) -> Copied:
    """Copy the records of the cluster in ``directory`` to ``target``, sealed with the keys in the file ``target_key``; if
    there is no such file, a cluster without a key is copied in clear. May be repeated after an interruption.

    Raises Rejected if there is no cluster, it is running or another command works on it, and as ``copy_store`` does.
    """
    layout = layout_of(directory)
    if not layout.store.exists():
        raise Rejected(Refusal.NOT_FOUND, "no_cluster", f"there is no cluster in {layout.directory}")
    lock = try_lock(layout.lock)
    if lock is None:
        text = f"the cluster in {layout.directory} is running, or another command works on it"
        raise Rejected(Refusal.CONFLICT, "busy", text, remedy="stop it first (`shardwright down`)")
    try:
        running = await asyncio.to_thread(find_running, layout)
        sealings = sealing_of(layout), read_sealing(target_key)
        source = await open_store(store_settings(layout))
        try:
            to = await open_store(target)
            try:
                return await copy_store(
                    source,
                    to,
                    on_progress,
                    source_sealing=sealings[0],
                    target_sealing=sealings[1],
                    is_source_running=not running.is_nothing,
                )
            finally:
                await to.close()
        finally:
            await source.close()
    finally:
        os.close(lock)
