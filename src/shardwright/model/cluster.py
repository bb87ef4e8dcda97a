"""Cluster, policy, nodes and their snapshots: what the operator declared about machines."""

from dataclasses import dataclass, field
from datetime import datetime

from shardwright.model.database import Role
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid

MAINTENANCE_SNAPSHOT_PREFIX = "maintenance_mode_"
"""Wire fact: maintenance snapshots are named this plus ``YYYY-MM-DD_HH-MM-SS`` in UTC (rest-api.md 3.1)."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What was decided when the cluster was created, and its options."""

    name: str
    created_at: datetime
    endpoint_address: str
    """Address on which every endpoint of this machine listens."""
    api_port: int
    options: dict[str, object] = field(default_factory=dict)
    """Options of ``PUT /v1/cluster`` that the operator changed; absent ones have their defaults."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Cluster-wide rules (``/v1/cluster/policy``)."""

    persistent_node_removal: bool = False
    """Default of ``wait_for_persistence``."""
    default_concurrent_restore_actions: int = 10
    """Moves at once in one action; 0 means no limit."""
    evict_node_use_free_memory: bool = False
    """Fit check by free instead of provisioned memory."""
    slave_ha: bool = True
    slave_ha_grace_period_s: int = 600
    max_slave_full_syncs: int = 2
    """Full syncs at once on one machine; two are best on two cores (design, section 9). 0 means no limit."""
    stuck_server_timeout_s: int = 10
    """A server that neither answers nor uses CPU for this long is ended by identity, unless it may be all there is."""
    action_retention_s: int = 86_400
    """A finished action stays readable by its uid this long."""
    extra: dict[str, object] = field(default_factory=dict)
    """Policy keys that are stored and shown but decide nothing here."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine, or an address of one, with a daemon."""

    uid: NodeUid
    address: str
    created_at: datetime
    rack: str = ""
    """Empty means no rack."""
    memory_bytes: int = 0
    """What shards of this node may be provisioned with in sum."""
    shards_max: int = 100
    endpoints_max: int = 100
    is_quorum_only: bool = False
    """In maintenance: votes, takes no new shard or endpoint."""
    is_closed: bool = False
    """A removal was asked for, or an operator closed it: takes no new shard or endpoint."""
    is_decommissioning: bool = False
    """A removal runs now."""
    external_addresses: tuple[str, ...] = ()
    options: dict[str, object] = field(default_factory=dict)
    """Editable keys of ``PUT /v1/nodes/{uid}`` that are stored and shown but decide nothing here."""

    @property
    def accepts_placement(self) -> bool:
        """Whether new shards and endpoints may be placed here."""
        return not (self.is_quorum_only or self.is_closed or self.is_decommissioning)


@dataclass(frozen=True, slots=True)
class RemovedNode:
    """What stays readable of a node after its removal, until ``retained_until``."""

    uid: NodeUid
    removed_at: datetime
    retained_until: datetime


@dataclass(frozen=True, slots=True)
class SnapshotShard:
    """One copy that a node held: of which slot group, in which role."""

    database_uid: DatabaseUid
    group_uid: GroupUid
    shard_uid: ShardUid
    """Uid at that time; a copy that moves away and back has a new one."""
    role: Role


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Placement and roles of a node's shards and endpoints at one moment. Holds no data of users."""

    node_uid: NodeUid
    name: str
    created_at: datetime
    shards: tuple[SnapshotShard, ...] = ()
    endpoints: tuple[EndpointUid, ...] = ()

    @property
    def is_maintenance(self) -> bool:
        """Whether it was taken by ``maintenance_on`` (and not by a user)."""
        return self.name.startswith(MAINTENANCE_SNAPSHOT_PREFIX)


@dataclass(frozen=True, slots=True)
class Counters:
    """The next unused numbers. Numbers are never used twice, also not after a deletion."""

    next_node: int = 1
    next_database: int = 1
    next_shard: int = 1
    next_user: int = 1


@dataclass(frozen=True, slots=True)
class Leadership:
    """Who leads. Bound to the leader's lease: the record vanishes with it."""

    node_uid: NodeUid
    term: int


@dataclass(frozen=True, slots=True)
class DaemonPresence:
    """A daemon that holds its lease. Bound to that lease: the record vanishes with it."""

    node_uid: NodeUid
    pid: int
    start_ticks: int
    """Field 22 of ``/proc/<pid>/stat``: with the pid, who exactly it is."""
    boot_id: str
    lease_id: int
    version: str
    api_url: str
    started_at: datetime
