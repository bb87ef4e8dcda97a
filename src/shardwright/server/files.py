"""The data files in a shard's directory: chooses the one that a starting server must load. Called by the agent before a
start.

A server loads only the kind of file that its configuration names and silently ignores a newer file of the other kind. So a
server that dies just after a change of its database's persistence would come back empty, or with outdated data.
"""

import shutil
from pathlib import Path

from shardwright.model.database import Persistence

SNAPSHOT_NAME = "dump.rdb"
AOF_DIRECTORY_NAME = "appendonlydir"
MANIFEST_NAME = "appendonly.aof.manifest"
ASIDE_PREFIX = "damaged-"
"""Directories next to the data files that keep damaged files, named after the incarnation that was started without them."""
ASIDE_MAX = 2
"""Number of these directories that are kept, the latest ones; they are as large as the data."""
_BASE_NAME = "appendonly.aof.1.base.rdb"
_RDB_HEADER_BYTES = 512
_CREATED_FIELD = b"\x05ctime\xc2"
"""A field in a snapshot's header: its name with its length, then the mark of a 32-bit number."""


def prepare_directory(directory: Path, persistence: Persistence, *, kept: Persistence) -> bool:
    """Make a server that starts in this directory load its newest data. Returns whether it must start with the append-only
    file enabled (``ServerFile.starts_with_aof``). No server may run in the directory. May be repeated; raises OSError.

    ``persistence`` is the server's setting, ``kept`` the setting last applied to its predecessor. If the latter kept
    nothing, the files are outdated, and all data files are deleted. With an append-only file: if the snapshot is newer, a
    new append-only file is created from it. Otherwise, if the append-only file is newer, the server starts from it, and the
    leader's next change of settings disables it.
    """
    for leftover in [*directory.glob("temp-*.rdb"), *directory.glob("temp-*.aof")]:
        leftover.unlink()
    if kept is Persistence.DISABLED:
        (directory / SNAPSHOT_NAME).unlink(missing_ok=True)
        shutil.rmtree(directory / AOF_DIRECTORY_NAME, ignore_errors=True)
    if persistence is not Persistence.AOF:
        return _aof_written_at(directory) is not None and not _is_snapshot_newer(directory)
    if _is_snapshot_newer(directory):
        _make_aof_from_snapshot(directory)
    return True


def aside_of(directory: Path, incarnation: int) -> Path:
    """The directory for the damaged files without which an incarnation was started."""
    return directory / f"{ASIDE_PREFIX}{incarnation}"


def put_aside(directory: Path, incarnation: int) -> None:
    """Move all data files out of the way of an incarnation that starts without data. May be repeated; raises OSError."""
    aside = aside_of(directory, incarnation)
    for name in (AOF_DIRECTORY_NAME, SNAPSHOT_NAME):
        if (directory / name).exists():
            aside.mkdir(mode=0o700, exist_ok=True)
            (directory / name).rename(aside / name)


def forget_old_asides(directory: Path) -> None:
    """Delete old damaged files. Raises OSError."""
    asides = [p for p in directory.glob(f"{ASIDE_PREFIX}*") if p.name.removeprefix(ASIDE_PREFIX).isdigit()]
    for old in sorted(asides, key=lambda p: int(p.name.removeprefix(ASIDE_PREFIX)))[:-ASIDE_MAX]:
        shutil.rmtree(old)


def _is_snapshot_newer(directory: Path) -> bool:
    """Whether a snapshot contains all data of the append-only file: it was started after the last append."""
    began = _snapshot_began_at(directory / SNAPSHOT_NAME)
    if began is None:
        return False
    appended = _aof_written_at(directory)
    return appended is None or began > appended


def _snapshot_began_at(path: Path) -> float | None:
    """Seconds since the epoch; None without a snapshot."""
    try:
        with path.open("rb") as file:
            header = file.read(_RDB_HEADER_BYTES)
    except FileNotFoundError:
        return None
    _, field, rest = header.partition(_CREATED_FIELD)
    return float(int.from_bytes(rest[:4], "little")) if field else 0.0


def _aof_written_at(directory: Path) -> float | None:
    """Last append, in seconds since the epoch; None without a complete append-only file. Files that the manifest does not
    name belong to an unfinished rewrite."""
    aof = directory / AOF_DIRECTORY_NAME
    try:
        manifest = (aof / MANIFEST_NAME).read_text()
    except FileNotFoundError:
        return None
    names = [words[1] for line in manifest.splitlines() if len(words := line.split()) >= 6 and words[5] in ("b", "i")]
    return max(((aof / name).stat().st_mtime for name in names if (aof / name).exists()), default=None)


def _make_aof_from_snapshot(directory: Path) -> None:
    """An append-only file may begin with a snapshot: this one begins with the existing snapshot. Created atomically."""
    made = directory / f"{AOF_DIRECTORY_NAME}.new"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    # A link, not a copy: neither file is ever changed in place.
    (made / _BASE_NAME).hardlink_to(directory / SNAPSHOT_NAME)
    (made / MANIFEST_NAME).write_text(f"file {_BASE_NAME} seq 1 type b\n")
    shutil.rmtree(directory / AOF_DIRECTORY_NAME, ignore_errors=True)
    made.rename(directory / AOF_DIRECTORY_NAME)
