"""The mirror: the whole store in memory, read once and kept up to date by a watch.

Every daemon has one; the leader, the agent and the API decide from it. It may lag behind the store by milliseconds:
``fresh`` catches up, and every commit compares revisions (``commit.py``). Read-only. Belongs to one event loop.
"""

import asyncio
import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from functools import partial

import structlog

from shardwright.clock import Clock, SystemClock
from shardwright.errors import Permanent
from shardwright.model.cluster import Cluster
from shardwright.model.ids import KeyUid
from shardwright.model.key_rotation import KeyRotation
from shardwright.model.version import FIRST_CLUSTER_VERSION
from shardwright.model.view import ClusterView
from shardwright.store import keys, records
from shardwright.store.admission import check_item
from shardwright.store.keys import StoredRecord
from shardwright.store.protocol import Compacted, KeyChange, KeyValue, Store, StoreUnavailable
from shardwright.store.seal import IN_CLEAR, Sealing
from shardwright.store.tables import Tables
from shardwright.store.whole import Whole, read_whole

BACKOFF_FIRST_S = 0.05
BACKOFF_LAST_S = 1.0
REMOVED_KEPT_MAX = 10_000
"""Deletions kept with their revision; no decision is based on a state that old."""

Decode = Callable[[KeyValue], StoredRecord | None]

_log = structlog.get_logger(__name__)


class Mirror:
    """The whole store in memory, as of one revision."""

    def __init__(
        self, store: Store, *, clock: Clock | None = None, decode: Decode | None = None, sealing: Sealing = IN_CLEAR
    ) -> None:
        """``decode`` reads one item; None: ``decode_item``. ``sealing`` opens sealed values."""
        self.sealing = sealing
        """A commit seals with it too."""
        self._store = store
        self._clock: Clock = clock or SystemClock()
        self._copy = Whole(0)
        self._decode = decode or partial(decode_item, sealing=sealing)
        self._is_ready = False
        self._subscribers: list[Callable[[Collection[str]], None]] = []
        self._advanced = asyncio.Event()
        self._fresh_since = -math.inf
        self._removed: OrderedDict[str, int] = OrderedDict()
        self._decoded: dict[str, tuple[int, StoredRecord | None]] = {}
        self._tables = Tables()
        self._changed_since_view: set[str] = set()

    # -- upkeep ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the mirror up to date, indefinitely. An unreachable store is retried; the data read so far stays.

        Raises Permanent when the store contains what this daemon must not go on with (``admission.py``). The mirror then
        stays at the revision before it, and the daemon must end.
        """
        backoff_s = BACKOFF_FIRST_S
        while True:
            before = self._copy.revision
            reason = "the watch ended"
            try:
                if not self._is_ready:
                    await self._read_all()
                await self._follow()
            except Compacted:
                _log.info(
                    "the mirror fell behind the store's history and reads everything again", revision=self._copy.revision
                )
                try:
                    await self._read_all()
                    continue
                except (Compacted, StoreUnavailable) as e:
                    reason = e.text
            except StoreUnavailable as e:
                reason = e.text
            backoff_s = BACKOFF_FIRST_S if self._copy.revision > before else min(2 * backoff_s, BACKOFF_LAST_S)
            _log.warning("the store cannot be watched", reason=reason, retry_in_s=backoff_s)
            await self._clock.sleep(backoff_s)

    async def _follow(self) -> None:
        async for batch in self._store.watch("", from_revision=self._copy.revision + 1):
            self._admit(change.current for change in batch.changes)
            self._take(self._copy.apply(batch))

    def _admit(self, items: Iterable[KeyValue | None]) -> None:
        for item in items:
            if item is not None:
                check_item(item, self.sealing)

    async def _read_all(self) -> None:
        whole = await read_whole(self._store)
        self._admit(whole.items.values())
        self._replace(whole)

    def _replace(self, copy: Whole) -> None:
        old, self._copy = self._copy, copy
        self._is_ready = True
        gone = [KeyChange(key, None) for key in old.items.keys() - copy.items.keys()]
        put = [KeyChange(key, item) for key, item in copy.items.items() if old.items.get(key) != item]
        self._take([*gone, *put])

    def _take(self, changes: Collection[KeyChange]) -> None:
        for change in changes:
            self._changed_since_view.add(change.key)
            if change.current is None:
                self._decoded.pop(change.key, None)
                self._removed[change.key] = self._copy.revision
                self._removed.move_to_end(change.key)
            else:
                self._removed.pop(change.key, None)
        while len(self._removed) > REMOVED_KEPT_MAX:
            self._removed.popitem(last=False)
        advanced, self._advanced = self._advanced, asyncio.Event()
        advanced.set()
        if self._subscribers and changes:
            changed = [change.key for change in changes]
            for call in list(self._subscribers):
                call(changed)

    def subscribe(self, call: Callable[[Collection[str]], None]) -> Callable[[], None]:
        """Call ``call`` with the keys of every change, once the mirror shows it. Returns a function that ends the
        subscription."""
        self._subscribers.append(call)
        return lambda: self._subscribers.remove(call)

    # -- waiting -----------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """The store's revision that the mirror shows; 0 before the first read."""
        return self._copy.revision if self._is_ready else 0

    async def ready(self) -> None:
        """Wait until the store has been read once. Without a time limit, even if ``run`` is not running or the store is
        unreachable."""
        while not self._is_ready:
            await self._advanced.wait()

    async def reach(self, revision: int) -> None:
        """Wait until the mirror shows at least this revision. Without a time limit, like ``ready``."""
        while self.revision < revision:
            await self._advanced.wait()

    def now(self) -> float:
        """The time for ``fresh``, in monotonic seconds."""
        return self._clock.monotonic()

    async def fresh(self, since: float | None = None) -> None:
        """Wait until the mirror shows every change that ended before ``since``; None: before the call. Raises
        StoreUnavailable.

        Asks the store, unless it has been asked since. That takes about a millisecond: a store that reads a newer revision
        wakes its watchers.
        """
        if since is not None and since <= self._fresh_since:
            return
        asked_at = self.now()
        await self.reach(await self._store.revision())
        self._fresh_since = max(self._fresh_since, asked_at)

    async def wait_change(self, after_revision: int, timeout_s: float | None = None) -> int:
        """Wait until the mirror shows a later revision, or for ``timeout_s``; returns its revision then."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.reach(after_revision + 1)
        except TimeoutError:
            pass
        return self.revision

    # -- reading -----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> KeyValue | None:
        """The item at a key."""
        return self._copy.items.get(key)

    def range(self, prefix: str) -> list[KeyValue]:
        """Items whose keys begin with ``prefix``, in the order of their keys."""
        return [self._copy.items[key] for key in self._keys(prefix)]

    def _keys(self, prefix: str) -> list[str]:
        matching: list[str] = []
        order = self._copy.order
        for index in range(bisect_left(order, prefix), len(order)):
            if not order[index].startswith(prefix):
                break
            matching.append(order[index])
        return matching

    def modified_at(self, key: str) -> int:
        """Revision of the last change of an existing key; 0 if it does not exist."""
        item = self._copy.items.get(key)
        return 0 if item is None else item.modify_revision

    def created_at(self, key: str) -> int:
        """Revision at which an existing key was created; 0 if it does not exist."""
        item = self._copy.items.get(key)
        return 0 if item is None else item.create_revision

    def touched_at(self, key: str) -> int:
        """Revision of the last change of a key, including deletions; 0 if none is known."""
        return self.modified_at(key) or self._removed.get(key, 0)

    def bare(self, key: str) -> str | None:
        """The text at a key with a bare uid or number; None if the key does not exist."""
        item = self._copy.items.get(key)
        return None if item is None else item.value.decode(errors="replace")

    def record(self, key: str) -> StoredRecord | None:
        """The record at a key; None if it does not exist or is unreadable (which is logged)."""
        item = self._copy.items.get(key)
        if item is None:
            return None
        cached = self._decoded.get(key)
        if cached is None or cached[0] != item.modify_revision:
            cached = self._decoded[key] = (item.modify_revision, self._decode(item))
        return cached[1]

    def records(self, prefix: str) -> list[StoredRecord]:
        """The readable records under a prefix, in the order of their keys."""
        decoded = (self.record(key) for key in self._keys(prefix))
        return [record for record in decoded if record is not None]

    @property
    def cluster_version(self) -> int:
        """The version of the records that every daemon can read."""
        cluster = self.record(keys.CLUSTER)
        return cluster.cluster_version if isinstance(cluster, Cluster) else FIRST_CLUSTER_VERSION

    @property
    def sealing_uid(self) -> KeyUid | None:
        """The key with which a commit seals now; None: the first of ``sealing``."""
        rotation = self.record(keys.KEY_ROTATION)
        return rotation.seals if isinstance(rotation, KeyRotation) else None

    def view(self) -> ClusterView:
        """All records of ``revision``. The same object until the next change."""
        if self._tables.view().revision != self.revision:
            changed = {key: self.record(key) for key in sorted(self._changed_since_view) if not key.startswith(keys.EVENTS)}
            self._changed_since_view.clear()
            self._tables.update(changed, revision=self.revision)
        return self._tables.view()


def decode_item(item: KeyValue, sealing: Sealing = IN_CLEAR) -> StoredRecord | None:
    """The record of an item; None if it has none, or an unreadable one (which is logged)."""
    if keys.type_of(item.key) is None:
        return None
    try:
        record = records.decode(item.key, sealing.open(item.key, item.value))
    except Permanent as e:
        _log.error(
            "a record cannot be read and is skipped", key=item.key, revision=item.modify_revision, code=e.code, reason=e.text
        )
        return None
    return None if isinstance(record, str) else record
