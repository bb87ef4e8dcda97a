"""A cgroup of its own for a service of the harness, in whichever hierarchy of this machine allows it: version 1 or 2.

The kernel keeps descendants in it, whatever sessions they make. Must end only processes of its own groups.
"""

import os
import re
import signal
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_END_S = 10.0


def find_parent() -> Path | None:
    """Where this process may make cgroups with a memory limit, or at least cgroups; None: nowhere."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    candidates = (
        _ROOT / "memory" / own.get("memory", "/").lstrip("/"),
        _ROOT / own.get("", "/").lstrip("/"),
        _ROOT / "unified",
    )
    for parent in candidates:
        probe = parent / f"shardwright-probe-{os.getpid()}"
        try:
            probe.mkdir()
            is_usable = (probe / "cgroup.procs").exists() and os.access(probe / "cgroup.procs", os.W_OK)
            probe.rmdir()
        except OSError:
            continue
        if is_usable:
            return parent
    return None


class ControlGroup:
    """One cgroup, empty at first."""

    def __init__(self, path: Path) -> None:
        """Creates it. Raises OSError."""
        self.path = path
        path.mkdir()

    def pids(self) -> set[int]:
        """The processes in it and below it."""
        found: set[int] = set()
        for path in (self.path, *(p for p in self.path.rglob("*") if p.is_dir())):
            try:
                found |= {int(line) for line in (path / "cgroup.procs").read_text().split()}
            except OSError:
                continue
        return found

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all of them."""
        for pid in self.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def limit_memory(self, bytes_max: int) -> bool:
        """Whether the kernel will kill a process of this cgroup when they use more."""
        for name in ("memory.limit_in_bytes", "memory.max"):
            if (self.path / name).exists():
                (self.path / name).write_text(str(bytes_max))
                return True
        return False

    def out_of_memory_kills(self) -> int:
        """How many processes of it, or below it, the kernel has killed for their memory."""
        total = 0
        for name in ("memory.oom_control", "memory.events"):
            for path in self.path.rglob(name):
                if found := re.search(r"^oom_kill (\d+)", path.read_text(), re.M):
                    # Version 2 counts those below as well.
                    total = max(total, int(found[1])) if name == "memory.events" else total + int(found[1])
        return total

    def close(self) -> None:
        """End what is in it, and remove it."""
        deadline = time.monotonic() + _END_S
        while self.pids() and time.monotonic() < deadline:
            self.kill()
            time.sleep(0.01)
        for path in sorted((p for p in self.path.rglob("*") if p.is_dir()), reverse=True):
            path.rmdir()
        self.path.rmdir()
