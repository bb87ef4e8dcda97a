"""Passes an endpoint from this process to another one: first the listener, then every connection in its turn.

Carries out the orders of ``departures.py``. Safe at every instant: this process forgets a listener or a connection only when
the other process has it, and the other process touches a connection only after the message ``begin``. If the other process
dies in between, this process continues all connections that were not begun there. Owned by ``process.py``.
"""

import asyncio
import os
from dataclasses import replace

import structlog

from shardwright.clock import Clock
from shardwright.endpoint import wire
from shardwright.endpoint.channel import Channel
from shardwright.endpoint.connection import ClientConnection, Packed
from shardwright.endpoint.departures import ConnectionStatus, Departures
from shardwright.endpoint.packed_session import pieces
from shardwright.endpoint.served import ServedEndpoint

ANSWER_TIMEOUT_S = 1.0
ALONE_FROM_BYTES = 1024 * 1024
"""A connection with at least this many bytes has its own message, so that the others need not wait for its copy."""

_log = structlog.get_logger(__name__)


class PassRefused(Exception):
    """The other process does not accept the listener or the connections."""


class Passing:
    """Passes one endpoint to another process."""

    def __init__(self, served: ServedEndpoint, to_path: str, *, clock: Clock, is_replacement: bool = False) -> None:
        """``is_replacement``: the other process is of the same node, so it gets the virtual addresses too."""
        self._now = clock.monotonic
        self._is_replacement = is_replacement
        self.to_path = to_path
        self.passed = 0
        self.failure = ""
        self._served = served
        self._leaving: dict[int, ClientConnection] = {}
        self._something_became_quiet = asyncio.Event()

    async def run(self) -> None:
        """Pass everything. Returns when nothing is left, or when the other process fails."""
        served = self._served
        served.on_quiet = self._something_became_quiet.set
        try:
            async with await Channel.connect(self.to_path) as channel:
                await self._pass_listener(channel)
                await self._pass_connections(channel)
        except (OSError, TimeoutError, ValueError, PassRefused) as error:
            self.failure = str(error) or type(error).__name__
            _log.warning("an endpoint was not passed", endpoint=served.gate.spec.uid, to=self.to_path, reason=self.failure)
        finally:
            served.on_quiet = None
            for connection in list(served.connections):
                if connection.session.is_frozen:
                    connection.thaw()

    async def _ask(self, channel: Channel, message: wire.Json, files: tuple[int, ...] = ()) -> None:
        answer = await asyncio.wait_for(channel.ask(message, files), ANSWER_TIMEOUT_S)
        if "error" in answer:
            raise PassRefused(answer["error"])

    async def _pass_listener(self, channel: Channel) -> None:
        served = self._served
        gate = served.gate
        listener = served.listening_socket()
        message = {
            "op": "adopt_listener",
            # The specification may be older than the lease.
            "spec": wire.spec_to(replace(gate.spec, lease=gate.standing.terms)),
            "target": wire.target_to(gate.target),
            "hold": wire.hold_to(gate.hold, self._now()),
        }
        # An older process takes the first file for the listener, so no other file may be the first.
        virtual = served.virtual_sockets() if self._is_replacement and listener is not None else {}
        sockets = [*([] if listener is None else [listener]), *virtual.values()]
        try:
            await self._ask(channel, message | {"virtual": [*virtual]}, tuple(one.fileno() for one in sockets))
        finally:
            for one in sockets:
                one.close()
        served.is_draining = True
        if self._is_replacement:
            served.stop_accepting()
        else:
            served.stop_listening()

    # -- connections -------------------------------------------------------------------------------------------------

    async def _pass_connections(self, channel: Channel) -> None:
        busiest_first = sorted(self._served.connections, key=lambda c: c.active_at, reverse=True)
        self._leaving = {c.session.uid: c for c in busiest_first}
        departures = Departures(self._leaving, now=self._now())
        while not departures.is_over:
            self._something_became_quiet.clear()
            orders = departures.next(self._now(), self._status_of)
            for uid in orders.end:
                self._end(self._leaving.pop(uid))
            for uid in orders.thaw:
                self._leaving[uid].thaw()
            if orders.passes:
                await self._pass([self._leaving.pop(uid) for uid in orders.passes], channel)
            for uid in orders.freeze:
                self._leaving[uid].freeze()
            if not orders.passes and not self._something_became_quiet.is_set():
                await self._wait_until(orders.wake_at)

    def _status_of(self, uid: int) -> ConnectionStatus | None:
        connection = self._leaving[uid]
        session = connection.session
        if connection.transport is None or session.is_closing:
            del self._leaving[uid]
            return None
        is_quiet = session.is_frozen and session.is_quiet
        return ConnectionStatus(is_quiet=is_quiet, is_tied=session.is_tied and not session.is_frozen)

    def _end(self, connection: ClientConnection) -> None:
        busy = self._served.describe(connection)
        _log.warning(
            "ended a client connection that could not be passed",
            endpoint=self._served.gate.spec.uid,
            client=busy.client,
            command=busy.command,
        )
        self._served.ended.append(f"{busy.client} {busy.command}".strip())
        connection.cut()

    async def _wait_until(self, at: float | None) -> None:
        try:
            async with asyncio.timeout(None if at is None else max(0.0, at - self._now())):
                await self._something_became_quiet.wait()
        except TimeoutError:
            pass

    async def _pass(self, connections: list[ClientConnection], channel: Channel) -> None:
        packings = [packing for connection in connections if (packing := connection.pack()) is not None]
        if not packings:
            return
        self._served.in_transit += len(packings)
        try:
            await asyncio.wait(packings)
        except BaseException:
            await asyncio.wait(packings)
            await self._take_back([packing.result() for packing in packings])
            raise
        packed = [packing.result() for packing in packings]
        batches = [[one] for one in packed if one.size >= ALONE_FROM_BYTES]
        if together := [one for one in packed if one.size < ALONE_FROM_BYTES]:
            batches.append(together)
        for number, batch in enumerate(batches):
            try:
                await self._offer(batch, channel)
            except BaseException:
                await self._take_back([one for later in batches[number + 1 :] for one in later])
                raise

    async def _offer(self, batch: list[Packed], channel: Channel) -> None:
        """Transfer a batch to the other process, or take all of it back."""
        served = self._served
        try:
            await self._transfer(batch, channel)
        except BaseException:
            await self._take_back(batch)
            raise
        for packed in batch:
            packed.client.close()
        served.in_transit -= len(batch)
        served.gate.counts.passed += len(batch)
        self.passed += len(batch)

    async def _take_back(self, batch: list[Packed]) -> None:
        for packed in batch:
            await self._served.adopt_connection(packed)
            self._served.in_transit -= 1

    async def _transfer(self, batch: list[Packed], channel: Channel) -> None:
        message = {
            "op": "adopt_connections",
            "endpoint": self._served.gate.spec.uid,
            "connections": [wire.packed_to(packed) for packed in batch],
        }
        files = tuple(packed.client.fileno() for packed in batch)
        if not any(packed.size for packed in batch):
            await self._ask(channel, message, files)
        else:
            content = os.memfd_create("shardwright-in-transit", os.MFD_CLOEXEC)
            try:
                await _write_all(content, batch)
                await self._ask(channel, message, (*files, content))
            finally:
                os.close(content)
        await channel.send({"op": "begin"})


async def _write_all(file: int, batch: list[Packed]) -> None:
    for packed in batch:
        for piece in pieces([*packed.unread, *packed.unsent]):
            os.write(file, piece)
            if packed.size >= ALONE_FROM_BYTES:
                await asyncio.sleep(0)
