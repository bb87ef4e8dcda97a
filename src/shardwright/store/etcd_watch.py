"""What the messages of an etcd watch mean: joins them into batches, one for each revision.

Pure. Called by ``etcd.py``. Several revisions may share a message, and one revision may come in several (fragments). Since
the cluster's etcd is its own, every revision changes one of its keys: a watch of all keys that skips a revision has lost
it, and says so instead of going on.
"""

from shardwright.model.codes import Code
from shardwright.store.bounds import FIRST_REVISION
from shardwright.store.etcd_json import Json, change_of, number
from shardwright.store.protocol import Compacted, KeyChange, StoreUnavailable, WatchBatch


class WatchMessages:
    """The messages of one watch, in their order."""

    def __init__(self, *, from_revision: int, sees_all: bool) -> None:
        """``sees_all``: all keys of the cluster are watched."""
        # No transaction has the first revision.
        self._next = max(from_revision, FIRST_REVISION + 1)
        self._sees_all = sees_all
        self._open: dict[int, list[KeyChange]] = {}
        self._owed = 0

    @property
    def asked_from(self) -> int:
        """The revision to ask etcd for: one earlier than needed. etcd forgets a deletion that has exactly the revision of
        a compaction, and would begin there without it and without an error."""
        return self._next - 1

    def take(self, message: Json) -> list[WatchBatch]:
        """The batches that this message completes. Raises Compacted, StoreUnavailable (the watch has ended)."""
        if compacted := number(message, "compact_revision"):
            raise Compacted(
                Code.STORE_COMPACTED, f"revision {self._next} may no longer be kept: etcd was compacted at {compacted}"
            )
        if message.get("canceled"):
            raise StoreUnavailable(
                Code.STORE_UNAVAILABLE, f"etcd has ended the watch: {message.get('cancel_reason') or 'no reason given'}"
            )
        for event in message.get("events", ()):
            revision, change = change_of(event)
            if revision >= self._next:
                self._open.setdefault(revision, []).append(change)
        # The last revision of a fragment may go on in the next one.
        kept = max(self._open, default=0) if message.get("fragment") else 0
        done = [self._batch(revision) for revision in sorted(self._open) if revision != kept]
        return done

    def _batch(self, revision: int) -> WatchBatch:
        if self._sees_all and revision > self._next:
            raise self._lost(revision)
        self._next = revision + 1
        return WatchBatch(revision, tuple(sorted(self._open.pop(revision), key=lambda change: change.key)))

    def note_silence(self, revision: int) -> None:
        """Nothing has come for a while, and the store has this revision. Raises Compacted if a revision that existed at the
        silence before is still missing."""
        if self._sees_all and self._owed >= self._next:
            raise self._lost(self._owed + 1)
        self._owed = revision

    def _lost(self, next_seen: int) -> Compacted:
        return Compacted(
            Code.STORE_COMPACTED,
            f"the watch did not show the revisions {self._next} to {next_seen - 1}: another program may use this etcd",
        )
