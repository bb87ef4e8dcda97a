"""One connection to a server: RESP2, answers in the order of the commands. Used only by the adapter.

It never reconnects and never sends a command twice, so that its user knows the possible outcomes after a break. Client
libraries do both on their own; a management session must not, because it is also a fence against older leaders.
"""

import asyncio
import os
import ssl
from collections.abc import Callable

from shardwright.server.protocol import ServerTarget

REPLY_BYTES_MAX = 1024 * 1024
"""Answers to management commands are much smaller; a larger one means that the peer is not the expected server."""
_LINE_BYTES_MAX = 64 * 1024
_DEPTH_MAX = 8


Context = Callable[[], ssl.SSLContext]
"""The context for the next encrypted connection, with the certificate of this node. Raises OSError if there is none."""


class CannotConnect(Exception):
    """No connection was made; nothing was sent. ``is_refused``: the machine itself reports that no process listens
    there."""

    def __init__(self, text: str, *, is_refused: bool) -> None:
        super().__init__(text)
        self.is_refused = is_refused


class NotSent(Exception):
    """The connection had already ended: the command was certainly not sent."""


class NoAnswer(Exception):
    """Sent, or perhaps sent, without a complete answer. ``is_timeout``: the peer was silent, it did not close."""

    def __init__(self, text: str, *, is_timeout: bool) -> None:
        super().__init__(text)
        self.is_timeout = is_timeout


class ErrorReply(str):
    """The server's text when it refuses a command."""

    __slots__ = ()

    @property
    def code(self) -> str:
        """The first word: ``ERR``, ``LOADING``, ``NOPERM`` …"""
        return self.partition(" ")[0]


Reply = str | int | None | list["Reply"]
"""An ``ErrorReply`` is a ``str`` too."""


class ServerConnection:
    """A connection. Concurrent calls are sent immediately, in the order in which they began, and share the round trip.
    After any failure, or the cancellation of a call, it is closed permanently."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._reading = asyncio.Lock()
        self._is_closed = False
        self._budget = 0

    @classmethod
    async def connect(
        cls, address: str, port: int, *, timeout_s: float, encrypted: ssl.SSLContext | None = None
    ) -> "ServerConnection":
        """Connect. ``encrypted`` None: in clear. Raises CannotConnect with the cause; TimeoutError without an answer in
        time."""
        name = None if encrypted is None else address
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_connection(
                    address, port, limit=_LINE_BYTES_MAX, ssl=encrypted, server_hostname=name
                )
        except TimeoutError:
            raise
        except ssl.SSLError as error:
            text = f"no encrypted connection: {getattr(error, 'verify_message', '') or error.reason}"
            raise CannotConnect(text, is_refused=False) from error
        except OSError as error:
            text = os.strerror(error.errno).lower() if error.errno else str(error)
            raise CannotConnect(text, is_refused=isinstance(error, ConnectionRefusedError)) from error
        return cls(reader, writer)

    @property
    def is_open(self) -> bool:
        """False as soon as either side has closed, even between two calls."""
        return not (self._writer.is_closing() or self._reader.at_eof() or self._reader.exception())

    async def call(self, *command: str, timeout_s: float) -> Reply:
        """Send one command and read its answer. Raises NotSent and NoAnswer; an error of the server is returned. The
        timeout starts after the answers to all earlier commands."""
        if not self.is_open:
            self.close()
            raise NotSent("the connection had ended")
        # Nothing may come between these two: the lock serves waiters in the order of their arrival.
        self._writer.write(_encoded(command))
        try:
            async with self._reading, asyncio.timeout(timeout_s):
                if self._is_closed:
                    raise EOFError("an earlier command got no answer")
                self._budget = REPLY_BYTES_MAX
                await self._writer.drain()
                return await self._reply(0)
        except TimeoutError as error:
            self.close()
            raise NoAnswer(f"no answer within {timeout_s:g} s", is_timeout=True) from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            raise NoAnswer(f"the connection broke: {error or type(error).__name__}", is_timeout=False) from error
        except BaseException:
            # Cancelled: the answer would arrive later and be taken for the answer to the next command.
            self.close()
            raise

    def close(self) -> None:
        """Close the connection at once, without waiting."""
        self._is_closed = True
        self._writer.transport.abort()

    async def _reply(self, depth: int) -> Reply:
        line = (await self._reader.readuntil(b"\r\n"))[:-2]
        self._spend(len(line))
        kind, rest = line[:1], line[1:]
        match kind:
            case b"+":
                return _text(rest)
            case b"-":
                return ErrorReply(_text(rest))
            case b":":
                return int(rest)
            case b"$":
                return await self._bulk(int(rest))
            case b"*" if depth < _DEPTH_MAX:
                return [await self._reply(depth + 1) for _ in range(int(rest))] if int(rest) >= 0 else None
            case _:
                raise ValueError(f"not RESP: {line[:40]!r}")

    async def _bulk(self, length: int) -> str | None:
        if length < 0:
            return None
        self._spend(length)
        return _text((await self._reader.readexactly(length + 2))[:-2])

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise ValueError(f"the answer is longer than {REPLY_BYTES_MAX} bytes")


async def connect_to(target: ServerTarget, context: Context | None, *, timeout_s: float) -> ServerConnection:
    """Connect to a server in its way. ``context`` None: this process has no certificate, and reaches no server that accepts
    only encrypted connections. Raises like ``ServerConnection.connect``."""
    if not target.uses_tls:
        return await ServerConnection.connect(target.address, target.port, timeout_s=timeout_s)
    if context is None:
        raise CannotConnect("it accepts only encrypted connections, and there is no certificate here", is_refused=False)
    try:
        encrypted = context()
    except OSError as error:
        raise CannotConnect(str(error), is_refused=False) from error
    return await ServerConnection.connect(target.address, target.port, timeout_s=timeout_s, encrypted=encrypted)


def _encoded(command: tuple[str, ...]) -> bytes:
    parts = [part.encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
