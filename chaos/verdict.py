"""The kinds of clients in the crowd, the outcomes of their turns, and what they may observe. Pure.

Ordinary clients must notice nothing of a planned action. Slow and rude clients may be disconnected, but must never receive a
wrong reply, and no acknowledged write of any client may be lost.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

TEXTS_MAX = 5
"""Number of examples kept per client."""


class ClientKind(StrEnum):
    """The behavior of a client in each turn."""

    HALVES = "halves"
    """SET of a large value: one half, a pause, the rest."""
    BYTEWISE = "bytewise"
    """Reads a reply one byte at a time."""
    UNREAD = "unread"
    """Requests much and does not read for a while; then it reads everything, or disconnects."""
    HALF_CLOSE = "half_close"
    """INCR, closes its side, and reads the reply; several connections at a time."""
    DOWNLOAD = "download"
    """GET of a very large value."""
    PIPELINE = "pipeline"
    """Thousands of INCRs before it reads the first reply."""
    SCRIPT = "script"
    """A script whose OK hides whether its INCR was refused."""


class TurnOutcome(StrEnum):
    """The outcome of a turn."""

    DONE = "done"
    CLOSED = "closed"
    """Closed by a FIN where a reply could have begun."""
    CUT = "cut"
    """Closed by a FIN in the middle of a reply."""
    RESET = "reset"
    """Or the connection was not accepted."""
    REFUSED = "refused"
    """An error instead of the reply."""
    SILENT = "silent"
    """No reply within the longest time that any client waits."""


_GONE = frozenset({TurnOutcome.CLOSED, TurnOutcome.CUT, TurnOutcome.RESET})
_MAY_SEE = {
    ClientKind.HALVES: frozenset({TurnOutcome.CLOSED}),
    ClientKind.BYTEWISE: frozenset({TurnOutcome.CLOSED}),
    ClientKind.UNREAD: _GONE,
    ClientKind.HALF_CLOSE: _GONE,
}
"""The outcomes other than success that a client may have during a planned action; no entry: none."""


@dataclass(slots=True)
class Tally:
    """What a client observed. ``acked`` and ``sent`` count writes; the stored number must lie between them."""

    kind: ClientKind
    outcomes: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)
    acked: int = 0
    sent: int = 0
    stored: int | None = None
    """None: this client writes nothing."""
    wrong: list[str] = field(default_factory=list)
    """Replies that do not belong to their request."""

    def end_turn(self, outcome: TurnOutcome, text: str) -> None:
        """Count a turn; ``text`` explains a turn that was not successful."""
        self.outcomes[outcome] += 1
        if outcome is not TurnOutcome.DONE and len(self.texts) < TEXTS_MAX:
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
        """Turns with an outcome that is forbidden while only planned actions run."""
        may_see = _MAY_SEE.get(self.kind, frozenset()) | {TurnOutcome.DONE}
        return sum(count for outcome, count in self.outcomes.items() if outcome not in may_see)
