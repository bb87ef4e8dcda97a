"""What travels with a client's connection from one endpoint process to another, beside its bytes. Pure."""

from dataclasses import dataclass

from shardwright.endpoint.ledger import Transaction
from shardwright.endpoint.session import Session
from shardwright.endpoint.setup import ConnectionState


@dataclass(frozen=True, slots=True)
class Luggage:
    """The state of a session that is frozen and quiet. What it has not processed is ``Session.unread``."""

    is_authenticated: bool
    state: ConnectionState
    transaction: tuple[tuple[bytes, bytes], ...] | None
    """An open MULTI and what is queued behind it, as (first word, bytes); None: none is open."""
    is_transaction_broken: bool


def pack(session: Session) -> Luggage:
    """What another process needs to go on with this session."""
    transaction = session.transaction
    return Luggage(
        is_authenticated=session.is_authenticated,
        state=session.state,
        transaction=None if transaction is None else tuple((m.word, m.raw) for m in transaction.members),
        is_transaction_broken=transaction is not None and transaction.is_broken,
    )


def unpack(luggage: Luggage, session: Session) -> None:
    """Make a new session the one that was packed. What was unread is to be given to ``client_data`` next."""
    transaction = None
    if luggage.transaction is not None:
        transaction = Transaction(is_watched=False)
        transaction.is_broken = luggage.is_transaction_broken
        for word, raw in luggage.transaction:
            transaction.add_done(word, raw)
    session.resume(luggage.state, transaction, is_authenticated=luggage.is_authenticated)
