"""A commit is atomic, depends on the records that were read, and belongs to the leadership that decided it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest

from shardwright.clock import SystemClock
from shardwright.errors import LostLeadership
from shardwright.model.cluster import Cluster, Node
from shardwright.model.database import ServerSecrets
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.key_rotation import KeyPhase, KeyRotation
from shardwright.model.version import fields_too_new
from shardwright.model.view import Delete, Put
from shardwright.store import commit as store_commit_module
from shardwright.store import keys, records
from shardwright.store.commit import Conflict, Fence, commit
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import DeleteKey, ModifiedAt, PutKey, Transaction
from shardwright.store.seal import IN_CLEAR, KEY_BYTES, ClusterKey, Sealing, is_sealed, uid_in

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODE = Node(NodeUid(1), "127.0.0.1", NOW)
KEY = keys.key_of(NODE)


def word() -> str:
    return "abc"


def run(scenario: Callable[[MemoryStore, Mirror], Awaitable[None]], *, sealing: Sealing = IN_CLEAR) -> None:
    async def main() -> None:
        store = MemoryStore(SystemClock())
        mirror = Mirror(store, sealing=sealing)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(mirror.run())
            await mirror.ready()
            await scenario(store, mirror)
            task.cancel()
        await store.close()

    asyncio.run(main())


async def put(store: MemoryStore, key: str, value: bytes) -> int:
    return (await store.transact(Transaction(operations=(PutKey(key, value),)))).revision


def test_records_events_and_extra_keys_in_one_revision() -> None:
    async def scenario(store: MemoryStore, mirror: Mirror) -> None:
        event = Event(NOW, EventKind.NODE_ADD_REQUEST, Severity.INFO, "a node was added")
        extra = Transaction((ModifiedAt(keys.port_key(1), 0),), (PutKey(keys.port_key(1), b"1"),))
        writes = [Put(NODE), Put(event), Put(replace(NODE, rack="b"))]
        revision = await commit(store, mirror, writes, fence=None, extra=extra, random_text=word)
        assert mirror.revision == revision
        assert mirror.view().nodes == {NODE.uid: replace(NODE, rack="b")}
        assert mirror.records(keys.EVENTS) == [event]
        assert {item.modify_revision for item in mirror.range("")} == {revision}
        assert len(mirror.range("")) == 3
        assert await commit(store, mirror, [Delete(NODE)], fence=None, random_text=word) == revision + 1
        assert mirror.view().nodes == {}
        assert await commit(store, mirror, [], fence=None, random_text=word) == revision + 1

    run(scenario)


def test_a_record_that_another_writer_changed_is_a_conflict() -> None:
    async def scenario(store: MemoryStore, mirror: Mirror) -> None:
        await commit(store, mirror, [Put(NODE)], fence=None, random_text=word)
        # The loop has not run since this write, so the mirror does not show it.
        other = await put(store, KEY, records.encode(replace(NODE, rack="other")))
        other_node = Node(NodeUid(2), "127.0.0.2", NOW)
        with pytest.raises(Conflict):
            await commit(store, mirror, [Put(NODE), Put(other_node)], fence=None, random_text=word)
        assert mirror.revision == other
        assert mirror.view().nodes == {NODE.uid: replace(NODE, rack="other")}

    run(scenario)


def test_a_view_that_is_too_old_is_a_conflict() -> None:
    async def scenario(store: MemoryStore, mirror: Mirror) -> None:
        seen = await commit(store, mirror, [Put(NODE)], fence=None, random_text=word)
        await put(store, "unrelated", b"")
        await mirror.fresh()
        await commit(store, mirror, [Put(NODE)], fence=None, random_text=word, view_revision=seen)
        await mirror.fresh()
        with pytest.raises(Conflict):
            await commit(store, mirror, [Put(NODE)], fence=None, random_text=word, view_revision=seen)
        await store.transact(Transaction(operations=(DeleteKey(KEY),)))
        await mirror.fresh()
        with pytest.raises(Conflict):
            await commit(store, mirror, [Put(NODE)], fence=None, random_text=word, view_revision=mirror.revision - 1)

    run(scenario)


def test_without_the_leadership_nothing_is_written() -> None:
    async def scenario(store: MemoryStore, mirror: Mirror) -> None:
        fence = Fence(await put(store, keys.LEADER, b'{"node_uid":1,"term":1}'))
        await commit(store, mirror, [Put(NODE)], fence=fence, random_text=word)
        other = await put(store, KEY, records.encode(NODE))
        with pytest.raises(Conflict):
            await commit(store, mirror, [Put(replace(NODE, rack="b"))], fence=fence, random_text=word)
        assert mirror.revision == other
        await store.transact(Transaction(operations=(DeleteKey(keys.LEADER),)))
        await put(store, keys.LEADER, b'{"node_uid":2,"term":2}')
        with pytest.raises(LostLeadership):
            await commit(store, mirror, [Put(replace(NODE, rack="b"))], fence=fence, random_text=word)
        with pytest.raises(LostLeadership):
            await commit(store, mirror, [], fence=fence, random_text=word)
        await mirror.fresh()
        assert mirror.view().nodes == {NODE.uid: NODE}

    run(scenario)


SECRETS = ServerSecrets(DatabaseUid(1), "app", "rep", "obs", "man", "seed")
CLUSTER = Cluster("c", NOW, "127.0.0.1", 9443)


@pytest.mark.parametrize(("cluster_version", "seals"), [(1, False), (2, True)])
def test_secrets_are_sealed_when_every_daemon_can_open_them(cluster_version: int, seals: bool) -> None:
    async def scenario(store: MemoryStore, mirror: Mirror) -> None:
        await put(store, keys.CLUSTER, records.encode(replace(CLUSTER, cluster_version=cluster_version)))
        await mirror.fresh()
        await commit(store, mirror, [Put(NODE), Put(SECRETS)], fence=None, random_text=word)
        stored, node = await store.get(keys.key_of(SECRETS)), await store.get(KEY)
        assert stored is not None
        assert node is not None
        assert is_sealed(stored.value) == seals
        assert not is_sealed(node.value)
        assert (mirror.view().secrets, mirror.view().nodes) == ({SECRETS.database_uid: SECRETS}, {NODE.uid: NODE})

    run(scenario, sealing=Sealing([ClusterKey.of(bytes(KEY_BYTES))], bytes))


def test_a_field_that_is_too_new_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_commit_module, "fields_too_new", partial(fields_too_new, since={("Node", "rack"): 2}))

    async def scenario(store: MemoryStore, mirror: Mirror) -> None:
        await commit(store, mirror, [Put(NODE)], fence=None, random_text=word)
        with pytest.raises(AssertionError, match="rack"):
            await commit(store, mirror, [Put(replace(NODE, rack="b"))], fence=None, random_text=word)
        await put(store, keys.CLUSTER, records.encode(replace(CLUSTER, cluster_version=2)))
        await mirror.fresh()
        await commit(store, mirror, [Put(replace(NODE, rack="b"))], fence=None, random_text=word)

    run(scenario)


def test_a_value_is_sealed_with_the_key_that_the_record_names_at_the_moment_of_the_commit() -> None:
    old, new = ClusterKey.of(bytes(KEY_BYTES)), ClusterKey.of(bytes(range(KEY_BYTES)))
    place, other = keys.key_of(SECRETS), replace(SECRETS, database_uid=DatabaseUid(2))
    spreading = KeyRotation(old.uid, NOW, "admin", KeyPhase.SPREADING, NOW, new.uid)
    sealing = replace(spreading, phase=KeyPhase.SEALING)

    async def scenario(store: MemoryStore, mirror: Mirror) -> None:
        await put(store, keys.CLUSTER, records.encode(Cluster("c", NOW, "10.0.0.1", 9443, cluster_version=2)))
        await put(store, keys.KEY_ROTATION, records.encode(spreading))
        await mirror.fresh()
        await commit(store, mirror, [Put(SECRETS)], fence=None, random_text=word)
        assert uid_in(mirror.range(place)[0].value) == old.uid
        # The loop has not run since this write: to the mirror, the old key still seals.
        await put(store, keys.KEY_ROTATION, records.encode(sealing))
        assert mirror.sealing_uid == old.uid
        with pytest.raises(Conflict):
            await commit(store, mirror, [Put(SECRETS)], fence=None, random_text=word)
        await put(store, keys.KEY_ROTATION, records.encode(spreading))
        with pytest.raises(Conflict):
            await commit(store, mirror, [Put(other)], fence=None, random_text=word)
        await put(store, keys.KEY_ROTATION, records.encode(sealing))
        await mirror.fresh()
        await commit(store, mirror, [Put(SECRETS)], fence=None, random_text=word)
        assert uid_in(mirror.range(place)[0].value) == new.uid
        # A record without a secret depends on no key.
        await put(store, keys.KEY_ROTATION, records.encode(spreading))
        await commit(store, mirror, [Put(NODE)], fence=None, random_text=word)

    run(scenario, sealing=Sealing((old, new), lambda size: bytes(size)))
