"""What writers did, line by line, and what of it must be stored: the comparison that decides about a run.

Pure but for reading and writing the lines. A write is *acknowledged* or *in doubt* (its reply was an error, or never came):
one in doubt may be stored or not, but never twice.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

KEYS = 16
"""Counters of each writer."""
ACCOUNTS = 8
"""Of each writer; what it transfers between them sums to nothing."""
TAIL_S = 2.0
"""An acknowledged write this short before its primary was killed may have reached no replica (default mode)."""
AFTER_S = 0.3
"""Replies that were read this long after the kill were sent before it."""


class What(StrEnum):
    """What a write does."""

    COUNT = "c"
    """INCR of one of its writer's counters."""
    APPEND = "a"
    """RPUSH of its number to its writer's list."""
    TRANSFER = "t"
    """MULTI: from one account to another, and its number to a list of transfers."""


def what_of(turn: int) -> What:
    """Each writer does these in turn."""
    return tuple(What)[turn % 3]


def counter_of(turn: int) -> int:
    """Which counter a COUNT raises."""
    return turn // 3 % KEYS


@dataclass(frozen=True, slots=True)
class Entry:
    """One write. Times are the wall clock's, in seconds, the same for all processes of the run."""

    turn: int
    is_acked: bool
    began: float
    ended: float

    @property
    def what(self) -> What:
        """What it did."""
        return what_of(self.turn)

    def line(self) -> str:
        """For the journal."""
        return f"{self.turn} {int(self.is_acked)} {self.began:.6f} {self.ended:.6f}\n"


def parse(lines: Iterable[str]) -> list[Entry]:
    """Entries of a journal; a last line that was cut off is left out."""
    found = []
    for line in lines:
        words = line.split()
        if line.endswith("\n") and len(words) == 4:
            found.append(Entry(int(words[0]), words[1] == "1", float(words[2]), float(words[3])))
    return found


@dataclass(frozen=True, slots=True)
class Stored:
    """What a database holds of one writer."""

    counters: Sequence[int]
    appended: Sequence[int]
    transfers: Sequence[int]
    accounts: Sequence[int]


@dataclass(slots=True)
class Findings:
    """What a comparison found, as sentences."""

    acked: int = 0
    in_doubt: int = 0
    lost: list[str] = field(default_factory=list)
    lost_allowed: list[str] = field(default_factory=list)
    """Acknowledged just before their primary was killed, in a database for which the default mode allows it."""
    doubled: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    """Transactions of which a part is stored."""


def compare(where: str, entries: Sequence[Entry], stored: Stored, *, kills: Sequence[float] = ()) -> Findings:
    """``kills``: when a primary of the database was killed on purpose; empty where nothing may be lost."""
    found = Findings(sum(e.is_acked for e in entries), sum(not e.is_acked for e in entries))
    lists = {What.APPEND: Counter(stored.appended), What.TRANSFER: Counter(stored.transfers)}
    for entry in entries:
        if entry.what is What.COUNT:
            continue
        times = lists[entry.what].pop(entry.turn, 0)
        what = f"{where}: {entry.what.name.lower()} {entry.turn}"
        if times > 1:
            found.doubled.append(f"{what} is stored {times} times")
        elif not times and entry.is_acked:
            _note_lost(found, f"{what}, acknowledged at {entry.ended:.3f}", entry, kills)
    for kind, rest in lists.items():
        found.doubled += [f"{where}: {kind.name.lower()} {turn} is stored and was never written" for turn in rest]
    _compare_counters(where, entries, stored, kills, found)
    if sum(stored.accounts) != 0:
        found.torn.append(f"{where}: accounts sum to {sum(stored.accounts)}: {list(stored.accounts)}")
    return found


def _compare_counters(where: str, entries: Sequence[Entry], stored: Stored, kills: Sequence[float], found: Findings) -> None:
    for number, value in enumerate(stored.counters):
        mine = [e for e in entries if e.what is What.COUNT and counter_of(e.turn) == number]
        acked = [e for e in mine if e.is_acked]
        what = f"{where}: counter {number} is {value}, {len(acked)} acknowledged, {len(mine) - len(acked)} in doubt"
        if value > len(mine):
            found.doubled.append(what)
        lacks = len(acked) - value
        if lacks <= 0:
            continue
        allowed = sum(_is_tail(e, kills) for e in acked)
        (found.lost_allowed if lacks <= allowed else found.lost).extend([what] * lacks)


def _note_lost(found: Findings, text: str, entry: Entry, kills: Sequence[float]) -> None:
    (found.lost_allowed if _is_tail(entry, kills) else found.lost).append(text)


def _is_tail(entry: Entry, kills: Sequence[float]) -> bool:
    return any(at - TAIL_S <= entry.ended <= at + AFTER_S for at in kills)


def longest_pause(journals: Iterable[Sequence[Entry]]) -> tuple[float, float]:
    """Longest time without any acknowledged write of a database, in seconds, from its first one on; and when it began."""
    ends = sorted(e.ended for entries in journals for e in entries if e.is_acked)
    return max(((b - a, a) for a, b in pairwise(ends)), default=(0.0, 0.0))
