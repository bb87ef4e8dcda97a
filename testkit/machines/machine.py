"""One machine, from outside: boot, power off, commands inside, its processes and units, freezing, its files.

A machine that is off has only its directory. Its name and address are the group's; the cable is the switch's.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import CDLL, get_errno
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from testkit.machines.calls import call
from testkit.machines.commands import MachinesFailed, Ran, run
from testkit.machines.delay import send_plain
from testkit.machines.freezer import Freezer
from testkit.machines.spec import INSIDE, INTERFACE, KEPT, ROOT, RUNTIME, SOCKET, SPEC, MachineSpec
from testkit.machines.switch import Switch

BOOT_S = 60.0
_POLL_S = 0.02
_CLONE_NEWNET = 0x40000000
_LOG_CHARACTERS = 3000


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a machine, by the machine's own numbers."""

    pid: int
    started: int
    """In the kernel's ticks."""
    arguments: tuple[str, ...]


@dataclass
class Machine:
    """See the module's text."""

    spec: MachineSpec
    switch: Switch
    freezer: Freezer
    environment: dict[str, str] = field(default_factory=dict)
    """Added to that of commands."""
    _first: "subprocess.Popen[bytes] | None" = None
    """Stands for the machine's first process: ends with it, and it with this."""
    _pid: int = 0
    """The machine's first process, by the numbers outside."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def address(self) -> str:
        return self.spec.address

    @property
    def directory(self) -> Path:
        return Path(self.spec.directory)

    @property
    def configuration(self) -> Path:
        """Its ``/etc/shardwright``, from outside."""
        return self.directory / "configuration"

    @property
    def is_on(self) -> bool:
        return self._first is not None

    # -- power -------------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Turn it on; returns when commands can run. Units start meanwhile. Raises MachinesFailed."""
        assert self._first is None, f"{self.name} is on"
        for name in (*KEPT, RUNTIME, "scratch"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        runtime = self.directory / RUNTIME
        self.spec.write(runtime / SPEC)
        (runtime / SOCKET).unlink(missing_ok=True)
        namespaces = ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--propagation=private"]
        with (runtime / "boot.log").open("ab") as log:
            self._first = subprocess.Popen(
                ["unshare", *namespaces, sys.executable, "-m", "testkit.machines.boot", str(runtime / SPEC)],
                cwd="/",
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._pid = self._wait("its first process", self._child)
            self.freezer.take(self.name, self._pid)
            self.switch.plug(self.name, self._pid, INTERFACE)
            assert self._first.stdin is not None
            self._first.stdin.write(b".")
            self._first.stdin.flush()
            self._wait("the supervisor", self._answers)
        except BaseException:
            self.power_off()
            raise

    def _child(self) -> int:
        assert self._first is not None
        try:
            found = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()
        except OSError:
            return 0
        return int(found[0]) if found else 0

    def _answers(self) -> bool:
        try:
            self._ask("ping")
        except OSError:
            return False
        return True

    def _wait(self, what: str, value: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + BOOT_S
        while not (found := value()):
            assert self._first is not None
            if self._first.poll() is not None or time.monotonic() > deadline:
                raise MachinesFailed(f"{self.name} did not boot ({what}): {self.logs()}")
            time.sleep(_POLL_S)
        return found

    def power_off(self) -> None:
        """As without power: the others hear nothing more of it, and no process ends in order. Its directories remain."""
        if self._first is None:
            return
        self.switch.unplug(self.name)
        self.freezer.kill(self.name)
        if self._pid:
            # Its end is the end of all others: the kernel kills them before this one can be waited for.
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        else:
            self._first.kill()
        self._first.wait()
        assert self._first.stdin is not None
        self._first.stdin.close()
        self.freezer.give_back(self.name)
        self._first, self._pid = None, 0

    def reboot(self) -> None:
        """Without power and on again, with another boot id."""
        self.power_off()
        self.spec = replace(self.spec, boot_id=str(uuid4()))
        self.boot()

    def freeze(self) -> None:
        """Stop all of it, as a hypervisor stops a guest; its clock goes on, and its kernel still answers for its sockets.
        Raises MachinesFailed where the kernel cannot."""
        self.freezer.freeze(self.name, is_frozen=True)

    def thaw(self) -> None:
        """Let it go on."""
        self.freezer.freeze(self.name, is_frozen=False)

    def delay(self, seconds: float | None) -> None:
        """Let what passes to and from it arrive later, by so much in each direction; None: at once again."""
        with self.network():
            send_plain(INTERFACE)
        self.switch.delay(self.name, seconds)

    # -- inside ------------------------------------------------------------------------------------------------------------

    def inside(self, words: Sequence[str], *, user: str | None = None) -> list[str]:
        """The command, for a process outside, that runs a command inside; ``user``: None is root."""
        assert self._pid, f"{self.name} is off"
        # The cgroup first: in it, the command is frozen and ended with the machine.
        join = ["/bin/sh", "-c", '[ -z "$0" ] || echo $$ >"$0"; exec "$@"', self.freezer.entrance(self.name)]
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        become = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        return [*join, *enter, *become, *words]

    def run(self, *words: str, user: str | None = None, timeout_s: float = 60.0, given: str | None = None) -> Ran:
        """Run a command to its end. Raises MachinesFailed when it takes too long."""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self.environment,
        }
        return run(self.inside(words, user=user), timeout_s=timeout_s, environment=environment, given=given)

    def check(self, *words: str, user: str | None = None, timeout_s: float = 60.0, given: str | None = None) -> str:
        """The same; returns its output. Raises MachinesFailed when it fails."""
        ran = self.run(*words, user=user, timeout_s=timeout_s, given=given)
        if ran.status != 0:
            raise MachinesFailed(f"{self.name}: {' '.join(words)} ended with {ran.status}: {ran.output}{ran.errors}")
        return ran.output

    def spawn(self, name: str, *words: str, user: str | None = None) -> Process:
        """Start a program that goes on running; its output is the log ``name``. Raises MachinesFailed."""
        script = 'setsid "$@" </dev/null >>"$0" 2>&1 & echo $!'
        pid = int(self.check("sh", "-c", script, f"{INSIDE}/{name}.log", *words, user=user))
        found = next((process for process in self.processes() if process.pid == pid), None)
        if found is None:
            raise MachinesFailed(f"{words[0]} has ended at once: {self.logs()}")
        return found

    @contextmanager
    def network(self) -> Iterator[None]:
        """Within it, the sockets that this thread makes are this machine's, and so are those of processes that it starts."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            theirs = os.open(f"/proc/{self._pid}/ns/net", os.O_RDONLY)
            try:
                _set_network(theirs)
            finally:
                os.close(theirs)
            try:
                yield
            finally:
                _set_network(own)
        finally:
            os.close(own)

    # -- processes and units -----------------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """All processes inside."""
        found = self._ask("processes")["processes"]
        return [Process(p["pid"], p["started"], tuple(p["arguments"])) for p in found]

    def signal(self, process: Process, number: int) -> None:
        """Send a signal to exactly this process. Raises CallRefused when it has ended."""
        self._ask("signal", pid=process.pid, started=process.started, number=number)

    def units(self) -> dict[str, Any]:
        """State, status, main process (0: none), starts and events of each service."""
        return self._ask("status")

    def main_process(self, unit: str) -> Process | None:
        """The main process of a service; None: it has none."""
        pid = self.units()[unit]["main_pid"]
        return next((p for p in self.processes() if pid and p.pid == pid), None)

    def signal_unit(self, unit: str, number: int) -> None:
        """Send a signal to the main process of a service. Raises MachinesFailed when it has none."""
        process = self.main_process(unit)
        if process is None:
            raise MachinesFailed(f"{unit} of {self.name} does not run: {self.units()[unit]}")
        self.signal(process, number)

    def start(self, unit: str) -> None:
        """Start a service, or the target."""
        self._ask("start", unit=unit)

    def stop(self, unit: str) -> None:
        """Stop it, and wait until it has stopped."""
        self._ask("stop", unit=unit)

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        return call(self.directory / RUNTIME / SOCKET, {"do": do, **arguments})

    # -- for people --------------------------------------------------------------------------------------------------------

    def logs(self) -> str:
        """The ends of all logs, and the state of the units."""
        parts = [f"== {self.name} ({self.address}), {'on' if self.is_on else 'off'}"]
        try:
            parts.append(json.dumps(self.units(), indent=1) if self.is_on else "")
        except (OSError, ValueError) as e:
            parts.append(f"the supervisor does not answer: {e}")
        for path in (*sorted((self.directory / RUNTIME).glob("*.log")), *sorted((self.directory / "log").rglob("*.log"))):
            text = path.read_text(errors="replace")[-_LOG_CHARACTERS:]
            parts.append(f"-- {path.relative_to(self.directory)}\n{text}")
        return "\n".join(parts)


def _set_network(descriptor: int) -> None:
    """Move this thread. Raises OSError."""
    if CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        number = get_errno()
        raise OSError(number, f"the network could not be entered: {os.strerror(number)}")
