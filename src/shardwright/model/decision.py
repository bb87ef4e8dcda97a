"""The result of a decision: records to write, commands to issue afterwards, the time of the next look, and reasons."""

from dataclasses import dataclass
from datetime import datetime

from shardwright.model.commands import Command
from shardwright.model.reason import Reason
from shardwright.model.view import Write


@dataclass(frozen=True, slots=True)
class Decision:
    """The value between deciding and doing. Empty: nothing to do."""

    writes: tuple[Write, ...] = ()
    commands: tuple[Command, ...] = ()
    wake_at: datetime | None = None
    """Look again at this time at the latest; None: only after a change."""
    reasons: tuple[Reason, ...] = ()
    """Why nothing, or not more, was done; for the log."""


NOTHING = Decision()


def earlier(a: datetime | None, b: datetime | None) -> datetime | None:
    """The earlier of two times; None: never."""
    if a is None or b is None:
        return a or b
    return min(a, b)
