"""The clock, as something that can be handed in. The only place besides logging that reads the time."""

import asyncio
import time
from datetime import UTC, datetime
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
