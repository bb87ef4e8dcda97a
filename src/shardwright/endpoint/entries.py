"""The rows of a connection's ledger: one entry for each command or batch that was sent, and the client's open transaction.

Values that ``ledger.py`` and the session change; no rules about replies here.
"""

from collections.abc import Callable
from enum import Enum, auto


class Kind(Enum):
    """The kind of an entry."""

    PLAIN = auto()
    """One or more commands with one reply each."""
    LOCAL = auto()
    """The endpoint's own reply, which waits for the replies before it."""
    DROP = auto()
    """The endpoint's own command; its reply is discarded."""
    MEMBER = auto()
    """MULTI, or a command that is queued after it."""
    EXEC = auto()
    DISCARD = auto()
    STATE = auto()
    """Changes only the connection (SELECT, CLIENT SETNAME …): may be repeated."""
    BLOCKING = auto()


# For the data path: CPython 3.11 needs as much time for a member of an enumeration as for a call.
PLAIN, DROP, STATE, BLOCKING = Kind.PLAIN, Kind.DROP, Kind.STATE, Kind.BLOCKING


class Entry:
    """One row of the ledger."""

    __slots__ = (
        *("count", "effect", "is_done", "is_guarded", "is_unconfirmed", "kind", "left", "raw", "reply", "sent_at"),
        *("transaction", "word"),
    )

    def __init__(self, kind: Kind, raw: bytes, sent_at: float, word: bytes = b"", count: int = 1) -> None:
        self.kind = kind
        self.raw = raw
        self.sent_at = sent_at
        self.word = word
        """The command's first word; of a batch: that of its first command."""
        self.count = count
        self.left = count
        """Number of missing replies."""
        self.reply: bytes | None = None
        """Kept while replies before it are missing."""
        self.is_done = False
        self.is_guarded = False
        """Strict mode: the command may write, so its success is reported only when a replica has it. Never a batch."""
        self.is_unconfirmed = False
        """The reply has arrived, but no replica has confirmed the write."""
        self.transaction: OpenTransaction | None = None
        self.effect: Callable[[bytes], None] | None = None
        """Called with the final reply."""

    @property
    def may_stream(self) -> bool:
        """Whether a long reply may be passed on as it arrives, because only its beginning must be known."""
        return self.kind in (Kind.PLAIN, Kind.BLOCKING) or (self.kind is Kind.EXEC and self.effect is None)


class OpenTransaction:
    """A MULTI and all commands after it, kept until EXEC is answered. None of them is executed before that, so all can be
    repeated on another server."""

    __slots__ = ("bytes_kept", "exec_sent", "is_broken", "is_refused", "is_watched", "members")

    def __init__(self, *, is_watched: bool) -> None:
        self.members: list[Entry] = []
        self.bytes_kept = 0
        self.exec_sent = False
        self.is_refused = False
        """A server refused a member: EXEC will be aborted, and the transaction is repeated."""
        self.is_broken = False
        """A member was answered with the endpoint's own error: EXEC must abort."""
        self.is_watched = is_watched
        """It began under WATCH: it cannot be repeated on another server, but may fail as if a watched key had changed."""

    def add_done(self, word: bytes, raw: bytes) -> None:
        """Add a member whose reply the client has received."""
        entry = Entry(Kind.MEMBER, raw, 0.0, word=word)
        entry.transaction = self
        entry.is_done = True
        self.members.append(entry)
        self.bytes_kept += len(raw)
