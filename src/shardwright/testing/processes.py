"""The processes of a test's cluster, found by what they are and not by what its files say. Ends them; starts none."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shardwright.machine.processes import find_processes, send
from shardwright.model.seen import ProcessIdentity


def processes_of(directory: Path) -> list[ProcessIdentity]:
    """Everything that runs in a cluster's directory or names it."""
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
    """Around an orderly end of the cluster: what is frozen goes on, so that it can end; what is left behind is killed."""
    for process in processes_of(directory):
        send(process, signal.SIGCONT)
    yield
    for process in processes_of(directory):
        send(process, signal.SIGKILL)
