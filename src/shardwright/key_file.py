"""The file with the cluster key: read and made.

Called by the entry points of daemons and by what creates or joins a cluster. Waits for the disk. Must never put a key into
an error or a log.
"""

import secrets
import stat
from pathlib import Path

from shardwright.errors import Permanent
from shardwright.machine.files import write_private
from shardwright.model.codes import Code
from shardwright.store.seal import IN_CLEAR, KEY_BYTES, ClusterKey, Sealing, keys_of, text_of


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


def ensure_sealing(path: Path) -> Sealing:
    """The same; a file with a new key is made if there is none. Raises Permanent, OSError."""
    if not path.exists():
        write_private(path, text_of((ClusterKey.of(secrets.token_bytes(KEY_BYTES)),)).encode())
    return read_sealing(path)
