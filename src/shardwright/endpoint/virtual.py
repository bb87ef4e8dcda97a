"""An endpoint at its virtual addresses: a listener for each, and the end of the connections of one that is about to go.

Owned by ``served.py``. A listener is there whether or not the address is on this machine, so that an address that moves here
is served at once. Which address goes is the leader's decision (``VirtualPlace.is_closing``).
"""

import asyncio
import socket
from collections.abc import Callable

from shardwright.endpoint.connection import ClientConnection
from shardwright.endpoint.gate import Gate
from shardwright.endpoint.listener import Listener
from shardwright.endpoint.protocol import VirtualPlace
from shardwright.endpoint.retiring import close_departing, is_closed
from shardwright.model.seen import VirtualSeen, VirtualState
from shardwright.tasks import spawn


class _Place:
    """One address."""

    def __init__(self, address: str, gate: Gate, make: Callable[[], ClientConnection]) -> None:
        self.address = address
        self._gate = gate
        self._make = make
        self.connections: set[ClientConnection] = set()
        self.listener = Listener(address, gate.spec.port, self._accept, is_virtual=True)
        self._closing: asyncio.Task[None] | None = None
        self._is_to_go = False

    def _accept(self) -> ClientConnection:
        connection = self._make()
        self.connections.add(connection)
        return connection

    async def serve(self) -> None:
        """Accept clients; those that were about to be closed stay."""
        self._is_to_go = False
        if self._closing is not None:
            self._end_closing()
            for connection in self.connections:
                connection.session.is_departing = False
            self._gate.look_again()
        await self.listener.open()

    def go(self) -> None:
        """Close every connection behind a reply, then accept none."""
        if not self._is_to_go:
            self._is_to_go = True
            self._closing = spawn("endpoint-virtual-address", self._close())

    def close(self) -> None:
        """Accept no more clients at once. The caller closes the connections."""
        self._is_to_go = True
        self._end_closing()
        self.listener.close()

    def copy(self) -> socket.socket | None:
        """A copy of the listening socket; None: it does not listen, or its address is about to go."""
        return None if self._is_to_go else self.listener.copy()

    async def _close(self) -> None:
        await close_departing(self._gate, self.connections, self.listener.close)

    def _end_closing(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
        self._closing = None

    def seen(self, now: float) -> VirtualSeen:
        listener = self.listener
        if self._is_to_go:
            is_busy = listener.is_open or (self._closing is not None and not self._closing.done())
            has_left = not is_busy and all(map(is_closed, self.connections))
            return VirtualSeen(self.address, VirtualState.LEFT if has_left else VirtualState.CLOSING)
        if listener.is_open:
            return VirtualSeen(self.address, VirtualState.LISTENING)
        failed_s = 0.0 if listener.failed_since is None else now - listener.failed_since
        return VirtualSeen(self.address, VirtualState.BIND_FAILED, round(failed_s, 1))


class VirtualAddresses:
    """See the module's text. ``make``: makes the connection of a new client."""

    def __init__(self, gate: Gate, make: Callable[[], ClientConnection]) -> None:
        self._gate = gate
        self._make = make
        self._places: dict[str, _Place] = {}
        self._gone: list[_Place] = []
        """Places whose last connections are being closed, and that are wanted no more."""

    async def apply(self, wanted: tuple[VirtualPlace, ...]) -> None:
        """Serve at these addresses, and at no other."""
        self._gone = [place for place in self._gone if place.seen(0.0).state is not VirtualState.LEFT]
        for address in self._places.keys() - {place.address for place in wanted}:
            gone = self._places.pop(address)
            gone.go()
            self._gone.append(gone)
        for place in wanted:
            known = self._places.get(place.address)
            if known is None or known.listener.port != self._gate.spec.port:
                if known is not None:
                    known.close()
                known = self._places[place.address] = _Place(place.address, self._gate, self._make)
            if place.is_closing:
                known.go()
            else:
                await known.serve()

    async def adopt(self, address: str, listener: socket.socket) -> None:
        """Accept clients from a socket of another process that listens at the address."""
        known = self._places.get(address)
        if known is None:
            known = self._places[address] = _Place(address, self._gate, self._make)
        await known.listener.adopt(listener)

    def listening_sockets(self) -> dict[str, socket.socket]:
        """A copy of each socket whose address is not about to go, by address."""
        copies = {address: place.copy() for address, place in self._places.items()}
        return {address: copy for address, copy in copies.items() if copy is not None}

    def stop_listening(self) -> None:
        """Close this process's sockets; another process has copies. Connections stay."""
        for place in self._places.values():
            place.listener.close()

    def arrived(self, connection: ClientConnection, address: str) -> None:
        """Another process has passed this connection on; ``address``: at which its client is."""
        if (place := self._places.get(address)) is not None:
            place.connections.add(connection)

    def left(self, connection: ClientConnection) -> None:
        """The connection has ended, at whichever address it was."""
        for place in (*self._places.values(), *self._gone):
            place.connections.discard(connection)

    def close(self) -> None:
        """Accept no more clients. The caller closes the connections, which it knows too."""
        for place in (*self._places.values(), *self._gone):
            place.close()

    def seen(self, now: float) -> tuple[VirtualSeen, ...]:
        """For the status. ``now``: by the loop's clock."""
        return tuple(place.seen(now) for _, place in sorted(self._places.items()))

    @property
    def error(self) -> str:
        """Why it cannot listen at one of them; empty: it can."""
        return next((p.listener.error for p in self._places.values() if p.listener.failed_since is not None), "")
