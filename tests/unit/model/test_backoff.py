"""Delays between attempts, and times that a clock ahead of ours has written."""

from datetime import UTC, datetime, timedelta

import pytest

from shardwright.model.backoff import Backoff

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BACKOFF = Backoff((0.5, 2.0, 5.0))


@pytest.mark.parametrize(("attempts", "delay_s"), [(0, 0.5), (1, 2.0), (2, 5.0), (3, 5.0), (1000, 5.0)])
def test_the_last_delay_repeats(attempts: int, delay_s: float) -> None:
    assert BACKOFF.delay_s(attempts) == delay_s
    assert BACKOFF.delay(attempts) == timedelta(seconds=delay_s)


@pytest.mark.parametrize(
    ("ahead_s", "waits"),
    [(None, False), (-1.0, False), (0.0, False), (0.1, True), (5.0, True), (5.1, False), (3600.0, False)],
)
def test_a_time_that_no_delay_reaches_was_written_by_a_clock_ahead_of_ours(ahead_s: float | None, waits: bool) -> None:
    until = None if ahead_s is None else NOW + timedelta(seconds=ahead_s)
    assert BACKOFF.is_waiting(until, NOW) is waits
