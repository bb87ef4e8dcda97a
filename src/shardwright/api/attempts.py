"""A limit for guesses: a client that has sent too many wrong tokens must wait.

Belongs to one event loop. Knows nothing of tokens: the route says which attempts were wrong.
"""

from collections import deque
from typing import Final

from shardwright.clock import Clock

ATTEMPTS_MAX: Final = 10
"""Wrong attempts of one address within PERIOD_S: more than typing errors need."""
PERIOD_S: Final = 60.0
ADDRESSES_MAX: Final = 1000
"""Remembered at a time; the one whose last wrong attempt is the oldest is forgotten first."""


class Attempts:
    """Counts wrong attempts by address."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wrong: dict[str, deque[float]] = {}

    def is_allowed(self, address: str) -> bool:
        """Whether the address may try again now."""
        found = self._wrong.get(address)
        return found is None or len(found) < ATTEMPTS_MAX or found[0] <= self._clock.monotonic() - PERIOD_S

    def note_wrong(self, address: str) -> None:
        """A wrong attempt."""
        # Removed and added again: the order is that of the last attempts.
        found = self._wrong.pop(address, deque(maxlen=ATTEMPTS_MAX))
        found.append(self._clock.monotonic())
        self._wrong[address] = found
        if len(self._wrong) > ADDRESSES_MAX:
            del self._wrong[next(iter(self._wrong))]
