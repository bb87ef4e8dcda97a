"""A new cluster of machines as values: the first node's settings, its certificates' names and the first records.

Pure. Called by ``init.py``, which has made all checks. What is written, and in which order, is decided there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from shardwright import __version__
from shardwright.model.account import ManagementRole, User
from shardwright.model.cluster import Cluster, ClusterKind, Counters, Node, Policy
from shardwright.model.database import ServerKind
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid, UserUid
from shardwright.model.store_member import StoreRole
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.model.version import CLUSTER_VERSION
from shardwright.node.etcd_config import client_url
from shardwright.node.settings import Address, Directories, Network, NodeSettings, Ports, StorePlace
from shardwright.store.keys import StoredRecord

FIRST: Final = NodeUid(1)
"""The uid of the node on which a cluster is founded."""
MEMORY_RESERVE_BYTES_MIN: Final = 1 << 30
MEMORY_RESERVE_SHARE: Final = 0.15
"""Of a machine's memory, for the system, the daemon, the store's member, connections and the copies of memory during a
snapshot: at least the first, at most half of the machine."""


@dataclass(frozen=True, slots=True)
class OwnStore:
    """An etcd that the operator runs."""

    endpoints: tuple[str, ...]
    authority: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is: what its settings say besides its uid and its store."""

    addresses: tuple[Address, ...]
    external_address: Address | None = None
    cluster_network: Network | None = None
    is_public_network_accepted: bool = False
    ports: Ports = field(default_factory=Ports)
    directories: Directories = field(default_factory=Directories)


@dataclass(frozen=True, slots=True)
class FirstNode:
    """What the records of the cluster's first node are made of."""

    memory_bytes: int
    rack: str
    """Empty: no rack."""
    machine_id: str
    key_hash: str


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """The server of databases that name none."""

    kind: ServerKind
    version: str
    path: str
    """Empty: the program that each node finds."""


def default_memory(total_bytes: int) -> int:
    """The memory that a node offers to databases if its operator names no limit."""
    reserve = max(MEMORY_RESERVE_BYTES_MIN, int(total_bytes * MEMORY_RESERVE_SHARE))
    return total_bytes - min(reserve, total_bytes // 2)


def settings_of(uid: NodeUid, place: Place, store: StorePlace) -> NodeSettings:
    """The settings of a node at that place."""
    return NodeSettings(
        node_uid=uid,
        addresses=place.addresses,
        store=store,
        external_address=place.external_address,
        cluster_network=place.cluster_network,
        is_public_network_accepted=place.is_public_network_accepted,
        ports=place.ports,
        directories=place.directories,
    )


def members_store(place: Place, endpoints: Sequence[str]) -> StorePlace:
    """The store that runs on the cluster's nodes, which the node reaches with its certificate of that role."""
    directory = place.directories.configuration
    return StorePlace(
        tuple(endpoints), directory / "ca.pem", directory / f"{CertificateRole.STORE}.pem", directory / "node-key.pem"
    )


def first_settings(place: Place, store: OwnStore | None) -> NodeSettings:
    """Of the first node. ``store`` None: it runs the first member of the store itself."""
    if store is None:
        return settings_of(FIRST, place, members_store(place, (client_url(place.addresses[0], place.ports.store_clients),)))
    return settings_of(FIRST, place, StorePlace(store.endpoints, store.authority, store.certificate, store.key))


def first_records(
    settings: NodeSettings,
    node: FirstNode,
    *,
    name: str,
    server: ServerChoice,
    admin: str,
    password_hash: str,
    runs_member: bool,
    certificates: Sequence[IssuedCertificate],
    now: datetime,
) -> list[StoredRecord]:
    """All records of a cluster that was just founded. ``admin``: the e-mail address of its first user.
    ``runs_member``: whether the node runs the store."""
    address = str(settings.address)
    cluster = Cluster(
        name,
        now,
        address,
        settings.ports.api,
        options={"server_kind": str(server.kind), "server_version": server.version, "server_path": server.path},
        cluster_version=CLUSTER_VERSION,
        kind=ClusterKind.MACHINES,
        prepared_for=__version__,
    )
    first = Node(
        settings.node_uid,
        address,
        now,
        rack=node.rack,
        memory_bytes=node.memory_bytes,
        external_addresses=() if settings.external_address is None else (str(settings.external_address),),
        server_address=str(settings.server_address) if settings.server_address != settings.address else "",
        machine_id=node.machine_id,
        key_hash=node.key_hash,
        is_signer=True,
        store_role=StoreRole.VOTER if runs_member else StoreRole.NONE,
    )
    user = User(UserUid(1), admin, "administrator", ManagementRole.ADMIN, password_hash, now, now)
    text = f"the cluster {name} was founded on node {first.uid} at {address}"
    event = Event(now, EventKind.CLUSTER_CREATED, Severity.INFO, text, node_uid=first.uid)
    counters = Counters(next_node=first.uid + 1, next_user=user.uid + 1)
    return [cluster, Policy(), counters, first, user, *certificates, event]
