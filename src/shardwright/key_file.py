"""The file with the cluster key: read, made and changed.

Called by the entry points of daemons, by what creates or joins a cluster, and by the daemon's keeper of the keys. Waits for
the disk. Must never put a key into an error or a log.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shardwright.errors import Permanent, Transient
from shardwright.machine.files import write_private
from shardwright.model.codes import Code
from shardwright.store.seal import IN_CLEAR, KEY_BYTES, ClusterKey, Sealing, keys_of, text_of

Keys = tuple[ClusterKey, ...]


def read_sealing(path: Path) -> Sealing:
    """The sealing with the keys of a key file; in clear if there is no such file. Raises Permanent if it cannot be used."""
    found = _read(path)
    return IN_CLEAR if found is None else Sealing(found, secrets.token_bytes)


def ensure_sealing(path: Path) -> Sealing:
    """The same; a file with a new key is made if there is none. Raises Permanent, OSError."""
    if not path.exists():
        write_private(path, text_of((new_key(),)).encode())
    return read_sealing(path)


def new_key() -> ClusterKey:
    """A key that did not exist before."""
    return ClusterKey.of(secrets.token_bytes(KEY_BYTES))


@dataclass(frozen=True, slots=True)
class KeyFile:
    """The key file of a daemon. The daemons of a local cluster share one."""

    path: Path

    def read(self) -> Keys:
        """The keys in the file. Raises Permanent."""
        return _read(self.path) or ()

    def change(self, wanted: Callable[[Keys], Keys]) -> Keys:
        """Replace the keys by what is wanted, given those in the file; returns them. Nothing else changes the file between
        the reading and the writing. Raises Transient if another daemon is at it, Permanent, OSError."""
        with self._locked():
            before = self.read()
            after = wanted(before)
            if after != before:
                write_private(self.path, text_of(after).encode())
            return after

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The directory is locked: the file itself is replaced, and a lock of it with it.
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise Transient(Code.CLUSTER_KEY_AWAITED, f"another daemon changes {self.path}") from None
        finally:
            os.close(descriptor)


def _read(path: Path) -> Keys | None:
    """None: there is no such file. Raises Permanent."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as e:
        # The cause of a decoding error quotes the file.
        reason = e.strerror if isinstance(e, OSError) else "it is not a text file"
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"{path} cannot be read: {reason}") from None
    if mode & 0o077:
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"{path} is open to other users: chmod 600 {path}")
    try:
        return keys_of(text)
    except Permanent as e:
        raise Permanent(Code.CLUSTER_KEY_UNUSABLE, f"{path}: {e.text}") from None
