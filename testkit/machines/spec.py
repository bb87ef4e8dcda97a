"""What a machine is made from, as a value that its first process reads. Does no I/O but its own file's."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PREFIX_BITS = 24
USER = "shardwright"
USER_ID = 61_213
"""High, so that it belongs to no one outside: the kernel knows only one set of users."""
KEPT = {"configuration": "etc/shardwright", "state": "var/lib/shardwright", "log": "var/log/shardwright"}
"""What survives a reboot: directories of the machine's own directory, and where they are inside."""
RUNTIME = "runtime"
"""The directory with the supervisor's socket and the units' output; inside it is ``/run/machine``."""
INSIDE = "/run/machine"
SOCKET = "supervisor"
SPEC = "machine.json"
VENV = "/usr/lib/shardwright/venv"
INTERFACE = "eth0"


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One boot of one machine."""

    name: str
    address: str
    directory: str
    """Outside."""
    machine_id: str
    boot_id: str
    hosts: dict[str, str]
    """Names of all machines, with their addresses."""
    venv: str | None = None
    """The environment that is mounted at ``VENV``; the package's units are there too. None: nothing is installed."""
    programs: dict[str, list[str]] = field(default_factory=dict)
    """What the units run instead of their programs."""
    drop_ins: dict[str, str] = field(default_factory=dict)
    """What an operator adds to a unit of the package, by the unit's name."""
    visible: tuple[str, ...] = ()
    """Directories that must be there inside, whatever is mounted where."""

    def write(self, path: Path) -> None:
        """Raises OSError."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "MachineSpec":
        """Raises OSError, ValueError."""
        found = json.loads(path.read_text())
        return cls(**{**found, "visible": tuple(found["visible"])})
