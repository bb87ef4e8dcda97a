"""The end of the connections of an endpoint that retires at this process, or at one of its virtual addresses.

A busy connection is closed behind a reply, by its session: at that moment its client has sent nothing more. An idle one has
no reply, so it waits a while for its next command. Started by ``served.py`` and ``virtual.py``; decides nothing about the
listeners.
"""

import asyncio
from collections.abc import Callable, Set

from shardwright.endpoint.connection import ClientConnection
from shardwright.endpoint.gate import Gate
from shardwright.endpoint.protocol import CLOSE_REST_S, RETIRE_IDLE_S, RETIRE_S

POLL_S = 0.01
ARRIVAL_S = 0.1
"""For the last replies to arrive at their clients: the kernel cannot send them again once their address is gone."""


async def close_connections(gate: Gate, connections: Set[ClientConnection]) -> None:
    """Close every connection: idle ones after RETIRE_IDLE_S, all others after RETIRE_S. Returns when none is left, or when
    the endpoint serves again. A hold stops the time: its commands are still to be answered."""
    passed_s = 0.0
    while gate.is_retiring and connections:
        await asyncio.sleep(POLL_S)
        if gate.hold is not None or not gate.is_retiring:
            continue
        passed_s += POLL_S
        _close(connections, passed_s, idle_s=RETIRE_IDLE_S, all_s=RETIRE_S)


async def close_departing(gate: Gate, connections: Set[ClientConnection], stop_accepting: Callable[[], None]) -> None:
    """Close the connections of a virtual address. Their clients come back to it as long as it is here, and are served until
    the slowest of them has been closed. So it is out of service only from ``stop_accepting`` on, while those that came back
    are closed. Cancelled if the address stays."""
    await _close_all(gate, connections, set(connections), idle_s=RETIRE_IDLE_S, all_s=RETIRE_S)
    stop_accepting()
    await _close_all(gate, connections, set(connections), idle_s=0.0, all_s=CLOSE_REST_S)
    await asyncio.sleep(ARRIVAL_S)


async def _close_all(
    gate: Gate, there: Set[ClientConnection], chosen: Set[ClientConnection], *, idle_s: float, all_s: float
) -> None:
    """Close these connections of those that are there. The busy ones close themselves."""
    for connection in chosen:
        connection.session.is_departing = True
    gate.look_again()
    passed_s = 0.0
    while left := {connection for connection in chosen & there if not is_closed(connection)}:
        if gate.hold is None:
            _close(left, passed_s, idle_s=idle_s, all_s=all_s)
        await asyncio.sleep(POLL_S)
        passed_s += 0.0 if gate.hold is not None else POLL_S


def _close(connections: Set[ClientConnection], passed_s: float, *, idle_s: float, all_s: float) -> None:
    for connection in list(connections):
        if passed_s >= all_s:
            connection.cut()
        elif passed_s >= idle_s and is_waiting(connection):
            connection.finish()


def is_waiting(connection: ClientConnection) -> bool:
    """Whether nothing is on its way to this client, or only what other clients cause, and it has begun neither a command nor
    a transaction."""
    session = connection.session
    return session.owes_nothing and not any(session.unread) and session.transaction is None


def is_closed(connection: ClientConnection) -> bool:
    """Whether its last reply and its end are sent. The client may not have closed its own end yet."""
    transport = connection.transport
    return transport is None or (connection.session.is_closing and not transport.get_write_buffer_size())
