"""How long to wait before the next attempt, and which times that are written down may be believed.

Pure. A time in a record was written by the clock of a leader that may have been another machine's, and ahead of ours: one
that is further away than any delay says nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Backoff:
    """A row of delays in seconds; the last one repeats. Never empty."""

    delays_s: tuple[float, ...]

    def delay_s(self, attempts: int) -> float:
        """Seconds before the next attempt, when so many have been made that count: 0 gives the first delay."""
        return self.delays_s[min(attempts, len(self.delays_s) - 1)]

    def delay(self, attempts: int) -> timedelta:
        """The same as a time span."""
        return timedelta(seconds=self.delay_s(attempts))

    @property
    def longest(self) -> timedelta:
        """No attempt is put off for longer."""
        return timedelta(seconds=max(self.delays_s))

    def is_waiting(self, until: datetime | None, now: datetime) -> bool:
        """Whether an attempt that was put off is still to wait. None: it was not put off."""
        return until is not None and now < until <= now + self.longest
