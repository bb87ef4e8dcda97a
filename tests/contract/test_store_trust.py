"""The records of a join: committed in one revision on every backend, read again as they were, and a token is good once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from shardwright.model.cluster import Cluster, Node
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.model.version import CLUSTER_VERSION
from shardwright.model.view import Delete, Put, Write
from shardwright.store import keys, records
from shardwright.store.commit import Conflict, commit
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Store, Transaction
from shardwright.store.seal import KEY_BYTES, ClusterKey, Sealing, is_sealed
from shardwright.tasks import spawn
from shardwright.trust.peers import revoke_node, revoked_serials
from shardwright.trust.tokens import RANDOM_BYTES, check_token, make_token, used
from tests.contract.store_worlds import World, on_every_backend, run

pytestmark = on_every_backend()

NOW = datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)
TEXT, TOKEN = make_token(bytes(range(RANDOM_BYTES)), NOW)
SEALING = Sealing([ClusterKey.of(bytes(KEY_BYTES))], bytes)


def certificate(node: int, role: CertificateRole, serial: str) -> IssuedCertificate:
    return IssuedCertificate(serial, NodeUid(node), role, NOW, NOW + timedelta(days=90))


def join(node: int) -> list[Write]:
    """What a join commits."""
    issued = [certificate(node, role, f"{node}{number:039x}") for number, role in enumerate(CertificateRole)]
    return [Put(Node(NodeUid(node), f"10.0.0.{node}", NOW)), Put(used(TOKEN, NodeUid(node))), *map(Put, issued)]


async def write(store: Store, mirror: Mirror, writes: list[Write], view_revision: int | None = None) -> None:
    await commit(store, mirror, writes, fence=None, random_text=str, view_revision=view_revision)


def on(backend: str, scenario: Callable[[Store, Mirror], Awaitable[None]]) -> None:
    async def whole(world: World) -> None:
        store = await world.open()
        cluster = Cluster("c", NOW, "127.0.0.1", 9443, cluster_version=CLUSTER_VERSION)
        await store.transact(Transaction(operations=(PutKey(keys.CLUSTER, records.encode(cluster)),)))
        mirror = Mirror(store, sealing=SEALING)
        task = spawn("mirror", mirror.run())
        try:
            await mirror.ready()
            await write(store, mirror, [Put(TOKEN)])
            await scenario(store, mirror)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(backend, whole)


def test_a_join_is_one_revision_and_is_read_as_it_was_written(backend: str) -> None:
    async def scenario(store: Store, mirror: Mirror) -> None:
        assert check_token(mirror.view().join_tokens, TEXT, NOW) == TOKEN
        before = mirror.revision
        await write(store, mirror, join(4))
        view = mirror.view()
        assert mirror.revision == before + 1
        assert view.join_tokens == {TOKEN.uid: replace(TOKEN, used_by=NodeUid(4))}
        written = [w.record for w in join(4) if isinstance(w.record, IssuedCertificate)]
        assert list(view.issued_certificates.values()) == written
        assert set(view.nodes) == {4}
        stored = {key: await store.get(key) for key in (keys.key_of(TOKEN), *map(keys.key_of, written))}
        sealed = {key for key, item in stored.items() if item is not None and is_sealed(item.value)}
        assert (None in stored.values(), sealed) == (False, {keys.key_of(TOKEN)})

    on(backend, scenario)


def test_two_joins_with_one_token_do_not_both_succeed(backend: str) -> None:
    async def scenario(store: Store, mirror: Mirror) -> None:
        read = mirror.revision
        await write(store, mirror, join(4), read)
        with pytest.raises(Conflict):
            await write(store, mirror, join(5), read)
        assert set(mirror.view().nodes) == {4}

    on(backend, scenario)


def test_a_revocation_is_kept_until_the_record_is_deleted(backend: str) -> None:
    async def scenario(store: Store, mirror: Mirror) -> None:
        await write(store, mirror, join(4))
        gone = revoke_node(mirror.view().issued_certificates.values(), NodeUid(4), NOW)
        assert len(gone) == len(CertificateRole)
        await write(store, mirror, list(map(Put, gone)))
        found = mirror.view()
        assert revoked_serials(found.issued_certificates.values()) == {one.serial for one in gone}
        await write(store, mirror, [*map(Delete, gone), Delete(found.join_tokens[TOKEN.uid])])
        assert (mirror.view().issued_certificates, mirror.view().join_tokens) == ({}, {})

    on(backend, scenario)
