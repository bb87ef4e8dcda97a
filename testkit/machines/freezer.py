"""Stops and continues all processes of a machine at once, by a cgroup (version 2) for each machine.

Where the kernel has no such cgroups, machines cannot be frozen, and nothing else is missing. Must touch only groups with the
name of its own run.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from testkit.machines.commands import MachinesFailed

_POLL_S = 0.01
_WAIT_S = 10.0


def find_parent() -> Path | None:
    """The cgroup of this process in the hierarchy of version 2; None if there is none, or it must not be changed."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    top = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    own = next((n[3:] for n in Path("/proc/self/cgroup").read_text().splitlines() if n.startswith("0::")), None)
    if top is None or own is None:
        return None
    return top / own.lstrip("/")


@dataclass
class Freezer:
    """The groups of one run."""

    run: str
    """Begins the names of its groups."""
    parent: Path | None

    def take(self, name: str, pid: int) -> None:
        """Put a machine's first process in its group. What it starts later is in it as well."""
        if (group := self._group(name)) is None:
            return
        try:
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            self.parent = None

    def entrance(self, name: str) -> str:
        """The file that takes a process into a machine's group; empty if there is none."""
        group = self._group(name)
        return "" if group is None else str(group / "cgroup.procs")

    def freeze(self, name: str, *, is_frozen: bool) -> None:
        """Returns when it is so. Raises MachinesFailed."""
        group = self._group(name)
        if group is None or not (group / "cgroup.freeze").exists():
            raise MachinesFailed("this kernel has no cgroups of version 2 that freeze")
        (group / "cgroup.freeze").write_text(str(int(is_frozen)))
        deadline = time.monotonic() + _WAIT_S
        while f"frozen {int(is_frozen)}" not in (group / "cgroup.events").read_text():
            if time.monotonic() > deadline:
                raise MachinesFailed(f"{name} is not {'frozen' if is_frozen else 'thawed'} after {_WAIT_S:g} s")
            time.sleep(_POLL_S)

    def kill(self, name: str) -> None:
        """End all of its processes, also frozen ones."""
        if (group := self._group(name)) is not None and group.exists():
            kill_group(group)

    def give_back(self, name: str) -> None:
        """Remove the group of a machine that is off."""
        if (group := self._group(name)) is not None and group.exists():
            remove_group(group)

    def _group(self, name: str) -> Path | None:
        return None if self.parent is None else self.parent / f"{self.run}-{name}"


def kill_group(group: Path) -> None:
    """Raises OSError on kernels before 5.14."""
    (group / "cgroup.kill").write_text("1")


def remove_group(group: Path) -> None:
    """Remove an empty group; one in which a process still ends is tried again for some seconds. Raises OSError."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)
