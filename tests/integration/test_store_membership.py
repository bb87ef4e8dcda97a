"""A leadership and a real etcd: a new node's member is written down, promoted, and removed again with its node."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import uvloop

from shardwright.clock import SystemClock
from shardwright.leader.handoff import Build
from shardwright.leader.members import Membership
from shardwright.model.cluster import Leadership
from shardwright.model.ids import NodeUid
from shardwright.model.store_member import StoreRole
from shardwright.model.version import CLUSTER_VERSION
from shardwright.model.view import ClusterView, Delete
from shardwright.store import keys, records
from shardwright.store.commit import Conflict, Fence, commit
from shardwright.store.etcd import EtcdStore
from shardwright.store.mirror import Mirror
from shardwright.store.open import open_members
from shardwright.store.protocol import DeleteKey, PutKey, Transaction
from shardwright.tasks import spawn
from testkit.builders import cluster
from testkit.deadlines import until_async
from testkit.etcd import EtcdCluster, Member, own_address
from tests.integration.etcd_harness import opened

pytestmark = pytest.mark.proof


def founded() -> ClusterView:
    """Two nodes; the first has the only member. The second's address is the one by which its member is known before it has a
    name."""
    builder = cluster(2).with_node_changed(1, store_role=StoreRole.VOTER).with_node_changed(2, address=own_address())
    assert builder.view.cluster is not None
    return builder.with_records(replace(builder.view.cluster, cluster_version=CLUSTER_VERSION)).view


class Leading:
    """The part of a leadership that looks after the members."""

    def __init__(self, store: EtcdStore, mirror: Mirror, fence: Fence) -> None:
        self.store, self.mirror, self.fence = store, mirror, fence
        self._numbers = count()
        self.is_lost = False

    async def commit(self, build: Build) -> None:
        while writes := build(self.mirror.view()):
            try:
                await commit(
                    self.store, self.mirror, writes, fence=self.fence, random_text=lambda: f"{next(self._numbers):08x}"
                )
            except Conflict:
                continue
            return

    def lose(self) -> None:
        self.is_lost = True

    def role(self, uid: int) -> StoreRole:
        return self.mirror.view().nodes[NodeUid(uid)].store_role


def on_a_founded_one(tmp_path: Path, scenario: Callable[[EtcdCluster, Leading], Awaitable[None]]) -> None:
    async def main() -> None:
        etcd = EtcdCluster(tmp_path / "etcd", tls=True)
        etcd.members[0].name = "node-1"
        async with asyncio.timeout(120), etcd, opened(etcd) as store:
            view = founded()
            found = [view.cluster, *view.nodes.values(), view.counters, Leadership(NodeUid(1), 1)]
            puts = tuple(PutKey(keys.key_of(r), records.encode(r)) for r in found if r is not None)
            revision = (await store.transact(Transaction(operations=puts))).revision
            mirror = Mirror(store)
            mirroring = spawn("mirror", mirror.run())
            await mirror.ready()
            leading = Leading(store, mirror, Fence(revision))
            members = open_members(etcd.settings())
            assert members is not None
            membership = Membership(
                members,
                store,
                fence=leading.fence,
                commit=leading.commit,
                current=mirror.view,
                clock=SystemClock(),
                on_lost=leading.lose,
            )
            membership.start()
            try:
                await scenario(etcd, leading)
            finally:
                await membership.close()
                mirroring.cancel()
                await asyncio.gather(mirroring, return_exceptions=True)

    uvloop.run(main())


async def joins(etcd: EtcdCluster, leading: Leading) -> Member:
    """Node 2's member is added, as the API does at a join, and started."""
    newcomer = etcd.newcomer("node-2")
    members = open_members(etcd.settings())
    assert members is not None
    await members.add_learner(newcomer.peer_url)
    await members.close()
    await until_async("the learner is written down", lambda: leading.role(2) is StoreRole.LEARNER, seconds=20)
    await etcd.start(newcomer)
    await until_async(
        "the learner is promoted", lambda: leading.role(2) is StoreRole.VOTER, seconds=30, state=lambda: etcd.logs()
    )
    return newcomer


def test_a_member_comes_and_goes_with_its_node(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster, leading: Leading) -> None:
        await joins(etcd, leading)
        node = leading.mirror.view().nodes[NodeUid(2)]
        await leading.commit(lambda view: [Delete(node)] if NodeUid(2) in view.nodes else [])
        members = open_members(etcd.settings())
        assert members is not None
        watch = [len(await members.members())]

        async def ask() -> None:
            while watch[-1] != 1:
                watch.append(len(await members.members()))
                await asyncio.sleep(0.1)

        asking = asyncio.ensure_future(ask())
        await until_async("its member is removed", asking.done, seconds=40, state=lambda: (watch, etcd.logs()))
        await members.close()
        assert (await leading.store.transact(Transaction(operations=(PutKey("a", b""),)))).succeeded
        assert not leading.is_lost

    on_a_founded_one(tmp_path, scenario)


def test_a_leader_that_is_replaced_changes_nothing_more(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster, leading: Leading) -> None:
        other = PutKey(keys.LEADER, records.encode(Leadership(NodeUid(2), 2)))
        # The key is another one then, although it has the same name.
        await leading.store.transact(Transaction(operations=(DeleteKey(keys.LEADER),)))
        await leading.store.transact(Transaction(operations=(other,)))
        newcomer = etcd.newcomer("node-2")
        members = open_members(etcd.settings())
        assert members is not None
        await members.add_learner(newcomer.peer_url)
        await until_async("it notices", lambda: leading.is_lost, seconds=20)
        assert leading.role(2) is StoreRole.NONE
        await members.close()

    on_a_founded_one(tmp_path, scenario)
