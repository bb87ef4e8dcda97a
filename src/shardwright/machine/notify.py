"""What a daemon tells the service manager that started it: ready, a line of status, that it lives, reloading, stopping.

Speaks the protocol of systemd: one datagram of ``KEY=value`` lines to the socket that ``NOTIFY_SOCKET`` names. Called by a
daemon's entry point and its main loop. Never blocks and never raises: a service manager that does not listen must not end a
daemon. Must run in the main loop, not in a thread: a thread would keep a hanging daemon alive.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Self

import structlog

ADDRESS_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"
BEATS_PER_WATCHDOG = 4
"""Signs of life within the watchdog's time: three may be late on a busy machine."""
BEAT_S = 1.0
"""Without a watchdog: how often messages that could not be sent are tried again."""
ADDRESS_BYTES_MAX = 107
"""Bytes in the address of a Unix socket, without the closing NUL."""
STATUS_CHARACTERS_MAX = 500
"""A status is one line on an operator's terminal."""

Ailment = Callable[[], str]
"""Says why this process is not healthy, although its main loop turns. Empty: it is healthy. Must return at once."""

_log = structlog.get_logger(__name__)


def no_ailment() -> str:
    """For a process whose only sign of health is that its main loop turns."""
    return ""


@dataclass(frozen=True, slots=True)
class NotifySettings:
    """What the service manager wants to be told, and where."""

    address: str | None = None
    """Path of its socket; a leading ``@`` stands for the NUL of an abstract one. None: it does not listen."""
    watchdog_s: float | None = None
    """It kills this process when it has received no sign of life for this many seconds. None: never."""


def settings_of(environment: Mapping[str, str], *, pid: int) -> NotifySettings:
    """What the environment says to the process ``pid``. Malformed values, and those for another process, count as absent."""
    address = environment.get(ADDRESS_VARIABLE, "")
    if address[:1] not in ("/", "@") or len(address) < 2 or len(os.fsencode(address)) > ADDRESS_BYTES_MAX:
        return NotifySettings()
    meant_for = environment.get(WATCHDOG_PID_VARIABLE)
    watchdog = environment.get(WATCHDOG_VARIABLE, "")
    is_watched = watchdog.isascii() and watchdog.isdigit() and int(watchdog) > 0 and meant_for in (None, str(pid))
    return NotifySettings(address, int(watchdog) / 1e6 if is_watched else None)


class Notifier:
    """Sends the messages. One that the socket did not take goes along with the next one; of the same kind, the newest."""

    def __init__(self, settings: NotifySettings) -> None:
        """Raises nothing: without an address, all messages are dropped."""
        self.settings = settings
        self._owed: dict[str, str] = {}
        self._is_broken = False
        self._socket: socket.socket | None = None
        if settings.address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    @classmethod
    def take(cls, environment: MutableMapping[str, str] | None = None) -> Self:
        """A notifier from the environment; None: this process's own. Removes the variables from it: a server that inherits
        them could speak for the daemon."""
        environment = os.environ if environment is None else environment
        settings = settings_of(environment, pid=os.getpid())
        for name in (ADDRESS_VARIABLE, WATCHDOG_VARIABLE, WATCHDOG_PID_VARIABLE):
            environment.pop(name, None)
        return cls(settings)

    def ready(self, status: str = "") -> None:
        """The start, or a reload, is complete."""
        self._tell({"READY": "1", **_status(status)})

    def status(self, status: str) -> None:
        """What the process is doing: a sentence for people."""
        self._tell(_status(status))

    def alive(self) -> None:
        """A sign of life."""
        self._tell({"WATCHDOG": "1"} if self.settings.watchdog_s is not None else {})

    def reloading(self, *, monotonic_s: float, status: str = "") -> None:
        """A reload has begun; ``ready`` ends it. ``monotonic_s``: the monotonic clock now."""
        # What was owed describes the time before; a "ready" sent after this message would end the reload.
        self._owed.pop("READY", None)
        self._tell({"RELOADING": "1", "MONOTONIC_USEC": str(int(monotonic_s * 1e6)), **_status(status)})

    def stopping(self, status: str = "") -> None:
        """The clean end has begun."""
        self._owed.pop("READY", None)
        self._tell({"STOPPING": "1", **_status(status)})

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, lines: Mapping[str, str]) -> None:
        lines = {**self._owed, **lines}
        if self._socket is None or self.settings.address is None or not lines:
            return
        address = self.settings.address
        try:
            self._socket.sendto(message(lines), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as e:
            # A sign of life is of its moment: sent later, it would be a lie.
            self._owed = {key: value for key, value in lines.items() if key != "WATCHDOG"}
            if not self._is_broken:
                _log.warning("the service manager could not be told", address=address, reason=str(e))
            self._is_broken = True
            return
        self._owed = {}
        self._is_broken = False


def message(lines: Mapping[str, str]) -> bytes:
    """One datagram."""
    return "\n".join(f"{key}={value}" for key, value in lines.items()).encode("utf-8", "replace")


def _status(status: str) -> dict[str, str]:
    """A second line would be another assignment."""
    one_line = " ".join(status.split())
    return {"STATUS": one_line[:STATUS_CHARACTERS_MAX]} if one_line else {}


async def show_life(notifier: Notifier, ailment: Ailment = no_ailment) -> None:
    """Eternal task of the main loop: signs of life, for as long as the loop turns and the process is healthy."""
    watchdog_s = notifier.settings.watchdog_s
    pause_s = BEAT_S if watchdog_s is None else watchdog_s / BEATS_PER_WATCHDOG
    withheld = ""
    while True:
        if (cause := ailment()) and cause != withheld:
            _log.error("this process is not healthy and gives no sign of life", reason=cause)
            notifier.status(cause)
        if not cause:
            notifier.alive()
        withheld = cause
        await asyncio.sleep(pause_s)
