"""Databases, slot groups, shards and endpoints: what is wanted of them."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.reason import Reason

SLOTS = 16384


class Role(StrEnum):
    """Role of a shard in its slot group."""

    PRIMARY = "primary"
    REPLICA = "replica"


class ServerKind(StrEnum):
    """Which program serves a database; never mixed within one (design, *Starting a shard*)."""

    VALKEY = "valkey"
    REDIS = "redis"


class Persistence(StrEnum):
    """What a shard keeps on disk."""

    DISABLED = "disabled"
    AOF = "aof"
    SNAPSHOT = "snapshot"


class AofPolicy(StrEnum):
    """When an append-only file is synced to disk."""

    EVERY_SECOND = "appendfsync-every-sec"
    ALWAYS = "appendfsync-always"


class DatabaseStatus(StrEnum):
    """Life of a database; the values are also the wire's (rest-api.md 4.5)."""

    PENDING = "pending"
    ACTIVE = "active"
    ACTIVE_CHANGE_PENDING = "active-change-pending"
    DELETE_PENDING = "delete-pending"
    CREATION_FAILED = "creation-failed"


class ShardWanted(StrEnum):
    """What the agent shall do about a shard."""

    RUNNING = "running"
    STOPPED = "stopped"
    """The process ends; its files stay."""
    GONE = "gone"
    """The process ends and its files are deleted; the agent then says so and the leader deletes the record."""


class Damage(StrEnum):
    """Why a server could not load the files of its shard."""

    APPEND_ONLY_FILE = "append_only_file"
    """A command in the append-only file cannot be read. When that is at its end, the end can be cut."""
    SNAPSHOT = "snapshot"
    """The snapshot, or the one that the append-only file begins with, cannot be read."""
    INCOMPLETE = "incomplete"
    """Parts of the append-only file are missing or do not belong together."""


class StartWith(StrEnum):
    """What an incarnation loads."""

    FILES = "files"
    """What the shard has kept."""
    NOTHING = "nothing"
    """Nothing: what it has kept is put aside first."""
    CUT_FILES = "cut_files"
    """What it has kept without the damaged end of its append-only file, which is kept as it was beside it."""


class GroupPhase(StrEnum):
    """Whether a slot group's primary is chosen and open."""

    STARTING = "starting"
    """Copies are being started and compared; nothing is writable."""
    SERVING = "serving"
    """``primary`` is the chosen one: it shall be a writable primary and the others its replicas."""


@dataclass(frozen=True, slots=True)
class SnapshotRule:
    """Save when at least ``writes`` changes happened within ``seconds``."""

    seconds: int
    writes: int


@dataclass(frozen=True, slots=True)
class Database:
    """What a client uses."""

    uid: DatabaseUid
    name: str
    port: int
    memory_bytes: int
    """For all copies together; 0 means no limit."""
    created_at: datetime
    changed_at: datetime
    server_kind: ServerKind
    server_version: str
    """For instance ``9.1.2``; every copy runs exactly this."""
    status: DatabaseStatus = DatabaseStatus.PENDING
    has_replica: bool = False
    shards_count: int = 1
    """Number of slot groups."""
    persistence: Persistence = Persistence.DISABLED
    aof_policy: AofPolicy = AofPolicy.EVERY_SECOND
    snapshot_rules: tuple[SnapshotRule, ...] = ()
    eviction_policy: str = "volatile-lru"
    password: str = field(default="", repr=False)
    """What applications give to AUTH; empty means none is asked for."""
    is_rack_aware: bool = False
    is_strict: bool = False
    action_uid: ActionUid | None = None
    """The running creation, change or deletion."""
    port_was_given: bool = False
    """Whether the operator chose the port; the wire reports 0 otherwise (rest-api.md 4.5)."""
    failure: str = ""
    """Why the creation failed; empty otherwise."""
    notify_keyspace_events: str = ""
    """Which events on keys the servers publish, in the letters of their directive; empty: none."""
    options: dict[str, object] = field(default_factory=dict)
    """Other accepted keys, stored and shown; they decide nothing here."""

    @property
    def copies(self) -> int:
        """Copies of every slot group: 2 with replication, else 1."""
        return 2 if self.has_replica else 1

    @property
    def shard_memory_bytes(self) -> int:
        """``maxmemory`` of each server; 0 means no limit (design, section 7)."""
        return self.memory_bytes // (self.copies * self.shards_count)

    @property
    def settings_fingerprint(self) -> str:
        """Equal exactly when every setting that a running server can change is equal. ``Shard.kept`` reads it too."""
        rules = ",".join(f"{rule.seconds}/{rule.writes}" for rule in self.snapshot_rules)
        notify = (
            f"|{self.notify_keyspace_events}" if self.notify_keyspace_events else ""
        )  # as in records of earlier versions
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
    """One for all shards, so that SCAN cursors survive a handoff where the server knows the setting."""


@dataclass(frozen=True, slots=True)
class Handoff:
    """A committed intent to pass the primary role. While it exists nothing else touches the slot group."""

    from_shard: ShardUid
    to_shard: ShardUid
    generation: int
    """The generation the group will have when it succeeds."""
    term: int
    intended_at: datetime
    from_incarnation: int = 0
    """Of the old primary as it was looked at; 0 in the record of an earlier version: whichever runs."""
    to_incarnation: int = 0
    """Of the candidate that was proven. Another one that runs by now has never been promoted, whatever role it shows."""


@dataclass(frozen=True, slots=True)
class SlotGroup:
    """A primary and its replicas, holding one range of hash slots."""

    uid: GroupUid
    database_uid: DatabaseUid
    number: int
    slot_first: int = 0
    slot_last: int = SLOTS - 1
    phase: GroupPhase = GroupPhase.STARTING
    primary: ShardUid | None = None
    """The committed primary; None only before the first start."""
    generation: int = 0
    """Grows whenever clients must go to another server: another primary, or the same started anew."""
    handoff: Handoff | None = None
    replication_id: str = ""
    """The primary's in this generation; empty: not known yet. A replica shows it once it has received the whole data set."""
    replication_id_before: str = ""
    """That of the primary that handed over to it; empty: it became primary in another way. The old one goes on showing it
    until it follows, and holds all that was acknowledged before the handoff."""

    starting_since: datetime | None = None
    """Since when the copies are being started and compared; None while the group serves, or when it is not known."""
    waits_for: tuple[Reason, ...] = ()
    """While it starts: what does not pass by itself, such as a copy whose node is dead. Empty: nothing of the kind."""
    start_from: ShardUid | None = None
    """While it starts: the copy that an operator goes on with, whatever the others hold; None: nobody has decided so."""
    start_cuts: bool = False
    """The damaged end of that copy's append-only file shall be cut first."""

    def led_by(self, primary: ShardUid | None, generation: int, phase: GroupPhase) -> "SlotGroup":
        """The group under a primary that nobody handed over to: its replication id is not known yet."""
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
        )


@dataclass(frozen=True, slots=True)
class DatabaseTroubles:
    """What keeps a database from serving as it should, as the leader last saw it. No record: nothing does."""

    database_uid: DatabaseUid
    reasons: tuple[Reason, ...]
    """Never empty. Their texts hold no figures that change by themselves, because each change of them is a write."""


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
    """The agent starts each incarnation at most once, on ``port``. A new start is a new incarnation on a new port, so
    that a replica which still follows the old address never meets an empty server there."""
    wanted: ShardWanted = ShardWanted.RUNNING
    in_sync_generation: int = -1
    """Highest group generation at which this copy was seen to hold what the primary held; -1: never."""
    file_generation: int = -1
    """Highest group generation at which its append-only file was seen to hold all that the primary held; -1: never. What the
    copy acknowledges from then on in that generation is in the file too, when every write is synced."""
    settings: str = ""
    """Fingerprint of the settings its server was last told, which outlives the server; empty: never any."""
    restarts: int = 0
    """Starts since the shard last ran for a minute; spaces out further starts."""
    restart_not_before: datetime | None = None
    failure: str = ""
    """Why the current incarnation cannot be used; empty otherwise."""
    starts_with: StartWith = StartWith.FILES
    """What the current incarnation loads."""
    damage: Damage | None = None
    """Why its server could not load its files the last time; None: it could, or nobody knows of any."""
    missing_since: datetime | None = None
    """Since when the copy has not served and nothing was about to change that; None while it does what is wanted of it.
    After the policy's grace period it is rebuilt elsewhere."""

    @property
    def kept(self) -> Persistence | None:
        """The persistence its server was last told, by which its files were written; None: it was never told any. Not that
        of the database when this was changed and the server has not heard of it."""
        return Persistence(self.settings.split("|")[2]) if self.settings else None

    @property
    def keeps_each_write(self) -> bool:
        """Whether its server was last told to have every write on the disk before it answers."""
        return self.kept is Persistence.AOF and self.settings.split("|")[3] == AofPolicy.ALWAYS


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a database, which does not change when another node begins to serve it."""

    uid: EndpointUid
    database_uid: DatabaseUid
    address: str
    port: int
    nodes: tuple[NodeUid, ...]
    """Nodes whose endpoint process serves it; one with proxy policy ``single``."""


def access_fingerprint(*, application_secret: str, password: str) -> str:
    """Differs when the password of a database's clients differs; tells nothing to whom the generated secret is unknown."""
    return sha256(f"{len(password)}:{password}:{application_secret}".encode()).hexdigest()[:16]
