"""The machines of simulated nodes: an id, boots, and a process table for each.

Owns the layout: which node is on which machine. A machine that is off or cut off answers nothing, not even a refusal. Its
pids belong to it alone; a process of an earlier boot is not in its table.
"""

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from shardwright.model.seen import ProcessIdentity
from sim.loop import SimProcess

if TYPE_CHECKING:
    from sim.server import SimServer

ONE = "all"
"""The machine of all nodes of a local cluster."""


class SimMachine:
    """One machine."""

    def __init__(self, name: str) -> None:
        self.machine_id = f"machine-{name}"
        self.boots = 1
        self.nodes: list[int] = []
        self._processes: dict[int, tuple[SimProcess | None, SimServer | None]] = {}

    @property
    def boot_id(self) -> str:
        """Identifies the present boot."""
        return f"boot-{self.boots}-of-{self.machine_id}"

    def new_pid(self, process: SimProcess | None = None, server: "SimServer | None" = None) -> int:
        """The pid of a new process; never used twice on this machine."""
        pid = 1000 + len(self._processes)
        self._processes[pid] = (process, server)
        return pid

    def identity(self, pid: int, executable: str, directory: str) -> ProcessIdentity:
        """The identity of the process with this pid in the present boot."""
        return ProcessIdentity(pid, self.boot_id, 1, executable, directory, self.machine_id)

    def is_home_of(self, process: ProcessIdentity) -> bool:
        """Whether the process ran on this machine, in this or an earlier boot."""
        return process.machine_id == self.machine_id

    def server_of(self, process: ProcessIdentity) -> "SimServer | None":
        """The server with this pid, if it lives."""
        _, server = self._processes.get(process.pid, (None, None))
        return server if server is not None and server.is_alive else None

    def has_here(self, process: ProcessIdentity) -> bool:
        """Whether a process with this pid lives in this machine's own table, whatever machine the process ran on."""
        found, _ = self._processes.get(process.pid, (None, None))
        return found is not None and found.is_alive

    def is_frozen(self, process: ProcessIdentity) -> bool:
        """Whether it uses no CPU."""
        found, _ = self._processes.get(process.pid, (None, None))
        return found is not None and found.is_frozen


class Machines:
    """The layout of a simulated cluster. ``names``: the machine of each node; other nodes are on ``ONE``."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self._machines: dict[str, SimMachine] = {}

    def of(self, node: int) -> SimMachine:
        """The machine of a node."""
        name = self.names.get(node, ONE)
        found = self._machines.setdefault(name, SimMachine(name))
        if node not in found.nodes:
            found.nodes.append(node)
        return found

    @property
    def all(self) -> list[SimMachine]:
        """The machines with nodes."""
        return list(self._machines.values())

    @property
    def are_several(self) -> bool:
        """Whether the nodes are spread over more than one machine."""
        return len(set(self.names.values())) > 1


Layout = Callable[[int, int], dict[int, str]]
"""The names of the machines for the nodes of a seed: seed and number of nodes to node and name."""


def one_each(seed: int, nodes: int) -> dict[int, str]:
    """A machine for every node."""
    return {node: str(node) for node in range(1, nodes + 1)}


def at_random(seed: int, nodes: int) -> dict[int, str]:
    """Several machines for these nodes, mostly one for each. A stream of its own: it changes no other choice of the seed."""
    rng = random.Random(f"machines of {seed}")
    if rng.random() < 0.6:
        return one_each(seed, nodes)
    count = rng.randint(2, max(2, nodes - 1))
    spread = [1 + number % count for number in range(nodes)]
    rng.shuffle(spread)
    return {node: str(spread[node - 1]) for node in range(1, nodes + 1)}
