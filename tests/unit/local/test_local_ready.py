"""When ``up`` considers a cluster ready."""

import asyncio
import os
from pathlib import Path

import pytest

from shardwright.clock import SystemClock
from shardwright.errors import Permanent
from shardwright.local.layout import layout_of
from shardwright.local.ready import READY_TIMEOUT_S, wait_ready
from shardwright.machine.identity_file import write_identity
from shardwright.machine.processes import identity_of
from shardwright.model.cluster import Cluster, Leadership, Node
from shardwright.model.ids import NodeUid
from shardwright.store import keys, records
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import DeleteKey, PutKey, Transaction
from testkit.builders import NOW

NODE = Node(NodeUid(1), "127.0.0.1", NOW)


class _Clock(SystemClock):
    """Time passes only by sleeping; the first sleep has a side effect."""

    def __init__(self) -> None:
        self.slept = 0.0
        self.transaction: Transaction | None = None
        self.store: MemoryStore | None = None

    def monotonic(self) -> float:
        return self.slept

    async def sleep(self, seconds: float) -> None:
        self.slept += max(seconds, READY_TIMEOUT_S / 4)
        if self.store is not None and self.transaction is not None:
            await self.store.transact(self.transaction)
            self.transaction = None


async def _wait(directory: Path, *, is_removed_meanwhile: bool) -> float:
    layout = layout_of(directory)
    myself = identity_of(os.getpid())
    assert myself is not None
    write_identity(layout.supervisor, myself)
    clock = _Clock()
    store = MemoryStore(SystemClock())
    made = (Cluster("c", NOW, "127.0.0.1", 1), NODE, Leadership(NodeUid(2), 1))
    await store.transact(Transaction((), tuple(PutKey(keys.key_of(r), records.encode(r)) for r in made)))
    if is_removed_meanwhile:
        clock.store, clock.transaction = store, Transaction((), (DeleteKey(keys.key_of(NODE)),))
    try:
        await wait_ready(layout, store, clock=clock, on_node=print)
    finally:
        await store.close()
    return clock.slept


def test_a_node_that_is_removed_meanwhile_is_not_awaited(tmp_path: Path) -> None:
    assert asyncio.run(_wait(tmp_path, is_removed_meanwhile=True)) < READY_TIMEOUT_S


def test_a_node_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"node 1 at 127\.0\.0\.1 does not answer"):
        asyncio.run(_wait(tmp_path, is_removed_meanwhile=False))
