"""The control socket's listener: a Unix socket (mode 0600). Replaces the socket of a dead process at the same path."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from shardwright.endpoint.channel import Channel, UnixTransport
from shardwright.tasks import spawn


class SocketInUse(Exception):
    """Another process listens at the path."""


class ControlSocket:
    """Accepts callers; ``serve`` answers each of them."""

    def __init__(self, path: str, serve: Callable[[Channel], Awaitable[None]]) -> None:
        self._path = path
        self._serve_caller = serve
        self._socket: socket.socket | None = None
        self._inode = 0
        self._callers: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen. Raises SocketInUse, and OSError if the path is unusable."""
        if _has_listener(self._path):
            raise SocketInUse(f"another process listens at {self._path}")
        beside = f"{self._path}.{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(beside)
            os.chmod(beside, 0o600)
            listener.listen(64)
            os.replace(beside, self._path)  # replaces the socket of a dead process atomically
        except OSError:
            listener.close()
            raise
        self._inode = os.stat(self._path).st_ino
        self._socket = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def move(self, path: str) -> None:
        """Listen at another path from now on, in place of what listens there. Callers that are connected stay. Raises
        OSError."""
        if path != self._path:
            os.replace(self._path, path)
            self._path = path

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        caller = spawn("endpoint-caller", self._serve(Channel(UnixTransport(connection))))
        self._callers.add(caller)
        caller.add_done_callback(self._callers.discard)

    async def _serve(self, channel: Channel) -> None:
        try:
            await self._serve_caller(channel)
        finally:
            channel.close()

    async def close(self) -> None:
        """Stop listening. Removes the path unless another process has replaced it."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        try:
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
        except OSError:
            pass
        callers = list(self._callers)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


def has_no_listener(path: str) -> bool:
    """Whether certainly no process listens at the path. A process that is frozen or busy still listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
        return False


def _has_listener(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
