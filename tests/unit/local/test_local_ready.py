"""When ``up`` considers a cluster ready."""

import asyncio
import os
from pathlib import Path

import pytest

from shardwright.clock import SystemClock
from shardwright.errors import Permanent
from shardwright.local.layout import layout_of
from shardwright.local.ready import ASK_TIMEOUT_S, READY_TIMEOUT_S, wait_ready
from shardwright.local.tls import ensure_certificate
from shardwright.machine.identity_file import write_identity
from shardwright.machine.processes import identity_of
from shardwright.model.cluster import Cluster, Leadership, Node
from shardwright.model.ids import NodeUid
from shardwright.store import keys, records
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import DeleteKey, PutKey, Transaction
from shardwright.tasks import spawn
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


def test_nodes_that_accept_and_do_not_answer_are_asked_at_the_same_time(tmp_path: Path) -> None:
    asyncio.run(_ask_two_silent_nodes(tmp_path))


async def _ask_two_silent_nodes(directory: Path) -> None:
    layout, store = layout_of(directory), MemoryStore(SystemClock())
    asked: list[asyncio.StreamWriter] = []
    both = asyncio.Event()

    async def stay_silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        if len({w.get_extra_info("sockname") for w in asked}) == 2:
            both.set()

    async with await asyncio.start_server(stay_silent, "127.0.0.1", 0) as first:
        port = first.sockets[0].getsockname()[1]
        async with await asyncio.start_server(stay_silent, "127.0.0.2", port):
            made = (Cluster("c", NOW, "127.0.0.1", port), NODE, Node(NodeUid(2), "127.0.0.2", NOW))
            await store.transact(Transaction((), tuple(PutKey(keys.key_of(r), records.encode(r)) for r in made)))
            ensure_certificate(layout.tls, [NODE.address], NOW)
            waiting = spawn("wait until ready", wait_ready(layout, store, clock=SystemClock(), on_node=print))
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    await both.wait()
            finally:
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                for writer in asked:
                    writer.close()
                await asyncio.gather(*(w.wait_closed() for w in asked), return_exceptions=True)
                await store.close()
