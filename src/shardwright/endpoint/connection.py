"""The sockets of one client connection and of its server connection, on the event loop.

Feeds a ``Session`` and carries out its wishes. Decides nothing about commands. Owns flow control, closing without a reset,
and the retries of server connections. Created by ``served.py``.
"""

import asyncio
import socket
from dataclasses import dataclass, field
from typing import cast

from shardwright.clock import boot_time
from shardwright.endpoint.backend import BackendConnection
from shardwright.endpoint.gate import Hold, is_same_server
from shardwright.endpoint.last_bytes import send_with_fin
from shardwright.endpoint.owner import Owner
from shardwright.endpoint.pace import Inflow
from shardwright.endpoint.packed_session import PackedSession, pack, unpack
from shardwright.endpoint.protocol import Target
from shardwright.endpoint.reach import reach
from shardwright.endpoint.session import Session
from shardwright.endpoint.setup import READY, Phase
from shardwright.model.backoff import Backoff
from shardwright.tasks import spawn

OUTPUT_BYTES_HIGH = 1024 * 1024
"""Limit of the replies that wait for a slow client. Above it, the server is not read …"""
OUTPUT_BYTES_MAX = 256 * 1024 * 1024
"""… unless the client is not read either, because it may send everything before it reads anything: then this limit."""
TRIM_AFTER = 64
"""Number of writes to a slow client after which those that the transport has sent are forgotten."""
RETRY = Backoff((0.01, 0.02, 0.05, 0.1))
"""Delays between attempts to reach a server; the last one repeats."""
KEEPALIVE_S = 300
"""Idle time after which TCP probes a client, as the servers do."""
LINGER_S = 1.0
"""Wait for the client to close too. Closing a socket with unread bytes earlier would reset the connection."""
READ_REST_S = 60.0
"""Wait for a client that sends no more to read its last replies."""


Buffer = bytes | bytearray


@dataclass(slots=True)
class Packed:
    """A client connection in transit between two processes: no process reads or writes its socket."""

    client: socket.socket
    session: PackedSession
    unread: list[Buffer] = field(repr=False)
    """Bytes from the client that have not been processed."""
    unsent: list[Buffer] = field(repr=False)
    """Bytes to the client that have not been sent."""

    @property
    def size(self) -> int:
        """Number of its unread and unsent bytes."""
        return sum(map(len, self.unread)) + sum(map(len, self.unsent))


@dataclass(slots=True)
class _Packing:
    """A connection whose transport is about to end."""

    transport: asyncio.Transport
    packed: Packed
    done: "asyncio.Future[Packed]"


class ClientConnection(asyncio.Protocol):
    """One client."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop, *, uid: int) -> None:
        self.owner = owner
        self.session = Session(owner.gate, uid=uid)
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.is_reading = True
        """Whether the session wants bytes from the client."""
        self.is_slow = False
        self.active_at = 0.0
        """Time of the last bytes from the client, by the loop's clock."""
        self._is_eof = False
        """The client sends no more. Its earlier commands are still answered."""
        self._loop = loop
        self._now = loop.time
        self._backend: BackendConnection | None = None
        self._spare: BackendConnection | None = None
        """A connection to the candidate, opened during a hold. Nothing is sent over it before the hold ends."""
        self._spared_for: Hold | None = None
        """The hold for which the spare connection was requested."""
        self._inflow = Inflow(owner.pace, self._take, is_cheap=self.session.is_inside_command, reading=self._adjust_reading)
        self._transport_reads = True
        self._written: list[Buffer] = []  # the latest writes: the transport's buffer is the end of these bytes
        self._trim_at = TRIM_AFTER
        self.is_connecting = False
        """Whether a server connection is being opened."""
        self._attempts = 0
        self._retry: asyncio.TimerHandle | None = None
        self._is_finishing = False
        self._packing: _Packing | None = None
        self._linger: asyncio.TimerHandle | None = None

    # -- called by the loop ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=OUTPUT_BYTES_HIGH)
        client = transport.get_extra_info("socket")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else ""
        self.owner.joined(self)

    def data_received(self, data: bytes) -> None:
        self._inflow.put(data)

    def _take(self, data: bytes) -> None:
        session = self.session
        now = self.active_at = self._now()
        session.client_data(data, now)
        backend = self._backend
        if (
            backend is not None
            and session.to_backend
            and not session.to_client
            and not session.is_full
            and session.phase is READY
        ):
            out = session.to_backend  # the usual case: a chunk of plain commands
            backend.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()
            return
        self.settle()

    def eof_received(self) -> bool:
        self._is_eof = True
        self.settle()
        return not self._is_finishing

    def connection_lost(self, error: Exception | None) -> None:
        packing, self._packing = self._packing, None
        if packing is not None:
            self._packed(packing)
        self.session.ended()
        self._inflow.close()
        self._written.clear()
        self.transport = None
        for timer in (self._retry, self._linger):
            if timer is not None:
                timer.cancel()
        self._retry = self._linger = None
        self._drop_backend()
        self._drop_spare()
        self.owner.left(self)

    def pause_writing(self) -> None:
        self.is_slow = True
        self._adjust_backend()

    def resume_writing(self) -> None:
        self.is_slow = False
        self._adjust_backend()

    # -- carrying out ------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Carry out all wishes of the session. Called after every event."""
        session = self.session
        if self.transport is None:
            return
        if session.to_client:
            self._write(session.to_client)
        if session.wants_drop:
            session.wants_drop = False
            self._drop_backend()
        if session.to_backend and self._backend is not None:
            self._backend.write(b"".join(session.to_backend))
            session.to_backend.clear()
        if session.wants_close or (self._is_eof and session.owes_nothing and self._inflow.is_empty):
            self.finish()
            return
        should_read = not (session.is_full or session.is_frozen)
        if should_read != self.is_reading:
            self.is_reading = should_read
            self._adjust_reading()
            self._adjust_backend()
        if session.needs_backend and not self.is_connecting and self._retry is None:
            self._connect()
        elif self.owner.gate.hold is not None and session.blocked_since is not None:
            self._connect_ahead(self.owner.gate.hold)
        if session.needs_ticks:
            self.owner.wants_ticks(self)
        if session.is_frozen and session.is_quiet:
            self.owner.became_quiet(self)

    def backend_received(self, data: bytes) -> None:
        """Bytes from the server."""
        session = self.session
        if self.owner.gate.proof_until is not None and self._is_unproven():
            return
        session.backend_data(data, self._now())
        is_usual = session.phase is READY and self.is_reading and not session.to_backend and not self._is_eof
        if is_usual and self.transport is not None:
            if session.to_client:
                self._write(session.to_client)
            if session.is_full or session.wants_close or session.needs_ticks or session.is_frozen:
                self.settle()
            return
        if session.phase is Phase.READY:
            self._attempts = 0
        self.settle()

    def _write(self, chunks: list[bytes]) -> None:
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.session.gate.counts.bytes_out += len(data)
        if self.session.wants_close and self.transport is not None:
            send_with_fin(self.transport)
        self._send(data)
        if self.is_slow:
            self._adjust_backend()

    def _send(self, data: Buffer) -> None:
        transport = self.transport
        assert transport is not None
        if kept := transport.get_write_buffer_size():
            self._written.append(data)
            if len(self._written) >= self._trim_at:
                self._trim(kept + len(data))
        else:
            self._written = [data]
        transport.write(data)

    def _trim(self, kept: int) -> None:
        """Forget the writes that the transport has sent."""
        written = self._written
        start = len(written)
        while kept > 0:
            start -= 1
            kept -= len(written[start])
        del written[:start]
        self._trim_at = 2 * len(written) + TRIM_AFTER

    def _adjust_reading(self) -> None:
        """Begin or stop reading the client: not while the session wants no bytes, or too many of the last ones wait."""
        on = self.is_reading and self._inflow.may_read
        if on is self._transport_reads or self.transport is None or self.transport.is_closing():
            return
        self._transport_reads = on
        if on:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _adjust_backend(self) -> None:
        """Begin or stop reading the server. A slow client slows its server, unless both could then wait for each other, or a
        handoff or a rebind waits for its replies."""
        if self._backend is None or self.transport is None:
            return
        size = self.transport.get_write_buffer_size() if self.is_slow else 0
        is_patient = self.is_reading and self.owner.gate.hold is None and not self.session.is_calmed
        self._backend.set_reading(not self.is_slow or (not is_patient and size < OUTPUT_BYTES_MAX))

    # -- the server --------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        gate = self.owner.gate
        if not gate.is_open or gate.target is None:
            return
        spare, self._spare = self._spare, None
        if spare is not None and is_same_server(spare.target, gate.target):
            self._use(spare, gate.target)
            return
        self.is_connecting = True
        spawn("endpoint-connect", self._open(gate.target))

    def _connect_ahead(self, hold: Hold) -> None:
        """Connect a waiting client to the candidate during the hold, to save the time after it. One attempt."""
        if self._spared_for is hold or self.is_connecting or self._spare is not None:
            return
        self._spared_for = hold
        self.is_connecting = True
        spawn("endpoint-connect", self._open(hold.new))

    async def _open(self, target: Target) -> None:
        backend = BackendConnection(self, target, pace=self.owner.pace, is_cheap=self.session.is_inside_reply)
        try:
            await reach(backend, self._loop, self.owner.access)
        except (OSError, TimeoutError) as error:
            self.is_connecting = False
            if not self.owner.gate.is_open or not is_same_server(target, self.owner.gate.target):
                self.settle()  # that server is no longer the target
                return
            self.session.failure = f"{target.address}:{target.port} cannot be reached: {error or 'it does not answer'}"
            self._retry_later()
            return
        self.is_connecting = False
        self.settle()

    def backend_made(self, backend: BackendConnection) -> None:
        """A server connection is open."""
        gate = self.owner.gate
        if self.transport is not None and gate.hold is not None and is_same_server(backend.target, gate.hold.new):
            self._spare = backend
            return
        is_wanted = self.transport is not None and self._backend is None and self.session.phase is Phase.NONE
        if not is_wanted or gate.target is None or not is_same_server(backend.target, gate.target):
            backend.abandon()
            return
        self._use(backend, gate.target)

    def _use(self, backend: BackendConnection, target: Target) -> None:
        self._backend = backend
        self.session.backend_opened(target)
        self.settle()

    def backend_lost(self, backend: BackendConnection) -> None:
        """The server closed the connection, or it broke."""
        if backend is self._spare:
            self._spare = None
        if backend is not self._backend:
            return
        self._backend = None
        self.session.backend_lost(self._now())
        self._retry_later()
        self.settle()

    def _is_unproven(self) -> bool:
        """Whether another server may be the primary by now. Then what this one says is not passed on, and it is left."""
        if not self.owner.gate.is_outdated(boot_time()):
            return False
        self._leave_unproven()
        return True

    def lapse(self) -> None:
        """There was no proof for a while: what the server has sent since then is not passed on, whatever holds now."""
        if self._backend is not None and self.session.oldest is not None:
            self._leave_unproven()

    def _leave_unproven(self) -> None:
        self.session.leave_unproven(self._now())
        self._retry_later()
        self.settle()

    def _drop_backend(self) -> None:
        """Close the server connection. After a failure, the next attempt is delayed."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.abandon()
        if self.session.failure and self.transport is not None:
            self._retry_later()

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.abandon()

    def _retry_later(self) -> None:
        if self._retry is not None or self.transport is None:
            return
        self._retry = self._loop.call_later(RETRY.delay_s(self._attempts), self._try_again)
        self._attempts += 1

    def _try_again(self) -> None:
        self._retry = None
        self.settle()

    def gate_changed(self) -> None:
        """The endpoint holds, or forwards to another server: notify the session at once."""
        if self._retry is not None and self.owner.gate.is_open:
            self._retry.cancel()
            self._retry = None
        self._attempts = 0
        self.session.failure = ""
        self.session.gate_changed(self._now())
        if self.is_slow:
            self._adjust_backend()
        self.settle()
        if self.owner.gate.is_open:
            self._drop_spare()

    def tick(self) -> bool:
        """Let the session check its time limits. Returns whether it needs further ticks."""
        self.session.tick(self._now())
        self.settle()
        return self.session.needs_ticks and self.transport is not None

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Close without a reset: send everything that is written, then FIN; read and discard what the client still sends."""
        transport = self.transport
        if transport is None or self._is_finishing:
            return
        self._is_finishing = True
        self.session.is_closing = True
        self._drop_backend()
        self._drop_spare()
        self._inflow.take_rest()
        self.is_reading = True
        self._adjust_reading()
        if transport.is_closing():
            return
        if self._is_eof:
            transport.close()  # after everything that is written
            self._linger = self._loop.call_later(READ_REST_S, self._abort)
            return
        transport.write_eof()
        self._linger = self._loop.call_later(LINGER_S, self._abort)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    # -- stopping and passing ----------------------------------------------------------------------------------------

    def calm(self) -> None:
        """Wait for the replies in flight and send nothing new, because a hold is imminent."""
        self.session.calm()
        self._adjust_backend()

    def end_calm(self) -> None:
        """The hold has ended, or was not begun."""
        self.session.end_calm(self._now())
        self._adjust_backend()
        self.settle()

    def freeze(self) -> None:
        """Wait for the replies in flight and begin nothing new, in order to be passed. Notifies the owner when quiet."""
        self.session.freeze()
        self.settle()

    def thaw(self) -> None:
        """Resume processing in this process."""
        self.session.thaw(self._now())
        self.settle()

    def cut(self) -> None:
        """End the connection now: answer everything unanswered with an error, then send FIN."""
        self.session.cut()
        self.settle()

    def pack(self) -> "asyncio.Future[Packed] | None":
        """Remove the client's socket and state from this process's loop. The connection must be frozen and quiet. None: the
        client has disconnected.

        Afterwards this process must not read or write the socket: two readers of one socket would each receive half of the
        bytes. The copy keeps the socket open. The unsent bytes are known only when the transport ends, in the loop's next
        pass: it keeps sending until then.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return None
        client = socket.socket(fileno=socket.dup(transport.get_extra_info("socket").fileno()))
        unread: list[Buffer] = [*self.session.unread, *self._inflow.take_rest()]
        self._packing = _Packing(transport, Packed(client, pack(self.session), unread, []), self._loop.create_future())
        self.transport = None
        self._is_finishing = True
        self._drop_backend()
        self._drop_spare()
        self.owner.left(self)
        transport.abort()
        return self._packing.done

    def _packed(self, packing: "_Packing") -> None:
        """The transport is about to close its socket and sends nothing more: its buffer is the end of the written bytes."""
        size = packing.transport.get_write_buffer_size()
        parts = packing.packed.unsent
        while size > 0:
            part = self._written.pop()
            parts.append(part[-size:] if len(part) > size else part)
            size -= len(part)
        parts.reverse()
        packing.done.set_result(packing.packed)

    def unpack(self, session: PackedSession) -> None:
        """Take over, frozen, the state that another process packed. Called before the connection has a transport."""
        self.session.freeze()
        unpack(session, self.session)

    def add_unread(self, data: bytes) -> None:
        """Process bytes that the other process has not processed. Called for each piece."""
        self.session.client_data(data, self._now())

    def add_unsent(self, data: bytes) -> None:
        """Send bytes that the other process has not sent, before any other reply. Called for each piece."""
        self._send(data)
