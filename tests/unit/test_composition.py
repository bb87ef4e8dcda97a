"""What the processes of a node accept of each other, as the store says."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shardwright.clock import SystemClock
from shardwright.composition import NodeAccess
from shardwright.daemon_config import DaemonConfig
from shardwright.model.cluster import Cluster, ClusterKind, Node
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.model.version import CLUSTER_VERSION
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Transaction
from shardwright.store.seal import IN_CLEAR
from shardwright.store.settings import SqliteSettings
from shardwright.tasks import spawn

NOW = datetime.now(UTC)
CLUSTER = Cluster("c", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION, kind=ClusterKind.MACHINES)


def issued(serial: str, node: int, *, revoked: bool = False) -> IssuedCertificate:
    until = NOW + timedelta(days=90)
    return IssuedCertificate(serial, NodeUid(node), CertificateRole.NODE, NOW, until, NOW if revoked else None)


def revoked(directory: Path, found: Sequence[StoredRecord]) -> set[str]:
    async def whole() -> set[str]:
        store = MemoryStore(SystemClock())
        await store.transact(Transaction((), tuple(PutKey(keys.key_of(r), records.encode(r)) for r in found)))
        mirror = Mirror(store)
        task = spawn("mirror", mirror.run())
        await mirror.ready()
        config = DaemonConfig(
            node_uid=NodeUid(1),
            addresses=("10.0.0.1",),
            api_port=9443,
            api_certificate=directory / "api.pem",
            api_key=directory / "key.pem",
            store=SqliteSettings(directory / "store.db"),
            sealing=IN_CLEAR,
            directory=directory,
            endpoint_directory=directory,
            run_directory=directory,
        )
        try:
            return set(NodeAccess(config, mirror).revoked())
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return asyncio.run(whole())


def test_a_certificate_of_a_removed_node_is_refused_even_if_it_was_recorded_after_the_removal(tmp_path: Path) -> None:
    certificates = [issued("a", 1), issued("b", 1, revoked=True), issued("c", 2)]
    assert revoked(tmp_path, [CLUSTER, Node(NodeUid(1), "10.0.0.1", NOW), *certificates]) == {"b", "c"}
    nodes = [Node(NodeUid(uid), f"10.0.0.{uid}", NOW) for uid in (1, 2)]
    assert revoked(tmp_path, [CLUSTER, *nodes, *certificates]) == {"b"}
    assert revoked(tmp_path, certificates) == {"b"}, "nothing is known of the members"
