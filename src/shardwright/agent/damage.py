"""Detects from the end of a server's log that the server could not load its files. Both kinds of server write the same
messages.

Called by ``shards.py`` when a server ended with an error, and by ``launch.py`` when it ended at once. Must not judge what
the damage means for the shard.
"""

import re
from pathlib import Path

from shardwright.model.database import Damage
from shardwright.server.aof import unreadable_end

_TAIL_BYTES = 16 * 1024
_LINES_MAX = 12
"""A server ends within a few lines after such a message; an earlier message belongs to a sync that failed."""
_START = "oO0OoO0OoO0Oo"
"""Occurs in the first line of every start, and in no other line."""
_PREFIX = re.compile(r"^\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ [*#.-] ")
_BASE_MARK = ".base."
_MARKS = (
    ("Bad file format reading the append only file", Damage.APPEND_ONLY_FILE),
    ("Unexpected end of file reading the append only file", Damage.APPEND_ONLY_FILE),
    ("Wrong signature trying to load DB from file", Damage.SNAPSHOT),
    ("Short read or OOM loading DB", Damage.SNAPSHOT),
    ("Internal error in RDB reading", Damage.SNAPSHOT),
    ("Wrong RDB checksum", Damage.SNAPSHOT),
    ("Invalid AOF manifest file format", Damage.INCOMPLETE),
    ("Unable to obtain the AOF file", Damage.INCOMPLETE),
    ("the truncated file is not the last file", Damage.INCOMPLETE),
)


def damage_in_log(path: Path) -> tuple[Damage, str] | None:
    """The damage that the log reports for the last start, and the server's message; None: no damage, or no readable log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    lines = [line for line in text.rpartition(_START)[2].splitlines() if line.strip()]
    for line in lines[-_LINES_MAX:]:
        for mark, damage in _MARKS:
            if mark in line:
                # The server recommends a repair tool that is not installed here.
                message = without_prefix(line).partition(": make a backup")[0].strip()
                # The server reads a snapshot that lacks its signature as commands.
                is_base = damage is Damage.APPEND_ONLY_FILE and _BASE_MARK in message
                return Damage.SNAPSHOT if is_base else damage, message
    return None


def with_extent(directory: Path, damage: Damage, message: str) -> str:
    """The server's message, and the unreadable part of its append-only file if that is quick to measure. Reads files: call
    it in a thread."""
    extent = unreadable_end(directory) if damage is Damage.APPEND_ONLY_FILE else ""
    return f"{message}: {extent}" if extent else message


def without_prefix(line: str) -> str:
    """A line of a server's log without pid, role, time and level, so that equal messages are equal texts."""
    return _PREFIX.sub("", line)
