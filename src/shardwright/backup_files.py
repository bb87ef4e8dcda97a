"""The directory of backups: writes a new one, lists those that are there, and deletes the oldest.

Used by the daemon (``agent/backups.py``) and by the commands. ``backup.py`` owns what is in a file. Waits for the disk: in
an event loop, call it in a thread.
"""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from shardwright.errors import Refusal, Rejected
from shardwright.machine.files import make_private_directory, sync_directory, write_private
from shardwright.model.codes import Code
from shardwright.store.backup import BYTES_MAX, Backup, Header, content_of, read_backup, read_header

SUFFIX: Final = ".backup"
_PREFIX: Final = "cluster-"
_UPGRADE_PREFIX: Final = "upgrade-"
UPGRADES_KEPT: Final = 8
"""Of the backups before upgrades."""
_LINE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """A file in the directory of backups."""

    path: Path
    size_bytes: int
    header: Header | None
    """None if this version cannot read the file."""


def write_backup(directory: Path, backup: Backup) -> Path:
    """Write it into the directory, which is made if there is none, under a name that sorts by time. Returns the file. Raises
    OSError; then there is no new file."""
    return _write(directory, _PREFIX, backup)


def write_backup_before(version: str, directory: Path, backup: Backup) -> Path:
    """The same before an upgrade to a version, under a name of its own: the hourly ones do not displace it. Only the newest
    of these are kept. Raises OSError."""
    named = "".join(c if c.isalnum() or c in ".+" else "_" for c in version)
    path = _write(directory, f"{_UPGRADE_PREFIX}{named}-", backup)
    mine = sorted(directory.glob(f"{_UPGRADE_PREFIX}*{SUFFIX}"), key=lambda kept: kept.stat().st_mtime_ns)
    for surplus in mine[:-UPGRADES_KEPT]:
        surplus.unlink(missing_ok=True)
    return path


def _write(directory: Path, prefix: str, backup: Backup) -> Path:
    make_private_directory(directory)
    path = directory / f"{prefix}{backup.header.at.astimezone(UTC):%Y%m%dT%H%M%SZ}{SUFFIX}"
    write_private(path, content_of(backup))
    return path


def list_backups(directory: Path) -> list[Kept]:
    """The backups in the directory by name, so the oldest first. Only their first line is read. Raises OSError."""
    if not directory.is_dir():
        return []
    found = []
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            header = read_header(file.readline(_LINE_BYTES_MAX))
            found.append(Kept(path, path.stat().st_size, header))
    return found


def newest_at(directory: Path) -> datetime | None:
    """When the newest backup was written by itself, by its name; None if there is none. Raises OSError."""
    times = [at for path in _automatic(directory) if (at := _time_of(path)) is not None]
    return max(times, default=None)


def keep_newest(directory: Path, count: int) -> int:
    """Delete all but the newest of those that have a name of ``write_backup``. Returns how many. Raises OSError."""
    surplus = [path for path in _automatic(directory) if _time_of(path) is not None][:-count]
    for path in surplus:
        path.unlink(missing_ok=True)
    if surplus:
        sync_directory(directory)
    return len(surplus)


def load_backup(path: Path) -> Backup:
    """The backup in a file, completely checked. Raises Rejected, as ``read_backup`` does, and ``backup_unreadable``."""
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as e:
        code = Code.BACKUP_UNREADABLE
        raise Rejected(Refusal.NOT_FOUND, code, f"{path} cannot be read: {e.strerror}", remedy=code.remedy) from e
    if len(content) > BYTES_MAX:
        code = Code.BACKUP_FOREIGN
        text = f"{path} is larger than any backup of a cluster's state"
        raise Rejected(Refusal.NOT_ACCEPTABLE, code, text, remedy=code.remedy)
    return read_backup(content, name=str(path))


def _automatic(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{_PREFIX}*{SUFFIX}")) if directory.is_dir() else []


def _time_of(path: Path) -> datetime | None:
    text = path.name.removeprefix(_PREFIX).removesuffix(SUFFIX)
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
