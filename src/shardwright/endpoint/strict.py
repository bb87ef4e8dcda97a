"""Strict mode on one server connection: asks whether a replica has what was written, and settles the replies that wait.

Pure; owned by the session, which sends what ``ask`` gives, behind everything that may have written. One question (``WAIT``)
covers all that was executed before it on the same connection, so a chunk of commands needs one, and a later one covers an
earlier one that found no replica. It is asked again for CONFIRM_MAX_S. Then the server is asked for its replicas: while one
receives what was written, as a large value takes its time, the writes wait on; else they are answered with an error.
"""

import re
from functools import partial

from shardwright.endpoint.gate import Counts
from shardwright.endpoint.ledger import Entry, Kind, Ledger
from shardwright.endpoint.protocol import CONFIRM_BYTES_PER_S, CONFIRM_LONGEST_S, CONFIRM_MAX_S, CONFIRM_SLICE_S
from shardwright.endpoint.resp import ERROR, encode_command

QUESTION = encode_command(b"WAIT", b"1", b"%d" % round(CONFIRM_SLICE_S * 1000))
MARK = encode_command(b"SPUBLISH", b"shardwright:strict", b"")
"""Goes ahead of a question. Newer servers ask about the last command of the connection that was replicated while it ran, and
that is none for a blocking command served later, nor for a write that changed nothing because another client's, which may be
lost, came before it. This one always is, changes no key, and only who subscribes to exactly this channel hears of it."""
LOOK = encode_command(b"INFO", b"replication")
ASKED_MAX = 4
"""Questions on their way at once."""
HEARD_S = 1
"""A replica says how far it is once a second, also while it receives a large value; servers count whole seconds."""

_WRITTEN = re.compile(rb"\r\nmaster_repl_offset:(\d+)")
_REPLICA = re.compile(rb"\r\nslave\d+:[^\r\n]*state=online,offset=(\d+),lag=(\d+)")


def patience_s(info: bytes) -> float:
    """How long the replicas that a primary names may have been silent. One that was heard of a moment ago receives what it
    has not acknowledged yet. One that says nothing stands still, or executes a large command, which takes time."""
    written = _WRITTEN.search(info)
    if written is None:
        return 0
    longest = 0.0
    for offset, lag in _REPLICA.findall(info):
        behind_s = (int(written[1]) - int(offset)) / CONFIRM_BYTES_PER_S
        longest = max(longest, CONFIRM_LONGEST_S if int(lag) <= HEARD_S else CONFIRM_MAX_S + behind_s)
    return min(longest, CONFIRM_LONGEST_S)


class Assurance:
    """See the module."""

    __slots__ = (
        *("_asked", "_counts", "_heard_at", "_ledger", "_missing_since", "_needs_look", "_needs_mark"),
        *("is_due", "is_leaving"),
    )

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
        self._needs_look = False
        self._asked = 0
        self._missing_since: float | None = None
        self._heard_at = 0.0  # of a replica, since then

    @property
    def is_pending(self) -> bool:
        """Something is not confirmed yet."""
        return self.is_due or self._asked > 0 or self._ledger.unconfirmed > 0

    @property
    def may_ask(self) -> bool:
        """A question is to be sent. While a few are unanswered the next one waits, and then stands for all that came
        meanwhile: without a replica each one takes its time, and nothing behind it is answered."""
        return self.is_due and self._asked < ASKED_MAX

    def guard(self, entry: Entry) -> None:
        """Do not tell this command's success before a replica has it. Before it is added to the ledger."""
        entry.is_guarded = self.is_due = self._needs_mark = True

    def resume(self) -> None:
        """Commands were sent again on a new connection."""
        self.is_due = self._needs_mark = any(entry.is_guarded for entry in self._ledger.flight)

    def ask(self, now: float) -> list[bytes]:
        """The question to send. Not inside a transaction: it would become part of it."""
        commands = [MARK, QUESTION] if self._needs_mark else [QUESTION]
        if self._needs_look:
            look = Entry(Kind.DROP, LOOK, now, word=b"INFO")
            look.effect = partial(self._looked, now)
            self._ledger.add(look)
        for command in commands:
            question = Entry(Kind.DROP, command, now, word=b"WAIT")
            self._ledger.add(question)
        question.effect = partial(self._answered, now)
        self._asked += 1
        if self._needs_look:
            commands.insert(0, LOOK)
        self.is_due = self._needs_mark = self._needs_look = False
        return commands

    def _looked(self, asked_at: float, reply: bytes) -> None:
        if self._missing_since is None:
            return
        patience = patience_s(reply)
        if patience >= CONFIRM_LONGEST_S:
            self._heard_at = asked_at
        if asked_at - self._heard_at >= patience or asked_at - self._missing_since >= CONFIRM_LONGEST_S:
            self._missing_since = None
            self.give_up()

    def give_up(self) -> None:
        """The server is left for another one, of which nobody knows here whether it has the rest."""
        self._counts.errors += self._ledger.doubt()

    def _answered(self, asked_at: float, reply: bytes) -> None:
        self._asked -= 1
        if reply[:1] == b":" and reply != b":0\r\n":
            self._missing_since = None
            self._ledger.confirm()
            return
        if not self._ledger.unconfirmed:
            return
        if self._missing_since is None:
            self._missing_since = self._heard_at = asked_at
        is_over = asked_at + CONFIRM_SLICE_S - self._missing_since >= CONFIRM_MAX_S
        if self._asked and not is_over:
            return  # what is asked behind it covers this too
        # An error says that it is no primary any more.
        if reply[0] == ERROR or self.is_leaving or self._ledger.is_recovering:
            self._missing_since = None
            self.give_up()
            return
        self._needs_look = is_over
        self.is_due = True
