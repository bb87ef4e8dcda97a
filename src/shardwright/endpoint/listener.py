"""One listening socket of an endpoint: bound at once, or as soon as the process that occupies the port lets go of it.

Owned by ``served.py`` (the endpoint's own address) and ``virtual.py``. Knows nothing of connections but how to make one.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

from shardwright.endpoint.holder import holder_of
from shardwright.tasks import spawn

BIND_RETRY_S = 0.1
HOLDER_EVERY_S = 2.0
"""Interval of the search for the process that occupies the port; long, because it reads all processes of the machine."""
BACKLOG = 1024
"""Connections that the kernel queues while this process is busy."""
_IP_FREEBIND = 15
"""Linux: an address that is on no interface of this machine can be bound. Python has no name for it."""


class Listener:
    """See the module's text. ``accept``: makes the protocol of a new connection. ``is_virtual``: the address may be on
    another machine."""

    def __init__(
        self, address: str, port: int, accept: Callable[[], asyncio.BaseProtocol], *, is_virtual: bool = False
    ) -> None:
        self.address = address
        self.port = port
        self.error = ""
        """Why it could not listen the last time; empty: it could, or has not tried."""
        self.failed_since: float | None = None
        """By the loop's clock; None: it listens, or has not tried."""
        self._accept = accept
        self._is_virtual = is_virtual
        self._loop = asyncio.get_running_loop()
        self._holder = ""
        """The process that last occupied the port."""
        self._server: asyncio.Server | None = None
        self._socket: socket.socket | None = None
        self._binding: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def open(self) -> None:
        """Listen. If the port is in use, retry in the background until ``close``."""
        if self._server is None and self._binding is None and not await self._bind():
            self._binding = spawn("endpoint-bind", self._keep_binding())

    async def adopt(self, listener: socket.socket) -> None:
        """Accept connections from a socket that listens already. It is closed if there is one."""
        if self._server is not None:
            listener.close()
            return
        self._socket = listener
        self.error, self.failed_since, self._holder = "", None, ""
        self._server = await self._loop.create_server(self._accept, sock=listener, backlog=BACKLOG)

    def close(self) -> None:
        """Close this process's socket, or give up the attempts; another process may have a copy of the socket."""
        if self._binding is not None:
            self._binding.cancel()
        if self._server is not None:
            self._server.close()
        self._server = self._socket = self._binding = None
        self.failed_since = None

    def copy(self) -> socket.socket | None:
        """A copy of the listening socket, to pass to another process; None: it does not listen."""
        return None if self._socket is None else socket.socket(fileno=socket.dup(self._socket.fileno()))

    async def _keep_binding(self) -> None:
        search_at = self._loop.time()
        while self._server is None:
            if self._loop.time() >= search_at:
                self._holder = await asyncio.to_thread(holder_of, self.address, self.port)
                search_at = self._loop.time() + HOLDER_EVERY_S
            await asyncio.sleep(BIND_RETRY_S)
            if self._server is None and await self._bind():
                break
        self._binding = None

    async def _bind(self) -> bool:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if self._is_virtual:
                listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            listener.bind((self.address, self.port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            held = f", the port is held by {self._holder}" if self._holder and error.errno == errno.EADDRINUSE else ""
            self.error = f"cannot listen on {self.address}:{self.port}: {error.strerror}{held}"
            self.failed_since = self._loop.time() if self.failed_since is None else self.failed_since
            return False
        await self.adopt(listener)
        return True
