"""One endpoint of this process: its listener, its connections, its holds.

Owned by ``process.py``. Decides with ``gate.py``, calls the timers of waiting connections, and asks both servers itself when
a hold lasts too long.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from datetime import timedelta

import structlog

from shardwright.clock import Clock
from shardwright.endpoint.calming import Calming
from shardwright.endpoint.connection import ClientConnection, Packed
from shardwright.endpoint.gate import ByteBudget, Change, Counts, Gate, Hold
from shardwright.endpoint.lease import LeaseStanding
from shardwright.endpoint.listener import Listener
from shardwright.endpoint.pace import LoopPace
from shardwright.endpoint.packed_session import PIECE_BYTES, pieces
from shardwright.endpoint.probe import probe
from shardwright.endpoint.protocol import (
    DRAIN_S,
    SELF_RELEASE_S,
    EndpointSpec,
    HoldResult,
    LeaseTerms,
    ReleaseResult,
    Target,
)
from shardwright.endpoint.prover import Prover
from shardwright.endpoint.reach import ServerAccess
from shardwright.endpoint.replica_watch import ReplicaWatch
from shardwright.endpoint.retiring import close_connections
from shardwright.endpoint.virtual import VirtualAddresses
from shardwright.model.database import access_fingerprint
from shardwright.model.seen import BusyCommand, EndpointSeen, EndpointState
from shardwright.tasks import spawn

TICK_S = 0.05
SELF_RELEASE_RETRY_S = 0.1
DRAIN_POLL_S = 0.0005
"""Interval of a drain's checks; short, because a drain is part of the write pause."""
BUSY_AFTER_S = 1.0
"""The status names commands that are in flight for longer than this …"""
BUSY_NAMED_MAX = 3
"""… at most this number of them."""
ENDED_NAMED_MAX = 5
NOTIFY_BATCH = 32
"""Connections notified of a new target before other work gets its turn."""
DROP_GRACE_S = 0.1
"""Maximum wait of a dropped endpoint for replies in flight."""

_log = structlog.get_logger(__name__)


class ServedEndpoint:
    """See the module's docstring."""

    def __init__(
        self,
        spec: EndpointSpec,
        standing: LeaseStanding,
        *,
        budget: ByteBudget,
        counts: Counts,
        pace: LoopPace,
        clock: Clock,
        access: ServerAccess,
    ) -> None:
        self._clock = clock
        self.access = access
        self.pace = pace
        self.gate = Gate(spec, budget=budget, counts=counts, standing=standing)
        self._replica_watch = ReplicaWatch(self.gate, access)
        self.connections: set[ClientConnection] = set()
        self._calming = Calming(self.gate, self.connections)
        self.prover = Prover(self.gate, access, self.connections, self._look_again)
        self.is_draining = False
        """Whether the listener was passed to another process, or was closed because the endpoint retires."""
        self.in_transit = 0
        """Number of packed connections that the other process has not been told to begin. They still belong to this one."""
        self.on_quiet: Callable[[], None] | None = None
        """Called when a frozen connection can be passed."""
        self.ended: deque[str] = deque(maxlen=ENDED_NAMED_MAX)
        """Clients whose connection could not be passed."""
        self._loop = asyncio.get_running_loop()
        self._wall_offset = clock.now() - timedelta(seconds=self._loop.time())
        self._listener: Listener | None = None
        self._virtual = VirtualAddresses(self.gate, self._new_connection)
        self._ticking: asyncio.Task[None] | None = None
        self._releasing: asyncio.Task[None] | None = None
        self._waiting: set[ClientConnection] = set()
        self._last_pause_s = 0.0
        self._is_ended = False

    @property
    def connections_left(self) -> int:
        """Number of connections that another process has not taken over."""
        return len(self.connections) + self.in_transit

    # -- called by connections ---------------------------------------------------------------------------------------

    def joined(self, connection: ClientConnection) -> None:
        self.connections.add(connection)

    def left(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)
        self._waiting.discard(connection)
        self._calming.left(connection)
        self._virtual.left(connection)

    def became_quiet(self, connection: ClientConnection) -> None:
        if self.on_quiet is not None:
            self.on_quiet()

    def wants_ticks(self, connection: ClientConnection) -> None:
        self._waiting.add(connection)
        if self._ticking is None:
            self._ticking = spawn("endpoint-ticks", self._tick())

    async def _tick(self) -> None:
        while self._waiting:
            await asyncio.sleep(TICK_S)
            for connection in list(self._waiting):
                if not connection.tick():
                    self._waiting.discard(connection)
            self._replica_watch.look(self._waiting)
        self._ticking = None

    # -- the listener ------------------------------------------------------------------------------------------------

    def _new_connection(self) -> ClientConnection:
        counts = self.gate.counts
        counts.accepted += 1
        return ClientConnection(self, self._loop, uid=counts.accepted)

    async def listen(self) -> None:
        """Listen at the specified address and port. If the port is in use, retry in the background."""
        self.prover.look()
        self.is_draining = self.gate.is_retiring = False
        await self._own_listener().open()
        await self._virtual.apply(self.gate.spec.virtual)

    def _own_listener(self) -> Listener:
        """The listener at the specified address and port; one at another place is closed."""
        place = self.gate.spec.address, self.gate.spec.port
        if self._listener is None or (self._listener.address, self._listener.port) != place:
            self.stop_listening()
            self._listener = Listener(*place, self._new_connection)
        return self._listener

    async def adopt_listener(self, listener: socket.socket) -> None:
        """Accept connections from a listening socket. It is closed if the endpoint already has a listener."""
        self.prover.look()
        self.is_draining = self.gate.is_retiring = False
        await self._own_listener().adopt(listener)

    def stop_listening(self) -> None:
        """Close this process's listening socket; another process may have a copy of it."""
        if self._listener is not None:
            self._listener.close()

    def stop_accepting(self) -> None:
        """The same for all listeners of the endpoint, also those at virtual addresses."""
        self.stop_listening()
        self._virtual.stop_listening()

    def virtual_sockets(self) -> dict[str, socket.socket]:
        """Copies of the sockets that listen at virtual addresses, by address."""
        return self._virtual.listening_sockets()

    async def adopt_virtual(self, address: str, listener: socket.socket) -> None:
        """Accept connections from a socket that listens at a virtual address."""
        await self._virtual.adopt(address, listener)

    def listening_socket(self) -> socket.socket | None:
        """A copy of the listening socket, to pass to another process; None: the endpoint does not listen."""
        return None if self._listener is None else self._listener.copy()

    async def adopt_connection(self, packed: Packed) -> None:
        """Continue a client connection that another process served, or this one until it was packed. Only when the other
        process no longer reads it, because uvloop begins to read at once and cannot be prevented from it."""
        counts = self.gate.counts
        counts.accepted += 1
        connection = ClientConnection(self, self._loop, uid=counts.accepted)
        connection.unpack(packed.session)
        self._virtual.arrived(connection, packed.client.getsockname()[0])
        for piece in pieces(packed.unread):
            connection.add_unread(piece)
            if packed.size > PIECE_BYTES:
                await asyncio.sleep(0)
        await self._loop.connect_accepted_socket(lambda: connection, packed.client)
        for piece in pieces(packed.unsent):
            connection.add_unsent(piece)
        connection.thaw()
        if self._is_ended:
            connection.finish()  # the endpoint was dropped meanwhile: no one would notify it of another server

    # -- requests of the leader --------------------------------------------------------------------------------------

    async def serve(self, spec: EndpointSpec) -> None:
        """Apply a specification, and listen."""
        self.apply(spec)
        await self.listen()

    def apply(self, spec: EndpointSpec) -> None:
        """Apply a specification to the connections, and leave the listeners as they are."""
        self.prover.lapse()
        if self.gate.serve(spec) is Change.MOVED:
            self._moved()
        self._look_again()

    def tell_lease(self, terms: LeaseTerms) -> None:
        """See ``EndpointControl.tell_lease``."""
        self.prover.lapse()
        self.gate.tell_lease(terms)
        self.prover.look()
        self._look_again()

    def _look_again(self) -> None:
        """Waiting connections may go on."""
        for connection in list(self._waiting):
            connection.gate_changed()

    def retire(self) -> None:
        """See ``EndpointControl.retire``."""
        self.stop_listening()
        self._virtual.close()
        self.is_draining = True
        if not self.gate.is_retiring:
            self.gate.retire()
            spawn("endpoint-retire", close_connections(self.gate, self.connections))

    async def calm(self) -> None:
        """See ``EndpointControl.calm``."""
        await self._calming.begin()

    async def hold(self, old: Target, new: Target) -> HoldResult:
        """See ``EndpointControl.hold``."""
        loop = self._loop
        is_new = self.gate.begin_hold(old, new, self._clock.monotonic()) is Change.HELD
        busy = [c for c in self.connections if not c.session.is_drained]
        if is_new:
            self.prover.look()
            for connection in (*busy, *self._waiting):
                connection.gate_changed()
            if self._releasing is None:
                self._releasing = spawn("endpoint-self-release", self._release_in_time())
        deadline = loop.time() + DRAIN_S
        hold = self.gate.hold
        while busy and self.gate.hold is hold is not None and loop.time() < deadline:
            await asyncio.sleep(DRAIN_POLL_S)
            busy = [c for c in busy if c in self.connections and not c.session.is_drained]
        was_held = self.gate.hold is hold is not None
        if was_held and busy:
            # After this answer no leader fences the server. The leader may be dead, and the server may be too busy for a
            # probe: during a hold, a client could not even end the script that occupies the server.
            self.release(old)
        return HoldResult(was_held, was_held and not busy, tuple(self.describe(c) for c in busy[:10]))

    def describe(self, connection: ClientConnection) -> BusyCommand:
        """The client of a connection, and the command that it waits for."""
        session = connection.session
        client = f"{connection.peer} {session.name}".strip()
        oldest = session.oldest
        if oldest is None:
            return BusyCommand(client, "")
        since = self._wall_offset + timedelta(seconds=oldest.sent_at)
        return BusyCommand(client, oldest.word[:32].decode("ascii", "replace"), since)

    def _busy(self) -> tuple[BusyCommand, ...]:
        """The commands that have been in flight for a long time."""
        before = self._loop.time() - BUSY_AFTER_S
        busy = [
            (oldest.sent_at, c)
            for c in self.connections
            if (oldest := c.session.oldest) is not None and oldest.sent_at < before and not c.session.is_blocking
        ]
        return tuple(self.describe(c) for _, c in sorted(busy, key=lambda item: item[0])[:BUSY_NAMED_MAX])

    def release(self, target: Target) -> ReleaseResult:
        """See ``EndpointControl.release``."""
        self.prover.lapse()
        hold = self.gate.hold
        held = sum(len(c.session.ready) for c in self._waiting | self._calming.calmed)
        if self.gate.release(target) is not Change.MOVED:
            return ReleaseResult(0.0, 0, self.gate.generation)
        pause_s = 0.0 if hold is None else self._clock.monotonic() - hold.since
        self._moved()
        return ReleaseResult(round(pause_s * 1000, 3), held, self.gate.generation)

    def _moved(self) -> None:
        """Notify every connection of the new target: active ones at once, idle ones in batches. A connection that has not
        been notified yet sends nothing to the former server."""
        self._calming.end()
        self.prover.look()
        idle = []
        for connection in list(self.connections):
            if connection.session.is_idle:
                idle.append(connection)
            else:
                connection.gate_changed()
        if idle:
            spawn("endpoint-notify", self._notify(idle))

    async def _notify(self, connections: list[ClientConnection]) -> None:
        for start in range(0, len(connections), NOTIFY_BATCH):
            for connection in connections[start : start + NOTIFY_BATCH]:
                if connection in self.connections:
                    connection.gate_changed()
            await asyncio.sleep(0)

    async def _release_in_time(self) -> None:
        """End a hold that lasts too long, because its leader may be dead: ask both servers, and release to the writable
        primary."""
        try:
            while (hold := self.gate.hold) is not None:
                wait_s = hold.since + SELF_RELEASE_S - self._clock.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                    continue
                if not await self._release_by_probing(hold):
                    await asyncio.sleep(SELF_RELEASE_RETRY_S)
        finally:
            self._releasing = None

    async def _release_by_probing(self, hold: Hold) -> bool:
        secret, targets = self.gate.spec.application_secret, (hold.new, hold.old)
        failures = await asyncio.gather(*(probe(target, secret, self.access) for target in targets))
        if self.gate.hold is not hold:
            return True
        for failure, target in zip(failures, targets, strict=True):
            if not failure:
                self.release(target)
                text = "a hold was not released in time; the endpoint has released it to the writable primary"
                _log.warning(text, endpoint=self.gate.spec.uid, shard=target.shard_uid, generation=target.generation)
                return True
        return False

    def take_over_hold(self, old: Target, new: Target, age_s: float) -> None:
        """Continue the hold of another process that has passed this endpoint."""
        if self.gate.begin_hold(old, new, self._clock.monotonic() - age_s) is Change.HELD and self._releasing is None:
            self._moved()
            self._releasing = spawn("endpoint-self-release", self._release_in_time())

    def seen(self) -> EndpointSeen:
        """The endpoint's state, for the status."""
        is_listening = self._listener is not None and self._listener.is_open
        serving = EndpointState.LISTENING if is_listening else EndpointState.BIND_FAILED
        state = EndpointState.DRAINING if self.is_draining else serving
        failures = {c.session.failure for c in self._waiting if c.session.failure}
        error = self._listener.error if self._listener is not None and state is EndpointState.BIND_FAILED else ""
        text = error or self._virtual.error or "; ".join(sorted(failures)[:3])
        gate = self.gate
        access = access_fingerprint(application_secret=gate.spec.application_secret, password=gate.spec.password)
        return EndpointSeen(
            endpoint_uid=gate.spec.uid,
            state=state,
            generation=gate.generation,
            held_generation=None if gate.hold is None else gate.hold.new.generation,
            connections=self.connections_left,
            text=text,
            access=access,
            is_strict=gate.spec.is_strict,
            busy=self._busy(),
            ended=tuple(self.ended),
            address=gate.spec.address,
            virtual=self._virtual.seen(self._loop.time()),
        )

    async def end(self) -> None:
        """Stop listening, and end every connection after its last reply."""
        self._is_ended = True
        self.prover.end()
        self.gate.hold = None
        self.stop_listening()
        self._virtual.close()
        deadline = self._loop.time() + DROP_GRACE_S
        for connection in list(self.connections):
            connection.session.freeze()
        while self.connections:
            is_over = self._loop.time() >= deadline
            for connection in list(self.connections):
                if is_over or connection.session.is_drained:
                    connection.finish()
            if is_over:
                return
            await asyncio.sleep(DRAIN_POLL_S * 10)
