"""Runs parts of the simulation in a process of its own: the order of sets of texts must be the same in each run."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STANDS_STILL_S = 300.0
"""A run that uses no processor time for so long waits for something that never comes. One that must yield to all others gets
a hundredth of a processor also on a busy machine."""
LOOK_EVERY_S = 2.0


def run(*arguments: str, cpu_s: int = 300, niceness: int = 0) -> subprocess.CompletedProcess[str]:
    """``python -m shardwright.testing.sim …``; a niceness above 0 lets other work go first. Each of its processes may use
    ``cpu_s`` seconds of processor time, however long they take to get it."""
    command = ["nice", "-n", str(niceness), sys.executable, "-m", "shardwright.testing.sim", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "0"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen(command, stdout=out, stderr=error, cwd=ROOT, env=environment)
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        try:
            _wait(process)
        finally:
            process.kill()
            process.wait()
        for file in (out, error):
            file.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, out.read(), error.read())


def _wait(process: "subprocess.Popen[bytes]") -> None:
    used, since = -1, time.monotonic()
    while True:
        try:
            process.wait(LOOK_EVERY_S)
            return
        except subprocess.TimeoutExpired:
            now = sum(_ticks(process.pid))
        if now != used:
            used, since = now, time.monotonic()
        assert time.monotonic() < since + STANDS_STILL_S, f"it has used {used} ticks, none for {STANDS_STILL_S:g} s"


def _ticks(pid: int) -> Iterator[int]:
    """Processor time that a process and its children have used, each."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # It has ended.
        if path.parent.name == str(pid) or fields[1] == str(pid):
            yield int(fields[11]) + int(fields[12])
