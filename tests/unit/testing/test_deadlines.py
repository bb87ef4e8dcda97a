"""Limits grow with the measured lateness of the machine, up to a bound, except for times that the clock decides."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from testkit.deadlines import LATENESS_MAX, Stopwatch, allowed, lateness, until


@pytest.mark.parametrize(
    ("slept_s", "wanting", "late"),
    [(0.05, 1, 1.0), (0.05, 2, 1.0), (0.1, 1, 2.0), (0.05, 11, 5.5), (0.05, 100, LATENESS_MAX), (60.0, 1, LATENESS_MAX)],
)
def test_lateness_is_the_worse_of_late_wake_ups_and_of_many_runnable_processes(
    slept_s: float, wanting: int, late: float
) -> None:
    assert lateness(slept_s, wanting, 2) == pytest.approx(late)


def test_times_of_the_clock_do_not_grow() -> None:
    assert allowed(8.0, 0.0, 1.0) == 8.0
    assert allowed(8.0, 3.0, 1.0) == 8.0
    assert allowed(8.0, 3.0, 4.0) == 23.0


@pytest.fixture
def busy() -> Iterator[None]:
    """A machine with five runnable processes per processor."""
    count = 5 * len(os.sched_getaffinity(0))
    loops = [subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@pytest.mark.usefixtures("busy")
def test_a_busy_machine_gets_more_time_and_a_failure_states_the_lateness() -> None:
    until("the loops to run", lambda: _mean_lateness() > 2.0, seconds=20)
    began = time.monotonic()
    with pytest.raises(AssertionError, match=r"^a wonder: not within 0\.3 s \(.* the machine [2-6]\.\d times late\)\nnone$"):
        until("a wonder", lambda: False, seconds=0.3, state=lambda: "none")
    assert time.monotonic() - began > 0.5


def _mean_lateness() -> float:
    watch = Stopwatch()
    time.sleep(0.3)  # The stretch of time that is measured.
    return watch.lateness


def test_a_hanging_test_fails_in_bounded_time() -> None:
    began = time.monotonic()
    with pytest.raises(AssertionError, match="not within"):
        until("a wonder", lambda: False, seconds=0.1)
    assert time.monotonic() - began < 0.1 * LATENESS_MAX + 1.0


def test_the_last_poll_comes_after_the_limit() -> None:
    """A poll that takes longer than the limit is not the only one that counts."""
    answers = iter([False, True])

    def poll() -> bool:
        time.sleep(0.2)  # Longer than the limit below.
        return next(answers)

    assert until("the second poll", poll, seconds=0.1)
