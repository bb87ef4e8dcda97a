"""The store on a real etcd that is compacted, full, restored, shared, or shows the wrong certificate."""

import asyncio
import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
import uvloop

from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.trust import CertificateRole
from shardwright.store.etcd import EtcdStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import (
    Compacted,
    DeleteKey,
    LeaseLost,
    PutKey,
    StoreFull,
    StoreReplaced,
    StoreUnavailable,
    Transaction,
)
from shardwright.store.settings import EtcdLimits
from shardwright.tasks import spawn
from testkit.certificates import LONG_AGO, SERVER, members
from testkit.deadlines import Stopwatch, until_async
from testkit.etcd import EtcdCluster
from tests.integration.etcd_harness import on_one, on_three, opened, put

pytestmark = pytest.mark.proof

ONE_ATTEMPT = EtcdLimits(connect_s=5, attempt_s=5, ask_s=0)
"""The first error is reported, however slow the machine is."""


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
        good = etcd.settings(limits=ONE_ATTEMPT)
        server_only = etcd.certificate("server-only", 7, usages=[SERVER])
        expired = etcd.certificate("expired", 7, at=LONG_AGO)
        stranger = members().files(tmp_path / "strangers", 7, role=CertificateRole.STORE)
        for settings in (
            dataclasses.replace(good, cert=server_only.certificate, key=server_only.key),
            dataclasses.replace(good, cert=expired.certificate, key=expired.key),
            dataclasses.replace(good, cert=stranger.certificate, key=stranger.key),
            dataclasses.replace(good, ca=stranger.authority),
            dataclasses.replace(good, key=tmp_path / "missing.pem"),
            dataclasses.replace(good, key=stranger.key),
        ):
            with pytest.raises(StoreUnavailable) as refused:
                await EtcdStore.open(settings)
            assert refused.value.code is Code.STORE_CERTIFICATE_UNUSABLE, refused.value.text
        async with opened(etcd) as store:
            assert (await store.transact(put("a"))).succeeded

    on_three(tmp_path, scenario)


async def refusal_of(etcd: EtcdCluster) -> StoreUnavailable:
    """How one attempt to open the store ends."""
    with pytest.raises(StoreUnavailable) as refused:
        await EtcdStore.open(etcd.settings(limits=ONE_ATTEMPT))
    return refused.value


def test_a_member_needs_the_client_usage_too(tmp_path: Path) -> None:
    """Its gateway is a client of its own member. Without that usage every call fails, and the reason is not to be seen."""

    async def main() -> None:
        etcd = EtcdCluster(tmp_path / "etcd", tls=True, member_usages=[SERVER])
        try:
            await etcd.start(*etcd.members, waits=False)
            await until_async("the member listens", lambda: etcd.answers(etcd.members[0]), seconds=20, state=etcd.logs)
            watch, refusal = Stopwatch(), await refusal_of(etcd)
            # The gateway reports the end of its last attempt to connect. Before it has read the alert, that may be a failed
            # write; it tries again after 1, 1.6, 2.6 … seconds.
            while refusal.code is not Code.STORE_CERTIFICATE_UNUSABLE:
                assert watch.is_within(60), refusal.text
                await asyncio.sleep(0.2)
                refusal = await refusal_of(etcd)
            assert "client usage" in refusal.text
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
