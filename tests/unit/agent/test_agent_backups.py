"""The hourly backups of a daemon: when one is written, which are kept, and what happens when none can be."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from shardwright.agent.backups import EVERY, KEPT, Backups, back_up_before
from shardwright.backup_files import UPGRADES_KEPT, keep_newest, list_backups, load_backup, write_backup
from shardwright.clock import SystemClock
from shardwright.model.cluster import Cluster, Node
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.model.store_member import StoreRole
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Transaction
from shardwright.tasks import spawn

BEGIN = datetime(2026, 11, 29, 19, tzinfo=UTC)
VOTER = Node(NodeUid(1), "10.0.0.1", BEGIN, store_role=StoreRole.VOTER)


class WallClock(SystemClock):
    """Only its wall time is the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.at = BEGIN

    def now(self) -> datetime:
        return self.at


@asynccontextmanager
async def backups(directory: Path, node: Node = VOTER) -> AsyncIterator[tuple[Backups, WallClock, MemoryStore]]:
    clock = WallClock()
    store = MemoryStore(SystemClock())
    cluster = Cluster("prod", BEGIN, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION)
    puts = tuple(PutKey(keys.key_of(record), records.encode(record)) for record in (cluster, node))
    await store.transact(Transaction((), puts))
    mirror = Mirror(store)
    mirroring = spawn("mirror under test", mirror.run())
    await mirror.ready()
    try:
        yield Backups(node.uid, directory, store, mirror=mirror, clock=clock, random_text=lambda: "00000000"), clock, store
    finally:
        mirroring.cancel()
        await asyncio.gather(mirroring, return_exceptions=True)
        await store.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


def test_one_is_written_each_hour(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with backups(tmp_path) as (keeper, clock, store):
            first = await keeper.look()
            assert first is not None
            assert load_backup(first).header.revision == await store.revision()
            clock.at += EVERY - timedelta(seconds=1)
            assert await keeper.look() is None
            clock.at += timedelta(seconds=1)
            assert await keeper.look() is not None
            clock.at -= timedelta(days=1)
            assert await keeper.look() is not None, "those are from a clock that was wrong"

    run(scenario)
    assert len(list_backups(tmp_path)) == 3


def test_the_newest_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with backups(tmp_path) as (keeper, clock, _):
            first = await keeper.look()
            assert first is not None
            made = load_backup(first)
            for hour in range(1, KEPT + 3):
                at = BEGIN + timedelta(hours=hour)
                write_backup(tmp_path, replace(made, header=replace(made.header, at=at)))
            clock.at = BEGIN + timedelta(days=9)
            await keeper.look()

    run(scenario)
    assert len(list_backups(tmp_path)) == KEPT


def test_a_node_without_a_member_of_the_store_keeps_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with backups(tmp_path / "backups", replace(VOTER, store_role=StoreRole.NONE)) as (keeper, _, _):
            assert await keeper.look() is None

    run(scenario)
    assert not (tmp_path / "backups").exists()


def test_a_failure_is_told_once_and_nothing_else_happens(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()

    async def scenario() -> None:
        async with backups(blocked / "backups") as (keeper, _, store):
            task = spawn("backups under test", keeper.run())
            async with asyncio.timeout(10):
                async for batch in store.watch(keys.EVENTS, from_revision=1):
                    assert batch.changes
                    break
            found = (await store.range(keys.EVENTS)).items
            assert not task.done()
            await keeper._complain(keeper._complaint)
            assert len((await store.range(keys.EVENTS)).items) == len(found) == 1
            event = records.decode(found[0].key, found[0].value)
            assert isinstance(event, Event)
            assert event.kind is EventKind.BACKUP_FAILED
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(scenario)


def test_one_is_written_as_soon_as_everything_is_sealed_with_a_new_key(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with backups(tmp_path) as (keeper, clock, store):
            assert await keeper.look() is not None
            clock.at += timedelta(minutes=1)
            asked = KeyRotation(KeyUid("00" * 8), BEGIN, "admin", KeyPhase.SEALING, BEGIN, KeyUid("11" * 8))
            for rotation, is_due in (
                (asked, False),
                (replace(asked, phase=KeyPhase.DROPPING, sealed_at=clock.at - timedelta(seconds=1)), True),
                (replace(asked, phase=KeyPhase.DONE, sealed_at=clock.at - timedelta(seconds=1)), False),
            ):
                put = PutKey(keys.KEY_ROTATION, records.encode(rotation))
                await store.transact(Transaction((), (put,)))
                await keeper._mirror.fresh()
                assert (await keeper.look() is not None) is is_due, rotation

    run(scenario)


def test_one_before_an_upgrade_is_not_displaced_by_the_hourly_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with backups(tmp_path) as (keeper, clock, store):
            before = partial(back_up_before, node_uid=NodeUid(1), directory=tmp_path, store=store, clock=clock)
            place = await before("0.2.0+local/1")
            assert place == f"{tmp_path}/upgrade-0.2.0+local_1-20261129T190000Z.backup on node 1"
            assert await keeper.look() is not None, "it is none of the hourly ones"
            keep_newest(tmp_path, 1)
            for minute in range(UPGRADES_KEPT + 1):
                clock.at = BEGIN + timedelta(minutes=minute)
                await before(f"0.3.{minute}")
            clock.at = BEGIN + EVERY
            assert await keeper.look() is not None

    run(scenario)
    names = [kept.path.name for kept in list_backups(tmp_path)]
    assert len([name for name in names if name.startswith("upgrade-")]) == UPGRADES_KEPT
    assert "upgrade-0.2.0+local_1-20261129T190000Z.backup" not in names
    assert all(load_backup(kept.path) for kept in list_backups(tmp_path))


def test_a_cluster_without_backups_writes_none_before_an_upgrade() -> None:
    async def scenario() -> None:
        store = MemoryStore(SystemClock())
        place = await back_up_before("0.2.0", node_uid=NodeUid(1), directory=None, store=store, clock=SystemClock())
        assert place == ""

    run(scenario)
