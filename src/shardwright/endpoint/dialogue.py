"""Processes each command of a client: forwards it, answers it, watches it, refuses it, or postpones it.

Pure. The base of ``Session``, which adds the two connections. Each command is processed once, in order; a postponed command
has had no effect.
"""

from collections import deque
from functools import partial

from shardwright.endpoint import login
from shardwright.endpoint.entries import BLOCKING, PLAIN, STATE, Entry, Kind, OpenTransaction
from shardwright.endpoint.gate import Gate
from shardwright.endpoint.ledger import ABORTED, DISCARD, NO_PRIMARY, OK, CommandLedger
from shardwright.endpoint.resp import ERROR, CommandScanner, ProtocolError, elements_of, encode_command, split_arguments
from shardwright.endpoint.setup import ConnectionState, hello_with_id
from shardwright.endpoint.strict import Assurance
from shardwright.endpoint.words import NEVER_QUEUED, RULES, STORES_NOTHING, Treatment

_IN_TRANSACTION = b"-ERR Command not allowed inside a transaction\r\n"
_WHILE_SUBSCRIBED = b"-ERR Command not allowed on a connection that has subscribed\r\n"
_STRICT_WHILE_SUBSCRIBED = (
    b"-ERR shardwright: in strict mode a connection that has subscribed cannot write, use another connection\r\n"
)
_REPLY_MODE = b"-ERR CLIENT REPLY OFF and SKIP are not supported through this endpoint\r\n"


class Dialogue:
    """The client's side of a session. Times are monotonic seconds."""

    __slots__ = (  # a session has more attributes than the 30 that CPython finds fast in a dictionary
        *("_is_raw", "_is_streaming", "_is_tracking", "_is_watching", "_scanner", "assurance", "gate"),
        *("is_authenticated", "is_closing", "is_departing", "ledger", "ready", "state", "to_backend", "to_client"),
        *("transaction", "uid", "waits_for_replica"),
    )

    def __init__(self, gate: Gate, *, uid: int) -> None:
        self.gate = gate
        self.uid = uid
        self.to_client: list[bytes] = []
        self.to_backend: list[bytes] = []
        self.state = ConnectionState()
        self.is_authenticated = not gate.spec.password
        self.ledger = CommandLedger(self.to_client)
        self.assurance = Assurance(self.ledger, gate)
        self.ready: deque[tuple[bytes, bytes]] = deque()
        """Complete commands that wait to be processed, as (first word, bytes)."""
        self.is_closing = False
        self.is_departing = False
        """It is to end behind the reply after which nothing is unanswered, because its virtual address is about to go."""
        self._scanner = CommandScanner()
        self._scanner.is_unauthenticated = not self.is_authenticated
        self.transaction: OpenTransaction | None = None
        """An open MULTI."""
        self._is_watching = False
        self._is_tracking = False
        self._is_raw = False  # the client has subscribed: replies can no longer be counted
        self._is_streaming = False  # a part of a reply has been passed on
        self.waits_for_replica = False
        """The next command may write, and the server has no replica that could confirm it."""

    @property
    def is_retiring(self) -> bool:
        """Whether the connection is to end behind a reply."""
        return self.is_departing or self.gate.is_retiring

    @property
    def can_send(self) -> bool:
        """Whether commands may be sent to a server now."""
        raise NotImplementedError

    @property
    def has_backend(self) -> bool:
        """Whether a verified server connection exists, even if no command may be sent now."""
        raise NotImplementedError

    @property
    def is_blocking(self) -> bool:
        """Whether a blocking command is in flight."""
        flight = self.ledger.flight
        return bool(flight) and flight[0].kind is Kind.BLOCKING

    def drop_backend(self) -> None:
        """Close the server connection. A new one is opened when it is needed."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the client connection after its last bytes."""
        raise NotImplementedError

    # -- one command -------------------------------------------------------------------------------------------------

    def process(self, word: bytes, raw: bytes, now: float) -> bool:
        """Process a command. False: postponed."""
        rule = RULES.get(word)
        if rule is None and self.is_authenticated:
            return self._forward(PLAIN, word, raw, now)
        if rule is Treatment.EMPTY and not split_arguments(raw):
            return True
        if rule is Treatment.HTTP:
            return self._close_after_replies()
        if not self.is_authenticated and rule not in (Treatment.AUTH, Treatment.HELLO, Treatment.RESET, Treatment.QUIT):
            return self.refuse(login.NOAUTH)
        if rule is None or rule is Treatment.EMPTY:
            return self._forward(PLAIN, word, raw, now)
        try:
            match rule:
                case Treatment.AUTH | Treatment.HELLO | Treatment.RESET | Treatment.QUIT | Treatment.CLIENT:
                    return self._process_own(rule, word, raw, now)
                case Treatment.EXEC | Treatment.DISCARD:
                    return self._end_transaction(rule, word, raw, now)
                case _:
                    return self._process_watched(rule, word, raw, now)
        except ProtocolError as error:
            return self.fail_protocol(str(error))

    def refuse(self, reply: bytes) -> bool:
        """Answer with an error of the endpoint's own."""
        self.gate.counts.errors += 1
        self.ledger.answer_locally(reply)
        return True

    def fail_protocol(self, text: str) -> bool:
        """Answer with a protocol error, and close."""
        if not self._is_at_barrier:
            return False
        self.refuse(f"-ERR Protocol error: {text}\r\n".encode("latin-1"))
        self.close()
        return True

    def _close_after_replies(self) -> bool:
        if self._is_at_barrier:
            self.close()
        return self.is_closing

    @property
    def _is_at_barrier(self) -> bool:
        """Whether everything before the current command has been answered."""
        return self.ledger.is_idle and not self._is_streaming

    def _process_watched(self, rule: Treatment, word: bytes, raw: bytes, now: float) -> bool:
        match rule:
            case Treatment.REFUSED | Treatment.SUBSCRIBE if self.transaction is not None:
                return self._refuse_in_transaction()
            case Treatment.REFUSED:
                return self.refuse(b"-NOPERM this endpoint does not allow the '%b' command\r\n" % word.lower())
            case _ if self.transaction is not None or self._is_raw:
                return self._forward(Kind.PLAIN, word, raw, now)
            case Treatment.SUBSCRIBE:
                return self._subscribe(raw)
            case Treatment.MULTI:
                return self._begin_transaction(word, raw, now)
            case Treatment.SELECT:
                return self._forward(Kind.STATE, word, raw, now, effect=self._effect_of(word, raw))
            case Treatment.WATCH | Treatment.UNWATCH:
                sent = self._forward(Kind.STATE, word, raw, now)
                if sent:
                    self._is_watching = rule is Treatment.WATCH
                return sent
            case Treatment.STREAM_READ:
                blocks = any(argument.upper() == b"BLOCK" for argument in split_arguments(raw))
                return self._forward(Kind.BLOCKING if blocks else Kind.PLAIN, word, raw, now)
            case Treatment.BLOCKING:
                return self._forward(Kind.BLOCKING, word, raw, now)
            case _:
                raise AssertionError(rule)

    def _forward(self, kind: Kind, word: bytes, raw: bytes, now: float, *, effect: login.Effect | None = None) -> bool:
        transaction = self.transaction
        if transaction is not None and transaction.is_broken:
            return self.refuse(NO_PRIMARY)
        if not self.can_send:
            return False
        is_strict_write = self.gate.spec.is_strict and word not in STORES_NOTHING
        is_guarded = is_strict_write and transaction is None and kind is not STATE
        if self._is_raw:
            if is_strict_write:
                return self._is_at_barrier and self.refuse(_STRICT_WHILE_SUBSCRIBED)
            self.to_backend.append(raw)
            return True
        if kind is BLOCKING and self.assurance.is_pending:
            return False  # a question after it would be answered only when it ends
        if is_guarded and self._must_wait_for_replica():
            return False
        self.to_backend.append(raw)
        entry = Entry(kind if transaction is None else Kind.MEMBER, raw, now, word)
        entry.effect = effect
        if is_guarded:
            self.assurance.guard(entry)
        if transaction is not None:
            entry.transaction = transaction
            transaction.members.append(entry)
            transaction.bytes_kept += len(raw)
        self.ledger.add(entry)
        return True

    def _must_wait_for_replica(self) -> bool:
        self.waits_for_replica = self.gate.is_alone and self.gate.spec.is_strict
        return self.waits_for_replica

    def _effect_of(self, word: bytes, raw: bytes) -> login.Effect | None:
        """The effect that a success of this command has on the endpoint's state; None: no effect."""
        if word == b"SELECT":
            return partial(self._selected, raw)
        if word != b"CLIENT":
            return None
        arguments = split_arguments(raw)
        if arguments[1:2] and arguments[1].upper() == b"TRACKING" and len(arguments) > 2:
            return partial(self._tracked, arguments[2].upper() == b"ON")
        setting = login.setting_of(arguments)
        return None if setting is None else partial(self._set, setting, raw)

    def _selected(self, raw: bytes, reply: bytes) -> None:
        if reply[0] != ERROR:
            self.state.database = int(split_arguments(raw)[1])

    def _subscribe(self, raw: bytes) -> bool:
        if not self.can_send or not self._is_at_barrier:
            return False
        self._is_raw = True
        self.to_backend.append(raw)
        return True

    # -- transactions ------------------------------------------------------------------------------------------------

    def _begin_transaction(self, word: bytes, raw: bytes, now: float) -> bool:
        if not self.can_send or self.assurance.is_pending or self._must_wait_for_replica():
            return False  # a question inside the transaction would become part of it
        self.transaction = OpenTransaction(is_watched=self._is_watching)
        return self._forward(Kind.MEMBER, word, raw, now)

    def _end_transaction(self, rule: Treatment, word: bytes, raw: bytes, now: float) -> bool:
        transaction = self.transaction
        if transaction is None:
            return self._forward(Kind.PLAIN, word, raw, now)
        is_exec = rule is Treatment.EXEC
        if transaction.is_broken:
            self._leave_transaction()
            if self.has_backend and transaction.members:
                self.to_backend.append(DISCARD)
                self.ledger.add(Entry(Kind.DROP, DISCARD, now))
            if is_exec:
                return self.refuse(ABORTED)
            self.ledger.answer_locally(OK)
            return True
        if not self.can_send or (is_exec and self._must_wait_for_replica()):
            return False
        entry = Entry(Kind.EXEC if is_exec else Kind.DISCARD, raw, now, word=word)
        entry.transaction = transaction
        transaction.exec_sent = True
        if is_exec:
            entry.effect = self._effect_of_all(transaction)
            transaction.members.append(entry)
            if self.gate.spec.is_strict:
                self.assurance.guard(entry)
        self._leave_transaction()
        self.to_backend.append(raw)
        self.ledger.add(entry)
        return True

    def _leave_transaction(self) -> None:
        self.transaction = None
        self._is_watching = False

    def _effect_of_all(self, transaction: OpenTransaction) -> login.Effect | None:
        """The effect of an EXEC on the endpoint's state; None: no effect."""
        queued = [member for member in transaction.members[1:] if member.word not in NEVER_QUEUED]
        effects = [self._effect_of(member.word, member.raw) for member in queued]
        return partial(self._executed, effects) if any(effects) else None

    def _executed(self, effects: list[login.Effect | None], reply: bytes) -> None:
        """Apply the effects of the members that succeeded according to their own replies. A null reply: none was
        executed."""
        if reply[:1] != b"*" or reply[:2] == b"*-":
            return
        replies = elements_of(reply)
        if len(replies) != len(effects):
            self.close()  # the replies cannot be assigned to members, so the connection's state is unknown
            return
        for effect, own in zip(effects, replies, strict=True):
            if effect is not None:
                effect(own)

    def _refuse_in_transaction(self) -> bool:
        assert self.transaction is not None
        self.transaction.is_broken = True
        return self.refuse(_IN_TRANSACTION)

    def break_off(self, word: bytes, raw: bytes, now: float, reply: bytes = NO_PRIMARY) -> None:
        """Answer a command that has waited too long, or cannot be executed now, with an error."""
        if self.transaction is not None:
            self.transaction.is_broken = True  # the rest must not be executed without this member
        if self.process(word, raw, now):
            return
        if word == b"MULTI":
            self.transaction = OpenTransaction(is_watched=self._is_watching)
            self.transaction.is_broken = True
        self.refuse(reply)

    # -- commands of the endpoint itself -----------------------------------------------------------------------------

    def _process_own(self, rule: Treatment, word: bytes, raw: bytes, now: float) -> bool:
        arguments = split_arguments(raw)
        match rule:
            case Treatment.QUIT:
                return self._quit()
            case Treatment.RESET:
                return self._reset() if len(arguments) == 1 else self.refuse(login.wrong_number("reset"))
            case Treatment.CLIENT:
                return self._client(word, arguments, raw, now)
            case _ if self.transaction is not None:
                return self._refuse_in_transaction()
            case _ if self._is_raw:
                return self._is_at_barrier and self.refuse(_WHILE_SUBSCRIBED)
            case Treatment.AUTH:
                reply = login.answer_auth(arguments, self.gate.spec.password)
                if reply != OK:
                    return self.refuse(reply)
                self._authenticate()
                self.ledger.answer_locally(OK)
                return True
            case _:
                return self._hello(word, arguments, now)

    def _authenticate(self) -> None:
        self.is_authenticated = True
        self._scanner.is_unauthenticated = False

    def _quit(self) -> bool:
        if not self._is_at_barrier:
            return False
        self.ledger.answer_locally(OK)
        self.close()
        return True

    def _reset(self) -> bool:
        if not self._is_at_barrier:
            return False
        self.drop_backend()
        self.state = ConnectionState()
        self.is_authenticated = not self.gate.spec.password
        self._scanner.is_unauthenticated = not self.is_authenticated
        self._leave_transaction()
        self._is_tracking = self._is_raw = False
        self.ledger.use_protocol(2)
        self.ledger.answer_locally(b"+RESET\r\n")
        return True

    def _hello(self, word: bytes, arguments: list[bytes], now: float) -> bool:
        request = login.parse_hello(arguments)
        if isinstance(request, bytes):
            return self.refuse(request)
        if request.user is not None:
            if not login.is_valid_login(request.user, request.password, self.gate.spec.password):
                return self.refuse(login.WRONGPASS)
            self._authenticate()
        elif not self.is_authenticated:
            return self.refuse(login.HELLO_NOAUTH)
        protocol = request.protocol or self.state.protocol
        if self.has_backend:
            named = () if request.name is None else (b"SETNAME", request.name)
            command = encode_command(b"HELLO", b"%d" % protocol, *named)
            return self._forward(Kind.STATE, word, command, now, effect=partial(self._greeted, protocol, request.name))
        self._greeted(protocol, request.name, b"+")  # the next server connection begins with this HELLO
        known = self.gate.hellos.get(protocol)
        if known is None or not self._is_at_barrier:
            return False
        self.ledger.answer_locally(hello_with_id(known, self.uid))
        return True

    def _greeted(self, protocol: int, name: bytes | None, reply: bytes) -> None:
        if reply[0] == ERROR:
            return
        self.state.protocol = protocol
        self.ledger.use_protocol(protocol)
        if name is not None:
            self.state.settings["SETNAME"] = encode_command(b"CLIENT", b"SETNAME", name)

    def _client(self, word: bytes, arguments: list[bytes], raw: bytes, now: float) -> bool:
        subcommand = arguments[1].upper() if len(arguments) > 1 else b""
        refusal = b""
        if subcommand == b"REPLY" and arguments[2:3] and arguments[2].upper() != b"ON":
            refusal = _REPLY_MODE
        elif subcommand == b"MAINT_NOTIFICATIONS":
            refusal = b"-ERR unknown subcommand '%b'. Try CLIENT HELP.\r\n" % arguments[1]
        if refusal:
            if self.transaction is not None:
                self.transaction.is_broken = True
            return self.refuse(refusal)
        effect = self._effect_of(word, raw)
        if effect is None or self.transaction is not None:
            return self._forward(Kind.PLAIN, word, raw, now)
        return self._forward(Kind.STATE, word, raw, now, effect=effect)

    def _tracked(self, on: bool, reply: bytes) -> None:
        if reply[0] != ERROR:
            self._is_tracking = on

    def _set(self, setting: str, raw: bytes, reply: bytes) -> None:
        if reply[0] != ERROR:
            self.state.settings[setting] = raw
