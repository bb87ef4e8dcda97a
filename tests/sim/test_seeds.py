"""Random seeds hold every invariant, and a seed is the same to the letter each time."""

import pytest
from sim_runs import run


@pytest.mark.parametrize(
    ("first", "count"), [(0, 2000), pytest.param(100_000, 10_000, marks=pytest.mark.slow)], ids=["first", "many"]
)
def test_seeds_hold_every_invariant(first: int, count: int) -> None:
    done = run("many", "-n", str(count), "--first", str(first), timeout_s=7200, is_patient=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "failures: 0" in done.stdout


def test_a_seed_replays_to_the_letter() -> None:
    first, second = run("replay", "5"), run("replay", "5")
    assert first.returncode == 0, first.stdout[-2000:]
    assert first.stdout == second.stdout
    assert "fault: " in first.stdout
