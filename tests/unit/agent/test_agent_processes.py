"""Processes by identity, on real processes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.machine import processes
from shardwright.machine.processes import (
    Watch,
    cpu_seconds,
    end,
    find_in_directory,
    identity_of,
    is_frozen,
    is_of_this_machine,
    is_running,
    python_environment,
    send,
    server_environment,
    spawn_process,
)
from shardwright.model.seen import ProcessIdentity
from testkit.deadlines import Stopwatch, until

SLEEP = os.path.realpath("/bin/sleep")


@contextmanager
def sleeper(directory: Path, *command: str) -> Iterator[ProcessIdentity]:
    arguments = list(command) or [SLEEP, "60"]
    identity = spawn_process(arguments, directory=directory, output=directory / "out", environment=server_environment())
    try:
        yield identity
    finally:
        asyncio.run(end(identity, 0))


def test_an_identity_identifies_its_process(tmp_path: Path) -> None:
    with sleeper(tmp_path) as identity:
        assert identity.executable == SLEEP
        assert identity.directory == str(tmp_path.resolve())
        assert is_running(identity)
        assert identity_of(identity.pid) == identity
        assert os.getsid(identity.pid) == identity.pid, "it must have a session of its own"
        assert cpu_seconds(identity) is not None
    assert not is_running(identity)
    assert cpu_seconds(identity) is None


def test_a_reused_pid_is_not_trusted(tmp_path: Path) -> None:
    with sleeper(tmp_path) as identity:
        others = [
            replace(identity, start_ticks=identity.start_ticks - 1),
            replace(identity, boot_id="another boot"),
            replace(identity, executable="/bin/other"),
            replace(identity, directory="/elsewhere"),
        ]
        for other in others:
            assert not is_running(other)
            assert not send(other, signal.SIGKILL)
            assert asyncio.run(end(other, 0)), "it counts as ended"
        assert is_running(identity)


def test_a_machine_knows_only_its_own_processes(tmp_path: Path) -> None:
    with sleeper(tmp_path) as identity:
        assert is_of_this_machine(identity)
        assert is_of_this_machine(replace(identity, machine_id="")), "written before machines had names"
        assert not is_of_this_machine(replace(identity, machine_id="", boot_id="another boot"))
        assert not is_of_this_machine(replace(identity, machine_id="another", boot_id="another boot"))
        if identity.machine_id:
            assert is_of_this_machine(replace(identity, boot_id="an earlier boot"))
            assert not is_of_this_machine(replace(identity, machine_id="another")), "containers share a boot"
        assert replace(identity, machine_id="") == identity, "an identity kept by an earlier version is still the same"


def test_a_zombie_has_ended() -> None:
    child = subprocess.Popen([SLEEP, "60"])
    identity = identity_of(child.pid)
    assert identity is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    assert not is_running(identity)
    assert identity_of(child.pid) is None
    child.wait()


def test_end_asks_first_and_kills_a_process_that_does_not_react(tmp_path: Path) -> None:
    stubborn = (
        "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    with sleeper(tmp_path, sys.executable, "-c", stubborn) as identity:
        wait_until(lambda: (tmp_path / "out").read_text() == "ready\n")
        assert asyncio.run(end(identity, 0.2))
        assert not is_running(identity)
        assert not Path(f"/proc/{identity.pid}").exists(), "an ended child is reaped"


def test_a_frozen_process_is_killed_or_thawed(tmp_path: Path) -> None:
    polite = "import signal,sys,time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(open('done', 'w').close()))\n"
    polite += "print('ready', flush=True)\ntime.sleep(60)"
    for thaws in (False, True):
        (tmp_path / "out").unlink(missing_ok=True)
        with sleeper(tmp_path, sys.executable, "-c", polite) as identity:
            wait_until(lambda: (tmp_path / "out").read_text() == "ready\n")
            send(identity, signal.SIGSTOP)
            wait_until(lambda identity=identity: is_frozen(identity))
            watch = Stopwatch()
            assert asyncio.run(end(identity, 30, thaws=thaws))
            assert watch.is_within(10), watch
            assert (tmp_path / "done").exists() == thaws


def test_a_busy_process_is_given_time(tmp_path: Path) -> None:
    busy = (
        "import signal,time\n"
        "def work(*_):\n"
        "    until = time.monotonic() + 2.5\n"
        "    while time.monotonic() < until: pass\n"
        "    open('done', 'w').close()\n"
        "    raise SystemExit\n"
        "signal.signal(signal.SIGTERM, work)\nprint('ready', flush=True)\n"
        "while True: time.sleep(1)"
    )
    with sleeper(tmp_path, sys.executable, "-c", busy) as identity:
        wait_until(lambda: (tmp_path / "out").read_text() == "ready\n")
        assert asyncio.run(end(identity, 0.2, busy_grace_s=30))
        assert (tmp_path / "done").exists()


def test_a_watch_reports_at_once_even_an_earlier_end(tmp_path: Path) -> None:
    async def scenario() -> tuple[bool, int | None, int | None]:
        loop = asyncio.get_running_loop()
        with_status: asyncio.Future[int | None] = loop.create_future()
        Watch(identity, with_status.set_result)
        watch = Stopwatch()
        os.kill(identity.pid, signal.SIGKILL)
        status = await asyncio.wait_for(with_status, 5)
        is_told_at_once = watch.is_within(0.1)
        late: asyncio.Future[int | None] = loop.create_future()
        Watch(identity, late.set_result)
        return is_told_at_once, status, await asyncio.wait_for(late, 5)

    with sleeper(tmp_path) as identity:
        is_told_at_once, status, late = asyncio.run(scenario())
    assert is_told_at_once
    assert status == -signal.SIGKILL
    assert late is None


def test_processes_are_found_by_directory_and_program(tmp_path: Path) -> None:
    with sleeper(tmp_path) as identity:
        assert find_in_directory(str(tmp_path.resolve()), SLEEP) == [identity]
        assert find_in_directory(str(tmp_path.resolve()), "/bin/other") == []
        assert find_in_directory(str(tmp_path.parent.resolve()), SLEEP) == []


def test_a_program_that_cannot_run_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        spawn_process([str(tmp_path / "none")], directory=tmp_path, output=tmp_path / "out", environment={})


def test_environments_contain_no_variables_of_shardwright(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHARDWRIGHT_ADMIN_PASSWORD", "hush")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    assert "SHARDWRIGHT_ADMIN_PASSWORD" not in python_environment()
    assert "SOMETHING_ELSE" in python_environment()
    assert "SOMETHING_ELSE" not in server_environment()
    with sleeper(tmp_path) as identity:
        assert b"hush" not in Path(f"/proc/{identity.pid}/environ").read_bytes()


def test_the_boot_is_known() -> None:
    assert len(processes.boot_id()) == 36


def wait_until(is_so: object, *, seconds: float = 10) -> None:
    assert callable(is_so)
    until("it", is_so, seconds=seconds, poll_s=0.01)


# It begins to end only when it is known: an end before that is reported as a failed start.
ENDS_BY_PARTS = """
import ctypes, os, platform, threading, time
while not os.path.exists("known"): time.sleep(0.005)
threading.Thread(target=lambda: (time.sleep(0.5), os._exit(3))).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[platform.machine()], 0)  # exit: the main thread alone
"""


def test_a_process_with_ending_threads_is_reported_with_its_status(tmp_path: Path) -> None:
    """Like a server that fails during its start: its main thread ends before the other threads."""

    async def watch(identity: ProcessIdentity) -> int | None:
        ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        Watch(identity, ended.set_result)
        async with asyncio.timeout(10):
            return await ended

    with sleeper(tmp_path, sys.executable, "-c", ENDS_BY_PARTS) as identity:
        (tmp_path / "known").touch()
        until("its main thread has ended", lambda: not is_running(identity), seconds=10, poll_s=0.005)
        assert asyncio.run(watch(identity)) == 3
