"""A listener on the leader's named points that kills, freezes or delays its own process there, once.

Armed by a file ``<directory>/<point>`` whose text is ``kill``, ``freeze`` or ``sleep <seconds>``. The first daemon to reach
the point takes the file away and does it to itself, so that its successor passes. Used by tests on real processes only; a
daemon listens only when it was started with SHARDWRIGHT_TEST_FAULTS naming the directory.
"""

import os
import signal
import time
from pathlib import Path

VARIABLE = "SHARDWRIGHT_TEST_FAULTS"
LIFETIME_VARIABLE = "SHARDWRIGHT_TEST_CERTIFICATE_LIFETIME_S"
"""Certificates that a daemon signs live for so many seconds instead of 90 days. For tests, too."""


class Faults:
    """The listener."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, point: str) -> None:
        """Reach a point: die, freeze or stand still there when it is armed."""
        armed = self._directory / point
        taken = self._directory / f"{point}.reached"
        try:
            order = armed.read_text().strip()
            os.rename(armed, taken)
        except OSError:
            return
        if order.startswith("sleep "):
            time.sleep(float(order.removeprefix("sleep ")))
        else:
            os.kill(os.getpid(), signal.SIGSTOP if order == "freeze" else signal.SIGKILL)


def arm(directory: Path, point: str, order: str = "kill") -> Path:
    """Arm a point. Returns the file that appears once it was reached."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / point).write_text(order)
    return directory / f"{point}.reached"
