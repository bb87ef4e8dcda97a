"""JSON lines over a stream. Used by both sides of the control socket and of an agent's socket.

Owns the framing. The transport is a parameter: a Unix socket, which also passes open files (``UnixTransport``, SCM_RIGHTS),
or a TLS stream between machines (``tls.py``), which does not. Works on any event loop: the Unix socket needs only readiness
callbacks.
"""

import array
import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

Message = dict[str, Any]

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""Within a machine. A connection may have an open transaction (at most 1 MiB), and one message passes several
connections."""
FILES_MAX = 32
"""Files attached to one message: the sockets of its connections, and one file with their bytes."""


class Transport(Protocol):
    """The bytes of one end of a channel. Not for concurrent readers."""

    message_bytes_max: int
    peer_certificate: bytes | None
    """What the other end has shown and this end has accepted, DER; None: nothing, as on a Unix socket."""

    async def send(self, data: bytes, files: tuple[int, ...]) -> None:
        """Send all bytes, the files with the first of them. Raises OSError if the other end has closed."""
        ...

    async def receive(self) -> tuple[bytes, Sequence[int]]:
        """The next bytes, and the files that came with them; no bytes: the other end has closed. Raises OSError."""
        ...

    def is_closed_by_peer(self) -> bool:
        """Whether the other end has closed. Does not wait."""
        ...

    def close(self) -> None:
        """Close this end. May be called again."""
        ...


class UnixTransport:
    """A connected Unix socket. See ``Transport``. Not for concurrent writers."""

    message_bytes_max = MESSAGE_BYTES_MAX

    __slots__ = ("_socket", "peer_certificate")

    def __init__(self, connection: socket.socket) -> None:
        self.peer_certificate: bytes | None = None
        if connection.gettimeout() != 0.0:
            connection.setblocking(False)
        self._socket = connection

    async def send(self, data: bytes, files: tuple[int, ...]) -> None:
        rest = memoryview(data)
        while rest:
            try:
                if files:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
                    sent = self._socket.sendmsg([rest], [rights])
                else:
                    sent = self._socket.send(rest)
            except BlockingIOError:
                await self._ready(write=True)
                continue
            files = ()
            rest = rest[sent:]

    async def receive(self) -> tuple[bytes, Sequence[int]]:
        while True:
            try:
                data, files, _, _ = socket.recv_fds(self._socket, 256 * 1024, FILES_MAX)
                return data, files
            except BlockingIOError:
                await self._ready(write=False)

    def is_closed_by_peer(self) -> bool:
        """Also requires that all of the other end's bytes have been received."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()

    async def _ready(self, *, write: bool) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
        add(self._socket, _resolve, ready)
        try:
            await ready
        finally:
            with contextlib.suppress(OSError, ValueError):
                remove(self._socket)


class Channel:
    """One end. Not for concurrent readers; for concurrent writers only if its transport is."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._buffer = bytearray()
        self._files: deque[int] = deque()

    @classmethod
    async def connect(cls, path: str) -> Self:
        """Connect to the Unix socket at a path. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(path)  # a Unix socket connects at once or not at all
        except OSError:
            connection.close()
            raise
        return cls(UnixTransport(connection))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the transport, and all received files that no caller has taken."""
        self._transport.close()
        while self._files:
            os.close(self._files.popleft())

    async def send(self, message: Message, files: tuple[int, ...] = ()) -> None:
        """Send a message. The files stay open in this process. Raises OSError if the other end has closed. Files over a
        transport that cannot pass them are an AssertionError."""
        if files:
            message = message | {"files": len(files)}
        await self._transport.send(json.dumps(message, separators=(",", ":")).encode() + b"\n", files)

    async def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its files, which the caller must close; None: the other end has closed. Raises OSError, and
        ValueError if the bytes are not a message."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > self._transport.message_bytes_max:
                raise ValueError("a control message is too long")
            data, files = await self._transport.receive()
            self._files += files
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a control message is not an object")
        return message, self._take(message["files"]) if "files" in message else []

    def _take(self, number: object) -> list[int]:
        if not isinstance(number, int) or not 0 <= number <= len(self._files):
            raise ValueError("a control message names files that did not come with it")
        return [self._files.popleft() for _ in range(number)]

    async def ask(self, message: Message, files: tuple[int, ...] = ()) -> Message:
        """Send a message and await its answer. Raises OSError, also if the other end closes instead of answering."""
        await self.send(message, files)
        received = await self.receive()
        if received is None:
            raise ConnectionResetError("the other process closed the connection")
        answer, files_received = received
        for file in files_received:
            os.close(file)
        return answer

    @property
    def peer_certificate(self) -> bytes | None:
        """The certificate of the other end: see ``Transport``."""
        return self._transport.peer_certificate

    def is_closed_by_peer(self) -> bool:
        """Whether the other end has closed: see ``Transport``."""
        return self._transport.is_closed_by_peer()


def _resolve(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
