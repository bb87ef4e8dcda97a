"""Looks for the processes of this machine, and ends them. Called by a leader for its own machine, and by an agent for the
leader on another one."""

import signal

from shardwright.errors import Transient
from shardwright.machine import processes
from shardwright.model.codes import Code
from shardwright.model.seen import ProcessIdentity, Sighting
from shardwright.nodes.protocol import NOT_SEEN, ProcessLook


def look(process: ProcessIdentity) -> ProcessLook:
    """See ``NodeLink.look``."""
    if not processes.is_of_this_machine(process):
        return NOT_SEEN
    if process.boot_id != processes.boot_id():
        return ProcessLook(Sighting.REBOOTED)
    if not processes.is_running(process):
        return ProcessLook(Sighting.ENDED)
    return ProcessLook(Sighting.RUNS, processes.cpu_seconds(process))


def end(process: ProcessIdentity) -> None:
    """See ``NodeLink.end``. Raises Transient for a process of another machine."""
    if not processes.is_of_this_machine(process):
        raise Transient(Code.PROCESS_OF_ANOTHER_MACHINE, f"process {process.pid} does not run on this machine")
    processes.send(process, signal.SIGKILL)
