"""Random seeds keep every invariant, and a seed gives exactly the same run each time."""

import signal

import pytest

from tests.sim.sim_runs import run

SHARE = 100
SEEDS = [*range(0, 100, SHARE), *(pytest.param(first, marks=pytest.mark.proof) for first in range(100, 2000, SHARE))]


@pytest.mark.begins_first
@pytest.mark.parametrize("first", SEEDS)
def test_seeds_hold_every_invariant(first: int) -> None:
    # Beside tests that mostly wait: it uses the CPU that they leave, and all of it when they have ended.
    done = run("many", "-n", str(SHARE), "--first", str(first), niceness=5)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "failures: 0" in done.stdout


@pytest.mark.slow
def test_ten_thousand_seeds_hold_every_invariant() -> None:
    done = run("many", "-n", "10000", "--first", "100000", cpu_s=7200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_a_seed_replays_exactly() -> None:
    first, second = run("replay", "5"), run("replay", "5")
    assert first.returncode == 0, first.stdout[-2000:]
    assert first.stdout == second.stdout
    assert "fault: " in first.stdout


def test_the_cpu_time_of_a_run_is_limited() -> None:
    done = run("many", "-n", "400", "--jobs", "1", cpu_s=2)
    assert done.returncode == -signal.SIGXCPU
