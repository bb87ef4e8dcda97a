"""Keys that live and die with a record: locks of actions, names and ports of databases, what was seen of servers.

Owns which operations accompany a leader's writes, so that no decision needs to know of them. Pure.
"""

from collections.abc import Callable, Sequence

from shardwright.model.action import Action, ActionName
from shardwright.model.database import Database, Shard
from shardwright.model.view import ClusterView, Delete, Write
from shardwright.store import keys
from shardwright.store.protocol import DeleteKey, Transaction


def companions(writes: Sequence[Write], view: ClusterView, bare: Callable[[str], str | None]) -> Transaction:
    """What must happen in the same transaction. ``view`` is from before the writes; ``bare`` reads a bare value."""
    operations: list[DeleteKey] = []
    for write in writes:
        record = write.record
        if isinstance(record, Action) and not isinstance(write, Delete) and record.status.is_terminal:
            operations += _locks(record, bare)
        elif isinstance(write, Delete):
            operations += _of_deleted(write, view)
    return Transaction(operations=tuple(dict.fromkeys(operations)))


def _locks(action: Action, bare: Callable[[str], str | None]) -> list[DeleteKey]:
    """The places that an action holds; one that has ended already holds none."""
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
