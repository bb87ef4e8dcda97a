"""Cluster, policy, nodes and their snapshots: the operator's declarations about machines."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shardwright.model.database import ProxyPolicy, Role
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.store_member import StoreRole
from shardwright.model.version import FIRST_CLUSTER_VERSION

MAINTENANCE_SNAPSHOT_PREFIX = "maintenance_mode_"
"""Maintenance snapshots have this prefix, followed by ``YYYY-MM-DD_HH-MM-SS`` in UTC. The wire defines the format."""


class ClusterKind(StrEnum):
    """Where the nodes of a cluster run."""

    LOCAL = "local"
    """All on one machine, at loopback addresses."""
    MACHINES = "machines"
    """Each on a machine of its own."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Decisions made when the cluster was created, and its options."""

    name: str
    created_at: datetime
    endpoint_address: str
    """Address on which all endpoints of this machine listen."""
    api_port: int
    options: dict[str, object] = field(default_factory=dict)
    """Options of ``PUT /v1/cluster`` that the operator has changed, as given; missing options have their defaults. Decisions
    read the properties below."""
    cluster_version: int = FIRST_CLUSTER_VERSION
    """The version of the records that every daemon can read and write (``version.py``). Only ever raised."""
    kind: ClusterKind = ClusterKind.LOCAL
    """Chosen when the cluster was created."""
    prepared_for: str = ""
    """The newest Shardwright before whose upgrade the state was backed up, or that founded the cluster. Empty: unknown, or
    lost by an older daemon; then it is backed up once more."""

    @property
    def is_of_machines(self) -> bool:
        """Whether the nodes reach each other over a network."""
        return self.kind is ClusterKind.MACHINES

    @property
    def proxy_policy(self) -> ProxyPolicy:
        """The proxy policy of new databases, unless the request or the policy names one: on one machine, a second listener
        adds nothing; on several, a client finds its database at every node that lives."""
        return ProxyPolicy.ALL_NODES if self.is_of_machines else ProxyPolicy.SINGLE

    @property
    def is_strict_by_default(self) -> bool:
        """Whether a new database with a replica is strict, unless the request says otherwise: on several machines, only a
        strict database loses nothing with one of them."""
        return self.is_of_machines

    @property
    def server_kind(self) -> str:
        """The kind of server for databases that do not name one."""
        return str(self.options.get("server_kind") or "valkey")

    @property
    def server_version(self) -> str:
        """The version of that server when the cluster was created; empty: not recorded."""
        return str(self.options.get("server_version") or "")

    @property
    def server_path(self) -> str:
        """A server program chosen by the operator; empty: the programs that every node finds."""
        return str(self.options.get("server_path") or "")

    @property
    def password_length_min(self) -> int | None:
        """Minimum length of a user's password; None: the product's default."""
        found = self.options.get("password_min_length")
        return found if isinstance(found, int) else None

    @property
    def wants_complex_passwords(self) -> bool:
        """Whether a user's password must contain characters of four kinds."""
        return self.options.get("password_complexity") is True


@dataclass(frozen=True, slots=True)
class Policy:
    """Cluster-wide rules (``/v1/cluster/policy``)."""

    persistent_node_removal: bool = False
    """Default of ``wait_for_persistence``."""
    default_concurrent_restore_actions: int = 10
    """Parallel moves in one action; 0 means no limit."""
    evict_node_use_free_memory: bool = False
    """Judge room by free instead of provisioned memory."""
    slave_ha: bool = True
    slave_ha_grace_period_s: int = 600
    max_slave_full_syncs: int = 2
    """Parallel full syncs on one machine; measurements show that two are best on two cores. 0 means no limit."""
    stuck_server_timeout_s: int = 10
    """A server that neither answers nor uses CPU for this long is killed by its process identity, unless it may be the only
    copy left."""
    drain_clients_s: int = 30
    """A node that is to serve an endpoint of several nodes no longer waits this long for its clients to leave."""
    action_retention_s: int = 86_400
    """A finished action stays readable by its uid for this long."""
    drain_at_shutdown: bool = False
    """Whether a node is emptied by ``maintenance_on`` before its machine shuts down. It then stays in maintenance until an
    operator ends that. In a local cluster without effect."""
    extra: dict[str, object] = field(default_factory=dict)
    """Policy keys that are stored and shown but have no effect."""


@dataclass(frozen=True, slots=True)
class DeclaredOff:
    """Someone's word that a node's machine is off: nothing of the node runs. It is believed while the node is away."""

    at: datetime
    by: str
    """E-mail address of the administrator, or the fencing hook that switched the machine off."""
    boot_id: str = ""
    """The machine's boot at that time, by its last report: another boot later confirms the word. Empty: unknown."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine, or an address of one, with a daemon."""

    uid: NodeUid
    address: str
    created_at: datetime
    rack: str = ""
    """Empty: no rack."""
    memory_bytes: int = 0
    """Upper limit of the memory provisioned to shards of this node."""
    shards_max: int = 100
    endpoints_max: int = 100
    is_quorum_only: bool = False
    """In maintenance: votes, but accepts no new shard or endpoint."""
    is_closed: bool = False
    """Closed by a removal request or by an operator: accepts no new shard or endpoint."""
    is_decommissioning: bool = False
    """A removal is running."""
    external_addresses: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    """Editable keys of ``PUT /v1/nodes/{uid}`` that are stored and shown but have no effect."""
    store_role: StoreRole = StoreRole.NONE
    """Whether the node runs a member of the store. The leader keeps it in agreement with the store, in clusters whose first
    record has a role: only those run the store themselves."""
    server_address: str = ""
    """Address in the network that carries the traffic of the servers; empty: ``address``."""

    machine_id: str = ""
    """The machine that joined as this node (``DaemonPresence.machine_id``), known before its daemon runs; empty: unknown."""
    key_hash: str = ""
    """Names the key for which the node's certificates are issued; empty: it has none."""
    is_signer: bool = False
    """Whether it was given the key of the cluster's authority, so that newcomers join through it."""
    declared_off: DeclaredOff | None = None
    """None: no one has said that its machine is off, or its daemon has run since."""
    replaces: NodeUid | None = None
    """The node whose place it takes, until the removal of that node has begun. None: it joined as a further node."""
    awaits_survey: bool = False
    """The records were restored from a backup, and the node's machine has not yet said what runs there: its daemon does
    nothing before that, and no restored slot group opens."""

    @property
    def servers_at(self) -> str:
        """The address of the node's servers: for replication, for the leader and for endpoint processes."""
        return self.server_address or self.address

    @property
    def accepts_placement(self) -> bool:
        """Whether the node accepts new shards and endpoints."""
        return not (self.is_quorum_only or self.is_closed or self.is_decommissioning)


@dataclass(frozen=True, slots=True)
class RemovedNode:
    """Facts about a node that stay readable after its removal, until ``retained_until``."""

    uid: NodeUid
    removed_at: datetime
    retained_until: datetime


@dataclass(frozen=True, slots=True)
class SnapshotShard:
    """One copy on a node: its slot group and its role."""

    database_uid: DatabaseUid
    group_uid: GroupUid
    shard_uid: ShardUid
    """The uid at that time; a copy that moves away and back gets a new one."""
    role: Role


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Placement and roles of a node's shards and endpoints at one moment. Contains no user data."""

    node_uid: NodeUid
    name: str
    created_at: datetime
    shards: tuple[SnapshotShard, ...] = ()
    endpoints: tuple[EndpointUid, ...] = ()

    @property
    def is_maintenance(self) -> bool:
        """Whether ``maintenance_on`` took it (and not a user)."""
        return self.name.startswith(MAINTENANCE_SNAPSHOT_PREFIX)


@dataclass(frozen=True, slots=True)
class Counters:
    """The next unused numbers. A number is never used twice, not even after a deletion."""

    next_node: int = 1
    next_database: int = 1
    next_shard: int = 1
    next_user: int = 1


@dataclass(frozen=True, slots=True)
class Restored:
    """The records come from a backup. Written by the restore, kept from then on."""

    uid: str
    """Random text: names this restore."""
    at: datetime
    backup_at: datetime
    """When the backup was written: what was changed later is unknown."""
    next_shard: int
    """The next unused number in the backup: shards with it or a higher one were made later."""


@dataclass(frozen=True, slots=True)
class Leadership:
    """The current leader. The record is bound to the leader's lease and disappears with it."""

    node_uid: NodeUid
    term: int


@dataclass(frozen=True, slots=True)
class DaemonPresence:
    """A daemon that holds its lease. The record is bound to that lease and disappears with it."""

    node_uid: NodeUid
    pid: int
    start_ticks: int
    """Field 22 of ``/proc/<pid>/stat``: together with the pid, it identifies the process."""
    boot_id: str
    lease_id: int
    version: str
    api_url: str
    started_at: datetime
    cluster_version: int = FIRST_CLUSTER_VERSION
    """The highest cluster version with which it can work."""
    machine_id: str = ""
    """The machine on which it runs, as in ``ProcessIdentity``; empty: a daemon of an older version."""
