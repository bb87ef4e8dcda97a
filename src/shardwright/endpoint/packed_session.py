"""The state of a client session that is passed from one endpoint process to another with its bytes. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shardwright.endpoint.entries import OpenTransaction
from shardwright.endpoint.session import Session
from shardwright.endpoint.setup import ConnectionState

PIECE_BYTES = 256 * 1024
"""Maximum size of the pieces in which the bytes of a passed connection are processed."""


@dataclass(frozen=True, slots=True)
class PackedSession:
    """The state of a session that is frozen and quiet, without its unprocessed bytes (``Session.unread``)."""

    is_authenticated: bool
    state: ConnectionState
    transaction: tuple[tuple[bytes, bytes], ...] | None
    """An open MULTI and the commands queued after it, as (first word, bytes); None: no open MULTI."""
    is_transaction_broken: bool


def pack(session: Session) -> PackedSession:
    """The state with which another process continues this session."""
    transaction = session.transaction
    return PackedSession(
        is_authenticated=session.is_authenticated,
        state=session.state,
        transaction=None if transaction is None else tuple((m.word, m.raw) for m in transaction.members),
        is_transaction_broken=transaction is not None and transaction.is_broken,
    )


def unpack(packed: PackedSession, session: Session) -> None:
    """Give a new session the packed state. Call its ``client_data`` with the unread bytes next."""
    transaction = None
    if packed.transaction is not None:
        transaction = OpenTransaction(is_watched=False)
        transaction.is_broken = packed.is_transaction_broken
        for word, raw in packed.transaction:
            transaction.add_done(word, raw)
    session.resume(packed.state, transaction, is_authenticated=packed.is_authenticated)


def pieces(parts: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """The buffers in pieces of bounded size; each piece is a copy."""
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(part), PIECE_BYTES):
            yield bytes(view[start : start + PIECE_BYTES])
