"""The files of a node: its directories, whose they are, and the lock of what changes them.

Used by ``init``, ``join`` and ``node leave``. When root runs these on a machine with the package, the files belong to the
daemon's user. ``node.toml`` is written last: without it nothing starts, so everything before it may be written again.
"""

import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shardwright.errors import Refusal, Rejected
from shardwright.machine.files import make_private_directory
from shardwright.machine.lock import try_lock
from shardwright.node.settings import Directories

USER: Final = "shardwright"
"""The user that the package makes for the daemon and its servers."""
LOCK_NAME: Final = "lock"
CONFIGURATION_MODE: Final = 0o1770
"""The daemon renews its certificates there, but does not replace root's ``node.toml``."""


@dataclass(frozen=True, slots=True)
class FileOwner:
    """Whose the files are."""

    user: int
    group: int


def service_owner() -> FileOwner | None:
    """The daemon's user, if this process may give files to it. None: the files belong to the user who runs this."""
    if os.geteuid() != 0:
        return None
    try:
        found = pwd.getpwnam(USER)
    except KeyError:
        return None
    return FileOwner(found.pw_uid, found.pw_gid)


def make_directories(directories: Directories, owner: FileOwner | None) -> None:
    """Make those that do not exist. Raises OSError."""
    if not directories.configuration.is_dir():
        make_private_directory(directories.configuration)
        if owner is not None:
            os.chown(directories.configuration, 0, owner.group)
            directories.configuration.chmod(CONFIGURATION_MODE)
    own = (directories.state, directories.shards, directories.etcd, directories.endpoint, directories.run, directories.log)
    for path in own:
        if not path.is_dir():
            make_private_directory(path)
            if owner is not None:
                os.chown(path, owner.user, owner.group)


def hand_over(paths: Iterable[Path], owner: FileOwner | None) -> None:
    """Give the files to the daemon's user. Those that do not exist are left out. Raises OSError."""
    if owner is None:
        return
    for path in paths:
        if path.exists():
            os.chown(path, owner.user, owner.group)


@contextmanager
def locked(directories: Directories) -> Iterator[None]:
    """Only one process at a time makes this machine a node or takes it out. The directory exists. Raises Rejected
    ``busy``."""
    descriptor = try_lock(directories.configuration / LOCK_NAME)
    if descriptor is None:
        text = f"another init, join or leave is running on {directories.configuration}"
        raise Rejected(Refusal.CONFLICT, "busy", text, remedy="wait for it, then try again")
    try:
        yield
    finally:
        os.close(descriptor)


def all_in(directory: Path) -> list[Path]:
    """The files in the directory that the daemon needs to own: all but ``node.toml`` and the lock."""
    return [
        path
        for path in sorted(directory.iterdir())
        if stat.S_ISREG(path.lstat().st_mode) and path.name not in ("node.toml", LOCK_NAME)
    ]
