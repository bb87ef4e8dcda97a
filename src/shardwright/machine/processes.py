"""Processes by identity: identifies, watches, ends and starts them. Uses Linux's ``/proc`` and pid file descriptors.

Called by the agent, the supervisor, ``down`` and (on its own machine) the leader. A pid alone does not identify a process:
boot id, start ticks, executable and directory must match. Must never search for a process by its name.
"""

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shardwright.model.seen import ProcessIdentity

_DELETED = " (deleted)"
"""The kernel appends this to a link whose target was deleted (an upgraded binary, a removed directory)."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KILL_WAIT_S = 10.0
"""A killed process that still exists after this time is held by the kernel; the caller checks it again later."""
_FIRST_NAMESPACE = "pid:[4026531836]"
"""The kernel's fixed name of the namespace in which a machine's first process runs."""
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


@cache
def boot_id() -> str:
    """Identifies this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def machine_id() -> str:
    """Identifies this machine's process table, across boots if the machine has a name (``/etc/machine-id``)."""
    try:
        name = Path("/etc/machine-id").read_text().strip()
    except OSError:
        name = ""
    return machine_named(name, boot_id(), namespace=_link("self", "ns/pid") or "")


def machine_named(name: str, boot: str, *, namespace: str) -> str:
    """The id of the machine with this name, boot and namespace of pids. Containers of one host share its boot, and those of
    one image share a name, on all hosts; each has pids of its own. So a container, like a machine without a name, is
    identified for one boot only: that it was started again proves nothing about the processes of another with its name."""
    if namespace == _FIRST_NAMESPACE:
        return name or boot
    return f"{name}/{boot}/{namespace}"


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    cpu_ticks: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    """None: no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # The name before it may contain spaces and parentheses.
    return _Stat(fields[0], int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]))


def _link(pid: int | str, name: str) -> str | None:
    """Target of a link; None: the process has ended, is a zombie, or belongs to another user."""
    try:
        return os.readlink(f"/proc/{pid}/{name}").removesuffix(_DELETED)
    except OSError:
        return None


def identity_of(pid: int) -> ProcessIdentity | None:
    """The process with this pid now. None: no process, a zombie (it has ended), or a process of another user."""
    before = _stat(pid)
    executable, directory = _link(pid, "exe"), _link(pid, "cwd")
    after = _stat(pid)
    if before is None or after is None or executable is None or directory is None:
        return None
    if after.state in "ZX" or before.start_ticks != after.start_ticks:
        return None
    return ProcessIdentity(pid, boot_id(), after.start_ticks, executable, directory, machine_id())


def is_of_this_machine(identity: ProcessIdentity) -> bool:
    """Whether the process belongs to this machine, in this or an earlier boot, so that ``is_running`` is certain."""
    if identity.machine_id:
        return identity.machine_id == machine_id()
    return identity.boot_id == boot_id()


def is_running(identity: ProcessIdentity) -> bool:
    """Whether exactly this process still runs. A stopped process runs; a zombie does not."""
    return identity_of(identity.pid) == identity


def _is_ending(identity: ProcessIdentity) -> bool:
    """Whether it is ending: its exit status is available only when all of its threads have ended."""
    stat = _stat(identity.pid)
    if stat is None or identity.boot_id != boot_id():
        return False
    return stat.start_ticks == identity.start_ticks and stat.state in "ZX"


def is_frozen(identity: ProcessIdentity) -> bool:
    """Whether a signal or a debugger has stopped it."""
    stat = _stat(identity.pid)
    return stat is not None and stat.state in "Tt" and is_running(identity)


def cpu_seconds(identity: ProcessIdentity) -> float | None:
    """CPU time that its main thread has used so far; None: it does not run. In nanosecond resolution if the kernel provides
    it: a server that answers one query per second uses less than a clock tick in many seconds."""
    stat = _stat(identity.pid)
    if stat is None or not is_running(identity):
        return None
    try:
        return int(Path(f"/proc/{identity.pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return stat.cpu_ticks / _TICKS_PER_S


def arguments_of(pid: int) -> list[str]:
    """Its present command line (servers rewrite theirs); empty: it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def find_processes(matches: Callable[[ProcessIdentity], bool]) -> list[ProcessIdentity]:
    """All processes of this user that match. Reads all of ``/proc`` (some ms): call it in a thread."""
    identities = (identity_of(int(entry.name)) for entry in os.scandir("/proc") if entry.name.isdigit())
    return [identity for identity in identities if identity is not None and matches(identity)]


def find_in_directory(directory: str, executable: str) -> list[ProcessIdentity]:
    """Processes with that executable and exactly that working directory: a server, and its children that save. Excludes an
    operator's shell in that directory."""
    # One link of each process instead of its whole identity: agents look while hundreds of processes run.
    pids = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
    identities = (identity_of(pid) for pid in pids if _link(pid, "cwd") == directory)
    return [found for found in identities if found and found.directory == directory and found.executable == executable]


def parent_of(identity: ProcessIdentity) -> int:
    """Pid of its parent; 0: it does not run."""
    stat = _stat(identity.pid)
    return 0 if stat is None or stat.start_ticks != identity.start_ticks else stat.parent


# -- ending ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _pinned(identity: ProcessIdentity) -> Iterator[int | None]:
    """A pid file descriptor of exactly this process; None: it has ended. Its signals cannot reach another process."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Checked after the descriptor was opened, because the descriptor keeps its meaning when the pid is reused.
        yield descriptor if is_running(identity) else None
    finally:
        os.close(descriptor)


def send(identity: ProcessIdentity, signal_number: int) -> bool:
    """Send a signal to exactly this process. False: it has ended."""
    with _pinned(identity) as descriptor:
        if descriptor is None:
            return False
        try:
            signal.pidfd_send_signal(descriptor, signal_number)
        except ProcessLookupError:
            return False
        return True


async def end(
    identity: ProcessIdentity,
    term_grace_s: float,
    *,
    busy_grace_s: float = 0.0,
    thaws: bool = False,
    on_kill: Callable[[], None] | None = None,
) -> bool:
    """Ask a process to end (SIGTERM). Kill it after ``term_grace_s``, or up to ``busy_grace_s`` later while it uses CPU (it
    saves). A frozen process cannot react: it is killed at once or, with ``thaws``, continued so that it can end itself.
    ``on_kill`` is called before a kill. True: it has certainly ended. False: killed, but the kernel still holds it."""
    with _pinned(identity) as descriptor:
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                if term_grace_s > 0 and (thaws or not is_frozen(identity)):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    if thaws:
                        signal.pidfd_send_signal(descriptor, signal.SIGCONT)
                    if not await _ended_within(descriptor, term_grace_s):
                        await _wait_while_busy(identity, descriptor, busy_grace_s)
                if on_kill is not None and is_running(identity):
                    on_kill()
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            has_ended = await _ended_within(descriptor, _KILL_WAIT_S)
        else:
            has_ended = True
    reap(identity.pid)
    return has_ended


async def _wait_while_busy(identity: ProcessIdentity, descriptor: int, busy_grace_s: float) -> None:
    waited_s, before = 0.0, -1.0
    while waited_s < busy_grace_s:
        now = cpu_seconds(identity)
        if now is None or now == before:
            return
        before = now
        if await _ended_within(descriptor, 2.0):
            return
        waited_s += 2.0


async def _ended_within(descriptor: int, seconds: float) -> bool:
    """Whether the process of a pid file descriptor ends in time."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    watched = os.dup(descriptor)  # A descriptor can have only one reader; this copy has no other.
    loop.add_reader(watched, ended.set)
    try:
        async with asyncio.timeout(seconds):
            await ended.wait()
        return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watched)
        os.close(watched)


def reap(pid: int) -> int | None:
    """Read the exit status of an ended child, so that no zombie remains. Negative: the signal that ended it. None: it is not
    a child of this process, or has not ended."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if ended == pid else None


class Watch:
    """Calls ``on_end(exit status or None)`` once, in the event loop, when a process has ended, even if it ended earlier. The
    process need not be a child; a child is reaped."""

    def __init__(self, identity: ProcessIdentity, on_end: Callable[[int | None], None]) -> None:
        self.identity = identity
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = None
        self._pending: asyncio.Handle | None = None
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            self._pending = self._loop.call_soon(self._end)
            return
        self._descriptor = descriptor
        if is_running(identity) or _is_ending(identity):
            self._loop.add_reader(descriptor, self._end)
        else:
            self._pending = self._loop.call_soon(self._end)

    def close(self) -> None:
        """Stop watching. The process is unaffected."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _end(self) -> None:
        self.close()
        self._on_end(reap(self.identity.pid))


# -- starting ----------------------------------------------------------------------------------------------------------


def spawn_process(
    arguments: Sequence[str],
    *,
    directory: Path,
    output: Path,
    environment: Mapping[str, str],
    pass_descriptors: Sequence[int] = (),
) -> ProcessIdentity:
    """Start a program in its own session, so that it outlives this process, with empty standard input and its output
    appended to a file (mode 0600). Returns when the program is executing. Raises OSError if it cannot be executed, or if
    it ended at once. Blocks for some ms: call it in a thread."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            list(arguments),
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            pass_fds=tuple(pass_descriptors),
        )
    finally:
        os.close(descriptor)
    identity = identity_of(process.pid)
    if identity is None:
        status = process.wait()
        raise OSError(errno.ECHILD, f"it ended at once with status {status}: {arguments[0]}")
    # The process is reaped by pid. Without a return code, the object would warn that its process still runs.
    process.returncode = 0
    return identity


def server_environment() -> dict[str, str]:
    """Environment of servers: what any program needs, without Shardwright's variables."""
    return {k: v for k, v in os.environ.items() if k in _KEPT_VARIABLES}


def python_environment() -> dict[str, str]:
    """Environment of Shardwright's own processes: everything except its variables, which may contain a password. The
    processes run in other directories, so relative module paths become absolute."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SHARDWRIGHT_")}
    if paths := environment.get("PYTHONPATH"):
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(p) for p in paths.split(os.pathsep) if p)
    return environment
