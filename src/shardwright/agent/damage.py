"""Whether a server that ended could not load its files, read from the end of its own log. Both servers say it alike.

Called by ``shards.py`` when a server has ended with an error, and by ``launch.py`` when it ended at once. Must not judge
what that means for the shard.
"""

import re
from pathlib import Path

from shardwright.model.database import Damage
from shardwright.server.aof import unreadable_end

_TAIL_BYTES = 16 * 1024
_LINES_MAX = 12
"""A server ends within a few lines of what it says here; what it said long before is of a sync that failed."""
_START = "oO0OoO0OoO0Oo"
"""Stands in the first line of every start, and in no other."""
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
    """What the last start in a log says of damaged files, with the server's words; None: nothing, or it cannot be read."""
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
                # What the server advises is a tool that is not here.
                said = without_prefix(line).partition(": make a backup")[0].strip()
                # A snapshot without its signature is read as if it were commands.
                is_base = damage is Damage.APPEND_ONLY_FILE and _BASE_MARK in said
                return Damage.SNAPSHOT if is_base else damage, said
    return None


def with_extent(directory: Path, damage: Damage, said: str) -> str:
    """What the server said, and how much of its append-only file cannot be read, as far as that is soon found out. Reads
    files: call it in a thread."""
    much = unreadable_end(directory) if damage is Damage.APPEND_ONLY_FILE else ""
    return f"{said}: {much}" if much else said


def without_prefix(line: str) -> str:
    """A line of a server's log without pid, role, time and level: what says the same is the same."""
    return _PREFIX.sub("", line)
