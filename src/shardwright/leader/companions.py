"""Keys that belong to a record: locks of actions, names and ports of databases, observations of servers.

Owns the operations that accompany the leader's writes, so that decisions need not know these keys. Pure.
"""

from collections.abc import Callable, Sequence

from shardwright.model.action import Action, ActionName
from shardwright.model.database import Database, Shard
from shardwright.model.view import ClusterView, Delete, Write
from shardwright.store import keys
from shardwright.store.protocol import DeleteKey, Transaction


def companions(writes: Sequence[Write], view: ClusterView, bare: Callable[[str], str | None]) -> Transaction:
    """The operations that belong in the same transaction. ``view``: the state before the writes. ``bare`` reads the text of
    a key without a record."""
    operations: list[DeleteKey] = []
    for write in writes:
        record = write.record
        if isinstance(record, Action) and not isinstance(write, Delete) and record.status.is_terminal:
            operations += _locks(record, bare)
        elif isinstance(write, Delete):
            operations += _of_deleted(write, view)
    return Transaction(operations=tuple(dict.fromkeys(operations)))


def _locks(action: Action, bare: Callable[[str], str | None]) -> list[DeleteKey]:
    """The locks that an action still holds."""
    names = [keys.node_lock_key(action.node_uid)]
    if action.name is ActionName.REMOVE:
        names.append(keys.REMOVE_LOCK)
    return [DeleteKey(name) for name in names if bare(name) == action.uid]


def _of_deleted(write: Delete, view: ClusterView) -> list[DeleteKey]:
    record = write.record
    match record:
        case Database():
            return [DeleteKey(keys.name_key(record.name)), DeleteKey(keys.port_key(record.port))]
        case Shard():
            return [DeleteKey(keys.seen_server_key(record.uid))]
        case _:
            return []
