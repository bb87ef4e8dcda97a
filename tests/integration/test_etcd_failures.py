"""The store on three real members that die, freeze or lose their quorum: no acknowledged transaction
is missed by a watch, none is seen twice, and service returns within a bar.

The bars are for an idle machine; they grow with its lateness.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from shardwright.model.ids import LeaseId
from shardwright.store.etcd import EtcdStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import LeaseLost, PutKey, StoreUnavailable, Transaction
from shardwright.tasks import spawn
from testkit.deadlines import Stopwatch, until_async
from testkit.etcd import EtcdCluster
from tests.integration.etcd_harness import IMPATIENT, on_three, opened, put
from tests.integration.etcd_probe import Probe, probing

pytestmark = pytest.mark.proof


def within(since: Stopwatch, probe: Probe, /, **bars: float) -> None:
    """Each kind's longest gap is within its bar."""
    print(f"\n{since}: {probe}")
    for kind, bar in bars.items():
        assert since.is_within(bar, took_s=probe.gaps[kind]), f"{kind}: {since}: {probe}"


@dataclass
class Holder:
    """Of a lease with a key."""

    key: str
    lease: LeaseId
    is_lost: bool = False


@asynccontextmanager
async def holding(store: EtcdStore, *, count: int) -> AsyncIterator[list[Holder]]:
    """Leases of 3 s, renewed all the time until one is told as lost."""
    holders = [Holder(f"held/{n}", await store.grant(timedelta(seconds=3))) for n in range(count)]
    for holder in holders:
        await store.transact(Transaction(operations=(PutKey(holder.key, b"", holder.lease),)))

    async def hold(holder: Holder) -> None:
        while not holder.is_lost:
            try:
                await store.renew(holder.lease)
            except LeaseLost:
                holder.is_lost = True
            except StoreUnavailable:
                continue
            await asyncio.sleep(0.3)

    tasks = [spawn(f"hold {holder.key}", hold(holder)) for holder in holders]
    try:
        yield holders
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# -- members that fail -------------------------------------------------------------------------------------------------


def test_the_leader_of_etcd_is_killed(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        leader = etcd.leader()
        # The client asks a member that survives: what it sees is the election.
        survivor = next(n for n, member in enumerate(etcd.members) if member is not leader)
        async with probing(etcd.settings(survivor, limits=IMPATIENT)) as probe:
            watch = Stopwatch()
            leader.kill()
            await probe.succeed()
            within(watch, probe, transaction=4.0, read=4.0, watch=4.5, renewal=4.0)
            assert probe.leases_lost == 0
            probe.forget_gaps()
            watch = Stopwatch()
            await etcd.start(leader)
            await probe.succeed()
            # Its return disturbs nothing: members ask before they stand for election.
            within(watch, probe, transaction=1.0, read=1.0, watch=1.0)
            await probe.check()

    on_three(tmp_path, scenario)


def test_the_member_that_is_asked_is_killed(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        asked = next(n for n, member in enumerate(etcd.members) if member is not etcd.leader())
        async with probing(etcd.settings(asked, limits=IMPATIENT)) as probe:
            watch = Stopwatch()
            etcd.members[asked].kill()
            await probe.succeed()
            within(watch, probe, transaction=1.0, read=1.0, watch=1.0, renewal=2.0)
            assert probe.leases_lost == 0
            await probe.check()

    on_three(tmp_path, scenario)


def test_the_member_that_is_asked_freezes(tmp_path: Path) -> None:
    """A frozen member still takes connections and bytes. All traffic moves with the first attempt that has no answer, the
    watch too, which would have stayed silent."""

    async def scenario(etcd: EtcdCluster) -> None:
        asked = next(n for n, member in enumerate(etcd.members) if member is not etcd.leader())
        async with probing(etcd.settings(asked, limits=IMPATIENT)) as probe:
            watch = Stopwatch()
            etcd.members[asked].freeze()
            await probe.succeed()
            within(watch, probe, transaction=1.6, read=1.6, watch=1.6, renewal=3.0)
            etcd.members[asked].thaw()
            await probe.check()

    on_three(tmp_path, scenario)


def test_a_watch_that_nothing_else_accompanies_leaves_a_frozen_member(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        asked = next(n for n, member in enumerate(etcd.members) if member is not etcd.leader())
        async with opened(etcd, asked, limits=IMPATIENT) as idle, opened(etcd, asked + 1) as writer:
            mirror = Mirror(idle)
            task = spawn("mirror", mirror.run())
            await mirror.ready()
            watch = Stopwatch()
            etcd.members[asked].freeze()
            revision = (await writer.transact(put("a"))).revision
            await until_async("the mirror sees it", lambda: mirror.revision >= revision, seconds=10)
            # A second of silence, an attempt, and the start at another member.
            assert watch.is_within(4.0), watch
            etcd.members[asked].thaw()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    on_three(tmp_path, scenario)


def test_the_leader_of_etcd_freezes_and_wakes(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        leader = etcd.leader()
        survivor = next(n for n, member in enumerate(etcd.members) if member is not leader)
        async with probing(etcd.settings(survivor, limits=IMPATIENT), lease=timedelta(seconds=3)) as probe:
            watch = Stopwatch()
            leader.freeze()
            await asyncio.sleep(7)  # Longer than the lease's time and its lateness: the frozen leader holds it for ended.
            within(watch, probe, transaction=4.0, read=4.0, watch=4.5)
            leader.thaw()
            await probe.succeed()
            await probe.check()

    on_three(tmp_path, scenario)


def test_leases_that_a_waking_leader_of_etcd_ends_are_told_as_lost(tmp_path: Path) -> None:
    """etcd 3.4 may end all leases when its frozen leader wakes, although they were renewed at the others all the while. The
    holders must learn it, the watch must show it, and new leases must hold."""

    async def scenario(etcd: EtcdCluster) -> None:
        leader = etcd.leader()
        survivor = next(n for n, member in enumerate(etcd.members) if member is not leader)
        async with opened(etcd, survivor) as store, holding(store, count=5) as holders:
            await asyncio.sleep(2)  # The leader has seen renewals.
            leader.freeze()
            await asyncio.sleep(7)  # Longer than the leases' time and its lateness: the frozen leader takes them for ended.
            leader.thaw()
            await asyncio.sleep(3)  # Its revocations come within a second; each holder has renewed since.
            lost = [holder for holder in holders if holder.is_lost]
            print(f"\nleases that the waking leader has ended: {len(lost)} of {len(holders)}")
            for holder in holders:
                assert ((await store.get(holder.key)) is None) == holder.is_lost
            batches = store.watch("", from_revision=2)
            async with asyncio.timeout(30):
                gone: set[str] = set()
                while len(gone) < len(lost):
                    gone |= {change.key for change in (await anext(batches)).changes if change.current is None}
            assert gone == {holder.key for holder in lost}
            again = await store.grant(timedelta(seconds=3))
            await store.transact(Transaction(operations=(PutKey("again", b"", again),)))
            await store.renew(again)

    async def main() -> None:
        # Without certificates, as it was seen; with them it is rarer.
        async with asyncio.timeout(120), EtcdCluster(tmp_path / "etcd", count=3) as etcd:
            await scenario(etcd)

    uvloop.run(main())


def test_without_a_quorum_nothing_is_promised(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        left, *others = etcd.members
        async with probing(etcd.settings(0, limits=IMPATIENT)) as probe:
            for member in others:
                member.kill()
            answered = len(probe.acknowledged)
            await asyncio.sleep(5)  # The outage.
            # Those whose answer was under way when the second member died.
            assert len(probe.acknowledged) <= answered + 2
            assert probe.errors
            watch = Stopwatch()
            with pytest.raises(StoreUnavailable):
                await EtcdStore.open(etcd.settings(0, limits=IMPATIENT))
            assert watch.is_within(6.0, clock_s=2.1), watch
            await etcd.start(*others)
            await probe.succeed()
            assert probe.leases_lost == 0, "a new leader of etcd begins every lease again"
            await probe.check()
        assert left.process is not None

    on_three(tmp_path, scenario)
