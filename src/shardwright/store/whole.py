"""The whole store as of one revision: pages of different revisions, brought together by a watch.

Used by the mirror, which then follows the store, and by a backup. Decides nothing about the items.
"""

from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from shardwright.store.protocol import KeyChange, KeyValue, Store, WatchBatch


class Whole:
    """Items as of a revision. While it catches up from pages of different revisions, it has no single revision yet."""

    def __init__(self, revision: int) -> None:
        self.items: dict[str, KeyValue] = {}
        self.order: list[str] = []
        self.revision = revision

    def put(self, item: KeyValue) -> bool:
        """Add an item unless a newer one exists already (a page was newer than the change)."""
        old = self.items.get(item.key)
        if old is not None and old.modify_revision >= item.modify_revision:
            return False
        self.items[item.key] = item
        if old is None:
            insort(self.order, item.key)
        return True

    def delete(self, key: str, revision: int) -> bool:
        """Apply a deletion unless the existing item is newer."""
        old = self.items.get(key)
        if old is None or old.modify_revision > revision:
            return False
        del self.items[key]
        del self.order[bisect_left(self.order, key)]
        return True

    def apply(self, batch: WatchBatch) -> list[KeyChange]:
        """Apply one revision; returns the changes that took effect."""
        effective = [
            change
            for change in batch.changes
            if (self.delete(change.key, batch.revision) if change.current is None else self.put(change.current))
        ]
        self.revision = max(self.revision, batch.revision)
        return effective


async def read_whole(store: Store) -> Whole:
    """Read all pages, then watch from the first page's revision to the last page's: the result is one revision. Raises
    Compacted (read again), StoreUnavailable."""
    page = await store.range("")
    whole = Whole(page.revision)
    last_revision = page.revision
    while True:
        for item in page.items:
            whole.put(item)
        if page.next_start is None:
            break
        page = await store.range("", start=page.next_start)
        last_revision = max(last_revision, page.revision)
    if whole.revision < last_revision:
        async with _watching(store, from_revision=whole.revision + 1) as batches:
            async for batch in batches:
                whole.apply(batch)
                if whole.revision >= last_revision:
                    break
    return whole


@asynccontextmanager
async def _watching(store: Store, *, from_revision: int) -> AsyncIterator[AsyncIterator[WatchBatch]]:
    """A watch that can end early: its generator is closed immediately, not at garbage collection."""
    batches = store.watch("", from_revision=from_revision)
    try:
        yield batches
    finally:
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()
