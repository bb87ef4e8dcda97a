"""The machine's boot clock: what leases of a store file are measured by. The only place that reads it.

Wall time may jump and the monotonic clock stands still while a machine is suspended; the boot clock does neither. With the
boot's id a time of an earlier boot is told from one of this boot.
"""

import time
from pathlib import Path
from typing import Protocol


class BootClock(Protocol):
    """Time since the machine started, the same for all its processes."""

    def now(self) -> float:
        """Seconds since boot, suspended time included."""
        ...

    def boot_id(self) -> str:
        """Differs between any two boots."""
        ...


class SystemBootClock:
    """The machine's own."""

    def __init__(self) -> None:
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return self._boot_id
