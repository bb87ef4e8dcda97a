"""The control socket's listener: a Unix socket (mode 0600) at a path that a dead process may have left behind."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

from shardwright.endpoint.channel import Channel
from shardwright.tasks import spawn


class InUse(Exception):
    """Another process answers at the path."""


class ControlSocket:
    """Accepts callers and lets ``talk`` answer each."""

    def __init__(self, path: str, talk: Callable[[Channel], Awaitable[None]]) -> None:
        self._path = path
        self._talk = talk
        self._socket: socket.socket | None = None
        self._inode = 0
        self._callers: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen. Raises InUse, or OSError when the path cannot be used."""
        if _is_answered(self._path):
            raise InUse(f"another endpoint process answers at {self._path}")
        beside = f"{self._path}.{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(beside)
            os.chmod(beside, 0o600)
            listener.listen(64)
            os.replace(beside, self._path)  # takes the place of what a dead process left, in one step
        except OSError:
            listener.close()
            raise
        self._inode = os.stat(self._path).st_ino
        self._socket = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        caller = spawn("endpoint-caller", self._serve(Channel(connection)))
        self._callers.add(caller)
        caller.add_done_callback(self._callers.discard)

    async def _serve(self, channel: Channel) -> None:
        try:
            await self._talk(channel)
        finally:
            channel.close()

    async def close(self) -> None:
        """Stop; removes the path unless another process has taken it over."""
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


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
