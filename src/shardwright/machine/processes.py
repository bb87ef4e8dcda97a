"""Processes by identity: who is it, does it run, tell me when it ends, end it. Linux ``/proc`` and pid file descriptors.

Called by the agent, the supervisor, ``down`` and (on its own machine) the leader. A pid alone names nobody: boot id,
start ticks, executable and directory must match. Must never look for a process by its name.
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
"""The kernel appends this to a link whose file is gone (an upgraded binary, a deleted directory)."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_KILL_WAIT_S = 10.0
"""A killed process that is still there after this sits in the kernel; the caller looks again later."""
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


@cache
def boot_id() -> str:
    """This boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def machine_id() -> str:
    """This machine, over its boots; empty: it has no ``/etc/machine-id``, as in some containers."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    cpu_ticks: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    """None: there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # The name before it may hold spaces and parentheses.
    return _Stat(fields[0], int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]))


def _link(pid: int, name: str) -> str | None:
    """Target of a link; None: gone, a zombie, or another user's."""
    try:
        return os.readlink(f"/proc/{pid}/{name}").removesuffix(_DELETED)
    except OSError:
        return None


def identity_of(pid: int) -> ProcessIdentity | None:
    """Who has this pid now. None: nobody, a zombie (it has ended), or a process of another user."""
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
    own = machine_id()
    if own and identity.machine_id:
        return identity.machine_id == own
    return identity.boot_id == boot_id()


def is_running(identity: ProcessIdentity) -> bool:
    """Whether exactly this process still runs (a stopped one runs, a zombie does not)."""
    return identity_of(identity.pid) == identity


def _is_ending(identity: ProcessIdentity) -> bool:
    """Whether it has ended, but for threads that still do: its status is not there before they have."""
    stat = _stat(identity.pid)
    if stat is None or identity.boot_id != boot_id():
        return False
    return stat.start_ticks == identity.start_ticks and stat.state in "ZX"


def is_frozen(identity: ProcessIdentity) -> bool:
    """Whether it runs, but was stopped by a signal (or a debugger)."""
    stat = _stat(identity.pid)
    return stat is not None and stat.state in "Tt" and is_running(identity)


def cpu_seconds(identity: ProcessIdentity) -> float | None:
    """Processor time that its main thread has used so far; None: it does not run. To the nanosecond where the kernel counts
    so: a server that answers a question a second uses less than a tick of the clock in many seconds."""
    stat = _stat(identity.pid)
    if stat is None or not is_running(identity):
        return None
    try:
        return int(Path(f"/proc/{identity.pid}/schedstat").read_text().split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return stat.cpu_ticks / _TICKS_PER_S


def arguments_of(pid: int) -> list[str]:
    """Its command line, as it shows it now (servers rewrite theirs); empty: gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def find_processes(is_it: Callable[[ProcessIdentity], bool]) -> list[ProcessIdentity]:
    """All processes of this user for which ``is_it`` says so. Reads all of ``/proc`` (some ms): call it in a thread."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            identity = identity_of(int(entry.name))
            if identity is not None and is_it(identity):
                found.append(identity)
    return found


def find_in_directory(directory: str, executable: str) -> list[ProcessIdentity]:
    """Processes of that executable whose working directory is exactly that one: a server and the children it saves with.
    An operator's shell in that directory is not among them."""
    return find_processes(lambda p: p.directory == directory and p.executable == executable)


def parent_of(identity: ProcessIdentity) -> int:
    """Pid of its parent; 0: it does not run."""
    stat = _stat(identity.pid)
    return 0 if stat is None or stat.start_ticks != identity.start_ticks else stat.parent


# -- ending ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _pinned(identity: ProcessIdentity) -> Iterator[int | None]:
    """A pid file descriptor of exactly this process; None: it has ended. No signal through it can hit another one."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Looked at after the descriptor was opened: from here on the pid cannot come to mean another process for us.
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
    """Ask a process to end; kill it after ``term_grace_s``, or up to ``busy_grace_s`` later while it uses processor time (it
    saves). A frozen one cannot listen: it is killed at once, or with ``thaws`` continued, so that it can end by itself.
    ``on_kill`` hears that it did not. True: it is certainly gone. False: killed, but the kernel still holds it."""
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
    watched = os.dup(descriptor)  # A descriptor can have one reader only; this one is ours alone.
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
    """Take the status of an ended child, so that no zombie stays. None: it is no child of ours, or has not ended.
    Negative: ended by that signal."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if found == pid else None


class Watch:
    """Calls ``on_end(exit status or None)`` once, in the event loop, as soon as a process has ended; also when it had ended
    before. Works for processes that are not our children; reaps those that are."""

    def __init__(self, identity: ProcessIdentity, on_end: Callable[[int | None], None]) -> None:
        self.identity = identity
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = None
        self._soon: asyncio.Handle | None = None
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            self._soon = self._loop.call_soon(self._end)
            return
        self._descriptor = descriptor
        if is_running(identity) or _is_ending(identity):
            self._loop.add_reader(descriptor, self._end)
        else:
            self._soon = self._loop.call_soon(self._end)

    def close(self) -> None:
        """Stop watching; the process is left alone."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
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
    """Start a program in a session of its own that outlives us, with nothing on standard input and its output appended to
    a file (mode 0600). Returns after the program was executed. Raises OSError when that failed, or when it ended at once.
    Blocks for some ms: call it in a thread."""
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
    # It is known by its identity from here on, and reaped by pid; the object would complain that it still runs.
    process.returncode = 0
    return identity


def server_environment() -> dict[str, str]:
    """Environment of servers: what a program needs, and nothing of ours."""
    return {k: v for k, v in os.environ.items() if k in _KEPT_VARIABLES}


def python_environment() -> dict[str, str]:
    """Environment of our own processes: all but our variables, which may hold a password. They run elsewhere, so relative
    places of modules become absolute."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SHARDWRIGHT_")}
    if places := kept.get("PYTHONPATH"):
        kept["PYTHONPATH"] = os.pathsep.join(os.path.abspath(p) for p in places.split(os.pathsep) if p)
    return kept
