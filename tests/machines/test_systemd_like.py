"""What the settings of shardwright-node.service mean for real processes, by a stand-in for systemd and a small daemon.

The unit is the package's own. Only its times are shortened by a drop-in, and the program is replaced.
"""

import itertools
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import is_running, send
from testkit.deadlines import until
from testkit.machines.control_groups import ControlGroup, find_parent
from testkit.machines.systemd_like import Service
from testkit.machines.unit_files import load_unit

pytestmark = pytest.mark.proof

PROGRAM = "/usr/lib/shardwright/venv/bin/shardwright-node"
STAND_IN = [sys.executable, "-m", "tests.machines.stand_in_daemon"]
QUICK = "[Service]\nRestartSec=50ms\n"
WATCHFUL = "[Service]\nWatchdogSec=1s\nTimeoutAbortSec=500ms\n"
"""Only where a watchdog is to bite: a busy machine is late by itself."""
ORDER, ENDED = "etc/shardwright/node.toml.order", "etc/shardwright/node.toml.ended"
ROOT = Path(__file__).parents[2]
Start = Callable[..., Service]
_numbers = itertools.count()


@pytest.fixture
def group() -> Iterator[ControlGroup | None]:
    """A cgroup; None where this machine allows none."""
    parent = find_parent()
    found = None if parent is None else ControlGroup(parent / f"shardwright-test-{os.getpid()}-{next(_numbers)}")
    yield found
    if found is not None:
        found.close()


@pytest.fixture
def start(tmp_path: Path, group: ControlGroup | None) -> Iterator[Start]:
    """Starts the node's service with more drop-ins; ends it and all that it has left."""
    services: list[Service] = []

    def begin(*drop_ins: str, order: str = "") -> Service:
        (tmp_path / "etc/shardwright").mkdir(parents=True, exist_ok=True)
        (tmp_path / ORDER).write_text(order)
        unit = load_unit("shardwright-node.service", QUICK, *drop_ins)
        programs = {PROGRAM: [*STAND_IN]}
        environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        service = Service(unit, tmp_path, programs=programs, group=group, environment=environment)
        services.append(service)
        service.start()
        return service

    yield begin
    for service in services:
        child = read_identity(service.runtime_directories[0] / "child.json")
        service.__exit__()
        if child is not None:
            send(child, signal.SIGKILL)


def active(service: Service, *, starts: int = 1) -> int:
    """Wait until it is active after so many starts; returns the pid of its child, from its status."""

    def child() -> int:
        found = re.fullmatch(r"child (\d+)", service.status)
        return int(found[1]) if found and service.state == "active" and service.starts >= starts else 0

    return until(f"active after {starts} starts", child, clock_s=2, state=lambda: service)


def answer(service: Service) -> str:
    """What the child says on its socket in the runtime directory. A new one needs a moment until it listens."""

    def said() -> str:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(10)
            if asking.connect_ex(str(service.runtime_directories[0] / "child.sock")):
                return ""
            return asking.recv(1000).decode()

    return until("the child's answer", said, state=lambda: service)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# -- start ---------------------------------------------------------------------------------------------------------------


def test_the_service_is_active_when_the_daemon_says_so(start: Start) -> None:
    service = start()
    active(service)
    assert service.events == ["started 1", "active"]


def test_a_daemon_that_never_becomes_ready_is_ended_and_started_again(start: Start) -> None:
    service = start("[Service]\nTimeoutStartSec=1s\n", order="late")
    until("a second start", lambda: service.starts >= 2, clock_s=2, state=lambda: service)
    assert service.events[:2] == ["started 1", "timeout"]
    assert "active" not in service.events


def test_unusable_settings_are_not_tried_again(start: Start) -> None:
    service = start(order="refuse")
    until("the end", lambda: service.state == "failed", state=lambda: service)
    assert service.starts == 1
    assert service.events[1] == "ended with 78 (exit-code)"


def test_children_cannot_speak_for_the_daemon(start: Start) -> None:
    service = start()
    active(service)
    assert answer(service) == "alive"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.sendto(b"READY=1\nSTATUS=forged", str(service.directory / "notify"))
    until("the refusal", lambda: any("is ignored" in e for e in service.events), state=lambda: service)
    assert service.status.startswith("child")


# -- the daemon's end ----------------------------------------------------------------------------------------------------


def test_servers_survive_a_stop_and_a_start_and_their_sockets_remain(start: Start) -> None:
    service = start()
    child = active(service)
    service.stop()
    assert service.state == "inactive"
    assert "the daemon says that it stops" in service.events
    assert "killed" not in service.events
    assert lives(child)
    assert answer(service) == "alive"
    service.start()
    assert active(service, starts=2) == child


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_daemon_that_ends_is_started_again_and_adopts_its_servers(start: Start, number: signal.Signals) -> None:
    service = start()
    child = active(service)
    os.kill(service.main_pid, number)
    assert active(service, starts=2) == child
    assert answer(service) == "alive"
    assert (service.directory / ENDED).read_text().split() == ["success" if number is signal.SIGTERM else "signal"]


def test_watching_a_service_that_was_stopped_twice_costs_next_to_nothing(start: Start) -> None:
    service = start()
    service.stop()
    service.stop()
    service.start()
    until("it is active", lambda: service.state == "active", state=lambda: str(service))
    before = time.process_time()
    time.sleep(1)  # What is measured, not waited for.
    assert time.process_time() - before < 0.1


def test_deaths_in_quick_succession_do_not_end_the_restarts(start: Start) -> None:
    service = start()
    child = active(service)
    for starts in range(2, 8):
        os.kill(service.main_pid, signal.SIGKILL)
        assert active(service, starts=starts) == child


def test_the_usual_kill_mode_would_kill_the_servers(start: Start, group: ControlGroup | None) -> None:
    """Why the unit says KillMode=process."""
    if group is None:
        pytest.skip("no cgroup can be made here, and the child has a session of its own")
    service = start("[Service]\nKillMode=control-group\n")
    child = active(service)
    service.stop()
    until("the child's end", lambda: not lives(child), state=lambda: service)


def test_the_usual_runtime_directory_would_vanish_under_living_servers(start: Start) -> None:
    """Why the unit says RuntimeDirectoryPreserve=yes."""
    service = start("[Service]\nRuntimeDirectoryPreserve=no\n")
    child = active(service)
    identity = read_identity(service.runtime_directories[0] / "child.json")
    assert identity is not None
    service.stop()
    try:
        assert lives(child)
        assert is_running(identity)
        assert not service.runtime_directories[0].exists()
    finally:
        send(identity, signal.SIGKILL)


# -- the watchdog --------------------------------------------------------------------------------------------------------


def test_a_hanging_daemon_is_killed_and_started_again(start: Start) -> None:
    service = start(WATCHFUL)
    child = active(service)
    os.kill(service.main_pid, signal.SIGUSR1)
    assert active(service, starts=2) == child
    assert service.events[2] == "watchdog"
    assert answer(service) == "alive"
    assert (service.directory / ENDED).read_text() == "watchdog\n"


def test_a_frozen_daemon_is_killed_and_started_again(start: Start) -> None:
    service = start(WATCHFUL)
    child = active(service)
    os.kill(service.main_pid, signal.SIGSTOP)
    assert active(service, starts=2) == child
    assert service.events[2] == "watchdog"


def test_an_ill_daemon_is_killed_although_its_main_loop_turns(start: Start) -> None:
    service = start(WATCHFUL)
    child = active(service)
    os.kill(service.main_pid, signal.SIGUSR2)
    until("the cause", lambda: service.status == "the stand-in was made ill", clock_s=1, state=lambda: service)
    assert active(service, starts=2) == child
    assert service.events[2] == "watchdog"


# -- memory --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def limited(group: ControlGroup | None) -> None:
    if group is None or not group.limit_memory(200_000_000):
        pytest.skip("no cgroup with a memory limit can be made here")


@pytest.mark.usefixtures("limited")
def test_a_server_without_memory_does_not_end_the_daemon(start: Start) -> None:
    """The kernel chooses what it kills: the largest, which is the exhausted process."""
    service = start(order="exhaust")
    child = active(service)
    pid = service.main_pid
    until("the kernel's kill", lambda: any("kernel" in e for e in service.events), state=lambda: service)
    (service.directory / ORDER).write_text("")
    assert (service.main_pid, service.starts, service.state) == (pid, 1, "active")
    assert lives(child)


@pytest.mark.usefixtures("limited")
def test_the_usual_policy_would_end_the_daemon_with_it(start: Start) -> None:
    """Why the unit says OOMPolicy=continue."""
    service = start("[Service]\nOOMPolicy=stop\n", order="exhaust")
    until("the end", lambda: "oom-kill" in service.events, state=lambda: service)
    (service.directory / ORDER).write_text("")
    active(service, starts=2)
