"""The first transaction of a cluster: which keys its first records need, and what makes it happen once only. Pure.

Used by what creates a cluster. Decides nothing about the records themselves.
"""

from collections.abc import Callable, Iterable, Sequence

from shardwright.model.account import User
from shardwright.model.event import Event
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.protocol import ModifiedAt, PutKey, Transaction
from shardwright.store.seal import Sealing


def founding_items(
    made: Iterable[StoredRecord], sealing: Sealing, *, random_text: Callable[[], str], cluster_id: str = ""
) -> tuple[PutKey, ...]:
    """The records as they are stored, sealed where the store seals, with the other keys that they need. ``random_text``: for
    the keys of events. ``cluster_id``: empty: the cluster gets none."""
    items = [PutKey(keys.CLUSTER_ID, cluster_id.encode())] if cluster_id else []
    for record in made:
        key = keys.event_key(record, random_text()) if isinstance(record, Event) else keys.key_of(record)
        items.append(PutKey(key, sealing.seal(key, records.encode(record))))
        if isinstance(record, User):
            items.append(PutKey(keys.email_key(record.email), str(record.uid).encode()))
    return tuple(items)


def first_transaction(items: Sequence[PutKey]) -> Transaction:
    """Writes them into a store that has no cluster yet; otherwise nothing happens."""
    return Transaction((ModifiedAt(keys.CLUSTER, 0),), tuple(items))
