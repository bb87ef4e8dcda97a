"""Runs a program outside the machines and says what went wrong; says what machines lack here. Starts nothing that stays."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testkit.machines.spec import ROOT

COMMAND_S = 60.0
TOOLS = {
    "ip": "iproute2", "tc": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "mount": "util-linux",
    "pivot_root": "util-linux", "setpriv": "util-linux",
}  # fmt: skip
"""Programs, with the packages of Debian."""


class MachinesFailed(Exception):
    """A machine, or what connects them, is not as it should be; the text says why."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that has ended."""

    status: int
    """Negative: the signal that ended it."""
    output: str
    errors: str


def missing() -> str:
    """Why there can be no machines here; empty: there can be."""
    if sys.platform != "linux":
        return "machines are made of Linux's namespaces"
    if os.geteuid() != 0:
        return "only root can make machines (namespaces, mounts, a bridge of their own)"
    lacking = sorted({package for program, package in TOOLS.items() if shutil.which(program) is None})
    return f"programs for machines are missing: apt-get install {' '.join(lacking)}" if lacking else ""


def run(
    words: Sequence[str],
    *,
    timeout_s: float = COMMAND_S,
    environment: Mapping[str, str] | None = None,
    given: str | None = None,
) -> Ran:
    """Run it to its end; ``given``: its standard input. Raises MachinesFailed when it takes too long: then it was killed,
    with what it has started in its session."""
    process = subprocess.Popen(
        list(words),
        env=environment,
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            output, errors = process.communicate(given, timeout=timeout_s)
        except BaseException as e:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(e, subprocess.TimeoutExpired):
                output, errors = process.communicate()
                text = f"{' '.join(words)} took longer than {timeout_s:g} s: {output[-2000:]}{errors[-2000:]}"
                raise MachinesFailed(text) from e
            raise
    return Ran(process.returncode, output, errors)


def check(words: Sequence[str], *, given: str | None = None) -> str:
    """Run it; returns its output. Raises MachinesFailed when it fails."""
    ran = run(words, given=given)
    if ran.status != 0:
        raise MachinesFailed(f"{' '.join(words)} ended with {ran.status}: {ran.output}{ran.errors}")
    return ran.output


class Held:
    """A program that runs until it is closed, or until its input ends: that is when this process ends, however it ends."""

    def __init__(self, words: Sequence[str]) -> None:
        """Returns when it has said ``ready``. Raises MachinesFailed when it has not."""
        self._process = subprocess.Popen(
            list(words),
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.close()
            raise MachinesFailed(f"{' '.join(words)} has ended with {self._process.returncode}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
