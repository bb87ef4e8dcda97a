"""Databases, slot groups, shards and endpoints: their desired state."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from shardwright.model.codes import Code
from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.lease import Lease
from shardwright.model.parking import Parking
from shardwright.model.reason import Grade, Reason

SLOTS = 16384


class Role(StrEnum):
    """Role of a shard in its slot group."""

    PRIMARY = "primary"
    REPLICA = "replica"


class ServerKind(StrEnum):
    """The server program of a database; all copies of a database run the same kind."""

    VALKEY = "valkey"
    REDIS = "redis"


class Persistence(StrEnum):
    """The data that a shard keeps on disk."""

    DISABLED = "disabled"
    AOF = "aof"
    SNAPSHOT = "snapshot"


class AofPolicy(StrEnum):
    """When an append-only file is synced to disk."""

    EVERY_SECOND = "appendfsync-every-sec"
    ALWAYS = "appendfsync-always"


class ProxyPolicy(StrEnum):
    """The nodes that serve the endpoint of a database; the values are also the wire's."""

    SINGLE = "single"
    """One node. Another one takes over with the clients' connections when it leaves."""
    ALL_NODES = "all-nodes"
    """Every active node, each at an address of its own."""
    ALL_MASTER_SHARDS = "all-master-shards"
    """The nodes that hold a primary of the database, each at an address of its own."""

    @property
    def is_single(self) -> bool:
        """Whether one node serves at one address. Only such an endpoint is passed from one process to another."""
        return self is ProxyPolicy.SINGLE


class DatabaseStatus(StrEnum):
    """Life cycle of a database; the values are also the wire's."""

    PENDING = "pending"
    ACTIVE = "active"
    ACTIVE_CHANGE_PENDING = "active-change-pending"
    DELETE_PENDING = "delete-pending"
    CREATION_FAILED = "creation-failed"


class ShardWanted(StrEnum):
    """The agent's goal for a shard."""

    RUNNING = "running"
    STOPPED = "stopped"
    """The process ends; its files are kept."""
    GONE = "gone"
    """The process ends and its files are deleted; the agent reports that, and the leader deletes the record."""


class Damage(StrEnum):
    """Why a server could not load the files of its shard."""

    APPEND_ONLY_FILE = "append_only_file"
    """A command in the append-only file is unreadable. If it is at the end, the end can be cut."""
    SNAPSHOT = "snapshot"
    """The snapshot, or the base snapshot of the append-only file, is unreadable."""
    INCOMPLETE = "incomplete"
    """Parts of the append-only file are missing or do not match."""


class StartWith(StrEnum):
    """The data that an incarnation loads."""

    FILES = "files"
    """The files that the shard has kept."""
    NOTHING = "nothing"
    """Nothing: the kept files are first moved aside."""
    CUT_FILES = "cut_files"
    """The kept files without the damaged end of the append-only file; the original file is kept next to it."""


class GroupPhase(StrEnum):
    """Whether the primary of a slot group is chosen and open."""

    STARTING = "starting"
    """Copies are starting and being compared; none is writable."""
    SERVING = "serving"
    """``primary`` is chosen: it is to be a writable primary, and the others its replicas."""


@dataclass(frozen=True, slots=True)
class SnapshotRule:
    """Save when at least ``writes`` changes happened within ``seconds``."""

    seconds: int
    writes: int


@dataclass(frozen=True, slots=True)
class Database:
    """The unit that an application uses."""

    uid: DatabaseUid
    name: str
    port: int
    memory_bytes: int
    """For all copies together; 0: no limit."""
    created_at: datetime
    changed_at: datetime
    server_kind: ServerKind
    server_version: str
    """For instance ``9.1.2``; every copy runs exactly this version."""
    status: DatabaseStatus = DatabaseStatus.PENDING
    has_replica: bool = False
    shards_count: int = 1
    """Number of slot groups."""
    persistence: Persistence = Persistence.DISABLED
    aof_policy: AofPolicy = AofPolicy.EVERY_SECOND
    snapshot_rules: tuple[SnapshotRule, ...] = ()
    eviction_policy: str = "volatile-lru"
    password: str = field(default="", repr=False)
    """The password that applications give to AUTH; empty: no password is required."""
    is_rack_aware: bool = False
    is_strict: bool = False
    proxy_policy: ProxyPolicy = ProxyPolicy.SINGLE
    action_uid: ActionUid | None = None
    """The current creation, change or deletion."""
    port_was_given: bool = False
    """Whether the operator chose the port; otherwise the wire reports 0."""
    failure: str = ""
    """Why the creation failed; otherwise empty."""
    uses_tls: bool = False
    """Whether its servers accept only encrypted connections. Decided at its creation: the copies must agree."""
    notify_keyspace_events: str = ""
    """Keyspace events that the servers publish, in the letters of their directive; empty: none."""
    is_strict_everywhere: bool = False
    """Every endpoint process that may have clients has shown that it is strict, since the mode was switched on."""
    options: dict[str, object] = field(default_factory=dict)
    """Other accepted keys of the wire, stored and shown as given. Decisions read the two properties below."""

    @property
    def is_strict_in_force(self) -> bool:
        """Whether no endpoint process passes on an acknowledgement of a write that no replica has."""
        return self.is_strict and self.is_strict_everywhere

    @property
    def is_rebuilt(self) -> bool | None:
        """Whether a lost copy is rebuilt on another node; None: as the policy says."""
        found = self.options.get("slave_ha")
        return None if found is None else bool(found)

    @property
    def rebuild_priority(self) -> int:
        """Lost copies of databases with a higher number are rebuilt first."""
        found = self.options.get("slave_ha_priority")
        return found if isinstance(found, int) else 0

    @property
    def copies(self) -> int:
        """Copies of every slot group: 2 with replication, else 1."""
        return 2 if self.has_replica else 1

    @property
    def shard_memory_bytes(self) -> int:
        """``maxmemory`` of each server: an equal share of ``memory_bytes``; 0: no limit."""
        return self.memory_bytes // (self.copies * self.shards_count)

    @property
    def settings_fingerprint(self) -> str:
        """Equal exactly if every setting that a running server can change is equal. ``Shard.kept`` reads it too."""
        rules = ",".join(f"{rule.seconds}/{rule.writes}" for rule in self.snapshot_rules)
        notify = (
            f"|{self.notify_keyspace_events}" if self.notify_keyspace_events else ""
        )  # omitted if empty, like in records of earlier versions
        return f"{self.shard_memory_bytes}|{self.eviction_policy}|{self.persistence}|{self.aof_policy}|{rules}{notify}"


@dataclass(frozen=True, slots=True)
class ServerSecrets:
    """Generated secrets of one database's servers, one per kind of user. Never printed."""

    database_uid: DatabaseUid
    application: str = field(repr=False)
    replication: str = field(repr=False)
    observation: str = field(repr=False)
    management: str = field(repr=False)
    hash_seed: str = field(repr=False)
    """The same for all shards, so that SCAN cursors survive a handoff if the server supports the setting."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """A committed intent to hand over the primary role. While it exists, no other decision changes the slot group."""

    from_shard: ShardUid
    to_shard: ShardUid
    generation: int
    """The group's generation after success."""
    term: int
    intended_at: datetime
    from_incarnation: int = 0
    """Of the old primary when it was checked; 0 in a record of an earlier version: any incarnation."""
    to_incarnation: int = 0
    """Of the candidate that was proven. A later incarnation has never been promoted, regardless of the role that it
    shows."""


@dataclass(frozen=True, slots=True)
class SlotGroup:
    """A primary and its replicas, which hold one range of hash slots."""

    uid: GroupUid
    database_uid: DatabaseUid
    number: int
    slot_first: int = 0
    slot_last: int = SLOTS - 1
    phase: GroupPhase = GroupPhase.STARTING
    primary: ShardUid | None = None
    """The committed primary; None only before the first start."""
    generation: int = 0
    """Grows whenever clients must switch to another server: a new primary, or a restarted one."""
    handoff: Handoff | None = None
    replication_id: str = ""
    """The primary's id in this generation; empty: not known yet. A replica shows it once it has received the whole data
    set."""
    replication_id_before: str = ""
    """The id of the primary that handed over to the present one; empty: no handoff. The old primary shows this id until it
    follows, and holds all writes acknowledged before the handoff."""

    starting_since: datetime | None = None
    """Start of the phase STARTING; None while the group serves, or if the time is unknown."""
    waits_for: tuple[Reason, ...] = ()
    """While it starts: lasting obstacles, such as a copy whose node is dead. Empty: none."""
    start_from: ShardUid | None = None
    """While it starts: the copy that an operator has chosen to continue with, regardless of the others; None: no choice."""
    start_cuts: bool = False
    """The damaged end of that copy's append-only file must be cut first."""
    parking: Parking | None = None
    """The primary is out of reach, and another copy is about to take over; None: no."""
    is_restored: bool = False
    """While it starts: the record comes from a backup and may be older than the servers, so the copy that leads counts."""
    lease: Lease | None = None
    """The proofs that endpoint processes owe; None: none was ever needed, and every process serves without one."""

    @property
    def is_changing_roles(self) -> bool:
        """Whether a handoff or a takeover is pending: no other decision changes the group until it has ended."""
        return self.handoff is not None or self.parking is not None

    def led_by(self, primary: ShardUid | None, generation: int, phase: GroupPhase) -> "SlotGroup":
        """The group under a new primary without a handoff: its replication id is not known yet, and nothing proves that it
        has a replica."""
        return replace(
            self,
            primary=primary,
            generation=generation,
            phase=phase,
            handoff=None,
            replication_id="",
            replication_id_before="",
            starting_since=None,
            waits_for=(),
            start_from=None,
            start_cuts=False,
            parking=None,
            is_restored=False,
            lease=None if self.lease is None else self.lease.ended(),
        )


@dataclass(frozen=True, slots=True)
class DatabaseTroubles:
    """The faults of a database, as last observed by the leader. No record: no faults."""

    database_uid: DatabaseUid
    reasons: tuple[Reason, ...]
    """Never empty. The texts contain no numbers that change by themselves, because each change of a text is a write."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One server process of a database."""

    uid: ShardUid
    database_uid: DatabaseUid
    group_uid: GroupUid
    node_uid: NodeUid
    port: int
    created_at: datetime
    incarnation: int = 1
    """The agent starts each incarnation at most once, on ``port``. A new start is a new incarnation on a new port, so that
    a replica that still follows the old address never reaches an empty server there."""
    wanted: ShardWanted = ShardWanted.RUNNING
    in_sync_generation: int = -1
    """Highest group generation in which this copy was observed in sync with the primary; -1: never."""
    file_generation: int = -1
    """Highest group generation in which its append-only file was observed to hold all data of the primary; -1: never. If
    every write is synced, the file also holds all writes that the copy acknowledges later in that generation."""
    settings: str = ""
    """Fingerprint of the settings last applied to its server, which outlives the server; empty: never any."""
    restarts: int = 0
    """Starts since the shard last ran for a minute; they determine the delay of further starts."""
    restart_not_before: datetime | None = None
    failure: str = ""
    """Why the current incarnation is unusable; otherwise empty."""
    starts_with: StartWith = StartWith.FILES
    """The data that the current incarnation loads."""
    damage: Damage | None = None
    """Why its server could not load its files the last time; None: it could, or no damage is known."""
    missing_since: datetime | None = None
    """Since when the copy has not served without a prospect of recovery; None while it works as intended. After the
    policy's grace period it is rebuilt elsewhere."""
    ended_since: datetime | None = None
    """Of a slot group's primary: since when it is recorded that its process has certainly ended; None: there was no proof
    yet, or the copy works as intended again. May be later than ``missing_since``: a silent server may serve until then."""

    @property
    def kept(self) -> Persistence | None:
        """The persistence last applied to its server, with which its files were written; None: never any. It differs from
        the database's setting until the server has received a change."""
        return Persistence(self.settings.split("|")[2]) if self.settings else None

    @property
    def keeps_each_write(self) -> bool:
        """Whether its server was last told to write every change to disk before it answers."""
        return self.kept is Persistence.AOF and self.settings.split("|")[3] == AofPolicy.ALWAYS


@dataclass(frozen=True, slots=True)
class LeavingNode:
    """A node that is to serve an endpoint no longer. It serves until its clients have left or the policy's time is over."""

    node_uid: NodeUid
    since: datetime
    """When it began to leave, or to close; by the clock of the leader that decides, which corrects the time of another."""
    is_closing: bool = False
    """It no longer accepts connections, and its process closes each connection behind a reply."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a database, which stays the same when another node takes over. With a proxy policy other than
    ``single``, each node serves it at an address of its own (``model/serving.py``)."""

    uid: EndpointUid
    database_uid: DatabaseUid
    address: str
    """Its address with proxy policy ``single``."""
    port: int
    nodes: tuple[NodeUid, ...]
    """Nodes whose endpoint process may have clients of it, in ascending order; exactly one with proxy policy ``single``. A
    handoff holds all of them."""
    leaving: tuple[LeavingNode, ...] = ()
    """Those of ``nodes`` that are on their way out."""

    @property
    def bound_nodes(self) -> tuple[NodeUid, ...]:
        """Nodes whose process accepts connections: all of ``nodes`` except those that are closing."""
        closing = {one.node_uid for one in self.leaving if one.is_closing}
        return tuple(uid for uid in self.nodes if uid not in closing) if closing else self.nodes

    def leaving_of(self, uid: NodeUid) -> LeavingNode | None:
        """The node's way out; None: it stays."""
        return next((one for one in self.leaving if one.node_uid == uid), None)


def access_fingerprint(*, application_secret: str, password: str) -> str:
    """Differs if the password of the database's clients differs; reveals nothing without the generated secret."""
    return sha256(f"{len(password)}:{password}:{application_secret}".encode()).hexdigest()[:16]


def reason_about(shard: Shard, code: Code, text: str, grade: Grade = Grade.HARD_LIMIT, *, remedy: str = "") -> Reason:
    """A reason that names the shard, its database and its node."""
    return Reason(
        code, text, grade, remedy=remedy, shard_uid=shard.uid, database_uid=shard.database_uid, node_uid=shard.node_uid
    )
