"""Strict mode on one server connection: asks whether a replica has the writes, and settles their replies.

Pure; owned by the session, which sends the commands of ``ask`` after every command that may write. One question (``WAIT``)
covers everything that was executed before it on the same connection. So a chunk of commands needs one question, and a later
question covers an earlier one that found no replica. The question is repeated for CONFIRM_MAX_S. Then the server is asked
for its replicas: while one of them is receiving the writes (a large value takes time), the writes wait; otherwise they are
answered with an error. Earlier, after LOOK_AFTER_S, the server is asked whether it has a replica at all. If not, the writes
of all connections that have not been sent yet wait (``Gate.is_alone``), because an unexecuted command can be repeated.
"""

import re
from functools import partial

from shardwright.endpoint.entries import DROP, Entry
from shardwright.endpoint.gate import Gate
from shardwright.endpoint.ledger import CommandLedger
from shardwright.endpoint.protocol import CONFIRM_BYTES_PER_S, CONFIRM_LONGEST_S, CONFIRM_MAX_S, CONFIRM_SLICE_S
from shardwright.endpoint.resp import ERROR, encode_command

QUESTION = encode_command(b"WAIT", b"1", b"%d" % round(CONFIRM_SLICE_S * 1000))
MARK = encode_command(b"SPUBLISH", b"shardwright:strict", b"")
"""Precedes a question. Newer servers let WAIT ask about the connection's last command that was replicated while it ran. A
blocking command that was served later does not count, nor does a write that changed nothing because of an earlier write of
another client, which may be lost. This command always counts, changes no key, and only subscribers of exactly this channel
receive it."""
NO_REPLICA = b"-ERR shardwright: no replica can confirm a write, this command was not executed\r\n"
REPLICATION_INFO = encode_command(b"INFO", b"replication")
ASKED_MAX = 4
"""Maximum number of unanswered questions."""
LOOK_AFTER_S = 0.5
"""After so long without a confirmation, the server is asked whether it has a replica at all. Longer than the pause of a
handoff, after which the replicas attach to the new primary."""
SILENT_S = 2
"""A replica that has reported nothing for longer confirms nothing: its machine may be gone, and its link still counts."""
HEARD_S = 1
"""A replica reports its offset once per second, even while it receives a large value; servers count whole seconds."""

_WRITTEN = re.compile(rb"\r\nmaster_repl_offset:(\d+)")
_REPLICA = re.compile(rb"\r\nslave\d+:[^\r\n]*state=online,offset=(\d+),lag=(\d+)")


def patience_s(info: bytes) -> float:
    """How long the replicas in a primary's INFO may have been silent. A replica that has just reported is receiving the data
    that it has not acknowledged. A silent replica hangs, or executes a large command, which takes time."""
    written = _WRITTEN.search(info)
    if written is None:
        return 0
    longest = 0.0
    for offset, lag in _REPLICA.findall(info):
        behind_s = (int(written[1]) - int(offset)) / CONFIRM_BYTES_PER_S
        longest = max(longest, CONFIRM_LONGEST_S if int(lag) <= HEARD_S else CONFIRM_MAX_S + behind_s)
    return min(longest, CONFIRM_LONGEST_S)


def is_followed(info: bytes) -> bool:
    """Whether a primary with this INFO has a replica that reports what it has received."""
    return any(int(lag) <= SILENT_S for _, lag in _REPLICA.findall(info))


def is_deserted(info: bytes) -> bool:
    """Whether a primary with this INFO has replicas, and none of them reports. Without any, they may be about to attach, as
    after a handoff."""
    return bool(_REPLICA.search(info)) and not is_followed(info)


class Assurance:
    """See the module's docstring."""

    __slots__ = (
        *("_asked", "_gate", "_has_looked", "_heard_at", "_ledger", "_missing_since", "_needs_info", "_needs_mark"),
        *("is_due", "is_leaving"),
    )

    def __init__(self, ledger: CommandLedger, gate: Gate) -> None:
        self._ledger = ledger
        self._gate = gate
        self.reset()

    def reset(self) -> None:
        """Forget the former server connection."""
        self.is_due = False
        """A command that may write was sent, and no question after it."""
        self.is_leaving = False
        """The server is no longer the target: no question is repeated."""
        self._needs_mark = False
        self._needs_info = self._has_looked = False
        self._asked = 0
        self._missing_since: float | None = None
        self._heard_at = 0.0  # last sign of a replica that receives the writes

    @property
    def is_pending(self) -> bool:
        """Whether a write may be unconfirmed."""
        return self.is_due or self._asked > 0 or self._ledger.unconfirmed > 0

    @property
    def may_ask(self) -> bool:
        """Whether to send a question. With ASKED_MAX unanswered questions, the next one waits and then covers all commands
        sent meanwhile: without a replica, each question takes its full time, and delays all replies after it."""
        return self.is_due and self._asked < ASKED_MAX

    def guard(self, entry: Entry) -> None:
        """Do not report this command's success before a replica has it. Called before the command is added to the ledger."""
        entry.is_guarded = self.is_due = self._needs_mark = True

    def resume(self, info: bytes) -> None:
        """Commands were sent again on a new connection. ``info``: the server's INFO on it. If all of its replicas are
        silent, writes are kept back before the first of them is executed: this process may not have written for a while."""
        if is_deserted(info):
            self._gate.note_alone()
        self.is_due = self._needs_mark = any(entry.is_guarded for entry in self._ledger.flight)

    def ask(self, now: float) -> list[bytes]:
        """The commands of the next question. Not inside a transaction, because they would become part of it."""
        commands = [MARK, QUESTION] if self._needs_mark else [QUESTION]
        if self._needs_info:
            info = Entry(DROP, REPLICATION_INFO, now, b"INFO")
            info.effect = partial(self._check_replicas, now)
            self._ledger.add(info)
        for command in commands:
            question = Entry(DROP, command, now, b"WAIT")
            self._ledger.add(question)
        question.effect = partial(self._answered, now)
        self._asked += 1
        if self._needs_info:
            commands.insert(0, REPLICATION_INFO)
        self.is_due = self._needs_mark = self._needs_info = False
        return commands

    def _check_replicas(self, asked_at: float, reply: bytes) -> None:
        if not (self.is_leaving or is_followed(reply)):
            self._gate.note_alone()
        if self._missing_since is None or asked_at - self._missing_since < CONFIRM_MAX_S - CONFIRM_SLICE_S:
            return
        patience = patience_s(reply)
        if patience >= CONFIRM_LONGEST_S:
            self._heard_at = asked_at
        if asked_at - self._heard_at >= patience or asked_at - self._missing_since >= CONFIRM_LONGEST_S:
            self._missing_since = None
            self.fail_unconfirmed()

    def fail_unconfirmed(self) -> None:
        """Answer the unconfirmed writes with an error: it is unknown whether another server has them."""
        self._gate.counts.errors += self._ledger.fail_unconfirmed()

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
            self._has_looked = False
        missing_s = asked_at + CONFIRM_SLICE_S - self._missing_since
        is_over = missing_s >= CONFIRM_MAX_S
        if self._asked and not is_over:
            return  # a later question covers this one too
        # An error means that the server is no longer a primary.
        if reply[0] == ERROR or self.is_leaving or self._ledger.is_recovering:
            self._missing_since = None
            self.fail_unconfirmed()
            return
        looks = missing_s >= LOOK_AFTER_S and not self._has_looked
        self._has_looked = self._has_looked or looks
        self._needs_info = is_over or looks
        self.is_due = True
