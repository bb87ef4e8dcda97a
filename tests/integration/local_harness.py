"""Runs the command line on a test's own local cluster, and checks what remains of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardwright.local.layout import Layout, layout_of
from shardwright.local.stop import Running, find_running
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import find_processes, identity_of, is_running, send
from shardwright.model.ids import NodeUid
from shardwright.model.seen import ProcessIdentity
from testkit.deadlines import Stopwatch, until

SOURCES = Path(__file__).parents[2] / "src"
STAND_IN_MODULE = "local_daemon"
"""Starts faster than the product's daemon, and needs no API."""


@dataclass
class LocalCluster:
    """A cluster that may exist or not."""

    directory: Path
    base: str
    module: str = STAND_IN_MODULE
    options: list[str] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return layout_of(self.directory)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SHARDWRIGHT_")}
        return {**kept, "PYTHONPATH": os.pathsep.join(map(str, (SOURCES, Path(__file__).parent, SOURCES.parent))), **more}

    def begin(self, *arguments: str, **more: str) -> "subprocess.Popen[str]":
        """Run a command in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "shardwright.cli.main", *arguments],
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        process = self.begin(*arguments, **more)
        try:
            out, error = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            raise AssertionError(f"{arguments} did not end:\n{out}\n{error}") from None
        assert "Traceback" not in error, error
        return subprocess.CompletedProcess(arguments, process.returncode, out, error)

    def up_arguments(self, *more: str) -> list[str]:
        place = ["--dir", str(self.directory), "--address-base", self.base, "--endpoint-address", self.base]
        return ["up", *place, "--daemon-module", self.module, *self.options, *more]

    def up(self, *more: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return self.run(*self.up_arguments("--detach", *more), **environment)

    def down(self, *more: str) -> "subprocess.CompletedProcess[str]":
        return self.run("down", "--dir", str(self.directory), *more)

    def started(self, *more: str) -> dict[str, Any]:
        """Start the cluster. Returns its output."""
        done = self.up("--json", *more)
        assert done.returncode == 0, done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    # -- state -------------------------------------------------------------------------------------------------------

    def supervisor(self) -> ProcessIdentity:
        found = read_identity(self.layout.supervisor)
        assert found is not None
        return found

    def daemon(self, uid: int) -> ProcessIdentity:
        found = read_identity(self.layout.daemon(NodeUid(uid)))
        assert found is not None
        return found

    def running(self) -> Running:
        return find_running(self.layout)

    def log(self) -> str:
        path = self.layout.supervisor_log
        return path.read_text() if path.exists() else ""

    def processes(self) -> list[ProcessIdentity]:
        """All running processes of the cluster, including its supervisor, whatever its files contain."""
        place = str(self.layout.directory)
        mine = {os.getpid(), os.getppid()}

        def is_of_it(process: ProcessIdentity) -> bool:
            try:
                line = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                return False
            return process.pid not in mine and (process.directory.startswith(place) or place in line)

        return find_processes(is_of_it)

    def until(self, is_so: Callable[[], bool], *, seconds: float = 30) -> float:
        watch = Stopwatch()
        until("it", is_so, seconds=seconds, state=lambda: f"running: {self.running()}\n{self.log()}")
        return watch.seconds

    def clean_up(self) -> None:
        """End everything, whatever state the test left."""
        if not self.directory.exists():
            return
        for process in self.processes():
            send(process, signal.SIGCONT)
        self.down("--purge")
        for process in self.processes():
            send(process, signal.SIGKILL)


__all__ = ["LocalCluster", "NodeUid", "identity_of", "is_running", "send"]
