"""Time limits that grow with the lateness of the machine: a test must fail for a slow product, not for a busy machine.

A thread measures the lateness: the number of runnable processes per processor, and how late the thread wakes up. *Fair* time
passes more slowly than the clock by this factor, but by at most ``LATENESS_MAX``, so that a hanging test still fails. Every
poll of the tests uses this module. Times that the clock decides, such as a lease, do not grow: ``clock_s``.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

LATENESS_MAX = 6.0
_SAMPLE_S = 0.05
_PAUSE_MIN_S, _PAUSE_MAX_S = 0.02, 0.15

T = TypeVar("T")


def lateness(slept_s: float, wanting: int, processors: int) -> float:
    """How many times later than on an idle machine things happen. ``wanting``: number of runnable processes, including this
    one."""
    return min(LATENESS_MAX, max(1.0, slept_s / _SAMPLE_S, wanting / processors))


def allowed(seconds: float, clock_s: float, factor: float) -> float:
    """A time limit by the clock. Its part ``clock_s`` does not grow."""
    return clock_s + (seconds - clock_s) * factor


class _FairClock(threading.Thread):
    """Fair time of this process, in seconds from an arbitrary beginning."""

    def __init__(self) -> None:
        super().__init__(name="lateness", daemon=True)
        self.pid = os.getpid()
        self._processors = len(os.sched_getaffinity(0))
        self._last = (time.monotonic(), 0.0, 1.0)
        """Time of the last measurement, fair time at that moment, and the lateness."""
        self.start()

    def run(self) -> None:
        while True:
            at, fair, _ = self._last
            time.sleep(_SAMPLE_S)
            now = time.monotonic()
            factor = lateness(now - at, _wanting(), self._processors)
            self._last = (now, fair + (now - at) / factor, factor)

    def now(self) -> float:
        at, fair, factor = self._last
        return fair + (time.monotonic() - at) / factor


def _wanting() -> int:
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])


_clock: _FairClock | None = None


def _fair_now() -> float:
    global _clock
    if _clock is None or _clock.pid != os.getpid():  # A thread does not survive a fork.
        _clock = _FairClock()
    return _clock.now()


class Stopwatch:
    """Measures a duration, and the machine's lateness meanwhile."""

    def __init__(self) -> None:
        self._fair_began = _fair_now()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._began

    @property
    def lateness(self) -> float:
        """The machine's mean lateness since the beginning."""
        fair = _fair_now() - self._fair_began
        return min(LATENESS_MAX, max(1.0, self.seconds / fair)) if fair > 0 else 1.0

    def is_within(self, seconds: float, *, clock_s: float = 0.0, took_s: float | None = None) -> bool:
        """Whether it took at most this many seconds of an idle machine, of which ``clock_s`` are the clock's. ``took_s``:
        the duration to judge; None: until now."""
        return (self.seconds if took_s is None else took_s) <= allowed(seconds, clock_s, self.lateness)

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, the machine {self.lateness:.1f} times late"


def growing_pause(waited_s: float) -> float:
    """The pause before the next poll. It makes a wait longer by a fifteenth at most. With a poll every 20 ms, the answers
    were a quarter of what the daemons of ``test_e2e_maintenance.py`` did."""
    return min(_PAUSE_MAX_S, max(_PAUSE_MIN_S, waited_s / 15))


def until(
    what: str,
    is_so: Callable[[], T],
    *,
    seconds: float = 30.0,
    clock_s: float = 0.0,
    state: Callable[[], object] = str,
    poll_s: float | None = None,
) -> T:
    """Poll until ``is_so`` returns a true value; returns it. ``poll_s``: the pause between two polls; None: it grows with
    the time waited so far. Raises AssertionError with state and lateness if it takes too long."""
    watch = Stopwatch()
    while True:
        is_late = not watch.is_within(seconds, clock_s=clock_s)
        if result := is_so():
            return result
        if is_late:
            raise AssertionError(f"{what}: not within {seconds:g} s ({watch})\n{state()}")
        time.sleep(growing_pause(watch.seconds) if poll_s is None else poll_s)


async def until_async(
    what: str, is_so: Callable[[], Any], *, seconds: float, state: Callable[[], object] = str, poll_s: float = 0.002
) -> float:
    """The same in an event loop; returns the seconds that it took."""
    watch = Stopwatch()
    while not is_so():
        assert watch.is_within(seconds), f"{what}: not within {seconds:g} s ({watch})\n{state()}"
        await asyncio.sleep(poll_s)
    return watch.seconds
