"""Delays before the next attempt, and a check for implausible recorded times.

Pure. A time in a record comes from the clock of a leader, possibly on another machine and ahead of this one: a time further
away than the longest delay is ignored.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """A series of delays in seconds; the last one repeats. Never empty."""

    delays_s: tuple[float, ...]

    def delay_s(self, attempts: int) -> float:
        """Seconds before the next attempt after this number of attempts; 0 gives the first delay."""
        return self.delays_s[min(attempts, len(self.delays_s) - 1)]

    def delay(self, attempts: int) -> timedelta:
        """The same as a timedelta."""
        return timedelta(seconds=self.delay_s(attempts))

    @property
    def longest(self) -> timedelta:
        """The longest possible delay of an attempt."""
        return timedelta(seconds=max(self.delays_s))

    def is_waiting(self, until: datetime | None, now: datetime) -> bool:
        """Whether a postponed attempt still has to wait. None: it was not postponed."""
        return until is not None and now < until <= now + self.longest
