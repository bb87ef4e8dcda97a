"""The writers' journals, and the comparison with the stored data that decides about a run.

Pure except for reading and writing lines. A write is *acknowledged* or *in doubt* (its reply was an error, or never
arrived): a write in doubt may be stored or not, but never twice.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

KEYS = 16
"""Counters per writer."""
ACCOUNTS = 8
"""Accounts per writer; the sum of the transfers between them is zero."""
TAIL_S = 2.0
"""An acknowledged write within this time before its primary was killed may have reached no replica (default mode)."""
AFTER_S = 0.3
"""A reply that was read within this time after the kill was sent before it."""


class WriteKind(StrEnum):
    """The kind of a write."""

    COUNT = "c"
    """INCR of one of the writer's counters."""
    APPEND = "a"
    """RPUSH of the write's number to the writer's list."""
    TRANSFER = "t"
    """MULTI: a transfer between two accounts, and the write's number to a list of transfers."""


def kind_of(turn: int) -> WriteKind:
    """The kind of a writer's n-th write: each writer takes the kinds in turn."""
    return tuple(WriteKind)[turn % 3]


def counter_of(turn: int) -> int:
    """The counter that a COUNT increments."""
    return turn // 3 % KEYS


@dataclass(frozen=True, slots=True)
class Entry:
    """One write. Times are wall-clock seconds, the same for all processes of the run."""

    turn: int
    is_acked: bool
    began: float
    ended: float

    @property
    def kind(self) -> WriteKind:
        """The kind of the write."""
        return kind_of(self.turn)

    def line(self) -> str:
        """The line in the journal."""
        return f"{self.turn} {int(self.is_acked)} {self.began:.6f} {self.ended:.6f}\n"


def parse(lines: Iterable[str]) -> list[Entry]:
    """The entries of a journal, without an incomplete last line."""
    entries = []
    for line in lines:
        words = line.split()
        if line.endswith("\n") and len(words) == 4:
            entries.append(Entry(int(words[0]), words[1] == "1", float(words[2]), float(words[3])))
    return entries


@dataclass(frozen=True, slots=True)
class Stored:
    """The data that a database holds of one writer."""

    counters: Sequence[int]
    appended: Sequence[int]
    transfers: Sequence[int]
    accounts: Sequence[int]


@dataclass(slots=True)
class Findings:
    """The findings of a comparison, as sentences."""

    acked: int = 0
    in_doubt: int = 0
    lost: list[str] = field(default_factory=list)
    lost_allowed: list[str] = field(default_factory=list)
    """Acknowledged just before their primary was killed, in a database that may lose such writes (default mode)."""
    doubled: list[str] = field(default_factory=list)
    torn: list[str] = field(default_factory=list)
    """Transactions that are partly stored."""


def compare(where: str, entries: Sequence[Entry], stored: Stored, *, kills: Sequence[float] = ()) -> Findings:
    """Compare. ``kills``: times at which a primary of the database was killed on purpose; empty if nothing may be lost."""
    findings = Findings(sum(e.is_acked for e in entries), sum(not e.is_acked for e in entries))
    lists = {WriteKind.APPEND: Counter(stored.appended), WriteKind.TRANSFER: Counter(stored.transfers)}
    for entry in entries:
        if entry.kind is WriteKind.COUNT:
            continue
        times = lists[entry.kind].pop(entry.turn, 0)
        text = f"{where}: {entry.kind.name.lower()} {entry.turn}"
        if times > 1:
            findings.doubled.append(f"{text} is stored {times} times")
        elif not times and entry.is_acked:
            _note_lost(findings, f"{text}, acknowledged at {entry.ended:.3f}", entry, kills)
    for kind, rest in lists.items():
        findings.doubled += [f"{where}: {kind.name.lower()} {turn} is stored but was never written" for turn in rest]
    _compare_counters(where, entries, stored, kills, findings)
    if sum(stored.accounts) != 0:
        findings.torn.append(f"{where}: accounts sum to {sum(stored.accounts)}: {list(stored.accounts)}")
    return findings


def _compare_counters(
    where: str, entries: Sequence[Entry], stored: Stored, kills: Sequence[float], findings: Findings
) -> None:
    for number, value in enumerate(stored.counters):
        mine = [e for e in entries if e.kind is WriteKind.COUNT and counter_of(e.turn) == number]
        acked = [e for e in mine if e.is_acked]
        text = f"{where}: counter {number} is {value}, {len(acked)} acknowledged, {len(mine) - len(acked)} in doubt"
        if value > len(mine):
            findings.doubled.append(text)
        lacks = len(acked) - value
        if lacks <= 0:
            continue
        allowed = sum(_is_tail(e, kills) for e in acked)
        (findings.lost_allowed if lacks <= allowed else findings.lost).extend([text] * lacks)


def _note_lost(findings: Findings, text: str, entry: Entry, kills: Sequence[float]) -> None:
    (findings.lost_allowed if _is_tail(entry, kills) else findings.lost).append(text)


def _is_tail(entry: Entry, kills: Sequence[float]) -> bool:
    return any(at - TAIL_S <= entry.ended <= at + AFTER_S for at in kills)


def longest_pause(journals: Iterable[Sequence[Entry]]) -> tuple[float, float]:
    """The longest time without an acknowledged write of a database, in seconds, after its first one; and its beginning."""
    ends = sorted(e.ended for entries in journals for e in entries if e.is_acked)
    return max(((b - a, a) for a, b in pairwise(ends)), default=(0.0, 0.0))
