"""Strict mode on one server connection: asks whether a replica has what was written, and settles the replies that wait.

Pure; owned by the session, which sends what ``ask`` gives, behind everything that may have written. One question (``WAIT``)
covers all that was executed before it on the same connection, so a chunk of commands needs one, and a later one covers an
earlier one that found no replica. It is asked again until CONFIRM_MAX_S; then the writes are answered with an error.
"""

from functools import partial

from shardwright.endpoint.gate import Counts
from shardwright.endpoint.ledger import Entry, Kind, Ledger
from shardwright.endpoint.protocol import CONFIRM_MAX_S, CONFIRM_SLICE_S
from shardwright.endpoint.resp import ERROR, encode_command

QUESTION = encode_command(b"WAIT", b"1", b"%d" % round(CONFIRM_SLICE_S * 1000))
MARK = encode_command(b"SPUBLISH", b"shardwright:strict", b"")
"""Goes ahead of a question. Newer servers ask about the last command of the connection that was replicated while it ran, and
that is none for a blocking command served later, nor for a write that changed nothing because another client's, which may be
lost, came before it. This one always is, changes no key, and only who subscribes to exactly this channel hears of it."""


class Assurance:
    """See the module."""

    __slots__ = ("_asked", "_counts", "_ledger", "_missing_since", "_needs_mark", "is_due", "is_leaving")

    def __init__(self, ledger: Ledger, counts: Counts) -> None:
        self._ledger = ledger
        self._counts = counts
        self.reset()

    def reset(self) -> None:
        """Another server connection, or none."""
        self.is_due = False
        """Something that may write was sent, and no question behind it."""
        self.is_leaving = False
        """The server is no longer the target: nothing is asked again."""
        self._needs_mark = False
        self._asked = 0
        self._missing_since: float | None = None

    @property
    def is_pending(self) -> bool:
        """Something is not confirmed yet."""
        return self.is_due or self._asked > 0 or self._ledger.unconfirmed > 0

    def guard(self, entry: Entry) -> None:
        """Do not tell this command's success before a replica has it. Before it is added to the ledger."""
        entry.is_guarded = self.is_due = self._needs_mark = True

    def resume(self) -> None:
        """Commands were sent again on a new connection."""
        self.is_due = self._needs_mark = any(entry.is_guarded for entry in self._ledger.flight)

    def ask(self, now: float) -> list[bytes]:
        """The question to send. Not inside a transaction: it would become part of it."""
        commands = [MARK, QUESTION] if self._needs_mark else [QUESTION]
        for command in commands:
            question = Entry(Kind.DROP, command, now, word=b"WAIT")
            self._ledger.add(question)
        question.effect = partial(self._answered, now)
        self._asked += 1
        self.is_due = self._needs_mark = False
        return commands

    def give_up(self) -> None:
        """The server is left for another one, of which nobody knows here whether it has the rest."""
        self._counts.errors += self._ledger.doubt()

    def _answered(self, asked_at: float, reply: bytes) -> None:
        self._asked -= 1
        if reply[:1] == b":" and reply != b":0\r\n":
            self._missing_since = None
            self._ledger.confirm()
            return
        if self._asked or not self._ledger.unconfirmed:
            return  # what is asked behind it covers this too
        if self._missing_since is None:
            self._missing_since = asked_at
        is_over = asked_at + CONFIRM_SLICE_S - self._missing_since >= CONFIRM_MAX_S
        # An error says that it is no primary any more.
        if is_over or reply[0] == ERROR or self.is_leaving or self._ledger.is_recovering:
            self._missing_since = None
            self.give_up()
        else:
            self.is_due = True
