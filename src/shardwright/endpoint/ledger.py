"""The unanswered commands of one connection: keeps the order of the replies, and decides which commands are sent again.

Pure; owned by the session. Normally the ledger is "straight": replies pass through as they arrive, and only counts are
kept. When a command was refused or its server was lost, the ledger is "tangled": every unanswered command has its own state,
each reply waits for the replies before it, and commands that were certainly not executed or that change nothing are sent
again. A write that may have been executed is never sent again.
"""

from collections import deque

from shardwright.endpoint.entries import BLOCKING, DROP, PLAIN, Entry, Kind, OpenTransaction
from shardwright.endpoint.resp import ERROR, CommandScanner
from shardwright.endpoint.words import READS, UNBLOCKED, is_aborted_by_refusal, is_refusal

OK = b"+OK\r\n"
QUEUED = b"+QUEUED\r\n"
OUTCOME_UNKNOWN = (
    b"-ERR shardwright: outcome unknown: the connection to the server ended before it answered this command, which may have "
    b"been executed; it was not sent again\r\n"
)
NOT_CONFIRMED = (
    b"-ERR shardwright: outcome unknown: this command was executed, but no replica has confirmed it, so it may be lost; "
    b"it was not sent again\r\n"
)
NO_PRIMARY = b"-ERR shardwright: no primary is available, this command was not executed\r\n"
ABORTED = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
DISCARD = b"*1\r\n$7\r\nDISCARD\r\n"


class CommandLedger:
    """The rows of one connection."""

    __slots__ = ("_out", "flight", "is_recovering", "is_unblocked", "kept", "null", "order", "unconfirmed")

    def __init__(self, out: list[bytes]) -> None:
        self._out = out  # the session's bytes to the client
        self.flight: deque[Entry] = deque()
        """Sent and unanswered entries, in the order of sending."""
        self.order: deque[Entry] | None = None
        """While tangled: all entries that the client waits for, in its order."""
        self.is_recovering = False
        """A command was refused: send nothing more, wait for the other replies in flight, then use the right server."""
        self.is_unblocked = False
        """A server that lost its role ended a blocking command: close, so that the client repeats the command."""
        self.kept = 0
        """Bytes of commands that may be sent again, and of replies that no replica has confirmed."""
        self.unconfirmed = 0
        """Number of replies that wait for a replica's confirmation."""
        self.null = b"*-1\r\n"
        """The reply to an EXEC that failed because a watched key changed, in the client's protocol."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in flight and nothing waits."""
        return not self.flight and self.order is None

    @property
    def has_waiting(self) -> bool:
        """Whether commands wait to be sent again."""
        return not self.flight and self.order is not None and any(not entry.is_done for entry in self.order)

    def use_protocol(self, protocol: int) -> None:
        """Answer in RESP2 or RESP3 from now on."""
        self.null = b"_\r\n" if protocol == 3 else b"*-1\r\n"

    # -- sending -----------------------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Add an entry that was sent."""
        if entry.is_guarded and self.order is None:
            self._tangle()
            self.order = self.order or deque()
        self.flight.append(entry)
        self.kept += len(entry.raw)
        if self.order is not None and entry.kind is not DROP:
            self.order.append(entry)

    def answer_locally(self, reply: bytes) -> None:
        """Answer with the endpoint's own reply, after all missing replies."""
        if self.order is None and not self.flight:
            self._out.append(reply)
            return
        entry = Entry(Kind.LOCAL, b"", 0.0)
        entry.reply = reply
        entry.is_done = True
        (self.flight if self.order is None else self.order).append(entry)

    # -- replies -----------------------------------------------------------------------------------------------------

    def settle_plain(self, count: int, replies: bytes) -> bool:
        """Pass on ``count`` replies that are not errors, if all of them answer plain commands of a straight ledger. False:
        nothing was done; the replies must be settled one by one."""
        flight = self.flight
        if self.order is not None or not flight:
            return False
        head = flight[0]
        if head.kind is not PLAIN:
            return False
        if head.left > count:
            head.left -= count
            self._out.append(replies)
            return True
        missing = count
        for entry in flight:
            if missing <= 0:
                break
            if entry.kind is not PLAIN:
                return False
            missing -= entry.left
        if missing > 0:
            return False
        while count:
            head = flight[0]
            if head.left > count:
                head.left -= count
                break
            count -= head.left
            self.kept -= len(head.raw)
            flight.popleft()
        self._out.append(replies)
        if flight:
            self._flush_local()
        return True

    def settle(self, reply: bytes) -> None:
        """Process one reply of the server. Raises IndexError if no command is in flight."""
        entry = self.flight[0]
        if entry.kind is BLOCKING and reply.startswith(UNBLOCKED):
            self.is_unblocked = True
            return
        if reply[0] == ERROR and self._is_refused(entry, reply):
            if entry.transaction is not None and entry.transaction.is_watched:
                reply = self.null if entry.kind is Kind.EXEC else QUEUED
            else:
                self._refuse()
                return
        elif self.is_recovering and entry.kind is Kind.PLAIN and entry.word in READS:
            self.flight.popleft()  # its result may be older than the refused write before it
            return
        self._finish(entry, reply)

    def settle_streamed(self, first: bytes) -> None:
        """The first entry's reply, which began with ``first``, has been streamed. Only in a straight ledger."""
        entry = self.flight[0]
        if entry.left > 1:
            entry.left -= 1
            return
        self.flight.popleft()
        self._done(entry, first)
        self._flush_local()

    def _finish(self, entry: Entry, reply: bytes) -> None:
        if entry.left > 1:  # a batch: only a straight ledger contains batches
            entry.left -= 1
            self._out.append(reply)
            return
        self.flight.popleft()
        if entry.transaction is not None and entry.kind is Kind.DISCARD:
            self._settle_discarded(entry.transaction)
        if self.order is None:
            if entry.kind is not DROP:
                self._out.append(reply)
            self._done(entry, reply)
            self._flush_local()
        else:
            self._done(entry, reply)
            entry.reply = reply
            if entry.is_guarded and not _changed_nothing(entry, reply):
                entry.is_unconfirmed = True
                self.unconfirmed += 1
                self.kept += len(reply)
            self._flush_order()

    def _done(self, entry: Entry, reply: bytes) -> None:
        entry.is_done = True
        self.kept -= len(entry.raw)
        if entry.effect is not None:
            entry.effect(reply)
        if entry.transaction is not None and entry.kind in (Kind.EXEC, Kind.DISCARD):
            entry.transaction.members = []  # breaks the reference cycle, which only the garbage collector would free

    def _settle_discarded(self, transaction: OpenTransaction) -> None:
        """Answer the members that waited to be sent again: a discarded transaction needs no server."""
        for member in transaction.members:
            if not member.is_done:
                member.reply = QUEUED
                self._done(member, QUEUED)

    def _is_refused(self, entry: Entry, reply: bytes) -> bool:
        transaction = entry.transaction
        if entry.kind is Kind.EXEC and transaction is not None:
            return is_aborted_by_refusal(reply) or (transaction.is_refused and reply.startswith(b"-EXECABORT"))
        if not is_refusal(reply):
            return False
        if transaction is not None:
            transaction.is_refused = True
        return True

    def _refuse(self) -> None:
        """The first entry in flight was not executed: send it again to another server."""
        self._tangle()
        entry = self.flight.popleft()
        self.is_recovering = True
        if entry.kind is Kind.DROP:
            self.kept -= len(entry.raw)

    def _flush_local(self) -> None:
        flight = self.flight
        while flight and flight[0].kind is Kind.LOCAL:
            self._out.append(flight.popleft().reply or b"")

    def _flush_order(self) -> None:
        order = self.order
        while order and order[0].reply is not None and not order[0].is_unconfirmed:
            self._out.append(order.popleft().reply or b"")
        if not order:
            self.order = None

    # -- strict mode -------------------------------------------------------------------------------------------------

    def confirm(self) -> None:
        """A replica has all writes that the server has answered so far."""
        self._settle_unconfirmed(None)

    def fail_unconfirmed(self) -> int:
        """No replica has confirmed the waiting writes: answer them with an error. Returns their number."""
        return self._settle_unconfirmed(NOT_CONFIRMED)

    def _settle_unconfirmed(self, error: bytes | None) -> int:
        count, self.unconfirmed = self.unconfirmed, 0
        if count:
            for entry in self.order or ():
                if entry.is_unconfirmed:
                    entry.is_unconfirmed = False
                    self.kept -= len(entry.reply or b"")
                    entry.reply = error or entry.reply
            self._flush_order()
        return count

    # -- tangled -----------------------------------------------------------------------------------------------------

    def _tangle(self) -> None:
        """Give every unanswered command its own row and state."""
        if self.order is not None:
            return
        rows: list[Entry] = []
        for entry in self.flight:
            if entry.kind is Kind.PLAIN and entry.count > 1:
                singles = _split(entry)
                self.kept += sum(len(single.raw) for single in singles) - len(entry.raw)
                rows += singles
            else:
                rows.append(entry)
        self.order = deque(entry for entry in rows if entry.kind is not Kind.DROP) or None
        self.flight = deque(entry for entry in rows if entry.kind is not Kind.LOCAL)

    def lose_server(self) -> None:
        """The server connection has ended: decide for each command in flight whether it is repeated or answered."""
        self._tangle()
        self.is_recovering = False
        self.fail_unconfirmed()
        for entry in self.flight:
            if entry.kind is Kind.DROP:
                self.kept -= len(entry.raw)
            elif (reply := _reply_when_lost(entry)) is not None:
                entry.reply = reply
                self._done(entry, reply)
        self.flight.clear()
        self._flush_order()

    def fail_waiting(self, reply: bytes) -> int:
        """Answer all commands that wait to be sent again with an error. Returns their number."""
        count = 0
        if not self.has_waiting:
            return count
        for entry in self.order or ():
            if not entry.is_done:
                count += 1
                if entry.transaction is not None:
                    entry.transaction.is_broken = True
                entry.reply = reply
                self._done(entry, reply)
        self._flush_order()
        return count

    def send_again(self, opened: OpenTransaction | None, now: float) -> list[bytes]:
        """The commands to send first to a new server. ``opened``: the client's open MULTI, of which nothing was executed."""
        self.is_recovering = False
        out: list[bytes] = []
        repeated: list[OpenTransaction] = []
        for entry in self.order or ():
            if entry.is_done:
                continue
            entry.sent_at = now
            transaction = entry.transaction
            if transaction is None:
                self.flight.append(entry)
                out.append(entry.raw)
            elif transaction not in repeated:
                repeated.append(transaction)
                self._repeat(transaction, out, now)
        if opened is not None and not opened.is_broken and opened not in repeated:
            self._repeat(opened, out, now)
        return out

    def _repeat(self, transaction: OpenTransaction, out: list[bytes], now: float) -> None:
        transaction.is_refused = False
        for member in transaction.members:
            out.append(member.raw)
            if member.is_done:  # the client has received its +QUEUED
                self.flight.append(Entry(Kind.DROP, member.raw, now))
                self.kept += len(member.raw)
            else:
                self.flight.append(member)


def _reply_when_lost(entry: Entry) -> bytes | None:
    """The reply to a command in flight whose server was lost; None: the command is sent again."""
    transaction = entry.transaction
    if transaction is not None:
        if not transaction.exec_sent:
            return None
        match entry.kind:
            case Kind.EXEC:
                return OUTCOME_UNKNOWN
            case Kind.DISCARD:
                return OK
            case _:
                return OK if entry is transaction.members[0] else QUEUED
    if entry.kind is Kind.STATE or entry.word in READS:
        return None
    return OUTCOME_UNKNOWN


def _changed_nothing(entry: Entry, reply: bytes) -> bool:
    """Whether no replica must confirm this reply: an error, or an EXEC that a changed key prevented."""
    return reply[0] == ERROR or (entry.kind is Kind.EXEC and reply in (b"*-1\r\n", b"_\r\n"))


def _split(batch: Entry) -> list[Entry]:
    """The unanswered commands of a batch as single entries."""
    rows: list[Entry] = []
    start = 0
    for end, word in CommandScanner().scan(batch.raw):
        rows.append(Entry(Kind.PLAIN, batch.raw[start:end], batch.sent_at, word=word))
        start = end
    return rows[batch.count - batch.left :]
