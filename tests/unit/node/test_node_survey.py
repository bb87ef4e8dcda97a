"""A survey of a machine's directory of shards, and what it writes into the store."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shardwright.agent.launch import CONFIG_NAME, Stage, StartRecord, write_record
from shardwright.agent.shards import LEFT_ALONE_NAME, ShardProcesses
from shardwright.clock import SystemClock
from shardwright.errors import Permanent
from shardwright.model.cluster import Node, Restored
from shardwright.model.database import Shard, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.node.survey import WRITES_AT_ONCE, find_shards, survey
from shardwright.reconcile.survey import FoundShard
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import DeleteKey, PutKey, Transaction
from testkit.builders import NOW

NODE, DATABASE, GROUP = NodeUid(2), DatabaseUid(1), GroupUid("1:1")
ASKING = Node(NODE, "10.0.0.2", NOW, awaits_survey=True)
OPEN = SlotGroup(GROUP, DATABASE, 1, primary=ShardUid(1))
RESTORED = Restored("5eed", NOW, NOW, next_shard=10)


def shard(uid: int) -> Shard:
    return Shard(ShardUid(uid), DATABASE, GROUP, NODE, 20_000 + uid, NOW)


def put(directory: Path, uid: int, incarnation: int, config: str, *, group: GroupUid | None = GROUP) -> None:
    path = directory / str(uid)
    path.mkdir(parents=True)
    owner = None if group is None else DATABASE
    write_record(path, StartRecord(incarnation, Stage.STARTED, "/bin/server", database_uid=owner, group_uid=group))
    (path / CONFIG_NAME).write_text(config)


def run(scenario: Callable[[MemoryStore], Awaitable[None]], *made: StoredRecord) -> None:
    async def main() -> None:
        store = MemoryStore(SystemClock())
        try:
            for record in made:
                await store.transact(Transaction((), (PutKey(keys.key_of(record), records.encode(record)),)))
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(main())


async def read(store: MemoryStore, prefix: str) -> list[StoredRecord | str]:
    return [records.decode(item.key, item.value) for item in (await store.range(prefix)).items]


def test_it_finds_the_port_and_whose_copy_it_is(tmp_path: Path) -> None:
    put(tmp_path, 3, 2, "bind 10.0.0.2\nport 20304\nreplica-announce-port 9\n")
    put(tmp_path, 11, 1, 'port 0\ntls-port "21111"\n', group=None)
    (tmp_path / "12").mkdir()
    (tmp_path / "notes").mkdir()
    put(tmp_path, 13, 1, "port 21313\n")
    (tmp_path / "13" / LEFT_ALONE_NAME).touch()
    assert find_shards(tmp_path) == [
        FoundShard(ShardUid(3), 2, 20_304, DATABASE, GROUP),
        FoundShard(ShardUid(11), 1, 21_111),
        FoundShard(ShardUid(12), 0, 0),
    ]
    assert find_shards(tmp_path / "absent") == []


def test_the_records_follow_and_the_node_asks_no_longer(tmp_path: Path) -> None:
    put(tmp_path, 3, 2, "port 20304\n")
    put(tmp_path, 11, 1, "port 21111\n")
    put(tmp_path, 12, 1, "port 21212\n", group=GroupUid("9:1"))

    async def scenario(store: MemoryStore) -> None:
        assert await survey(store, NODE, tmp_path)
        found = {s.uid: s for s in await read(store, "shards/") if isinstance(s, Shard)}
        assert {uid: (s.incarnation, s.port) for uid, s in found.items()} == {3: (2, 20_304), 11: (1, 21_111)}
        (node,) = await read(store, "nodes/")
        assert isinstance(node, Node)
        assert not node.awaits_survey
        (event,) = await read(store, keys.EVENTS)
        assert isinstance(event, Event)
        assert (event.kind, event.severity) == (EventKind.NODE_SURVEYED, Severity.WARNING)
        assert event.text.endswith(
            "the records now follow shard 3, 11; no record is left of shard 4; "
            "made after the backup, and left alone: shard 12"
        )
        assert not await survey(store, NODE, tmp_path), "once"

    run(scenario, ASKING, OPEN, RESTORED, shard(3), shard(4))
    assert (tmp_path / "12" / LEFT_ALONE_NAME).exists()

    async def adopted() -> list[int]:
        processes = ShardProcesses(tmp_path, SystemClock(), lambda: None)
        await processes.load(())
        return [local.shard_uid for local in processes.local()]

    assert asyncio.run(adopted()) == [3, 11], "the agent sees nothing of what is left alone"


def test_a_node_that_is_not_asked_says_nothing(tmp_path: Path) -> None:
    async def scenario(store: MemoryStore) -> None:
        revision = await store.revision()
        assert not await survey(store, NODE, tmp_path)
        assert await store.revision() == revision

    run(scenario, Node(NODE, "10.0.0.2", NOW), OPEN, shard(3))
    run(scenario)


def test_it_writes_any_number_of_shards(tmp_path: Path) -> None:
    many = [shard(uid) for uid in range(100, 100 + 2 * WRITES_AT_ONCE + 1)]

    async def scenario(store: MemoryStore) -> None:
        assert await survey(store, NODE, tmp_path)
        assert await read(store, "shards/") == []

    run(scenario, ASKING, OPEN, RESTORED, *many)


def test_without_the_record_of_the_restore_nothing_is_decided(tmp_path: Path) -> None:
    async def scenario(store: MemoryStore) -> None:
        await store.transact(Transaction((), (DeleteKey(keys.RESTORED),)))
        with pytest.raises(Permanent):
            await survey(store, NODE, tmp_path)
        assert len(await read(store, "shards/")) == 1

    run(scenario, ASKING, OPEN, RESTORED, shard(3))
