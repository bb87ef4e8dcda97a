"""What was observed, by whom and when. Never the basis for destroying anything unless it is certain."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from shardwright.model.database import Damage, Role
from shardwright.model.ids import EndpointUid, NodeUid, ShardUid


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Who exactly a process is. A pid alone names nobody: it is reused."""

    pid: int
    boot_id: str
    start_ticks: int
    """Field 22 of ``/proc/<pid>/stat``."""
    executable: str
    directory: str
    machine_id: str = field(default="", compare=False)
    """Of the machine that it runs on (``/etc/machine-id``); empty: not known. The other fields name the process there."""


class ProcessState(StrEnum):
    """What is known of the process of a shard's current incarnation."""

    UNKNOWN = "unknown"
    """Nobody who could know has said anything; in particular the node's agent does not answer and it is not ours to see."""
    ABSENT = "absent"
    """Certainly not started yet."""
    RUNNING = "running"
    GONE = "gone"
    """It was started and has certainly ended."""
    FAILED = "failed"
    """It could not be started."""


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A shard's process, as its node's agent sees it."""

    shard_uid: ShardUid
    incarnation: int
    state: ProcessState
    identity: ProcessIdentity | None = None
    text: str = ""
    """Why it failed or how it ended, or what was done to its files before it started; for people."""
    files_are_deleted: bool = False
    """The shard was wanted gone and nothing of it is left on the node."""
    damage: Damage | None = None
    """It could not be started because of its files; None: not for that reason."""
    ended_at: datetime | None = None
    """When its agent saw it end, by the clock of its machine; None: it has not ended, or no agent was there to see it."""


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What a node's agent reports, whenever it changes."""

    node_uid: NodeUid
    at: datetime
    processes: tuple[ProcessSeen, ...] = ()
    endpoint_process: ProcessIdentity | None = None
    control_path: str = ""
    """Unix socket of the node's endpoint process."""
    cores: int = 0
    memory_total_bytes: int = 0
    memory_free_bytes: int = 0
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0
    os_name: str = ""
    architecture: str = ""
    hostname: str = ""
    uptime_s: int = 0
    directory: str = ""
    servers: tuple[tuple[str, str], ...] = ()
    """Kind and version of each server binary found on the node."""


class Sighting(StrEnum):
    """What a machine's own table of processes says of one of its processes."""

    NONE = "none"
    """It was not looked at: it is not a process of this machine, or its server answers."""
    RUNS = "runs"
    ENDED = "ended"
    """There is no such process any more."""


class ServerTrouble(StrEnum):
    """What a server itself says is wrong with it: it does not serve as it should, or soon will not."""

    AOF_WRITE_FAILED = "aof_write_failed"
    """Its append-only file cannot be written or synced: as a primary it refuses writes."""
    AOF_REWRITE_FAILED = "aof_rewrite_failed"
    """The append-only file could not be rewritten: it serves, and the file only grows."""
    SNAPSHOT_FAILED = "snapshot_failed"
    """The last snapshot failed: as a primary that keeps snapshots it refuses writes."""
    MEMORY_FULL = "memory_full"
    """It is at its memory limit and has nothing that it may evict: as a primary it refuses what needs more."""
    MEMORY_SHORT = "memory_short"
    """Less than a twentieth of its limit is left, and nothing that it may evict. What is full stays so until this passes."""
    CLIENTS_FULL = "clients_full"
    """It has as many connections as it takes: further ones are closed."""
    CLIENTS_SHORT = "clients_short"
    """It takes only a twentieth more connections. What is full stays so until this passes."""


class Health(StrEnum):
    """Whether a server answers."""

    OK = "ok"
    LOADING = "loading"
    REFUSED = "refused"
    """Its machine refuses the connection: nothing listens on the port."""
    UNREACHABLE = "unreachable"
    """There is no way to it, or the connection broke: that says nothing about the server."""
    TIMEOUT = "timeout"
    """No answer in time."""
    UNKNOWN = "unknown"
    """Not asked yet."""


@dataclass(frozen=True, slots=True)
class ReplicaSeen:
    """One replica, as its primary lists it."""

    address: str
    port: int
    state: str
    offset: int


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """A server's own answer (INFO), read by the leader."""

    shard_uid: ShardUid
    incarnation: int
    at: datetime
    health: Health
    run_id: str = ""
    role: Role | None = None
    replication_id: str = ""
    second_replication_id: str = ""
    second_offset: int = -1
    offset: int = 0
    """What it has written (primary) or applied (replica) of its replication stream."""
    primary_address: str = ""
    primary_port: int = 0
    is_link_up: bool = False
    link_down_s: int = 0
    """How long the link to the primary has been down; 0 while it is up."""
    is_syncing: bool = False
    sync_total_bytes: int = 0
    """0 when the server does not know: a diskless sync has no announced size."""
    sync_done_bytes: int = 0
    keys: int = 0
    used_memory_bytes: int = 0
    is_fenced: bool = False
    """The hard fence is set: as a primary it would refuse writes."""
    replicas: tuple[ReplicaSeen, ...] = ()
    is_aof_on: bool = False
    is_persistence_busy: bool = False
    """A snapshot or a rewrite of the append-only file runs or is scheduled."""
    is_persistence_ok: bool = True
    """The last snapshot, rewrite and append succeeded."""
    last_save_at: datetime | None = None
    saves_since_start: int = 0
    kind: str = ""
    version: str = ""
    cpu_s: float = 0.0
    replication_id_lately: str = ""
    """While it does not answer: the last one known of this incarnation."""
    unanswered_since: datetime | None = None
    """First of the unbroken row of failed attempts; None when the last one was answered."""
    cpu_active_at: datetime | None = None
    """When its process was last seen to use CPU in that time; None: not at all."""
    served_at: datetime | None = None
    """Of what is published: when the shard was last seen to hold its serving group's data, also in an earlier incarnation;
    None: not known. Tells people what a copy may lack."""
    served_offset: int = -1
    """Its offset then; -1: not known."""
    served_keys: int = -1
    """Its keys then; -1: not known."""
    troubles: tuple[ServerTrouble, ...] = ()
    sighting: Sighting = Sighting.NONE
    """Of what is published: what the leader found in its own machine's table of processes."""


class EndpointState(StrEnum):
    """What an endpoint process does for one endpoint."""

    ABSENT = "absent"
    """It does not know it."""
    LISTENING = "listening"
    BIND_FAILED = "bind_failed"
    DRAINING = "draining"
    """It passed the listener on, some connections are still here."""


@dataclass(frozen=True, slots=True)
class BusyCommand:
    """A command in flight: who runs what."""

    client: str
    """Address, and name if it gave one."""
    command: str
    """Its first word only: arguments may be secret. Empty: the rest of a reply is on its way."""
    since: datetime | None = None
    """When it was sent to the server."""

    def __str__(self) -> str:
        began = "" if self.since is None else f" since {self.since:%H:%M:%S} UTC"
        return f"{self.command or 'a reply'} of {self.client}{began}"


@dataclass(frozen=True, slots=True)
class EndpointSeen:
    """One endpoint in one endpoint process."""

    endpoint_uid: EndpointUid
    state: EndpointState
    generation: int = -1
    """Generation of the server it forwards to; -1: none yet."""
    held_generation: int | None = None
    """The generation it waits for while it holds; None: it does not hold."""
    connections: int = 0
    text: str = ""
    access: str = ""
    """Fingerprint of the passwords it goes by (``access_fingerprint``); empty: it does not say."""
    is_strict: bool = False
    """It answers writes only once a replica has them."""
    busy: tuple[BusyCommand, ...] = ()
    """Commands in flight for more than a second, the longest first; a few of them."""
    ended: tuple[str, ...] = ()
    """Clients whose connection could not be passed on and was ended, as (address, name and command); the last few."""


@lru_cache(maxsize=4096)
def _absent(uid: EndpointUid) -> EndpointSeen:
    """Asked for each endpoint of each process in every turn."""
    return EndpointSeen(uid, EndpointState.ABSENT)


@dataclass(frozen=True, slots=True)
class EndpointProcessSeen:
    """An endpoint process's own answer."""

    node_uid: NodeUid
    at: datetime
    answers: bool
    has_ended: bool = False
    """Nothing listens at its control socket: there is no such process, and no connection of its clients."""
    pid: int = 0
    endpoints: tuple[EndpointSeen, ...] = ()
    totals: dict[str, int] = field(default_factory=dict)

    def endpoint(self, uid: EndpointUid) -> EndpointSeen:
        """The named endpoint; one in state ABSENT when the process does not know it."""
        for seen in self.endpoints:
            if seen.endpoint_uid == uid:
                return seen
        return _absent(uid)
