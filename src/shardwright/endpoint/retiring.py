"""The end of the connections of an endpoint that retires at this process.

A busy connection is closed behind a reply, by its session: at that moment its client has sent nothing more. An idle one has
no reply, so it waits a while for its next command. Started by ``served.py``; decides nothing about the listener.
"""

import asyncio
from collections.abc import Set

from shardwright.endpoint.connection import ClientConnection
from shardwright.endpoint.gate import Gate
from shardwright.endpoint.protocol import RETIRE_IDLE_S, RETIRE_S

POLL_S = 0.01


async def close_connections(gate: Gate, connections: Set[ClientConnection]) -> None:
    """Close every connection: idle ones after RETIRE_IDLE_S, all others after RETIRE_S. Returns when none is left, or when
    the endpoint serves again. A hold stops the time: its commands are still to be answered."""
    passed_s = 0.0
    while gate.is_retiring and connections:
        await asyncio.sleep(POLL_S)
        if gate.hold is not None or not gate.is_retiring:
            continue
        passed_s += POLL_S
        for connection in list(connections):
            if passed_s >= RETIRE_S:
                connection.cut()
            elif passed_s >= RETIRE_IDLE_S and is_waiting(connection):
                connection.finish()


def is_waiting(connection: ClientConnection) -> bool:
    """Whether nothing is on its way to this client, or only what other clients cause, and it has begun neither a command nor
    a transaction."""
    session = connection.session
    return session.owes_nothing and not any(session.unread) and session.transaction is None
