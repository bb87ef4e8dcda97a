"""Looks for a replica while writes of strict mode wait for one (``Gate.is_alone``), and lets them go on.

Owned by ``served.py``. Asks on connections of its own, so that no client's connection is used. Decides nothing else.
"""

import asyncio
from collections.abc import Collection
from typing import Protocol

from shardwright.endpoint.gate import Gate
from shardwright.endpoint.probe import has_replica
from shardwright.endpoint.reach import ServerAccess
from shardwright.tasks import spawn

LOOK_EVERY_S = 0.1


class WaitingConnection(Protocol):
    """A connection whose commands wait."""

    def gate_changed(self) -> None:
        """Process the commands again."""


class ReplicaWatch:
    """See the module's docstring."""

    def __init__(self, gate: Gate, access: ServerAccess) -> None:
        self._gate = gate
        self._access = access
        self._looking: asyncio.Task[None] | None = None

    def look(self, waiting: Collection[WaitingConnection]) -> None:
        """Look until there is a replica, or nothing waits any more. Called regularly while connections wait."""
        if self._gate.is_alone and self._looking is None:
            self._looking = spawn("endpoint-replica", self._look(waiting))

    async def _look(self, waiting: Collection[WaitingConnection]) -> None:
        gate = self._gate
        try:
            while gate.is_alone and waiting and (target := gate.target) is not None:
                is_found = await has_replica(target, gate.spec.application_secret, self._access)
                if is_found and gate.target == target:
                    gate.note_replica()
                else:
                    await asyncio.sleep(LOOK_EVERY_S)
            if not gate.is_alone:
                # Also when the mode has changed meanwhile.
                for connection in list(waiting):
                    connection.gate_changed()
        finally:
            self._looking = None
