"""JSON lines over a Unix socket, with attached open files (SCM_RIGHTS). Used by both sides of the control socket.

Owns the framing only. Works on any event loop, because it needs only readiness callbacks.
"""

import array
import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from types import TracebackType
from typing import Any, Self

Message = dict[str, Any]

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
"""A connection may have an open transaction (at most 1 MiB), and one message passes several connections."""
FILES_MAX = 32
"""Files attached to one message: the sockets of its connections, and one file with their bytes."""


class Channel:
    """One end. Not for concurrent readers or concurrent writers."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._buffer = bytearray()
        self._files: deque[int] = deque()

    @classmethod
    async def connect(cls, path: str) -> Self:
        """Connect to the socket at a path. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(path)  # a Unix socket connects at once or not at all
        except OSError:
            connection.close()
            raise
        return cls(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket, and all received files that no caller has taken."""
        self._socket.close()
        while self._files:
            os.close(self._files.popleft())

    async def send(self, message: Message, files: tuple[int, ...] = ()) -> None:
        """Send a message. The files stay open in this process. Raises OSError if the other end has closed."""
        if files:
            message = message | {"files": len(files)}
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        while data:
            try:
                if files:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
                    sent = self._socket.sendmsg([data], [rights])
                else:
                    sent = self._socket.send(data)
            except BlockingIOError:
                await self._ready(write=True)
                continue
            files = ()
            data = data[sent:]

    async def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its files, which the caller must close; None: the other end has closed. Raises OSError, and
        ValueError if the bytes are not a message."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > MESSAGE_BYTES_MAX:
                raise ValueError("a control message is too long")
            try:
                data, files, _, _ = socket.recv_fds(self._socket, 256 * 1024, FILES_MAX)
            except BlockingIOError:
                await self._ready(write=False)
                continue
            self._files += files
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("a control message is not an object")
        return message, [self._files.popleft() for _ in range(message.get("files", 0))]

    async def ask(self, message: Message, files: tuple[int, ...] = ()) -> Message:
        """Send a message and await its answer. Raises OSError, also if the other end closes instead of answering."""
        await self.send(message, files)
        received = await self.receive()
        if received is None:
            raise ConnectionResetError("the endpoint process closed the connection")
        answer, files_received = received
        for file in files_received:
            os.close(file)
        return answer

    def is_closed_by_peer(self) -> bool:
        """Whether the other end has closed, and all of its messages have been received."""
        if self._buffer:
            return False
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

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


def _resolve(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
