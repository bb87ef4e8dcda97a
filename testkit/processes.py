"""The processes of a test's cluster, found by their identity instead of the cluster's files. Ends processes; starts none."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardwright.machine.processes import find_processes, send
from shardwright.model.seen import ProcessIdentity


def processes_of(directory: Path) -> list[ProcessIdentity]:
    """All processes that run in a cluster's directory or name it on their command line."""
    place = str(directory)

    def is_of_it(process: ProcessIdentity) -> bool:
        try:
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            return False
        return process.pid != os.getpid() and (process.directory.startswith(place) or place in line)

    return find_processes(is_of_it)


@contextmanager
def ending_all(directory: Path) -> Iterator[None]:
    """Context of an orderly end of the cluster: resumes frozen processes first, so that they can end, and kills the
    remaining ones."""
    for process in processes_of(directory):
        send(process, signal.SIGCONT)
    yield
    for process in processes_of(directory):
        send(process, signal.SIGKILL)
