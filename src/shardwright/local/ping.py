"""Pings of a daemon's main loop: one line in, one line out, over a Unix socket.

The daemon serves them in its main loop and only while it is healthy, so a missing answer means that the loop hangs or that
the daemon is ill; the supervisor asks. The sign is the one that ``machine.notify.show_life`` gives to a service manager.
"""

import asyncio
import contextlib
from enum import StrEnum
from functools import partial
from pathlib import Path

from shardwright.machine.notify import Ailment, no_ailment

_ASK = b"ping\n"
_ANSWER = b"pong\n"
_LINE_BYTES_MAX = 64
_IDLE_S = 5.0


class PingServer:
    """Answers pings until it is closed."""

    def __init__(self, server: asyncio.Server, path: Path) -> None:
        """Private; call ``start``."""
        self._server = server
        self._path = path

    @classmethod
    async def start(cls, path: Path, ailment: Ailment = no_ailment) -> "PingServer":
        """Listen at ``path`` (mode 0600); a socket left by a dead daemon is replaced. Pings stay unanswered while
        ``ailment`` names one. Raises OSError."""
        await asyncio.to_thread(path.unlink, missing_ok=True)
        server = await asyncio.start_unix_server(partial(_answer, ailment), path, limit=_LINE_BYTES_MAX)
        await asyncio.to_thread(path.chmod, 0o600)
        return cls(server, path)

    async def close(self) -> None:
        """Stop answering."""
        self._server.close()
        await self._server.wait_closed()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


async def _answer(ailment: Ailment, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_IDLE_S):
            if await reader.readline() == _ASK and not ailment():
                writer.write(_ANSWER)
                await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class PingResult(StrEnum):
    """The result of a ping."""

    ANSWERED = "answered"
    SILENT = "silent"
    """A process listens, but does not answer."""
    NO_LISTENER = "no_listener"
    """No process listens (yet)."""


async def ping(path: Path, timeout: float) -> PingResult:
    """Whether the daemon answers within ``timeout`` seconds."""
    try:
        async with asyncio.timeout(timeout):
            try:
                reader, writer = await asyncio.open_unix_connection(path)
            except OSError:
                return PingResult.NO_LISTENER
            try:
                writer.write(_ASK)
                return PingResult.ANSWERED if await reader.readline() == _ANSWER else PingResult.SILENT
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return PingResult.SILENT
