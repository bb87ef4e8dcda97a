"""How the processes of a local cluster get at its records: the settings of its store, and the cluster key that opens them.

The only module of ``local/`` that knows which kind of store a local cluster has: an etcd if ``store.json`` exists, else the
file ``store.db``. The key file is created with the cluster; a cluster without one has its records in clear.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.key_file import ensure_sealing, read_sealing
from shardwright.local.layout import Layout
from shardwright.machine.files import sync_directory, write_private
from shardwright.model.codes import Code
from shardwright.store.seal import Sealing
from shardwright.store.settings import EtcdSettings, SqliteSettings, StoreSettings

_SQLITE_FILES = ("", "-wal", "-shm")
"""Ends of the names of a SQLite store's files; the first is the one that counts."""


def store_settings(layout: Layout) -> StoreSettings:
    """The settings of the cluster's store. Raises Permanent if they are recorded and cannot be used."""
    recorded = _recorded_place(layout)
    return recorded if recorded is not None else SqliteSettings(layout.store)


def is_on_etcd(layout: Layout) -> bool:
    """Whether the cluster's records are in etcd."""
    return layout.store_place.exists()


def has_cluster(layout: Layout) -> bool:
    """Whether the directory has a store. It may still lack the cluster's record."""
    return is_on_etcd(layout) or layout.store.exists()


def etcd_settings(endpoints: Sequence[str], ca: Path | None, cert: Path | None, key: Path | None) -> EtcdSettings:
    """Settings from a user's options; paths become absolute. Raises Rejected if they cannot be used."""
    ca, cert, key = (None if path is None else Path(os.path.abspath(path.expanduser())) for path in (ca, cert, key))
    settings = EtcdSettings(tuple(endpoints), ca, cert, key)
    try:
        settings.parsed()
    except ValueError as e:
        raise Rejected(Refusal.INVALID, "invalid_option", f"the etcd cannot be used: {e}") from None
    for name, path in (("--ca", ca), ("--cert", cert), ("--key", key)):
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            raise Rejected(Refusal.INVALID, "invalid_option", f"{name} {path} is not a file that you can read")
    return settings


def record_place(layout: Layout, settings: EtcdSettings) -> None:
    """From now on, the cluster's records are in this etcd. Raises OSError."""
    paths = {"ca": settings.ca, "cert": settings.cert, "key": settings.key}
    place = {"endpoints": list(settings.endpoints), **{name: path and str(path) for name, path in paths.items()}}
    write_private(layout.store_place, (json.dumps(place, indent=2) + "\n").encode())


def _recorded_place(layout: Layout) -> EtcdSettings | None:
    """The recorded etcd; None if none is recorded."""
    path = layout.store_place
    try:
        place = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise _unusable(path, f"it cannot be read: {e.strerror}") from None
    except ValueError:
        raise _unusable(path, "it is not JSON") from None
    if not isinstance(place, dict) or not _are_texts(place.get("endpoints")):
        raise _unusable(path, "it must be an object with a list of endpoints")
    files = [place.get(name) for name in ("ca", "cert", "key")]
    if not all(file is None or (isinstance(file, str) and file) for file in files):
        raise _unusable(path, "ca, cert and key must be paths or null")
    ca, cert, key = (None if file is None else Path(file) for file in files)
    settings = EtcdSettings(tuple(place["endpoints"]), ca, cert, key)
    try:
        settings.parsed()
    except ValueError as e:
        raise _unusable(path, str(e)) from None
    return settings


def _are_texts(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(text, str) for text in found)


def _unusable(path: Path, reason: str) -> Permanent:
    return Permanent(
        Code.STORE_SETTINGS_INVALID, f"{path} says where the cluster's records are and cannot be used: {reason}"
    )


def set_file_aside(layout: Layout) -> bool:
    """Rename the SQLite store of a cluster whose records are in etcd, so that nothing starts on it again. May be repeated
    after an interruption. Returns whether there was one. Raises OSError."""
    if not is_on_etcd(layout):
        return False
    found = [end for end in _SQLITE_FILES if _beside(layout.store, end).exists()]
    for end in found:
        os.replace(_beside(layout.store, end), _beside(layout.store, f".moved{end}"))
    if found:
        sync_directory(layout.directory)
    return bool(found)


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def sealing_of(layout: Layout) -> Sealing:
    """The cluster's sealing. Raises Permanent if the key file exists and cannot be used."""
    return read_sealing(layout.cluster_key)


def ensure_key(layout: Layout) -> Sealing:
    """The cluster's sealing; its key file is created if it does not exist. Raises Permanent, OSError."""
    return ensure_sealing(layout.cluster_key)
