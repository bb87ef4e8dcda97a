"""Runs parts of the simulation in a separate process, because the order of sets of texts must be the same in each run."""

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
"""A run that uses no CPU for this time hangs. A run with the lowest priority gets a hundredth of a CPU even on a busy
machine."""
LOOK_EVERY_S = 2.0


def run(*arguments: str, cpu_s: int = 300, niceness: int = 0) -> subprocess.CompletedProcess[str]:
    """Run ``python -m sim …``; a niceness above 0 lets other work go first. Each of its processes may
    use ``cpu_s`` seconds of CPU, however long it takes to get them."""
    command = ["nice", "-n", str(niceness), sys.executable, "-m", "sim", *arguments]
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
    """CPU time that a process and each of its children have used."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # The process has ended.
        if path.parent.name == str(pid) or fields[1] == str(pid):
            yield int(fields[11]) + int(fields[12])
