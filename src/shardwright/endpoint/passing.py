"""Passes an endpoint from this process to another one: first the listener, then every connection as it becomes quiet.

Safe at every instant: this process forgets a listener or a connection only after the other one has it, and the other one
touches a connection only after it was told to begin. If the other process dies midway, everything it has not begun goes on
here. Owned by ``process.py``.
"""

import asyncio
import os
import socket

import structlog

from shardwright.clock import Clock
from shardwright.endpoint import wire
from shardwright.endpoint.channel import Channel
from shardwright.endpoint.connection import ClientConnection
from shardwright.endpoint.served import ServedEndpoint

ANSWER_TIMEOUT_S = 1.0
TIED_GRACE_S = 1.0
"""How long a connection may go on with what cannot be passed (WATCH, a blocking command) before it is closed."""
LOOK_S = 0.01
"""Between looks at connections that are not frozen yet."""
FLUSH_S = 0.05
"""How long one slow client may keep the others waiting."""

_log = structlog.get_logger(__name__)


class Refused(Exception):
    """The other process does not take it."""


class Passing:
    """One endpoint on its way."""

    def __init__(self, served: ServedEndpoint, to_path: str, *, clock: Clock) -> None:
        self._now = clock.monotonic
        self.to_path = to_path
        self.passed = 0
        self.failure = ""
        self.first_sweep = asyncio.Event()
        """Set once everything that was quiet at the beginning has gone, or it failed."""
        self._served = served

    async def run(self) -> None:
        """Pass everything; ends when nothing is left or the other process fails."""
        served = self._served
        try:
            async with await Channel.connect(self.to_path) as channel:
                await self._pass_listener(channel)
                await self._pass_connections(channel)
        except (OSError, TimeoutError, ValueError, Refused) as error:
            self.failure = str(error) or type(error).__name__
            _log.warning(
                "passing an endpoint on stopped", endpoint=served.gate.spec.uid, to=self.to_path, reason=self.failure
            )
        finally:
            self.first_sweep.set()
            for connection in list(served.connections):
                connection.thaw()

    async def _ask(self, channel: Channel, message: wire.Json, file: int | None = None) -> None:
        answer = await asyncio.wait_for(channel.ask(message, () if file is None else (file,)), ANSWER_TIMEOUT_S)
        if "error" in answer:
            raise Refused(answer["error"])

    async def _pass_listener(self, channel: Channel) -> None:
        served = self._served
        gate = served.gate
        listener = served.listening_socket()
        message = {
            "op": "adopt_listener",
            "spec": wire.spec_to(gate.spec),
            "target": wire.target_to(gate.target),
            "hold": wire.hold_to(gate.hold, self._now()),
        }
        try:
            await self._ask(channel, message, None if listener is None else listener.fileno())
        finally:
            if listener is not None:
                listener.close()
        served.is_draining = True
        served.stop_listening()

    async def _pass_connections(self, channel: Channel) -> None:
        served = self._served
        now = self._now
        tied_until = now() + TIED_GRACE_S
        while served.connections:
            for connection in list(served.connections):
                self._prepare(connection, is_patient=now() < tied_until)
            if served.quiet.empty():
                self.first_sweep.set()
            try:
                async with asyncio.timeout(LOOK_S):
                    connection = await served.quiet.get()
            except TimeoutError:
                continue
            while True:
                await self._pass_one(channel, connection)
                if served.quiet.empty():
                    break
                connection = served.quiet.get_nowait()

    def _prepare(self, connection: ClientConnection, *, is_patient: bool) -> None:
        session = connection.session
        if session.is_closing or session.is_frozen:
            return
        if not session.is_tied:
            connection.freeze()
        elif not is_patient:
            connection.finish()

    async def _pass_one(self, channel: Channel, connection: ClientConnection) -> None:
        session = connection.session
        if not await self._is_flushed(connection) or not session.is_quiet or not session.is_frozen:
            return
        transport = connection.transport
        if transport is None:
            return
        client: socket.socket = transport.get_extra_info("socket")
        file = os.dup(client.fileno())
        try:
            luggage = wire.luggage_to(session.pack())
            message = {"op": "adopt_connection", "endpoint": self._served.gate.spec.uid, "luggage": luggage}
            await self._ask(channel, message, file)
            if connection.transport is None:  # the client left meanwhile; the other process will see it too
                return
            await channel.send({"op": "begin"})
        finally:
            os.close(file)
        connection.forget()
        self.passed += 1
        self._served.gate.counts.passed += 1

    async def _is_flushed(self, connection: ClientConnection) -> bool:
        """All replies have left this process. A client that is too slow is tried again later."""
        deadline = self._now() + FLUSH_S
        while (transport := connection.transport) is not None and transport.get_write_buffer_size():
            if self._now() >= deadline:
                connection.thaw()
                return False
            await asyncio.sleep(0)
        return transport is not None
