"""The socket of one server connection, for one client. Created by ``connection.py``, which decides what goes over it."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from shardwright.endpoint.pace import Inflow, Pace
from shardwright.endpoint.protocol import Target


class Client(Protocol):
    """What a server connection needs of its client."""

    def backend_made(self, backend: "BackendConnection") -> None:
        """It is open."""
        ...

    def backend_received(self, data: bytes) -> None:
        """Bytes from the server."""
        ...

    def backend_lost(self, backend: "BackendConnection") -> None:
        """The server closed it, or it broke."""
        ...


class BackendConnection(asyncio.Protocol):
    """See the module."""

    write: Callable[[bytes], None]
    """The transport's own, once there is one: the data path has no call to spare."""

    def __init__(self, owner: Client, target: Target, *, pace: Pace, is_mere_body: Callable[[int], bool]) -> None:
        self.owner: Client | None = owner
        self.target = target
        self._transport: asyncio.Transport | None = None
        self._inflow = Inflow(pace, self._take, is_mere_body=is_mere_body, reading=self._set_reading)
        self._wants_reading = True
        self._is_reading = True

    @property
    def is_made(self) -> bool:
        """It is open."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        if self.owner is not None:
            self.owner.backend_made(self)

    def data_received(self, data: bytes) -> None:
        self._inflow.put(data)

    def _take(self, data: bytes) -> None:
        if self.owner is not None:
            self.owner.backend_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for data in self._inflow.give_up():
            self._take(data)  # these replies came before the end
        self._inflow.close()
        self.write = _nowhere
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.backend_lost(self)

    def set_reading(self, on: bool) -> None:
        """Read from the server, or let it wait."""
        self._wants_reading = on
        self._set_reading()

    def _set_reading(self) -> None:
        on = self._wants_reading and self._inflow.is_empty
        if on is self._is_reading or self._transport is None or self._transport.is_closing():
            return
        self._is_reading = on
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def abandon(self) -> None:
        """End it; its client hears nothing of it any more."""
        self.owner = None
        self._inflow.give_up()
        self.close()

    def close(self) -> None:
        """End it. Nothing is in flight that anybody waits for."""
        if self._transport is not None:
            self._transport.close()


def _nowhere(_data: bytes) -> None:
    """What is written to a connection that has ended."""
