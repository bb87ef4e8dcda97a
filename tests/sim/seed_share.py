"""Random seeds in two shares, one for each of the two processes that run the tests."""

from sim_runs import run

SHARE = 500


def hold(first: int, count: int = SHARE) -> None:
    """Run the seeds in one process; all of them must hold every invariant."""
    done = run("many", "-n", str(count), "--first", str(first), "--jobs", "1", timeout_s=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "failures: 0" in done.stdout
