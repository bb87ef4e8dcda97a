"""``cluster backup`` and ``cluster backups``: a backup of the cluster's state now, and those that are on this machine.

Reads the store with the node's own certificate, without the API and without a leader. Changes nothing but the files.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

from shardwright.backup_files import Kept, list_backups, load_backup, write_backup
from shardwright.errors import Rejected
from shardwright.machine.files import write_private
from shardwright.node import files
from shardwright.node.etcd_config import client_url
from shardwright.node.known_store import known_store
from shardwright.node.settings import NodeSettings
from shardwright.store.backup import Backup, Header, backup_of, content_of
from shardwright.store.open import open_store
from shardwright.store.protocol import Compacted
from shardwright.store.settings import EtcdSettings
from shardwright.store.whole import read_whole

ATTEMPTS: Final = 3
"""Of reading: while it is read, the store may forget the history that connects its pages."""


@dataclass(frozen=True, slots=True)
class WrittenBackup:
    """A backup that was written."""

    path: Path
    header: Header
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A backup on this machine."""

    path: Path
    size_bytes: int
    header: Header | None
    """None: this version cannot read it."""
    flaw: str
    """Why it cannot be restored; empty: its form is right."""


def back_up(settings: NodeSettings, to: Path | None, *, now: datetime, alone: bool = False) -> WrittenBackup:
    """Write a backup of the cluster's state. ``to`` None: among the daemon's own. ``alone``: from this node's member of the
    store, which needs no quorum for that. Raises Rejected, Permanent, StoreUnavailable, OSError."""
    backup = asyncio.run(_read(_place(settings, alone=alone), settings, now))
    if to is not None:
        write_private(to, content_of(backup))
        return WrittenBackup(to, backup.header, to.stat().st_size)
    directory = settings.directories.backups
    path = write_backup(directory, backup)
    files.hand_over([directory, path], files.service_owner())
    return WrittenBackup(path, backup.header, path.stat().st_size)


def backups_of(settings: NodeSettings) -> list[Listed]:
    """Those in the directory of the daemon's backups, the oldest first, each checked as a whole. Raises OSError."""
    return [_listed(kept) for kept in list_backups(settings.directories.backups)]


def _listed(kept: Kept) -> Listed:
    flaw = ""
    try:
        load_backup(kept.path)
    except Rejected as e:
        flaw = e.code
    return Listed(kept.path, kept.size_bytes, kept.header, flaw)


def _place(settings: NodeSettings, *, alone: bool) -> EtcdSettings:
    known = known_store(settings)
    if not alone:
        return known
    own = client_url(settings.address, settings.ports.store_clients)
    return replace(known, endpoints=(own,), cluster_id="", reads_alone=True)


async def _read(place: EtcdSettings, settings: NodeSettings, now: datetime) -> Backup:
    store = await open_store(place)
    try:
        for attempt in range(ATTEMPTS):
            try:
                whole = await read_whole(store)
                break
            except Compacted:
                if attempt + 1 == ATTEMPTS:
                    raise
    finally:
        await store.close()
    return backup_of(whole.items.values(), revision=whole.revision, node_uid=settings.node_uid, at=now)
