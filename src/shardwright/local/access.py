"""How the processes of a local cluster get at its records: the settings of its store, and the cluster key that opens them.

The only module of ``local/`` that knows which kind of store a local cluster has. The key file is created with the cluster; a
cluster without one has its records in clear.
"""

import secrets
import stat
from pathlib import Path

from shardwright.errors import Permanent
from shardwright.local.layout import Layout
from shardwright.machine.files import write_private
from shardwright.model.codes import Code
from shardwright.store.seal import IN_CLEAR, KEY_BYTES, ClusterKey, Sealing, keys_of, text_of
from shardwright.store.settings import SqliteSettings, StoreSettings


def store_settings(layout: Layout) -> StoreSettings:
    """The settings of the cluster's store."""
    return SqliteSettings(layout.store)


def sealing_of(layout: Layout) -> Sealing:
    """The cluster's sealing. Raises Permanent if the key file exists and cannot be used."""
    return read_sealing(layout.cluster_key)


def read_sealing(path: Path) -> Sealing:
    """The sealing with the keys of a key file; in clear if there is no such file. Raises Permanent if it cannot be used."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return IN_CLEAR
    except (OSError, UnicodeDecodeError) as e:
        # The cause of a decoding error quotes the file.
        reason = e.strerror if isinstance(e, OSError) else "it is not a text file"
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"{path} cannot be read: {reason}") from None
    if mode & 0o077:
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"{path} is open to other users: chmod 600 {path}")
    try:
        return Sealing(keys_of(text), secrets.token_bytes)
    except Permanent as e:
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"{path}: {e.text}") from None


def ensure_key(layout: Layout) -> Sealing:
    """The cluster's sealing; its key file is created if it does not exist. Raises Permanent, OSError."""
    if not layout.cluster_key.exists():
        key = ClusterKey.of(secrets.token_bytes(KEY_BYTES))
        write_private(layout.cluster_key, text_of((key,)).encode())
    return sealing_of(layout)
