"""Sees to it that a run (of tests, chaos, the demonstration, many seeds) leaves no process behind, however it ends.

Processes carry the mark of their run: the soft limit of file locks, which Linux hands down to every descendant and enforces
no more. They are known by it in a session of their own, without their parent, with a clean environment and with a title that
was written over it, as servers do. A guard in a session of its own waits for the end of the run's first process and kills
what carries the mark, by identity. A run within a run has a mark that begins with the outer one's.
"""

import os
import resource
import secrets
import select
import signal
import sys
import time
from pathlib import Path

from shardwright.machine.processes import find_processes, send, spawn_process
from shardwright.model.seen import ProcessIdentity

_LIMIT = 10
"""RLIMIT_LOCKS of Linux, which ``resource`` does not name."""
_DIGIT_BITS = 20
_DIGITS_MAX = 3
"""So many runs within one another fit into a limit."""
_SWEEP_S = 30.0
"""A process that is still there after so long sits in the kernel."""
_POLL_S = 0.02


def begin() -> None:
    """Mark this process and all that it starts from now on; when it has ended, they are ended. Call it once, before anything
    is started. Deeper than marks reach, the outer runs' guards do it."""
    outer, hard = _limits(os.getpid())
    if outer >> _DIGIT_BITS * (_DIGITS_MAX - 1):
        return
    mark = outer << _DIGIT_BITS | 1 + secrets.randbelow((1 << _DIGIT_BITS) - 1)
    spawn_process(
        [sys.executable, "-m", "shardwright.testing.guard", str(mark), str(os.getpid())],
        directory=Path("/"),
        output=Path(os.devnull),
        environment={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    resource.setrlimit(_LIMIT, (mark, hard))


def mark_of(pid: int) -> int:
    """The mark of a process; 0: it has none, has ended, or is another user's."""
    try:
        return _limits(pid)[0]
    except OSError:
        return 0


def _limits(pid: int) -> tuple[int, int]:
    soft, hard = resource.prlimit(pid, _LIMIT)
    return (0 if soft == resource.RLIM_INFINITY else soft), hard


def carries(mark: int, sought: int) -> bool:
    """Whether the mark is this one or that of a run within it."""
    return any(mark >> _DIGIT_BITS * digits == sought for digits in range(_DIGITS_MAX))


def marked(mark: int) -> list[ProcessIdentity]:
    """What runs and carries the mark."""
    return find_processes(lambda process: carries(mark_of(process.pid), mark))


def end_marked(mark: int) -> None:
    """Kill what carries the mark, and what that may have started meanwhile, until nothing does."""
    deadline = time.monotonic() + _SWEEP_S
    while (found := marked(mark)) and time.monotonic() < deadline:
        for process in found:
            send(process, signal.SIGKILL)
        time.sleep(_POLL_S)


def main() -> None:
    """The guard: wait for the end of our parent, the run's first process."""
    mark, parent = int(sys.argv[1]), int(sys.argv[2])
    descriptor = os.pidfd_open(os.getppid())
    # Another parent: the run had ended before the descriptor was opened.
    if os.getppid() == parent:
        select.select([descriptor], [], [])
    end_marked(mark)


if __name__ == "__main__":
    main()
