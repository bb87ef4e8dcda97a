"""The clock, as something that can be handed in. The only place besides logging that reads the time."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Time for the shell; the pure core gets ``now`` as an argument instead."""

    def now(self) -> datetime:
        """Wall time, aware, UTC: for records and for people."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards: for durations and time-outs."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def boot_time() -> float:
    """Seconds since the boot of this machine, with the time in which it slept: a process that was frozen or suspended sees
    how long that was."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


SLEW = 0.1
"""How much faster or slower than true time a steady clock may run while it catches up with the wall clock."""


class SteadyClock:
    """Wall time that does not jump: it runs with the monotonic clock and draws near the wall clock bit by bit. What lies
    between two of its times was as long as it says, within SLEW, whatever has been done to the wall clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._at = clock.now()
        self._read_at = clock.monotonic()

    def now(self) -> datetime:
        read_at = self._clock.monotonic()
        elapsed_s = read_at - self._read_at
        if elapsed_s <= 0.0:
            return self._at
        at = self._at + timedelta(seconds=elapsed_s)
        error_s = (self._clock.now() - at).total_seconds()
        slack_s = SLEW * elapsed_s
        self._at = at + timedelta(seconds=max(-slack_s, min(slack_s, error_s)))
        self._read_at = read_at
        return self._at

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)
