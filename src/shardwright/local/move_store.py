"""Moves the records of a stopped local cluster from its SQLite file into an etcd. Called by
``shardwright cluster move-store``.

Owns what must hold before (the cluster's lock, so that no ``up`` starts it meanwhile, and no process of it runs) and the
order of the steps: copy, then ``store.json``, then the file's other name. ``store.json`` decides where the records are, so
an interruption at any instant leaves one store that counts, and a repetition continues. ``store/move.py`` copies.
"""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from shardwright.errors import Refusal, Rejected
from shardwright.local.access import (
    ensure_key,
    has_cluster,
    is_on_etcd,
    record_place,
    sealing_of,
    set_file_aside,
    store_settings,
)
from shardwright.local.layout import Layout, layout_of
from shardwright.local.stop import find_running
from shardwright.machine.lock import try_lock
from shardwright.store.move import Copied, OnProgress, copy_store
from shardwright.store.open import open_store
from shardwright.store.settings import EtcdSettings

__all__ = ["Copied", "Moved", "OnProgress", "move_store"]


@dataclass(frozen=True, slots=True)
class Moved:
    """The result of ``move_store``."""

    layout: Layout
    records: int | None
    """Records that were copied. None: an earlier run had copied all of them, and only its last step was missing."""


async def move_store(directory: Path, target: EtcdSettings, on_progress: OnProgress) -> Moved:
    """Move the records of the cluster in ``directory`` to ``target``, sealed under the cluster's key, which is created if
    there is none. May be repeated after an interruption.

    Raises Rejected if there is no cluster, it is running, another command works on it, it is on etcd already, and as
    ``copy_store`` does. Raises Permanent, StoreUnavailable, OSError: the cluster is where it was.
    """
    layout = layout_of(directory)
    if not has_cluster(layout):
        raise Rejected(Refusal.NOT_FOUND, "no_cluster", f"there is no cluster in {layout.directory}")
    lock = try_lock(layout.lock)
    if lock is None:
        text = f"the cluster in {layout.directory} is running, or another command works on it"
        raise Rejected(Refusal.CONFLICT, "busy", text, remedy="stop it first (`shardwright down`)")
    try:
        if is_on_etcd(layout):
            _finish(layout, target)
            return Moved(layout, None)
        copied = await _copy(layout, target, on_progress)
        record_place(layout, target)
        set_file_aside(layout)
        return Moved(layout, copied.records)
    finally:
        os.close(lock)


def _finish(layout: Layout, target: EtcdSettings) -> None:
    """Complete an interrupted run to the same etcd. Raises Rejected: there is none."""
    recorded = store_settings(layout)
    if recorded != target or not set_file_aside(layout):
        text = f"the records of the cluster in {layout.directory} are in etcd already ({layout.store_place} says where)"
        raise Rejected(Refusal.CONFLICT, "already_moved", text)


async def _copy(layout: Layout, target: EtcdSettings, on_progress: OnProgress) -> Copied:
    running = await asyncio.to_thread(find_running, layout)
    source = await open_store(store_settings(layout))
    try:
        to = await open_store(target)
        try:
            return await copy_store(
                source,
                to,
                on_progress,
                source_sealing=sealing_of(layout),
                target_sealing=ensure_key(layout),
                is_source_running=not running.is_nothing,
            )
        finally:
            await to.close()
    finally:
        await source.close()
