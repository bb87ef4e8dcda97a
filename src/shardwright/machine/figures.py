"""Figures of the machine, for reports. Reads ``/proc`` and the file system."""

import os
import platform
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MachineFigures:
    """The resources of a machine, and the free part of them."""

    cores: int
    memory_total_bytes: int
    memory_free_bytes: int
    """Memory that new processes can use without swapping."""
    disk_total_bytes: int
    disk_free_bytes: int
    os_name: str
    architecture: str
    hostname: str
    uptime_s: int


def read_figures(directory: Path) -> MachineFigures:
    """The present figures; the disk is the one with ``directory``."""
    memory = _memory()
    disk = os.statvfs(directory)
    return MachineFigures(
        cores=os.cpu_count() or 1,
        memory_total_bytes=memory.get("MemTotal", 0),
        memory_free_bytes=memory.get("MemAvailable", 0),
        disk_total_bytes=disk.f_blocks * disk.f_frsize,
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
        os_name=_os_name(),
        architecture=platform.machine(),
        hostname=socket.gethostname(),
        uptime_s=int(float(Path("/proc/uptime").read_text().split()[0])),
    )


def _memory() -> dict[str, int]:
    sizes = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB":
            sizes[name] = int(words[0]) * 1024
    return sizes


@cache
def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
