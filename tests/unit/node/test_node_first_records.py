"""The first records of a cluster of machines, and how much memory a node offers."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

from shardwright.model.account import ManagementRole, User
from shardwright.model.cluster import Cluster, ClusterKind, Counters, Node, Policy
from shardwright.model.database import ServerKind
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import NodeUid
from shardwright.model.store_member import StoreRole
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.model.version import CLUSTER_VERSION, fields_too_new
from shardwright.node.founding import (
    FirstNode,
    OwnStore,
    Place,
    ServerChoice,
    default_memory,
    first_records,
    first_settings,
)
from shardwright.node.settings import problems

NOW = datetime(2026, 1, 2, tzinfo=UTC)
GB = 1 << 30
PLACE = Place((ip_address("192.0.2.1"), ip_address("10.0.0.1")), ip_address("203.0.113.1"), ip_network("10.0.0.0/24"))
ISSUED = IssuedCertificate("a1", NodeUid(1), CertificateRole.NODE, NOW, NOW)


def test_the_first_records_are_those_of_one_node_and_one_administrator() -> None:
    made = first_records(
        first_settings(PLACE, None),
        FirstNode(4 * GB, "a", "machine-1", "sha256:k"),
        name="prod.example",
        server=ServerChoice(ServerKind.VALKEY, "9.1.2", ""),
        admin="admin@example.com",
        password_hash="hash",
        runs_member=True,
        certificates=[ISSUED],
        now=NOW,
    )
    by_type = {type(record): record for record in made}
    assert len(made) == len(by_type) == 7
    cluster, node, user = by_type[Cluster], by_type[Node], by_type[User]
    assert isinstance(cluster, Cluster)
    assert (cluster.name, cluster.kind, cluster.api_port) == ("prod.example", ClusterKind.MACHINES, 9443)
    assert (cluster.server_kind, cluster.server_version, cluster.cluster_version) == ("valkey", "9.1.2", CLUSTER_VERSION)
    assert isinstance(node, Node)
    assert (node.uid, node.address, node.server_address, node.external_addresses) == (
        1,
        "192.0.2.1",
        "10.0.0.1",
        ("203.0.113.1",),
    )
    assert (node.rack, node.memory_bytes, node.machine_id, node.key_hash, node.is_signer) == (
        *("a", 4 * GB, "machine-1", "sha256:k"),
        True,
    )
    assert node.store_role is StoreRole.VOTER
    assert isinstance(user, User)
    assert (user.uid, user.email, user.role) == (1, "admin@example.com", ManagementRole.ADMIN)
    assert by_type[Counters] == Counters(next_node=2, next_user=2)
    assert by_type[Policy] == Policy()
    event = by_type[Event]
    assert isinstance(event, Event)
    assert event.kind is EventKind.CLUSTER_CREATED
    assert ISSUED in made
    assert all(fields_too_new(record, CLUSTER_VERSION) == () for record in made)


def test_the_store_is_the_nodes_own_or_the_operators() -> None:
    own = first_settings(PLACE, None)
    assert own.store.endpoints == ("https://192.0.2.1:2379",)
    assert own.store.certificate == Path("/etc/shardwright/store.pem")
    given = OwnStore(("https://etcd.example:2379",), Path("/c/ca"), Path("/c/cert"), Path("/c/key"))
    other = first_settings(PLACE, given)
    assert other.store.endpoints == given.endpoints
    assert (other.store.authority, other.store.key) == (Path("/c/ca"), Path("/c/key"))
    assert problems(own) == problems(other) == []


def test_a_machine_keeps_a_reserve_of_its_memory() -> None:
    assert default_memory(64 * GB) == 64 * GB - int(64 * GB * 0.15)
    assert default_memory(4 * GB) == 3 * GB
    assert default_memory(1 * GB) == GB // 2, "a small machine offers half of it"
