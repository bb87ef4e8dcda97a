"""Messages to the service manager, received on real sockets: by path and abstract, full, deaf and missing."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.local.ping import PingResult, PingServer, ping
from shardwright.machine.notify import (
    BEATS_PER_WATCHDOG,
    STATUS_CHARACTERS_MAX,
    Notifier,
    NotifySettings,
    message,
    settings_of,
    show_life,
)
from shardwright.tasks import spawn
from testkit.deadlines import until_async

PID = 4711


class Manager:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    def received(self) -> list[str]:
        """The messages that have arrived since the last call. The kernel delivers a datagram before ``sendto`` returns."""
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(4096).decode())
        return messages

    def fill(self) -> None:
        """Make the socket's queue full, as of a manager that does not read."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(BlockingIOError):
            sender.setblocking(False)
            while True:
                sender.sendto(b"", f"\0{self.address[1:]}" if self.address.startswith("@") else self.address)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    found = Manager(path if request.param == "path" else f"@shardwright-test-{os.getpid()}{path}"[:100])
    yield found
    found.socket.close()


@pytest.fixture
def notifier(manager: Manager) -> Iterator[Notifier]:
    found = Notifier(NotifySettings(manager.address, watchdog_s=5.0))
    yield found
    found.close()


# -- the environment -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "settings"),
    [
        ({}, NotifySettings()),
        ({"NOTIFY_SOCKET": ""}, NotifySettings()),
        ({"NOTIFY_SOCKET": "@"}, NotifySettings()),
        ({"NOTIFY_SOCKET": "relative/path"}, NotifySettings()),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, NotifySettings()),
        ({"NOTIFY_SOCKET": "/" + "x" * 107}, NotifySettings()),
        ({"NOTIFY_SOCKET": "/" + "x" * 106}, NotifySettings("/" + "x" * 106)),
        ({"NOTIFY_SOCKET": "/run/notify"}, NotifySettings("/run/notify")),
        ({"NOTIFY_SOCKET": "@abstract"}, NotifySettings("@abstract")),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5000000"}, NotifySettings("/n", 5.0)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(PID)}, NotifySettings("/n", 5.0)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, NotifySettings("/n")),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"}, NotifySettings("/n")),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "-5"}, NotifySettings("/n")),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, NotifySettings("/n")),
        ({"WATCHDOG_USEC": "5000000"}, NotifySettings()),
    ],
)
def test_the_environment_is_understood_or_ignored(environment: dict[str, str], settings: NotifySettings) -> None:
    assert settings_of(environment, pid=PID) == settings


def test_the_variables_are_taken_so_that_no_child_inherits_them(manager: Manager) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "250000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/root",
    }
    notifier = Notifier.take(environment)
    assert environment == {"HOME": "/root"}
    assert notifier.settings == NotifySettings(manager.address, 0.25)
    notifier.ready()
    notifier.close()
    assert manager.received() == ["READY=1"]


def test_a_process_takes_them_from_its_own_environment(manager: Manager) -> None:
    program = (
        "import os; from shardwright.machine.notify import Notifier; n = Notifier.take(); n.ready('up'); "
        "print(sorted(k for k in os.environ if k.startswith(('NOTIFY', 'WATCHDOG'))))"
    )
    environment = {**os.environ, "NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == "[]"
    assert manager.received() == ["READY=1\nSTATUS=up"]


# -- the messages ----------------------------------------------------------------------------------------------------------


def test_each_message_is_one_datagram(manager: Manager, notifier: Notifier) -> None:
    notifier.status("reads the records")
    notifier.ready("serves")
    notifier.alive()
    notifier.reloading(monotonic_s=12.5)
    notifier.ready()
    notifier.stopping("ends")
    assert manager.received() == [
        "STATUS=reads the records",
        "READY=1\nSTATUS=serves",
        "WATCHDOG=1",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "READY=1",
        "STOPPING=1\nSTATUS=ends",
    ]


def test_a_status_is_one_line_of_limited_length(manager: Manager, notifier: Notifier) -> None:
    notifier.status("two\nlines\r\nREADY=1")
    notifier.status("x" * 10_000)
    notifier.status(" \n ")
    assert manager.received() == ["STATUS=two lines READY=1", f"STATUS={'x' * STATUS_CHARACTERS_MAX}"]


def test_text_that_is_not_utf8_does_not_fail() -> None:
    assert message({"STATUS": "a \udcff path"}) == b"STATUS=a ? path"


def test_without_a_watchdog_there_are_no_signs_of_life(manager: Manager) -> None:
    notifier = Notifier(NotifySettings(manager.address))
    notifier.alive()
    notifier.close()
    assert manager.received() == []


def test_without_a_service_manager_nothing_happens() -> None:
    notifier = Notifier.take({})
    notifier.ready("serves")
    notifier.alive()
    notifier.stopping()
    notifier.close()


# -- a service manager that does not listen ------------------------------------------------------------------------------


def test_what_a_full_socket_did_not_take_goes_along_later(manager: Manager, notifier: Notifier) -> None:
    manager.fill()
    notifier.status("starts")
    notifier.ready()
    notifier.alive()
    notifier.status("serves")
    assert set(manager.received()) == {""}
    notifier.alive()
    notifier.alive()
    assert manager.received() == ["STATUS=serves\nREADY=1\nWATCHDOG=1", "WATCHDOG=1"]


@pytest.mark.parametrize("told", ["reloading", "stopping"])
def test_an_owed_ready_does_not_end_a_reload_or_a_stop(manager: Manager, notifier: Notifier, told: str) -> None:
    manager.fill()
    notifier.ready()
    manager.received()
    if told == "reloading":
        notifier.reloading(monotonic_s=1)
    else:
        notifier.stopping()
    notifier.alive()
    said = "\n".join(manager.received())
    assert said.startswith(told.upper() + "=1")
    assert "READY" not in said


def test_a_missing_socket_is_no_error_and_its_return_is_noticed(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    notifier = Notifier(NotifySettings(path, 5.0))
    notifier.ready()
    manager = Manager(path)
    assert manager.received() == []
    notifier.alive()
    assert manager.received() == ["READY=1\nWATCHDOG=1"]
    manager.socket.close()
    notifier.close()
    notifier.alive()


# -- signs of life ---------------------------------------------------------------------------------------------------------


def test_signs_of_life_stop_while_the_process_is_ill_and_the_supervisor_sees_the_same(
    manager: Manager, tmp_path: Path
) -> None:
    """One ailment, two who ask: the service manager misses its sign, and the supervisor's ping stays unanswered."""
    ailing = ""
    heard: list[str] = []

    def beats() -> int:
        heard.extend(manager.received())
        return heard.count("WATCHDOG=1")

    async def scenario() -> None:
        nonlocal ailing
        notifier = Notifier(NotifySettings(manager.address, 0.04 * BEATS_PER_WATCHDOG))
        server = await PingServer.start(tmp_path / "ping.sock", lambda: ailing)
        life = spawn("life", show_life(notifier, lambda: ailing))
        try:
            await until_async("signs of life", lambda: beats() >= 3, seconds=5, state=lambda: heard)
            assert await ping(tmp_path / "ping.sock", 2) is PingResult.ANSWERED
            ailing = "the mirror stands still"
            await until_async("the cause", lambda: beats() and f"STATUS={ailing}" in heard, seconds=5, state=lambda: heard)
            before = beats()
            assert await ping(tmp_path / "ping.sock", 2) is PingResult.SILENT
            # As long as ten signs of life would take.
            began = asyncio.get_running_loop().time()
            await until_async("time", lambda: asyncio.get_running_loop().time() - began > 0.4, seconds=5)
            assert beats() == before
            assert heard.count(f"STATUS={ailing}") == 1
            ailing = ""
            await until_async("signs again", lambda: beats() > before, seconds=5, state=lambda: heard)
            assert await ping(tmp_path / "ping.sock", 2) is PingResult.ANSWERED
        finally:
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            await server.close()
            notifier.close()

    asyncio.run(scenario())


def test_a_hanging_loop_gives_no_sign_of_life(manager: Manager) -> None:
    async def scenario() -> None:
        notifier = Notifier(NotifySettings(manager.address, 0.01 * BEATS_PER_WATCHDOG))
        life = spawn("life", show_life(notifier))
        await until_async("a sign of life", lambda: manager.received(), seconds=5)
        manager.received()
        # The main loop hangs, as in a call that does not return.
        subprocess.run(["sleep", "0.3"], check=True, timeout=10)  # noqa: ASYNC221
        assert manager.received() == []
        await until_async("signs again", lambda: manager.received(), seconds=5)
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        notifier.close()

    asyncio.run(scenario())
