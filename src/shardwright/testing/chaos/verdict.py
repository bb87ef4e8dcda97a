"""The kinds of clients of the crowd, how their turns end, and what of that they may see. Pure.

The ordinary ones must notice nothing of a planned action. The slow and rude ones may be closed, but never be told something
wrong, and nothing that was acknowledged may be lost whoever wrote it.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

TEXTS_MAX = 5
"""So many examples are kept for each client."""


class Kind(StrEnum):
    """What a client does, turn by turn."""

    HALVES = "halves"
    """SET of a large value: one half, a pause, the rest."""
    BYTEWISE = "bytewise"
    """Reads a reply one byte at a time."""
    UNREAD = "unread"
    """Asks for much and does not read for a while; then it reads everything, or is gone."""
    HALF_CLOSE = "half_close"
    """INCR, closes its side, and reads the reply; several at a time."""
    DOWNLOAD = "download"
    """GET of a very large value."""
    PIPELINE = "pipeline"
    """Thousands of INCRs before it reads the first reply."""
    SCRIPT = "script"
    """A script whose OK hides whether its INCR was refused."""


class Outcome(StrEnum):
    """How a turn ended."""

    DONE = "done"
    CLOSED = "closed"
    """By a FIN where a reply could have begun."""
    CUT = "cut"
    """By a FIN in the middle of a reply."""
    RESET = "reset"
    """Or not even accepted."""
    REFUSED = "refused"
    """An error in place of the reply."""
    SILENT = "silent"
    """No reply within the time that any client waits."""


_GONE = frozenset({Outcome.CLOSED, Outcome.CUT, Outcome.RESET})
_MAY_SEE = {
    Kind.HALVES: frozenset({Outcome.CLOSED}),
    Kind.BYTEWISE: frozenset({Outcome.CLOSED}),
    Kind.UNREAD: _GONE,
    Kind.HALF_CLOSE: _GONE,
}
"""What a client may see of a planned action beside a turn that is done; the others: nothing."""


@dataclass(slots=True)
class Tally:
    """What a client saw. ``acked`` and ``sent`` count writes; what is stored must lie between."""

    kind: Kind
    outcomes: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)
    acked: int = 0
    sent: int = 0
    stored: int | None = None
    """None: this client writes nothing."""
    wrong: list[str] = field(default_factory=list)
    """Replies to something else."""

    def end_turn(self, outcome: Outcome, text: str) -> None:
        """One more turn; ``text`` explains one that was not done."""
        self.outcomes[outcome] += 1
        if outcome is not Outcome.DONE and len(self.texts) < TEXTS_MAX:
            self.texts.append(f"{outcome}: {text}")

    @property
    def lost(self) -> int:
        """Acknowledged writes that are not stored."""
        return 0 if self.stored is None else max(0, self.acked - self.stored)

    @property
    def doubled(self) -> int:
        """Stored writes that were never sent."""
        return 0 if self.stored is None else max(0, self.stored - self.sent)

    @property
    def noticed(self) -> int:
        """Turns that ended as they must not while nothing but planned actions goes on."""
        may_see = _MAY_SEE.get(self.kind, frozenset()) | {Outcome.DONE}
        return sum(count for outcome, count in self.outcomes.items() if outcome not in may_see)
