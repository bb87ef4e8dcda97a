"""Ensures that a run (of tests, chaos, the demonstration, many seeds) leaves no process behind, however it ends.

Processes carry the mark of their run: the soft limit of file locks, which Linux passes on to all descendants and no longer
enforces. The mark survives a new session, the parent's death, a clean environment and a rewritten title (as of servers). A
guard in its own session waits for the end of the run's first process and then kills all processes with the mark, by
identity. The mark of a nested run begins with the mark of the outer run.
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
"""Linux's RLIMIT_LOCKS, which ``resource`` does not define."""
_DIGIT_BITS = 20
_DIGITS_MAX = 3
"""Maximum depth of nested runs whose marks fit into a limit."""
_SWEEP_S = 30.0
"""A process that still exists after this time is held by the kernel."""
_POLL_S = 0.02
_ROOT = Path(__file__).parents[1]


def begin() -> None:
    """Mark this process and all processes that it will start; they are ended after its end. Call it once, before any other
    process is started. In runs nested more deeply than marks allow, the guards of the outer runs do it."""
    outer, hard = _limits(os.getpid())
    if outer >> _DIGIT_BITS * (_DIGITS_MAX - 1):
        return
    mark = outer << _DIGIT_BITS | 1 + secrets.randbelow((1 << _DIGIT_BITS) - 1)
    spawn_process(
        [sys.executable, "-m", "testkit.guard", str(mark), str(os.getpid())],
        directory=Path("/"),
        output=Path(os.devnull),
        environment={**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'src'}"},
    )
    resource.setrlimit(_LIMIT, (mark, hard))


def mark_of(pid: int) -> int:
    """The mark of a process; 0: it has no mark, has ended, or belongs to another user."""
    try:
        return _limits(pid)[0]
    except OSError:
        return 0


def _limits(pid: int) -> tuple[int, int]:
    soft, hard = resource.prlimit(pid, _LIMIT)
    return (0 if soft == resource.RLIM_INFINITY else soft), hard


def carries(mark: int, sought: int) -> bool:
    """Whether the mark is the sought one, or belongs to a run nested within it."""
    return any(mark >> _DIGIT_BITS * digits == sought for digits in range(_DIGITS_MAX))


def marked(mark: int) -> list[ProcessIdentity]:
    """The running processes with the mark."""
    return find_processes(lambda process: carries(mark_of(process.pid), mark))


def end_marked(mark: int) -> None:
    """Kill all processes with the mark, and those that they start meanwhile, until none is left."""
    deadline = time.monotonic() + _SWEEP_S
    while (processes := marked(mark)) and time.monotonic() < deadline:
        for process in processes:
            send(process, signal.SIGKILL)
        time.sleep(_POLL_S)


def main() -> None:
    """The guard: wait for the end of the parent, the run's first process."""
    mark, parent = int(sys.argv[1]), int(sys.argv[2])
    descriptor = os.pidfd_open(os.getppid())
    # With another parent, the run had ended before the descriptor was opened.
    if os.getppid() == parent:
        select.select([descriptor], [], [])
    end_marked(mark)


if __name__ == "__main__":
    main()
