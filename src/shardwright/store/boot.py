"""The machine's boot clock, which measures the leases of a store file. The only module that reads it.

Wall time may jump, and the monotonic clock stops while a machine is suspended; the boot clock does neither. The boot id
distinguishes times of an earlier boot from times of this boot.
"""

import time
from pathlib import Path
from typing import Protocol


class BootClock(Protocol):
    """Time since the machine started, the same for all of its processes."""

    def now(self) -> float:
        """Seconds since boot, including suspended time."""
        ...

    def boot_id(self) -> str:
        """Different for every boot."""
        ...


class SystemBootClock:
    """The machine's own boot clock."""

    def __init__(self) -> None:
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def boot_id(self) -> str:
        return self._boot_id
