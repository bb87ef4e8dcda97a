"""The calming of an endpoint before a hold: connections with much in flight process nothing new for a moment.

Owned by ``served.py``. Must not change the gate, and must not hold: what is calmed goes on by itself after ``CALM_MAX_S``.
"""

import asyncio
from collections.abc import Collection

from shardwright.endpoint.connection import ClientConnection
from shardwright.endpoint.gate import Gate
from shardwright.endpoint.protocol import CALM_MAX_S, CALM_S

POLL_S = 0.01
"""Interval of the checks for connections with much in flight."""


class Calming:
    """See the module's docstring."""

    def __init__(self, gate: Gate, connections: Collection[ClientConnection]) -> None:
        """``connections``: those of the endpoint, which come and go."""
        self.calmed: set[ClientConnection] = set()
        """The connections that process nothing new."""
        self._gate = gate
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._ends: asyncio.TimerHandle | None = None

    def left(self, connection: ClientConnection) -> None:
        """The connection has ended."""
        self.calmed.discard(connection)

    async def begin(self) -> None:
        """See ``EndpointControl.calm``."""
        deadline = self._loop.time() + CALM_S
        while self._gate.hold is None:
            for connection in self._connections:
                if connection not in self.calmed and connection.session.is_heavy:
                    self.calmed.add(connection)
                    connection.calm()
            if self._ends is not None:
                self._ends.cancel()
            self._ends = self._loop.call_later(CALM_MAX_S, self.end)
            if all(c.session.is_drained for c in self.calmed) or self._loop.time() >= deadline:
                return
            await asyncio.sleep(POLL_S)

    def end(self) -> None:
        """All connections go on."""
        if self._ends is not None:
            self._ends.cancel()
            self._ends = None
        calmed, self.calmed = self.calmed, set()
        for connection in calmed:
            connection.end_calm()
