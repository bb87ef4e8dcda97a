"""The socket of one client's server connection. Created by ``connection.py``, which decides what is sent over it."""

import asyncio
from collections.abc import Callable
from typing import Protocol, cast

from shardwright.endpoint.pace import Inflow, LoopPace
from shardwright.endpoint.protocol import Target


class BackendClient(Protocol):
    """What a server connection needs from its client."""

    def backend_made(self, backend: "BackendConnection") -> None:
        """The connection is open."""
        ...

    def backend_received(self, data: bytes) -> None:
        """Bytes from the server."""
        ...

    def backend_lost(self, backend: "BackendConnection") -> None:
        """The server closed the connection, or it broke."""
        ...


class BackendConnection(asyncio.Protocol):
    """See the module's docstring."""

    write: Callable[[bytes], None]
    """The transport's own method, as soon as the transport exists: this saves a call on the data path."""

    def __init__(self, owner: BackendClient, target: Target, *, pace: LoopPace, is_cheap: Callable[[int], bool]) -> None:
        self.owner: BackendClient | None = owner
        self.target = target
        self._transport: asyncio.Transport | None = None
        self._inflow = Inflow(pace, owner.backend_received, is_cheap=is_cheap, reading=self._set_reading)
        self._wants_reading = True
        self._is_reading = True

    @property
    def is_made(self) -> bool:
        """Whether the connection is open."""
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        if self.owner is not None:
            self.owner.backend_made(self)

    def data_received(self, data: bytes) -> None:
        self._inflow.put(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for data in self._inflow.take_rest():  # these replies arrived before the end
            if self.owner is not None:
                self.owner.backend_received(data)
        self._inflow.close()
        self.write = _nowhere
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.backend_lost(self)

    def set_reading(self, on: bool) -> None:
        """Begin or stop reading from the server."""
        self._wants_reading = on
        self._set_reading()

    def _set_reading(self) -> None:
        on = self._wants_reading and self._inflow.may_read
        if on is self._is_reading or self._transport is None or self._transport.is_closing():
            return
        self._is_reading = on
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def abandon(self) -> None:
        """Close the connection without any further call to its client."""
        self.owner = None
        self._inflow.close()
        self.close()

    def close(self) -> None:
        """Close the connection. No awaited reply may be in flight."""
        if self._transport is not None:
            self._transport.close()


def _nowhere(_data: bytes) -> None:
    """Discards data for a connection that has ended."""
