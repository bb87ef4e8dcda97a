"""Collects the writes of a turn for one transaction. The death of a node with hundreds of slot groups must not cost hundreds
of round trips to the store.

Pure. Owns the limit of one transaction, and the view that later decisions of the turn see.
"""

from collections.abc import Sequence

from shardwright.model.action import Action
from shardwright.model.cluster import Cluster, Counters, Policy
from shardwright.model.event import Event
from shardwright.model.leader_change import LeaderChange
from shardwright.model.move import HandoffMove, Rebind, Relocation
from shardwright.model.view import ClusterView, Delete, Put, Write, place_of
from shardwright.store import records
from shardwright.store.protocol import TRANSACTION_BYTES_MAX, TRANSACTION_OPERATIONS_MAX

OPERATIONS_MAX = TRANSACTION_OPERATIONS_MAX - 8
"""The difference is reserved for the compare of the leadership and for additions of the store."""
BYTES_MAX = TRANSACTION_BYTES_MAX * 3 // 4
"""The difference is reserved for keys, compares and seals."""


_LAST_COUNTS = (Event, Cluster, Policy, Counters, LeaderChange, Action, HandoffMove, Relocation, Rebind)
"""Records whose states need not be stored one by one."""


class Batch:
    """Decisions on ``base`` that will be committed together."""

    def __init__(self, base: ClusterView) -> None:
        self.base = base
        self.view = base
        """The view with all writes so far."""
        self.writes: list[Write] = []
        self._written: set[object] = set()
        self._operations = 0
        self._size = 0

    def has_room_for(self, writes: Sequence[Write]) -> bool:
        """Whether these writes fit, too. A transaction writes a record only once, so that each of its states is stored; of
        actions and moves, the last state counts. The first writes always fit: if they are too large for any transaction, the
        store refuses them."""
        if not self.writes:
            return True
        if not self._written.isdisjoint(map(_place_of, writes)):
            return False
        operations = self._operations + _operations_of(writes)
        return operations <= OPERATIONS_MAX and self._size + _size_of(writes) <= BYTES_MAX

    def add(self, writes: Sequence[Write]) -> None:
        """Add writes that were decided on ``view``."""
        self.writes += writes
        self._written.update(place for w in writes if (place := _place_of(w)) is not None)
        self._operations += _operations_of(writes)
        self._size += _size_of(writes)
        self.view = self.view.with_writes(writes)


def _place_of(write: Write) -> object:
    """The record that is written; None: its states need not be stored one by one."""
    return None if isinstance(write.record, _LAST_COUNTS) else place_of(write.record)


def _operations_of(writes: Sequence[Write]) -> int:
    """Number of operations, including companions. A record has at most two: a database's name and port, or an action's
    locks."""
    return sum(3 if isinstance(w, Delete) or isinstance(w.record, Action) else 1 for w in writes)


def _size_of(writes: Sequence[Write]) -> int:
    return sum(len(records.encode(write.record)) for write in writes if isinstance(write, Put))
