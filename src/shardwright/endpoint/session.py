"""One client connection and its server connection, as a state machine: bytes and events in, bytes and wishes out.

Pure: no sockets, no clock. ``connection.py`` feeds it and carries out what it wants (``to_client``, ``to_backend``,
``needs_backend``, ``wants_drop``, ``wants_close``, ``is_full``). Commands are processed strictly in order: what cannot be
processed now (a hold, no server, a barrier) waits as raw bytes, and nothing of it has had any effect.
"""

from enum import Enum, auto

from shardwright.endpoint.dialogue import Dialogue
from shardwright.endpoint.gate import Gate, is_same_server
from shardwright.endpoint.ledger import NO_PRIMARY, Entry, Kind, Transaction
from shardwright.endpoint.protocol import HOLD_MAX_S, Target
from shardwright.endpoint.resp import ERROR, PUSH, CommandScanner, ProtocolError, ReplyScanner, second_word, split_arguments
from shardwright.endpoint.setup import ConnectionState, Setup
from shardwright.endpoint.words import BUSY_MAY_RUN

LEAVE_S = 0.5
"""How long replies of a server that is no longer the target are awaited."""
STREAM_FROM_BYTES = 16 * 1024
"""An incomplete reply of this size is passed on as it comes."""
HEAVY_BYTES = 64 * 1024
HEAVY_COMMANDS = 100
"""In flight at once: what may take longer than a drain to come in, though each command is quick."""


class Phase(Enum):
    """State of the server connection."""

    NONE = auto()
    SETUP = auto()
    """Open, being checked: nothing of the client's has been sent."""
    READY = auto()
    BUSY = auto()
    """The server is busy with a script: it could not be checked, and does nothing but end that script."""


class Session(Dialogue):
    """See the module. Times are monotonic seconds."""

    def __init__(self, gate: Gate, *, uid: int) -> None:
        super().__init__(gate, uid=uid)
        self.wants_drop = False
        """The server connection is to be closed; the session has already forgotten it."""
        self.wants_close = False
        """The client is to be told FIN once it has all its bytes."""
        self.is_full = False
        """The client is not to be read."""
        self.phase = Phase.NONE
        self.failure = ""
        """Why the last server connection was not used."""
        self.blocked_since: float | None = None
        """Since when commands wait for a server or for the end of a hold."""
        self.is_frozen = False
        """Nothing new is processed: the connection is about to be passed on."""
        self.is_calmed = False
        """Nothing new is processed: a hold is near, and much is in flight."""
        self._ready_bytes = 0
        self._tail = bytearray()
        self._target: Target | None = None
        self._setup: Setup | None = None
        self._replies = ReplyScanner()
        self._reply_tail = bytearray()
        self._first = b""  # of the reply that streams
        self._leaving_since: float | None = None
        self._closed_by: Target | None = None
        """The server that closed its connection while it owed replies. If it is alive it meant this client."""
        self._said_protocol_error = False
        self._charged = 0
        self._told_at = gate.flow  # the gate's number when it was last followed
        self._flowing_at = -1  # … for which a chunk of plain commands goes straight to the server

    # -- questions ---------------------------------------------------------------------------------------------------

    @property
    def needs_backend(self) -> bool:
        """A server connection is wanted, as soon as the gate is open."""
        return self.phase is Phase.NONE and self.blocked_since is not None and not self.is_closing

    @property
    def has_backend(self) -> bool:
        return self.phase is Phase.READY

    @property
    def can_send(self) -> bool:
        return (
            self.phase is Phase.READY
            and self.gate.is_open
            and not self.is_stopped
            and not self.ledger.is_recovering
            and self._leaving_since is None
        )

    @property
    def is_stopped(self) -> bool:
        """What is in flight comes in, nothing new is processed."""
        return self.is_frozen or self.is_calmed

    @property
    def is_heavy(self) -> bool:
        """So much is in flight, in either direction, that it may not come in within a drain."""
        ledger = self.ledger
        if self.is_drained:
            return False
        is_large = self._is_streaming or ledger.kept >= HEAVY_BYTES
        return is_large or sum(entry.left for entry in ledger.flight) >= HEAVY_COMMANDS

    @property
    def is_idle(self) -> bool:
        """Nothing is in flight and nothing waits: a change of the gate can be told later."""
        return self.blocked_since is None and not self.ledger.flight and not self._is_streaming and not self.ready

    @property
    def is_tied(self) -> bool:
        """Has state that cannot be moved to another server or process."""
        transaction = self.transaction
        is_large = transaction is not None and transaction.bytes_kept > self.gate.limits.transaction
        return self._is_watching or self._is_tracking or self._is_raw or is_large or self.is_blocking

    @property
    def is_blocking(self) -> bool:
        """What is in flight is a command that waits for others."""
        flight = self.ledger.flight
        return bool(flight) and flight[0].kind is Kind.BLOCKING

    @property
    def is_drained(self) -> bool:
        """Nothing is in flight that would end by itself."""
        return not self.ledger.flight or self.is_blocking

    @property
    def owes_nothing(self) -> bool:
        """A client that sends no more has nothing to wait for but what others do."""
        return self._is_raw or self.is_blocking or (not self.ready and self._is_at_barrier)

    @property
    def is_quiet(self) -> bool:
        """Can be passed to another process: nothing is in flight or half passed on, no state is tied to the server."""
        return self._is_at_barrier and not self.is_tied and not self.is_closing

    @property
    def oldest(self) -> Entry | None:
        """The command that has been in flight longest."""
        return self.ledger.flight[0] if self.ledger.flight else None

    @property
    def name(self) -> str:
        """What the client called itself."""
        command = self.state.settings.get("SETNAME")
        return split_arguments(command)[-1].decode("utf-8", "replace") if command else ""

    @property
    def unread(self) -> list[bytes | bytearray]:
        """What the client sent and nobody has processed. The parts are the session's own: copy none of them, they may be
        large, and change nothing behind it."""
        return [*(raw for _, raw in self.ready), self._tail]

    def is_mere_body(self, size: int) -> bool:
        """The next ``size`` bytes from the client are the middle of a command: they cost next to nothing."""
        return bool(self._tail) and len(self._tail) + size < self._scanner.at

    def is_mere_reply_body(self, size: int) -> bool:
        """The same of bytes from the server."""
        return len(self._reply_tail) + size < self._replies.at

    # -- events from the client --------------------------------------------------------------------------------------

    def client_data(self, data: bytes, now: float) -> None:
        """Bytes from the client."""
        if self.is_closing:
            return
        self.gate.counts.bytes_in += len(data)
        tail = self._tail
        scanner = self._scanner
        if tail:
            tail += data
            if len(tail) < scanner.at:
                self._charge()
                return
            data = bytes(tail)
        was_stranger = scanner.is_stranger
        cuts = scanner.scan(data)
        end = cuts[-1][0] if cuts else 0
        if end != len(data):
            if end or not tail:
                self._tail = bytearray(data[end:])
        elif tail:
            self._tail = bytearray()
        error, scanner.error = scanner.error, ""
        if cuts:
            self._take(data if end == len(data) else data[:end], cuts, now)
        if error:
            if was_stranger and self.is_authenticated:  # AUTH came in the same chunk: the wider limits hold behind it
                self._scanner = CommandScanner()
                rest, self._tail = bytes(self._tail), bytearray()
                self.gate.counts.bytes_in -= len(rest)
                self.client_data(rest, now)
                return
            scanner.error = error
            self.pump(now)
        self._charge()

    def _take(self, block: bytes, cuts: list[tuple[int, bytes]], now: float) -> None:
        count = len(cuts)
        self.gate.counts.commands += count
        if self._flowing_at == self.gate.flow and not self.ready:
            not_plain = self.gate.not_plain
            for _, word in cuts:
                if word in not_plain:
                    break
            else:
                self.to_backend.append(block)
                self.ledger.add(Entry(Kind.PLAIN, block, now, word=cuts[0][1], count=count))
                return
        start = 0
        for end, word in cuts:
            self.ready.append((word, block[start:end]))
            start = end
        self._ready_bytes += len(block)
        self.pump(now)

    def pump(self, now: float) -> None:
        """Process what waits, as far as possible."""
        if self._told_at != self.gate.flow:
            self._follow_gate(now)
        while self.ready and not self.is_closing and not self.is_stopped:
            word, raw = self.ready[0]
            if not self.process(word, raw, now):
                break
            self.ready.popleft()
            self._ready_bytes -= len(raw)
        if self.assurance.may_ask and self.phase is Phase.READY and self.transaction is None:
            self.to_backend += self.assurance.ask(now)
        if self._scanner.error and not self.ready and not self.is_closing:
            if self._said_protocol_error:
                self.close()  # one such error is told, the first
            else:
                self.fail_protocol(self._scanner.error)
        self._note(now)

    def _note(self, now: float) -> None:
        """Bring what follows from the rest up to date."""
        can_send = self.can_send
        ledger = self.ledger
        is_blocked = not can_send and (ledger.has_waiting or (bool(self.ready) and not self.is_stopped))
        if not is_blocked:
            self.blocked_since = None
        elif self.blocked_since is None:
            self.blocked_since = now
            if not self.gate.is_open or self.failure:
                self.gate.counts.held += max(1, len(self.ready))
        is_plain = (
            self.is_authenticated
            and self.transaction is None
            and not self._is_raw
            and ledger.order is None
            and not self._scanner.error
        )
        self._flowing_at = self.gate.flow if can_send and is_plain else -1

    def _charge(self) -> None:
        """Account for the bytes kept, and say whether the client is to be read."""
        waiting = self.ledger.kept + self._ready_bytes
        kept = waiting + len(self._tail)
        gate = self.gate
        gate.budget.used += kept - self._charged
        self._charged = kept
        if waiting > gate.limits.kept_when_scarce or self.is_full:
            limit = gate.limits.kept if gate.budget.used <= gate.budget.limit else gate.limits.kept_when_scarce
            self.is_full = waiting > (limit // 2 if self.is_full else limit)

    # -- events of the server connection -----------------------------------------------------------------------------

    def backend_opened(self, target: Target) -> None:
        """A connection to ``target`` is open: log in and look."""
        self.phase = Phase.SETUP
        self._target = target
        self._said_protocol_error = False
        self._replies = ReplyScanner()
        self._reply_tail = bytearray()
        self._setup = Setup(self.gate.spec.application_secret, self.state, run_id=target.run_id)
        self.to_backend.append(self._setup.sent)

    def backend_data(self, data: bytes, now: float) -> None:
        """Bytes from the server."""
        tail = self._reply_tail
        scanner = self._replies
        if tail:
            tail += data
            if len(tail) < scanner.at:
                if len(tail) >= STREAM_FROM_BYTES and self._may_stream(tail):
                    self._stream(bytes(tail))
                return
        try:
            ends = scanner.scan(tail or data)
            if tail:
                if not ends and not self._may_stream(tail):
                    return  # kept whole, and not copied for each piece that comes
                data = bytes(tail)
            if ends:
                self._receive(data, ends, now)
        except (ProtocolError, IndexError):
            self.failure = "the server sent something that is no reply"
            self.wants_drop = True
            self.backend_lost(now)
            return
        if self.phase is Phase.NONE:
            return  # left while its last replies were looked at
        end = ends[-1] if ends else 0
        rest = data[end:] if end else data
        if rest and (len(rest) >= STREAM_FROM_BYTES or self._is_raw):
            self._stream(rest)
        elif rest or tail:
            self._reply_tail = bytearray(rest)

    def _stream(self, rest: bytes) -> None:
        """Pass on what has come of an incomplete reply, unless its kind must be known first."""
        scanner = self._replies
        if not self._may_stream(rest):
            self._reply_tail = bytearray(rest)
            return
        count = min(scanner.at, len(rest))
        if count:
            if not self._is_streaming:
                self._first = rest[:64]
                self._is_streaming = True
            self._emit(rest[:count])
            scanner.skip(count)
        self._reply_tail = bytearray(rest[count:])

    def _may_stream(self, rest: bytes | bytearray) -> bool:
        ledger = self.ledger
        head = ledger.flight[0] if ledger.flight else None
        is_ours = self._is_raw or (ledger.order is None and head is not None and head.may_stream)
        return self.phase is Phase.READY and is_ours and (self._is_streaming or rest[0] not in (ERROR, PUSH))

    def _emit(self, data: bytes) -> None:
        self.to_client.append(data)

    def _receive(self, data: bytes, ends: list[int], now: float) -> None:
        if self.phase is Phase.SETUP:
            self._receive_setup(data, ends, now)
            return
        if self._is_raw:
            self._emit(data[: ends[-1]])
            self._is_streaming = False
        else:
            is_simple = not self._replies.has_oddity and not self._is_streaming
            end = ends[-1]
            if not is_simple or not self.ledger.settle_plain(len(ends), data if end == len(data) else data[:end]):
                self._settle(data, ends)
        ledger = self.ledger
        if self.ready or self._flowing_at != self.gate.flow or ledger.is_recovering or ledger.is_unblocked:
            self._after_replies(now)
        self._charge()

    def _settle(self, data: bytes, ends: list[int]) -> None:
        """One reply after the other."""
        start = 0
        for end in ends:
            reply = data[start:end]
            start = end
            if self._is_streaming:
                self._is_streaming = False
                self._emit(reply)
                self.ledger.settle_streamed(self._first)
            elif reply[0] == PUSH:
                self._emit(reply)
            else:
                self._said_protocol_error = reply.startswith(b"-ERR Protocol error: ")
                self.ledger.settle(reply)

    def _after_replies(self, now: float) -> None:
        if self.ledger.is_unblocked:
            self.close()
            return
        if self.ledger.is_recovering and not self.ledger.flight:
            self._move_on(now)
        elif self._leaving_since is not None and self._is_at_barrier:
            self._leave(now)
        elif self.phase is Phase.BUSY and not self.ledger.flight:
            self.failure = ""
            self.drop_backend()
        self.pump(now)

    def _receive_setup(self, data: bytes, ends: list[int], now: float) -> None:
        setup = self._setup
        assert setup is not None
        start = 0
        for end in ends:
            is_last = setup.reply(data[start:end])
            start = end
            is_wanted = self.gate.is_open and is_same_server(self._target, self.gate.target)
            if setup.failure or (is_last and not is_wanted):
                self.failure = setup.failure
                self.drop_backend()
                self._note(now)
                return
            if is_last:
                break
        else:
            return
        self._setup = None
        if setup.busy:
            self._meet_busy(setup, now)
            return
        if self._is_shut_out():
            self.close()
            return
        self.failure = ""
        self.phase = Phase.READY
        self.gate.hellos[self.state.protocol] = setup.hello
        self.to_backend += self.ledger.send_again(self.transaction, now)
        self.assurance.resume()
        self.pump(now)
        self._charge()

    def _meet_busy(self, setup: Setup, now: float) -> None:
        """Answer what waits as the busy server itself would; what can end its script goes to it. The next command finds out
        anew."""
        self.phase = Phase.BUSY
        self.failure = "the server is busy: " + setup.busy[1:160].decode("utf-8", "replace").strip()
        self.gate.hellos[self.state.protocol] = setup.hello
        while self.ready and not (self.is_closing or self.is_stopped or self.ledger.flight):
            word, raw = self.ready.popleft()
            self._ready_bytes -= len(raw)
            if self.transaction is None and (word, second_word(raw)) in BUSY_MAY_RUN:
                self.to_backend.append(raw)
                self.ledger.add(Entry(Kind.PLAIN, raw, now, word=word))
            else:
                self.break_off(word, raw, now, setup.busy)
        if not self.ledger.flight:
            self.drop_backend()
        self._note(now)
        self._charge()

    def backend_lost(self, now: float) -> None:
        """The server connection ended, or could not be opened."""
        was_ready = self.phase in (Phase.READY, Phase.BUSY)
        if was_ready and self.ledger.flight and not self.wants_drop and self._leaving_since is None:
            self._closed_by = self._target
        self._forget_backend()
        if not was_ready:
            self._note(now)
            return
        if self._said_protocol_error:
            self.close()  # nothing behind it has been executed or answered
            return
        is_planned = self.gate.hold is not None  # then nothing that blocks has been served: FIN, and the client asks again
        if self._is_streaming or self._is_raw or (self.is_blocking and is_planned):
            self.close()  # an error in the middle of a reply would be taken for a part of it
        else:
            self.ledger.lose()
            if self._is_tracking or self._is_watching:
                self.close()
        self.pump(now)
        self._charge()

    def _is_shut_out(self) -> bool:
        """The same process serves as before and closed its connection on its own. It had a reason, such as a protocol error:
        what the client sent behind must not run as if nothing had been."""
        closed_by, self._closed_by = self._closed_by, None
        return closed_by is not None and closed_by == self._target and bool(closed_by.run_id)

    def drop_backend(self) -> None:
        if self.phase is not Phase.NONE:
            self.wants_drop = True
        self._forget_backend()

    def _forget_backend(self) -> None:
        self.phase = Phase.NONE
        self._setup = None
        self._target = None
        self._leaving_since = None
        self._reply_tail = bytearray()
        self.assurance.reset()
        self.to_backend.clear()

    # -- events of the endpoint --------------------------------------------------------------------------------------

    def gate_changed(self, now: float) -> None:
        """The endpoint began to hold, or forwards to another server, or again. May come late: nothing is sent before."""
        self.pump(now)
        self._charge()

    def _follow_gate(self, now: float) -> None:
        self._told_at = self.gate.flow
        if self.gate.is_open and self.phase is not Phase.NONE and not is_same_server(self._target, self.gate.target):
            self._leave(now)

    def _leave(self, now: float) -> None:
        """The connection is to a server that is no longer the target."""
        if self.phase is Phase.SETUP:
            self.drop_backend()
        elif self.is_blocking or self._is_raw:
            self.close()
        elif self.ledger.flight or self._is_streaming:
            self._leaving_since = now if self._leaving_since is None else self._leaving_since
            self.assurance.is_leaving = True
        else:
            self._move_on(now)

    def _move_on(self, now: float) -> None:
        """Nothing is in flight: leave this server, with all that can be taken along."""
        if self.is_tied:
            self.close()
        self.assurance.give_up()
        self.ledger.is_recovering = False
        self.drop_backend()
        self._note(now)

    def tick(self, now: float) -> None:
        """Called now and then while commands wait or a server is being left."""
        if self._leaving_since is not None and now - self._leaving_since >= LEAVE_S:
            self.wants_drop = True
            self.backend_lost(now)
        if self.blocked_since is not None and now - self.blocked_since >= HOLD_MAX_S:
            self._expire(now)

    def _expire(self, now: float) -> None:
        self.gate.counts.errors += self.ledger.give_up(NO_PRIMARY)
        while self.ready and not self.is_closing:
            word, raw = self.ready.popleft()
            self._ready_bytes -= len(raw)
            self.break_off(word, raw, now)
        self.blocked_since = None
        self.pump(now)
        self._charge()

    @property
    def needs_ticks(self) -> bool:
        """``tick`` is to be called."""
        return self._leaving_since is not None or self.blocked_since is not None

    def close(self) -> None:
        self.is_closing = True
        self.wants_close = True
        self._flowing_at = -1

    def ended(self) -> None:
        """The client is gone: give back what was kept for it."""
        self.is_closing = True
        self.gate.budget.used -= self._charged
        self._charged = 0

    # -- stopping ----------------------------------------------------------------------------------------------------

    def calm(self) -> None:
        """Process nothing new until ``end_calm``: what is in flight comes in."""
        self.is_calmed = True
        self._stop()

    def end_calm(self, now: float) -> None:
        """Go on, unless something else stops it."""
        self.is_calmed = False
        self.pump(now)

    def freeze(self) -> None:
        """Process nothing new: what is in flight comes in, then the connection is quiet."""
        self.is_frozen = True
        self._stop()

    def thaw(self, now: float) -> None:
        """Go on after all."""
        self.is_frozen = False
        self.pump(now)

    def _stop(self) -> None:
        self._flowing_at = -1
        self.blocked_since = None

    def cut(self) -> None:
        """End now: what is unanswered gets an error, unless a reply has been passed on in part."""
        if not (self._is_streaming or self._is_raw or self.is_drained):
            self.gate.counts.errors += 1
            self.ledger.lose()
            self.ledger.give_up(NO_PRIMARY)
        self.drop_backend()
        self.close()

    def resume(self, state: ConnectionState, transaction: Transaction | None, *, is_authenticated: bool) -> None:
        """A new session becomes the one that another process served: before it has seen a byte."""
        self.is_authenticated = is_authenticated
        self._scanner.is_stranger = not is_authenticated
        self.state = state
        self.ledger.use_protocol(state.protocol)
        self.transaction = transaction
