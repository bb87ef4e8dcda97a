"""One client connection and its server connection, as a state machine: bytes and events in, bytes and wishes out.

Pure: no sockets, no clock. ``connection.py`` feeds it and carries out its wishes (``to_client``, ``to_backend``,
``needs_backend``, ``wants_drop``, ``wants_close``, ``is_full``). Commands are processed strictly in order: a command that
cannot be processed now (a hold, no server, a barrier) waits as raw bytes and has had no effect.
"""

from shardwright.endpoint.dialogue import Dialogue
from shardwright.endpoint.entries import PLAIN, Entry, Kind, OpenTransaction
from shardwright.endpoint.gate import Gate, is_same_server
from shardwright.endpoint.lease import NO_PROOF
from shardwright.endpoint.ledger import NO_PRIMARY
from shardwright.endpoint.protocol import ALONE_MAX_S, HOLD_MAX_S, Target
from shardwright.endpoint.resp import ERROR, PUSH, CommandScanner, ProtocolError, ReplyScanner, second_word, split_arguments
from shardwright.endpoint.setup import NONE, READY, SETUP, ConnectionState, Phase, Setup
from shardwright.endpoint.strict import NO_REPLICA
from shardwright.endpoint.words import BUSY_MAY_RUN

LEAVE_S = 0.5
"""Maximum wait for the replies of a server that is no longer the target."""
STREAM_FROM_BYTES = 16 * 1024
"""An incomplete reply of at least this size is passed on as it arrives."""
HEAVY_BYTES = 64 * 1024
HEAVY_COMMANDS = 100
"""Amounts in flight whose replies may take longer than a drain, although each command is quick."""


class Session(Dialogue):
    """See the module's docstring. Times are monotonic seconds."""

    __slots__ = (
        *("_charged", "_closed_by", "_direct_flow", "_first", "_had_protocol_error", "_leaving_since", "_ready_bytes"),
        *("_replies", "_reply_tail", "_seen_flow", "_setup", "_tail", "_target", "_waits_for_proof", "blocked_since"),
        *("failure", "is_calmed", "is_frozen", "is_full", "phase", "wants_close", "wants_drop"),
    )

    def __init__(self, gate: Gate, *, uid: int) -> None:
        super().__init__(gate, uid=uid)
        self.wants_drop = False
        """Close the server connection; the session has already forgotten it."""
        self.wants_close = False
        """Close the client connection after its last bytes."""
        self.is_full = False
        """Do not read the client."""
        self.phase = Phase.NONE
        self.failure = ""
        """Why the last server connection was not used."""
        self.blocked_since: float | None = None
        """Start of the commands' wait for a server or for the end of a hold; None: no command waits."""
        self.is_frozen = False
        """Nothing new is processed: the connection is about to be passed to another process."""
        self.is_calmed = False
        """Nothing new is processed: a hold is imminent, and much is in flight."""
        self._ready_bytes = 0
        self._tail = bytearray()
        self._target: Target | None = None
        self._setup: Setup | None = None
        self._replies = ReplyScanner()
        self._reply_tail = bytearray()
        self._first = b""  # beginning of the reply that streams
        self._leaving_since: float | None = None
        self._closed_by: Target | None = None
        """The server that closed its connection before it had sent all replies. If it runs, it meant this client."""
        self._had_protocol_error = False
        self._charged = 0
        self._seen_flow = gate.flow  # the gate's number when this session last followed it
        self._waits_for_proof = gate.is_unproven
        self._direct_flow = -1  # the number for which a chunk of plain commands goes directly to the server

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def needs_backend(self) -> bool:
        """Whether a server connection is needed as soon as the gate is open."""
        return self.phase is Phase.NONE and self.blocked_since is not None and not self.is_closing

    @property
    def has_backend(self) -> bool:
        return self.phase is Phase.READY

    @property
    def can_send(self) -> bool:
        is_waiting = self.is_frozen or self.is_calmed or self.ledger.is_recovering or self._leaving_since is not None
        return self.phase is READY and self.gate.is_open and not is_waiting

    @property
    def is_stopped(self) -> bool:
        """Whether replies in flight are awaited, but nothing new is processed."""
        return self.is_frozen or self.is_calmed

    @property
    def is_heavy(self) -> bool:
        """Whether so much is in flight, in either direction, that it may take longer than a drain."""
        ledger = self.ledger
        if self.is_drained:
            return False
        is_large = self._is_streaming or ledger.kept >= HEAVY_BYTES
        return is_large or sum(entry.left for entry in ledger.flight) >= HEAVY_COMMANDS

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight and nothing waits, so that a notification of a gate change may come late."""
        return self.blocked_since is None and not self.ledger.flight and not self._is_streaming and not self.ready

    @property
    def is_between_commands(self) -> bool:
        """Whether everything received is answered, and the client has no transaction open."""
        has_begun = self._is_watching or self._is_raw or self.ready or self._tail or self.transaction
        return not has_begun and self._is_at_barrier

    @property
    def is_tied(self) -> bool:
        """Whether the session has state that cannot be passed to another server or process."""
        transaction = self.transaction
        is_large = transaction is not None and transaction.bytes_kept > self.gate.limits.transaction
        return self._is_watching or self._is_tracking or self._is_raw or is_large or self.is_blocking

    @property
    def is_drained(self) -> bool:
        """Whether nothing is in flight except for a blocking command, which does not end by itself."""
        return not self.ledger.flight or self.is_blocking

    @property
    def owes_nothing(self) -> bool:
        """Whether a client that sends no more waits only for actions of other clients."""
        return self._is_raw or self.is_blocking or (not self.ready and self._is_at_barrier)

    @property
    def is_quiet(self) -> bool:
        """Whether it can be passed to another process: no reply is missing or incomplete, no state is tied to the server."""
        return self._is_at_barrier and not self.is_tied and not self.is_closing

    @property
    def oldest(self) -> Entry | None:
        """The command that has been in flight for the longest time."""
        return self.ledger.flight[0] if self.ledger.flight else None

    @property
    def name(self) -> str:
        """The name that the client has given itself."""
        command = self.state.settings.get("SETNAME")
        return split_arguments(command)[-1].decode("utf-8", "replace") if command else ""

    @property
    def unread(self) -> list[bytes | bytearray]:
        """Unprocessed bytes from the client. The parts belong to the session: do not change them, and do not copy them,
        because they may be large."""
        return [*(raw for _, raw in self.ready), self._tail]

    def is_inside_command(self, size: int) -> bool:
        """Whether the next ``size`` bytes from the client lie within a command, so that they cost almost no time."""
        return bool(self._tail) and len(self._tail) + size < self._scanner.at

    def is_inside_reply(self, size: int) -> bool:
        """The same for bytes from the server."""
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
        was_unauthenticated = scanner.is_unauthenticated
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
            if was_unauthenticated and self.is_authenticated:  # AUTH was in the same chunk: the wider limits hold after it
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
        if self._direct_flow == self.gate.flow and not self.ready:
            not_plain = self.gate.not_plain
            for _, word in cuts:
                if word in not_plain:
                    break
            else:
                self.to_backend.append(block)
                self.ledger.add(Entry(PLAIN, block, now, cuts[0][1], count))
                return
        start = 0
        for end, word in cuts:
            self.ready.append((word, block[start:end]))
            start = end
        self._ready_bytes += len(block)
        self.pump(now)

    def pump(self, now: float) -> None:
        """Process the waiting commands as far as possible."""
        if self._seen_flow != self.gate.flow:
            self._follow_gate(now)
        waited, self.waits_for_replica = self.waits_for_replica, False
        while self.ready and not self.is_closing and not self.is_stopped:
            word, raw = self.ready[0]
            if not self.process(word, raw, now):
                break
            self.ready.popleft()
            self._ready_bytes -= len(raw)
        if self.assurance.may_ask and self.phase is READY and self.transaction is None:
            self.to_backend += self.assurance.ask(now)
        if self._scanner.error and not self.ready and not self.is_closing:
            if self._had_protocol_error:
                self.close()  # only the first protocol error is reported
            else:
                self.fail_protocol(self._scanner.error)
        if waited is not self.waits_for_replica:
            self.blocked_since = None  # another wait begins, or none
        self._note(now)

    def _note(self, now: float) -> None:
        """Update the state that depends on the rest."""
        can_send = self.can_send
        is_blocked = not can_send and (self.ledger.has_waiting or (bool(self.ready) and not self.is_stopped))
        if not (is_blocked or self.waits_for_replica):
            self.blocked_since = None
        elif self.blocked_since is None:
            self.blocked_since = now
            if not self.gate.is_open or self.failure or self.waits_for_replica:
                self.gate.counts.held += max(1, len(self.ready))
        is_odd = self._is_raw or self.ledger.order is not None or bool(self._scanner.error) or self.is_retiring
        is_plain = can_send and self.is_authenticated and self.transaction is None and not is_odd
        self._direct_flow = self.gate.flow if is_plain else -1

    def _charge(self) -> None:
        """Account for the kept bytes, and decide whether the client is read."""
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
        """A connection to ``target`` is open: log in and verify the server."""
        self.phase = Phase.SETUP
        self._target = target
        self._had_protocol_error = False
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
                    return  # the tail is kept, and not copied for each piece
                data = bytes(tail)
            if ends:
                self._receive(data, ends, now)
        except (ProtocolError, IndexError):
            self.failure = "the server sent bytes that are not a reply"
            self.wants_drop = True
            self.backend_lost(now)
            return
        if self.phase is NONE:
            return  # the server was left while its last replies were processed
        end = ends[-1] if ends else 0
        rest = data[end:] if end else data
        if rest and (len(rest) >= STREAM_FROM_BYTES or self._is_raw):
            self._stream(rest)
        elif rest or tail:
            self._reply_tail = bytearray(rest)

    def _stream(self, rest: bytes) -> None:
        """Pass on the received part of an incomplete reply, unless the whole reply is needed."""
        scanner = self._replies
        if not self._may_stream(rest):
            self._reply_tail = bytearray(rest)
            return
        count = min(scanner.at, len(rest))
        if count:
            if not self._is_streaming:
                self._first = rest[:64]
                self._is_streaming = True
            self.to_client.append(rest[:count])
            scanner.skip(count)
        self._reply_tail = bytearray(rest[count:])

    def _may_stream(self, rest: bytes | bytearray) -> bool:
        ledger = self.ledger
        head = ledger.flight[0] if ledger.flight else None
        is_ours = self._is_raw or (ledger.order is None and head is not None and head.may_stream)
        return self.phase is Phase.READY and is_ours and (self._is_streaming or rest[0] not in (ERROR, PUSH))

    def _receive(self, data: bytes, ends: list[int], now: float) -> None:
        if self.phase is SETUP:
            self._receive_setup(data, ends, now)
            return
        if self._is_raw:
            self.to_client.append(data[: ends[-1]])
            self._is_streaming = False
        else:
            is_simple = not self._replies.has_oddity and not self._is_streaming
            end = ends[-1]
            if not is_simple or not self.ledger.settle_plain(len(ends), data if end == len(data) else data[:end]):
                self._settle(data, ends)
        ledger = self.ledger
        if self.ready or self._direct_flow != self.gate.flow or ledger.is_recovering or ledger.is_unblocked:
            self._after_replies(now)
        self._charge()

    def _settle(self, data: bytes, ends: list[int]) -> None:
        """Process replies one by one."""
        start = 0
        for end in ends:
            reply = data[start:end]
            start = end
            if self._is_streaming:
                self._is_streaming = False
                self.to_client.append(reply)
                self.ledger.settle_streamed(self._first)
            elif reply[0] == PUSH:
                self.to_client.append(reply)
            else:
                self._had_protocol_error = reply.startswith(b"-ERR Protocol error: ")
                self.ledger.settle(reply)

    def _after_replies(self, now: float) -> None:
        if self.ledger.is_unblocked or (self.is_retiring and self.is_between_commands):
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
            self._handle_busy(setup, now)
            return
        if self._is_shut_out():
            self.close()
            return
        self.failure = ""
        self.phase = Phase.READY
        self.gate.hellos[self.state.protocol] = setup.hello
        self.to_backend += self.ledger.send_again(self.transaction, now)
        self.assurance.resume(setup.info)
        self.pump(now)
        self._charge()

    def _handle_busy(self, setup: Setup, now: float) -> None:
        """Answer the waiting commands like the busy server, but send it those that can end its script. The next command
        causes a new check."""
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
        """The server connection has ended, or could not be opened."""
        was_ready = self.phase in (Phase.READY, Phase.BUSY)
        if was_ready and self.ledger.flight and not self.wants_drop and self._leaving_since is None:
            self._closed_by = self._target
        self._forget_backend()
        if not was_ready:
            self._note(now)
            return
        if self._had_protocol_error:
            self.close()  # no command after it was executed or answered
            return
        is_planned = self.gate.hold is not None  # then no blocking command was served: the client repeats it after FIN
        if self._is_streaming or self._is_raw or (self.is_blocking and is_planned):
            self.close()  # an error in the middle of a reply would become a part of it
        else:
            self.ledger.lose_server()
            if self._is_tracking or self._is_watching:
                self.close()
        self.pump(now)
        self._charge()

    def _is_shut_out(self) -> bool:
        """Whether the same server process closed its former connection on its own. It had a cause, such as a protocol error,
        so later commands of this client must not be executed as if nothing had happened."""
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
        """The endpoint holds, or forwards to another server, or forwards again. May come late: nothing is sent before it."""
        self.pump(now)
        self._charge()

    def _follow_gate(self, now: float) -> None:
        self._seen_flow = self.gate.flow
        if self._waits_for_proof is not self.gate.is_unproven:
            self._waits_for_proof = self.gate.is_unproven
            self.blocked_since = None  # another wait begins, or none
        if self.gate.is_settled and self.phase is not Phase.NONE and not is_same_server(self._target, self.gate.target):
            self._leave(now)

    def _leave(self, now: float) -> None:
        """Leave a server that is no longer the target."""
        if self.phase is Phase.SETUP:
            self.drop_backend()
        elif self.is_blocking or self._is_raw:
            self.close()
        elif self.gate.is_leased and not self._is_at_barrier:
            self.leave_unproven(now)
        elif self.ledger.flight or self._is_streaming:
            self._leaving_since = now if self._leaving_since is None else self._leaving_since
            self.assurance.is_leaving = True
        else:
            self._move_on(now)

    def leave_unproven(self, now: float) -> None:
        """Leave a server at once whose replies may no longer be passed on."""
        self.wants_drop = True
        self.backend_lost(now)

    def _move_on(self, now: float) -> None:
        """Leave the server now, because nothing is in flight. The portable state is kept."""
        if self.is_tied:
            self.close()
        self.assurance.fail_unconfirmed()
        self.ledger.is_recovering = False
        self.drop_backend()
        self._note(now)

    def tick(self, now: float) -> None:
        """Check the time limits. Called regularly while commands wait or a server is being left."""
        if self._leaving_since is not None and now - self._leaving_since >= LEAVE_S:
            self.leave_unproven(now)
        limit_s, reply = (ALONE_MAX_S, NO_REPLICA) if self.waits_for_replica else (HOLD_MAX_S, NO_PRIMARY)
        if self._waits_for_proof:
            limit_s, reply = ALONE_MAX_S, NO_PROOF
        if self.blocked_since is not None and now - self.blocked_since >= limit_s:
            self._expire(now, reply)

    def _expire(self, now: float, reply: bytes) -> None:
        self.gate.counts.errors += self.ledger.fail_waiting(reply)
        while self.ready and not self.is_closing:
            word, raw = self.ready.popleft()
            self._ready_bytes -= len(raw)
            self.break_off(word, raw, now, reply)
        self.blocked_since = None
        self.pump(now)
        self._charge()

    @property
    def needs_ticks(self) -> bool:
        """Whether ``tick`` must be called."""
        return self._leaving_since is not None or self.blocked_since is not None

    def close(self) -> None:
        self.is_closing = True
        self.wants_close = True
        self._direct_flow = -1

    def ended(self) -> None:
        """The client connection has ended: return its bytes to the budget."""
        self.is_closing = True
        self.gate.budget.used -= self._charged
        self._charged = 0

    # -- stopping ----------------------------------------------------------------------------------------------------

    def calm(self) -> None:
        """Process nothing new until ``end_calm``; replies in flight are awaited."""
        self.is_calmed = True
        self._stop()

    def end_calm(self, now: float) -> None:
        """Resume, unless the session is also frozen."""
        self.is_calmed = False
        self.pump(now)

    def freeze(self) -> None:
        """Process nothing new; replies in flight are awaited, then the connection is quiet."""
        self.is_frozen = True
        self._stop()

    def thaw(self, now: float) -> None:
        """Resume."""
        self.is_frozen = False
        self.pump(now)

    def _stop(self) -> None:
        self._direct_flow = -1
        self.blocked_since = None

    def cut(self) -> None:
        """End now: answer unanswered commands with an error, unless a reply has been partly passed on."""
        if not (self._is_streaming or self._is_raw or self.is_drained):
            self.gate.counts.errors += 1
            self.ledger.lose_server()
            self.ledger.fail_waiting(NO_PRIMARY)
        self.drop_backend()
        self.close()

    def resume(self, state: ConnectionState, transaction: OpenTransaction | None, *, is_authenticated: bool) -> None:
        """Continue the session of another process. Called before the first byte."""
        self.is_authenticated = is_authenticated
        self._scanner.is_unauthenticated = not is_authenticated
        self.state = state
        self.ledger.use_protocol(state.protocol)
        self.transaction = transaction
