"""Tells that a file was written to, by any process of this machine: Linux's inotify.

Says nothing of what was written, and may miss a write: its user looks from time to time anyway. Opens no descriptor of
the file itself, because closing one would release the locks that SQLite holds for this process.
"""

import ctypes
import os
from pathlib import Path

_MODIFIED = 0x2
"""IN_MODIFY, in inotify(7)."""
_READ_BYTES = 4096
_libc = ctypes.CDLL(None, use_errno=True)


class FileEvents:
    """A source of events for one file. ``descriptor`` is readable once there are any; ``take`` forgets them."""

    def __init__(self, descriptor: int) -> None:
        """Private; call ``of``."""
        self.descriptor = descriptor

    @classmethod
    def of(cls, path: Path) -> "FileEvents | None":
        """None if the file does not exist or the kernel gives no events, for instance because this user has too many such
        sources."""
        descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            return None
        if _libc.inotify_add_watch(descriptor, os.fsencode(path), _MODIFIED) < 0:
            os.close(descriptor)
            return None
        return cls(descriptor)

    def take(self) -> bool:
        """Forget the events so far; returns whether there were any. Never waits."""
        try:
            os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """No more events."""
        os.close(self.descriptor)
