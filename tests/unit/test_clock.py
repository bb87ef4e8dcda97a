"""A steady clock measures true durations while the wall clock is set, and returns to wall time without a jump."""

from datetime import UTC, datetime, timedelta

import pytest

from shardwright.clock import SLEW, SteadyClock

START = datetime(2026, 1, 1, tzinfo=UTC)


class SetClock:
    """A wall clock that can be set, with a monotonic clock."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        self.error_s = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed_s + self.error_s)

    def monotonic(self) -> float:
        return 1000.0 + self.elapsed_s

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


def test_it_is_the_wall_clock_unless_that_is_set() -> None:
    clock = SetClock()
    steady = SteadyClock(clock)
    for _ in range(5):
        clock.elapsed_s += 1.7
        assert steady.now() == clock.now()


@pytest.mark.parametrize("jump_s", [-3600.0, -5.0, 5.0, 3600.0])
def test_a_jump_changes_no_duration_by_more_than_the_slew(jump_s: float) -> None:
    clock = SetClock()
    steady = SteadyClock(clock)
    before = steady.now()
    clock.error_s = jump_s
    for _ in range(100):
        clock.elapsed_s += 0.1
        steady.now()
    passed_s = (steady.now() - before).total_seconds()
    assert 10.0 * (1 - SLEW) - 1e-3 <= passed_s <= 10.0 * (1 + SLEW) + 1e-3


@pytest.mark.parametrize("jump_s", [-60.0, 60.0])
def test_it_never_runs_backwards_and_reaches_the_wall_clock(jump_s: float) -> None:
    clock = SetClock()
    steady = SteadyClock(clock)
    clock.error_s = jump_s
    last = steady.now()
    for _ in range(700):
        clock.elapsed_s += 1.0
        assert steady.now() > last
        last = steady.now()
    assert steady.now() == clock.now()
