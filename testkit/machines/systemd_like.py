"""Runs the daemon of a unit file as systemd would, for the settings on which servers' lives depend.

Honored: Type=notify (with the sender's identity), watchdog, Restart and RestartSec, KillMode, OOMPolicy, RuntimeDirectory
and its Preserve, ExecStopPost, the time limits; where it is wanted also User, Group, UMask, AmbientCapabilities and the
other directories. It is a stand-in for machines without systemd: it shows what these settings mean for our processes, not
that systemd accepts the file (``systemd-analyze verify`` does that).
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from testkit.machines.accounts import Account, account_of, make_directories
from testkit.machines.control_groups import ControlGroup
from testkit.machines.unit_files import Command, Unit, settings_of

_CREDENTIALS = struct.Struct("3i")
_LOOK_S = 0.05
"""How often the kernel is asked for processes that it has killed for their memory."""
_STOP_POST_S = 30.0
# $0: the file that takes a process into the cgroup, or empty. A process knows its own pid only once it runs.
_ENTER = '[ -z "$0" ] || echo $$ >"$0"; [ -z "$WATCHDOG_USEC" ] || export WATCHDOG_PID=$$; exec "$@"'


class Service:
    """One service. A context manager: at its end nothing of the service runs any more, whatever its KillMode."""

    def __init__(
        self,
        unit: Unit,
        directory: Path,
        *,
        programs: Mapping[str, Sequence[str]],
        group: ControlGroup | None = None,
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
        has_users: bool = False,
    ) -> None:
        """``directory`` stands for the file system's root, in arguments too. ``programs``: what runs instead of the programs
        of a unit. ``group``: the cgroup of the service; None: its process group takes its place. ``output``: the file to
        which it writes; None: where this process writes. ``has_users``: whether the unit's user, group, umask and
        directories are honored, for which this process must be root."""
        self.settings = settings_of(unit)
        self.directory = directory
        self.group = group
        self.events: list[str] = []
        """What happened, in order."""
        self.status = ""
        """The daemon's own line of status."""
        self.state = "inactive"
        """``inactive``, ``activating``, ``active``, ``deactivating``, ``auto-restart`` or ``failed``."""
        self.starts = 0
        self.main_pid = 0
        """0: no main process."""
        self._programs = programs
        self._output = output
        self._account = account_of(unit) if has_users else Account()
        self._environment = dict(os.environ if environment is None else environment)
        self._result = "success"
        self._alive_at = 0.0
        self._is_stop_requested = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.setblocking(False)
        self._address = str(directory / (f"run/{unit.name}.notify" if has_users else "notify"))
        self._socket.bind(self._address)
        if self._account.user is not None:
            shutil.chown(self._address, self._account.user)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.kill_rest()
        self._socket.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def __str__(self) -> str:
        return f"{self.state}, {self.starts} starts, main process {self.main_pid}, status {self.status!r}: {self.events}"

    def start(self) -> None:
        """Begin to start it, and keep it running until ``stop``."""
        assert self._thread is None, "it was started already"
        self._is_stop_requested.clear()
        self._thread = threading.Thread(target=self._run, name="systemd-like", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop it, and return when it has stopped. Processes that its KillMode spares keep running."""
        self._is_stop_requested.set()
        if self._thread is not None:
            os.write(self._wake_writer, b".")
            self._thread.join()
            self._thread = None
            # Left there, it would keep the next life's watch awake.
            os.read(self._wake_reader, 4096)

    def kill_rest(self) -> None:
        """End what has outlived the service in its cgroup, for the end of a test."""
        if self.group is not None:
            self.group.kill()

    @property
    def is_idle(self) -> bool:
        """Whether it was not started, or has ended and will not start again by itself."""
        return self._thread is None or not self._thread.is_alive()

    @property
    def runtime_directories(self) -> list[Path]:
        """Where they are under ``directory``."""
        return [self.directory / "run" / name for name in self.settings.runtime_directories]

    # -- its lives ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            status = self._live()
            self._after(status)
            if not self._is_wanted_again(status):
                is_failure = self._result != "success"
                self.state = "failed" if is_failure else "inactive"
                self._note(f"{self.state} ({self._result})")
                return
            self.state = "auto-restart"
            if self._is_stop_requested.wait(self.settings.restart_s):
                self.state = "inactive"
                return

    def _is_wanted_again(self, status: int) -> bool:
        if self._is_stop_requested.is_set() or status in self.settings.restart_prevented_by:
            return False
        is_failure = self._result != "success"
        return self.settings.restart == "always" or (self.settings.restart == "on-failure" and is_failure)

    def _live(self) -> int:
        """One life of the main process; returns its exit status, as the shell would."""
        for path in self.runtime_directories:
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        make_directories(self._account, self.directory)
        self.state, self.status, self._result = "activating", "", "success"
        main = self._spawn(self.settings.start)
        self.main_pid, self.starts = main.pid, self.starts + 1
        self._note(f"started {self.starts}")
        if self.settings.type != "notify":
            self._become_active()
        try:
            self._watch(main)
        finally:
            self.main_pid = 0
        if self.settings.kill_mode == "control-group":
            # Before it is reaped: afterwards the number of its process group could belong to others.
            self._signal_all(main, signal.SIGKILL)
        status = main.wait()
        if status not in (0, -signal.SIGTERM) and self._result == "success":
            self._result = "signal" if status < 0 else "exit-code"
        self._note(f"ended with {status} ({self._result})")
        return status

    def _spawn(self, command: Command, extra: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        program, *rest = command.arguments
        line = [*self._programs.get(program, [program]), *(self._under_directory(word) for word in rest)]
        environment = self._environment | self.settings.environment | dict(extra or {}) | {"NOTIFY_SOCKET": self._address}
        if self.settings.watchdog_s is not None and extra is None:
            environment["WATCHDOG_USEC"] = str(int(self.settings.watchdog_s * 1e6))
        if self.runtime_directories:
            environment["RUNTIME_DIRECTORY"] = ":".join(map(str, self.runtime_directories))
        procs = "" if self.group is None else str(self.group.path / "cgroup.procs")
        account = self._account
        become = account.becoming()
        user = None if become else account.user
        with contextlib.nullcontext() if self._output is None else self._output.open("ab") as output:
            return subprocess.Popen(
                [*become, "/bin/sh", "-c", _ENTER, procs, *line],
                cwd=self.directory,
                env={"WATCHDOG_USEC": "", **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=user,
                group=None if become else account.group,
                extra_groups=None if user is None else [],
                umask=account.umask,
            )

    def _under_directory(self, argument: str) -> str:
        return str(self.directory / argument.lstrip("/")) if argument.startswith("/") else argument

    def _after(self, status: int) -> None:
        """What follows the end of the main process, whatever ended it."""
        extra = {"SERVICE_RESULT": self._result, "EXIT_STATUS": str(status)}
        for command in self.settings.stop_post:
            ended = self._spawn(command, extra).wait(_STOP_POST_S)
            self._note(f"ExecStopPost ended with {ended}")
            if ended and not command.may_fail:
                self._result = "exit-code"
        if not self.settings.are_runtime_directories_kept:
            for path in self.runtime_directories:
                shutil.rmtree(path, ignore_errors=True)

    # -- one life ----------------------------------------------------------------------------------------------------

    def _watch(self, main: subprocess.Popen[bytes]) -> None:
        """Until the main process has ended."""
        descriptor = os.pidfd_open(main.pid)
        watched = [descriptor, self._socket.fileno(), self._wake_reader]
        killed_before = self._killed_by_kernel()
        began = time.monotonic()
        try:
            while True:
                readable, _, _ = select.select(watched, [], [], _LOOK_S)
                if self._socket.fileno() in readable:
                    self._receive(main.pid)
                if descriptor in readable:
                    return
                if self._is_stop_requested.is_set():
                    self._end(main, descriptor, signal.SIGTERM, self.settings.stop_timeout_s)
                    return
                killed = self._killed_by_kernel()
                if killed > killed_before:
                    self._note(f"the kernel has killed {killed - killed_before} for their memory")
                if (cause := self._cause_to_end(began, was_killed=killed > killed_before)) is not None:
                    self._result = cause
                    self._note(cause)
                    is_watchdog = cause == "watchdog"
                    limit_s = self.settings.abort_timeout_s if is_watchdog else self.settings.stop_timeout_s
                    self._end(main, descriptor, signal.SIGABRT if is_watchdog else signal.SIGTERM, limit_s)
                    return
                killed_before = killed
        finally:
            os.close(descriptor)

    def _cause_to_end(self, began: float, *, was_killed: bool) -> str | None:
        """Why the main process must end now."""
        limits, now = self.settings, time.monotonic()
        if self.state == "activating" and limits.start_timeout_s and now - began > limits.start_timeout_s:
            return "timeout"
        if self.state == "active" and limits.watchdog_s and now - self._alive_at > limits.watchdog_s:
            return "watchdog"
        return "oom-kill" if was_killed and limits.oom_policy == "stop" else None

    def _receive(self, main_pid: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
                sender = next((_CREDENTIALS.unpack(c)[0] for _, kind, c in ancillary if kind == socket.SCM_CREDENTIALS), 0)
                if sender != main_pid:
                    self._note(f"a message of process {sender}, which is not the main process, is ignored")
                    continue
                self._understand(dict(line.split("=", 1) for line in data.decode().splitlines() if "=" in line))

    def _understand(self, message: Mapping[str, str]) -> None:
        self.status = message.get("STATUS", self.status)
        if "WATCHDOG" in message:
            self._alive_at = time.monotonic()
        if "READY" in message and self.state == "activating":
            self._become_active()
        if "STOPPING" in message:
            self._note("the daemon says that it stops")
            self.state = "deactivating"

    def _become_active(self) -> None:
        self._alive_at = time.monotonic()
        self.state = "active"
        self._note("active")

    def _end(self, main: subprocess.Popen[bytes], descriptor: int, number: int, timeout_s: float | None) -> None:
        """Signal, wait, kill. The watchdog's signal is for the main process alone, whatever the KillMode."""
        self.state = "deactivating"
        if self.settings.kill_mode == "control-group" and number != signal.SIGABRT:
            self._signal_all(main, number)
        else:
            os.kill(main.pid, number)
        os.kill(main.pid, signal.SIGCONT)  # A frozen process would not see the signal.
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not select.select([descriptor], [], [], _LOOK_S)[0]:
            self._receive(main.pid)
            if deadline is not None and time.monotonic() > deadline:
                self._note("killed")
                os.kill(main.pid, signal.SIGKILL)
                deadline = None
        self._receive(main.pid)

    def _signal_all(self, main: subprocess.Popen[bytes], number: int) -> None:
        if self.group is not None:
            self.group.kill(number)
        else:
            os.killpg(main.pid, number)

    def _killed_by_kernel(self) -> int:
        return 0 if self.group is None else self.group.out_of_memory_kills()

    def _note(self, event: str) -> None:
        self.events.append(event)
