"""What a decision is: records to write, commands to give afterwards, when to look again, and why."""

from dataclasses import dataclass
from datetime import datetime

from shardwright.model.commands import Command
from shardwright.model.reason import Reason
from shardwright.model.view import Write


@dataclass(frozen=True, slots=True)
class Decision:
    """The value between deciding and doing. An empty one means: nothing to do."""

    writes: tuple[Write, ...] = ()
    commands: tuple[Command, ...] = ()
    wake_at: datetime | None = None
    """Look again at this time at the latest; None: a change will tell."""
    reasons: tuple[Reason, ...] = ()
    """Why nothing, or not more, was done; for the log."""


NOTHING = Decision()
