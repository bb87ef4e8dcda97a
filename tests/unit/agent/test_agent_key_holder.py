"""Whether a node's record says that it holds the authority's key. Real files, a store in memory."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardwright.agent.key_holder import KeyHolder, corrected
from shardwright.clock import SystemClock
from shardwright.errors import Rejected
from shardwright.model.cluster import Cluster, ClusterKind, Counters, Node, Policy
from shardwright.model.ids import NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.model.view import ClusterView
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Transaction
from shardwright.tasks import spawn
from shardwright.trust.files import TrustFiles, write_signer
from testkit.certificates import members

NOW = datetime.now(UTC)
TWO = NodeUid(2)
CLUSTER = Cluster("c", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION, kind=ClusterKind.MACHINES)
NODE = Node(TWO, "10.0.0.2", NOW)


@dataclass
class World:
    mirror: Mirror
    holder: KeyHolder

    async def look(self) -> Node:
        """The node's record after one look."""
        await self.holder.look()
        await self.mirror.fresh()
        return self.mirror.view().nodes[TWO]


def run(directory: Path, scenario: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = MemoryStore(SystemClock())
        first: list[StoredRecord] = [CLUSTER, NODE]
        await store.transact(Transaction((), tuple(PutKey(keys.key_of(r), records.encode(r)) for r in first)))
        mirror = Mirror(store)
        task = spawn("mirror", mirror.run())
        await mirror.ready()
        holder = KeyHolder(TWO, TrustFiles(directory), store, mirror=mirror, clock=SystemClock(), random_text=lambda: "r")
        try:
            await scenario(World(mirror, holder))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(whole())


def test_a_copy_of_the_key_is_recorded_and_so_is_its_end(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        assert await world.look() == NODE
        write_signer(TrustFiles(tmp_path), members().signer)
        assert await world.look() == replace(NODE, is_signer=True)
        TrustFiles(tmp_path).authority_key.unlink()
        assert await world.look() == NODE

    run(tmp_path, scenario)


def test_a_key_of_another_authority_is_no_copy(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        files = TrustFiles(tmp_path)
        write_signer(files, members().signer)
        files.authority.write_bytes(members().signer.authority.text)
        with pytest.raises(Rejected):
            await world.look()
        assert not world.mirror.view().nodes[TWO].is_signer

    run(tmp_path, scenario)


def test_a_local_cluster_and_a_removed_node_have_nothing_to_correct() -> None:
    view = ClusterView(cluster=CLUSTER, policy=Policy(), counters=Counters(), nodes={TWO: NODE})
    assert corrected(view, TWO, has_key=True) == replace(NODE, is_signer=True)
    assert corrected(view, TWO, has_key=False) is None
    assert corrected(view, NodeUid(3), has_key=True) is None
    local = replace(view, cluster=replace(CLUSTER, kind=ClusterKind.LOCAL))
    assert corrected(local, TWO, has_key=True) is None
