"""Nothing remains of a run of tests, whichever of its processes is signalled and however it ends."""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shardwright.machine.processes import arguments_of, find_processes, send
from shardwright.model.seen import ProcessIdentity
from testkit.guard import carries, end_marked, mark_of, marked
from tests.conftest import found_servers
from tests.integration.server_harness import wait_until

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
# A shell without job control lets its background processes ignore the interrupt, and so do all their children.
MAKE = ["env", "--default-signal=INT", "make", "-o", ".venv/.dev", f"BIN={Path(sys.executable).parent}", "test"]
INNER = "tests/integration/interrupted_run.py"
STARTED = {
    "shardwright.local.supervisor": 1,
    "local_daemon": 3,
    "sim": 3,
    **{f"{kind}-server": 1 for kind in found_servers()},
}
"""Words of command lines, and the number of the inner run's processes with them when all have started."""


def _lines(mark: int) -> list[str]:
    return [" ".join(arguments_of(process.pid)) for process in marked(mark)]


def _is_in_the_middle(mark: int) -> bool:
    counts = Counter(word for line in _lines(mark) for word in STARTED if word in line)
    return all(counts[word] >= count for word, count in STARTED.items())


@contextmanager
def _run_in_the_middle() -> Iterator["tuple[subprocess.Popen[bytes], ProcessIdentity, int]"]:
    """``make test`` in its own process group, with everything started; the first process of pytest, and its mark."""
    own = mark_of(os.getpid())
    make = subprocess.Popen([*MAKE, f"ARGS={INNER}"], cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    inner: list[ProcessIdentity] = []
    mark = 0

    def has_begun() -> bool:
        inner[:] = find_processes(lambda p: _is_inner(p.pid, make.pid, own))
        return bool(inner)

    try:
        wait_until(has_begun, seconds=30)
        first = min(inner, key=lambda p: (p.start_ticks, p.pid))
        mark = mark_of(first.pid)
        wait_until(lambda: _is_in_the_middle(mark), what=lambda: _lines(mark), seconds=60)
        yield make, first, mark
    finally:
        make.kill()
        make.wait(10)
        if mark:
            end_marked(mark)


def _is_inner(pid: int, session: int, own: int) -> bool:
    try:
        return os.getsid(pid) == session and mark_of(pid) != own
    except ProcessLookupError:
        return False


@pytest.mark.proof
@pytest.mark.parametrize("way", ["interrupt of the group", "end of make", "end of pytest", "death of pytest"])
def test_nothing_remains_of_a_run_that_is_stopped(way: str) -> None:
    with _run_in_the_middle() as (make, controller, mark):
        match way:
            case "interrupt of the group":
                os.killpg(make.pid, signal.SIGINT)
            case "end of make":
                make.terminate()
            case "end of pytest":
                assert send(controller, signal.SIGTERM)
            case _:
                assert send(controller, signal.SIGKILL)
        wait_until(lambda: not marked(mark), what=lambda: _lines(mark), seconds=20)


@pytest.mark.parametrize(
    ("mark", "sought", "is_of_it"), [(5, 5, True), (5 << 20 | 7, 5, True), (5, 5 << 20 | 7, False), (0, 5, False)]
)
def test_a_nested_run_belongs_to_both_runs(mark: int, sought: int, is_of_it: bool) -> None:
    assert carries(mark, sought) is is_of_it
