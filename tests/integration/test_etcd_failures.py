"""The store on three real members that die, freeze, fill up, lose their quorum or are restored: no acknowledged transaction
is missed by a watch, none is seen twice, and service returns within a bar.

The bars are for an idle machine; they grow with its lateness, except for what etcd's own clock decides.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId
from shardwright.store.etcd import EtcdStore
from shardwright.store.etcd_errors import StoreFull, StoreReplaced
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import Compacted, DeleteKey, LeaseLost, PutKey, StoreUnavailable, Transaction
from shardwright.store.settings import EtcdLimits
from shardwright.tasks import spawn
from testkit.certificates import SERVER, TestAuthority
from testkit.deadlines import Stopwatch, until_async
from testkit.etcd import PATIENT, EtcdCluster
from tests.integration.etcd_probe import Probe, probing

IMPATIENT = EtcdLimits()
"""As in a daemon."""
ONE_ATTEMPT = EtcdLimits(connect_s=5, attempt_s=5, ask_s=0)
"""The first error is reported, however slow the machine is."""


def on_three(tmp_path: Path, scenario: Callable[[EtcdCluster], Awaitable[None]]) -> None:
    """Run a scenario on three members with certificates, in the daemons' event loop."""

    async def main() -> None:
        async with asyncio.timeout(120), EtcdCluster(tmp_path / "etcd", count=3, tls=True) as etcd:
            await scenario(etcd)

    uvloop.run(main())


def on_one(tmp_path: Path, scenario: Callable[[EtcdCluster], Awaitable[None]], *, quota_bytes: int = 2**31) -> None:
    async def main() -> None:
        async with asyncio.timeout(120), EtcdCluster(tmp_path / "etcd", quota_bytes=quota_bytes) as etcd:
            await scenario(etcd)

    uvloop.run(main())


@asynccontextmanager
async def opened(etcd: EtcdCluster, first: int = 0, *, limits: EtcdLimits = PATIENT) -> AsyncIterator[EtcdStore]:
    store = await EtcdStore.open(etcd.settings(first, limits=limits))
    try:
        yield store
    finally:
        await store.close()


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


def put(key: str, value: bytes = b"") -> Transaction:
    return Transaction(operations=(PutKey(key, value),))


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


@pytest.mark.proof
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


@pytest.mark.proof
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


@pytest.mark.proof
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


# -- history and space -------------------------------------------------------------------------------------------------


def test_a_mirror_survives_a_compaction_and_misses_no_deletion(tmp_path: Path) -> None:
    """etcd forgets a deletion at exactly the revision of a compaction, without an error for a watch that begins there."""

    async def scenario(etcd: EtcdCluster) -> None:
        async with opened(etcd) as store:
            await store.transact(put("kept"))
            await store.transact(put("gone"))
            deleted = (await store.transact(Transaction(operations=(DeleteKey("gone"),)))).revision
            await store.compact(deleted)
            batches = store.watch("", from_revision=deleted)
            with pytest.raises(Compacted):
                await anext(batches)
            mirror = Mirror(store)
            task = spawn("mirror", mirror.run())
            await mirror.ready()
            assert [item.key for item in mirror.range("")] == ["kept"]
            await store.compact(await store.revision())
            last = (await store.transact(put("last"))).revision
            await asyncio.wait_for(mirror.reach(last), 10)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    on_one(tmp_path, scenario)


def test_a_large_revision_comes_whole_although_etcd_splits_it(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        async with opened(etcd) as store:
            last = 0
            for n in range(6):
                puts = tuple(PutKey(f"{n}/{part:02d}", bytes(10_000)) for part in range(100))
                last = (await store.transact(Transaction(operations=puts))).revision
            found = []
            batches = store.watch("", from_revision=2)
            async for batch in batches:
                found.append((batch.revision, [change.key for change in batch.changes]))
                if batch.revision == last:
                    break
            assert found == [(2 + n, [f"{n}/{part:02d}" for part in range(100)]) for n in range(6)]
            page = await store.range("")
            assert page.next_start is not None
            assert page.items[-1].key < page.next_start

    on_one(tmp_path, scenario)


def test_a_full_etcd_is_named_with_its_remedy_and_recovers_by_it(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        async with opened(etcd) as store:
            lease = await store.grant(timedelta(seconds=60))

            async def fill() -> None:
                for n in range(100):
                    await store.transact(put("large", n.to_bytes(1) * 900_000))

            with pytest.raises(StoreFull) as full:
                await fill()
            assert full.value.code is Code.STORE_FULL
            assert "--quota-backend-bytes" in full.value.text
            assert "alarm disarm" in full.value.code.remedy
            # What needs no space works on.
            assert (await store.get("large")) is not None
            await store.renew(lease)
            await store.transact(Transaction(operations=(DeleteKey("large"),)))
            # The remedy.
            await store.compact(await store.revision())
            etcd.control("defrag")
            etcd.control("alarm", "disarm")
            assert (await store.transact(put("small"))).succeeded

    on_one(tmp_path, scenario, quota_bytes=16 * 1024**2)


# -- whom the store trusts ---------------------------------------------------------------------------------------------


def test_a_restored_etcd_is_another_one(tmp_path: Path) -> None:
    """It has earlier revisions, so a watch from the old head would wait for ever, and a transaction could hit a record that
    only has the same number."""

    async def scenario(etcd: EtcdCluster) -> None:
        (member,) = etcd.members
        async with opened(etcd) as store:
            await store.transact(put("a", b"before"))
            etcd.control("snapshot", "save", str(tmp_path / "snapshot"))
            for n in range(5):
                await store.transact(put("a", str(n).encode()))
            mirror = Mirror(store)
            task = spawn("mirror", mirror.run())
            await mirror.ready()
            await etcd.stop(member)
            member.directory.rename(tmp_path / "old")
            etcd.restore(member, tmp_path / "snapshot")
            await etcd.start(member)
            with pytest.raises(StoreReplaced, match="restored or replaced"):
                await store.transact(put("a", b"from the past"))
            with pytest.raises(StoreReplaced):
                await store.get("a")
            with pytest.raises(StoreReplaced):
                await asyncio.wait_for(task, 30)
        async with opened(etcd) as fresh:
            item = await fresh.get("a")
            assert item is not None
            assert item.value == b"before", "the forgotten client has written nothing"

    on_one(tmp_path, scenario)


def test_an_etcd_of_another_program_is_refused(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        for key in ("/registry/pods", "zzz", "shardwright"):
            etcd.control("put", key, "x")
            with pytest.raises(Permanent) as refused:
                await EtcdStore.open(etcd.settings())
            assert refused.value.code is Code.STORE_SHARED
            assert repr(key) in refused.value.text
            etcd.control("del", key)
        etcd.control("put", "shardwright/mine", "x")
        async with opened(etcd) as store:
            assert await store.get("mine") is not None
            # A key that comes later stalls nobody for long: the mirror reads everything again.
            mirror = Mirror(store)
            task = spawn("mirror", mirror.run())
            await mirror.ready()
            etcd.control("put", "/registry/later", "x")
            watch = Stopwatch()
            await mirror.fresh()
            assert watch.is_within(6.0), watch
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    on_one(tmp_path, scenario)


def test_certificates_must_fit(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        assert etcd.authority is not None
        good = etcd.settings(limits=ONE_ATTEMPT)
        server_only = etcd.authority.issue("server-only", usages=[SERVER])
        stranger = TestAuthority(tmp_path / "strangers", "stranger").issue("client")
        for settings in (
            dataclasses.replace(good, cert=server_only.cert, key=server_only.key),
            dataclasses.replace(good, cert=stranger.cert, key=stranger.key),
            dataclasses.replace(good, ca=stranger.ca),
            dataclasses.replace(good, key=tmp_path / "missing.pem"),
            dataclasses.replace(good, key=stranger.key),
        ):
            with pytest.raises(StoreUnavailable) as refused:
                await EtcdStore.open(settings)
            assert refused.value.code is Code.STORE_CERTIFICATE_UNUSABLE, refused.value.text
        async with opened(etcd) as store:
            assert (await store.transact(put("a"))).succeeded

    on_three(tmp_path, scenario)


def test_a_member_needs_the_client_usage_too(tmp_path: Path) -> None:
    """Its gateway is a client of its own member. Without that usage every call fails, and the reason is not to be seen."""

    async def main() -> None:
        etcd = EtcdCluster(tmp_path / "etcd", tls=True, member_usages=[SERVER])
        try:
            await etcd.start(*etcd.members, waits=False)
            await until_async("the member listens", lambda: etcd.answers(etcd.members[0]), seconds=20, state=etcd.logs)
            with pytest.raises(StoreUnavailable) as refused:
                await EtcdStore.open(etcd.settings(limits=ONE_ATTEMPT))
            assert refused.value.code is Code.STORE_CERTIFICATE_UNUSABLE, refused.value.text
            assert "client usage" in refused.value.text
        finally:
            await etcd.stop(*etcd.members)

    uvloop.run(main())


def test_a_lease_of_another_etcd_is_lost(tmp_path: Path) -> None:
    async def scenario(etcd: EtcdCluster) -> None:
        async with opened(etcd) as store:
            lease = await store.grant(timedelta(seconds=5))
            await store.revoke(lease)
            with pytest.raises(LeaseLost):
                await store.transact(Transaction(operations=(PutKey("a", b"", lease),)))
            with pytest.raises(LeaseLost):
                await store.renew(lease)
            await store.revoke(lease)

    on_one(tmp_path, scenario)
