"""Observations: their content, source and time. They justify destructive decisions only if they are certain."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from shardwright.model.database import Damage, Role
from shardwright.model.ids import EndpointUid, KeyUid, NodeUid, ShardUid
from shardwright.model.lease import LeaseSeen
from shardwright.model.virtual_address import HeldAddress


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """The unique identity of a process. A pid alone is not unique: it is reused."""

    pid: int
    boot_id: str
    start_ticks: int
    """Field 22 of ``/proc/<pid>/stat``."""
    executable: str
    directory: str
    machine_id: str = field(default="", compare=False)
    """The machine on which it runs (``/etc/machine-id``); empty: unknown. The other fields identify the process there."""


class ProcessState(StrEnum):
    """The known state of a shard's current process."""

    UNKNOWN = "unknown"
    """No information: the node's agent has not reported, and the process is not on this machine."""
    ABSENT = "absent"
    """It has certainly not been started yet."""
    RUNNING = "running"
    GONE = "gone"
    """It was started and has certainly ended."""
    FAILED = "failed"
    """It could not be started."""


ENDED_STATES = frozenset({ProcessState.GONE, ProcessState.FAILED})
"""Final for an incarnation: it starts at most once."""


@dataclass(frozen=True, slots=True)
class ProcessSeen:
    """A shard's process, as observed by its node's agent."""

    shard_uid: ShardUid
    incarnation: int
    state: ProcessState
    identity: ProcessIdentity | None = None
    text: str = ""
    """Why it failed, how it ended, or how its files were changed before its start; for people."""
    files_are_deleted: bool = False
    """The shard was to be deleted, and nothing of it is left on the node."""
    damage: Damage | None = None
    """Why its files prevented a start; None: the start did not fail for this reason."""
    ended_at: datetime | None = None
    """When its agent observed its end, by the clock of its machine; None: it has not ended, or no agent observed the
    end."""


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """Figures of a node's machine that change all the time. They are asked of its agent and never stored."""

    memory_free_bytes: int = 0
    """What new processes can use without swapping; 0: unknown."""
    disk_free_bytes: int = 0
    """On the file system of the node's directory; 0: unknown."""
    uptime_s: int = 0


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """The report of a node's agent, written at every change."""

    node_uid: NodeUid
    at: datetime
    processes: tuple[ProcessSeen, ...] = ()
    endpoint_process: ProcessIdentity | None = None
    cores: int = 0
    memory_total_bytes: int = 0
    disk_total_bytes: int = 0
    os_name: str = ""
    architecture: str = ""
    hostname: str = ""
    directory: str = ""
    servers: tuple[tuple[str, str], ...] = ()
    """Kind and version of each server program on the node."""
    daemon: ProcessIdentity | None = None
    """The daemon that reports, with its machine and boot; None: it is of an older version."""
    tls_servers: tuple[tuple[str, str], ...] = ()
    """Those of ``servers`` that can encrypt their connections."""
    virtual_interfaces: tuple[str, ...] = ()
    """Interfaces to which the agent can add virtual addresses. Empty: it lacks the capabilities, or the cluster is local."""
    virtual_addresses: tuple[HeldAddress, ...] = ()
    """Those that the node is to have, or has failed to add a while ago."""
    cluster_keys: tuple[KeyUid, ...] = ()
    """The cluster keys in the file of the node; its daemon opens values with them. Empty: there are none, or it is of an
    older version."""


class Sighting(StrEnum):
    """What the machine of a process says about it: this machine's own process table, or the answer of a daemon there."""

    NONE = "none"
    """Not checked, or its machine cannot be asked, or its server answers."""
    RUNS = "runs"
    ENDED = "ended"
    """The process no longer exists in this machine's own table."""
    HERE = "here"
    """No agent has reported a process that could be looked for, and its node is on this machine and away."""
    REBOOTED = "rebooted"
    """Its machine has booted since: a daemon there, asked after the process was on record, names another boot."""
    OFF = "off"
    """Its machine says nothing, and was declared off (``DeclaredOff``)."""


class ServerTrouble(StrEnum):
    """Faults that a server reports about itself: it does not serve properly, or soon will not."""

    AOF_WRITE_FAILED = "aof_write_failed"
    """Its append-only file cannot be written or synced: as a primary, it refuses writes."""
    AOF_REWRITE_FAILED = "aof_rewrite_failed"
    """The append-only file could not be rewritten: the server works, but the file only grows."""
    SNAPSHOT_FAILED = "snapshot_failed"
    """The last snapshot failed: as a primary that keeps snapshots, it refuses writes."""
    MEMORY_FULL = "memory_full"
    """It is at its memory limit and has no keys to evict: as a primary, it refuses commands that add data."""
    MEMORY_SHORT = "memory_short"
    """Less than a twentieth of its limit is left, and it has no keys to evict. MEMORY_FULL persists until this passes."""
    CLIENTS_FULL = "clients_full"
    """It is at its connection limit: it closes further connections."""
    CLIENTS_SHORT = "clients_short"
    """It can accept only a twentieth more connections. CLIENTS_FULL persists until this passes."""


class Health(StrEnum):
    """Whether a server answers."""

    OK = "ok"
    LOADING = "loading"
    REFUSED = "refused"
    """Its machine refuses the connection: no process listens on the port."""
    UNREACHABLE = "unreachable"
    """Its machine has no route, or the connection broke: that proves nothing about the server."""
    TIMEOUT = "timeout"
    """No answer in time."""
    UNKNOWN = "unknown"
    """Not probed yet."""


@dataclass(frozen=True, slots=True)
class ReplicaSeen:
    """One replica, as listed by its primary."""

    address: str
    port: int
    state: str
    offset: int
    lag_s: int | None = None
    """Whole seconds since the primary last heard of it, by the primary's clock; only of a replica in state ``online``. None:
    the primary does not say."""


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
    """Replication offset that it has written (primary) or applied (replica)."""
    primary_address: str = ""
    primary_port: int = 0
    is_link_up: bool = False
    link_down_s: int = 0
    """Time since the link to the primary went down; 0 while it is up."""
    heard_primary_s: int = 0
    """Time since it last received anything from its primary; 0 while the link is down, and of a primary."""
    is_syncing: bool = False
    sync_total_bytes: int = 0
    """0 if the server does not know it: a diskless sync does not announce its size."""
    sync_done_bytes: int = 0
    keys: int = 0
    used_memory_bytes: int = 0
    is_fenced: bool = False
    """The hard fence is set: as a primary, the server would refuse writes."""
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
    """While it does not answer: the last known id of this incarnation."""
    unanswered_since: datetime | None = None
    """First failed probe in a row; None if the last probe was answered."""
    answered_at: datetime | None = None
    """Of a silent server: when it last answered this leader or its agent; None: not since the leader began to look."""
    cpu_active_at: datetime | None = None
    """When its process was last observed using CPU during that time; None: not at all."""
    machine_heard_since: datetime | None = None
    """Since when every look at the silent server's machine was answered; None: the last one was not. What the server did
    before is unknown: the network may have been cut while it served."""
    served_at: datetime | None = None
    """Only in the published record: when the shard was last observed to hold its serving group's data, possibly in an
    earlier incarnation; None: unknown. Shows people which writes a copy may lack."""
    served_offset: int = -1
    """Its offset at that time; -1: unknown."""
    served_keys: int = -1
    """Its number of keys at that time; -1: unknown."""
    troubles: tuple[ServerTrouble, ...] = ()
    sighting: Sighting = Sighting.NONE
    """Only in the published record: the entry in the process table of the leader's machine."""


def answers(seen: ServerSeen) -> bool:
    """Whether the server says how it is: its process need not be looked for."""
    return seen.health in (Health.OK, Health.LOADING)


def decisive(seen: ServerSeen) -> object:
    """What decisions depend on; figures that change all the time are left out."""
    return (
        seen.incarnation,
        seen.health,
        seen.run_id,
        seen.role,
        seen.replication_id,
        seen.primary_address,
        seen.primary_port,
        seen.is_link_up,
        seen.is_syncing,
        seen.is_fenced,
        seen.keys > 0,
        seen.is_aof_on,
        seen.is_persistence_busy,
        seen.is_persistence_ok,
        seen.saves_since_start > 0,
        seen.troubles,
    )


class EndpointState(StrEnum):
    """The service of an endpoint process for one endpoint."""

    ABSENT = "absent"
    """The process does not know the endpoint."""
    LISTENING = "listening"
    BIND_FAILED = "bind_failed"
    DRAINING = "draining"
    """It accepts no more connections, because it has passed the listener on or retires, but still has some."""


class VirtualState(StrEnum):
    """What an endpoint process does with an endpoint at a virtual address."""

    LISTENING = "listening"
    """It accepts clients there, if the address is on this machine."""
    BIND_FAILED = "bind_failed"
    CLOSING = "closing"
    """It closes the connections there, each behind a reply."""
    LEFT = "left"
    """It has closed them all, and accepts none."""


@dataclass(frozen=True, slots=True)
class VirtualSeen:
    """One endpoint at one virtual address."""

    address: str
    state: VirtualState
    failed_s: float = 0.0
    """For how long it could not listen there."""

    @property
    def is_closed(self) -> bool:
        """Whether the process was told that the address goes."""
        return self.state in (VirtualState.CLOSING, VirtualState.LEFT)


@dataclass(frozen=True, slots=True)
class BusyCommand:
    """A command in flight: its client and its name."""

    client: str
    """Address, and name if the client has set one."""
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
    """Generation of the server to which it forwards; -1: none yet."""
    held_generation: int | None = None
    """The generation for which it holds commands; None: it does not hold."""
    connections: int = 0
    text: str = ""
    access: str = ""
    """Fingerprint of the passwords that it uses (``access_fingerprint``); empty: not reported."""
    is_strict: bool = False
    """It answers a write only once a replica has it."""
    busy: tuple[BusyCommand, ...] = ()
    """Commands in flight for more than a second, the longest first; at most a few."""
    ended: tuple[str, ...] = ()
    """Clients whose connections could not be passed on and were closed, as (address, name and command); only the latest."""
    address: str = ""
    """The address at which it serves or is to serve; empty: not reported."""
    server_silent_s: float | None = None
    """For how long every question of the process to the endpoint's server has had no answer; 0: the last one had. None: it
    was not asked to find out lately."""
    virtual: tuple[VirtualSeen, ...] = ()
    """The virtual addresses at which it serves or is to serve."""

    def virtual_at(self, address: str) -> VirtualSeen | None:
        """The endpoint at a virtual address; None: the process does not serve it there."""
        return next((one for one in self.virtual if one.address == address), None)


@lru_cache(maxsize=4096)
def _absent(uid: EndpointUid) -> EndpointSeen:
    """Called for each endpoint of each process in every turn."""
    return EndpointSeen(uid, EndpointState.ABSENT)


@dataclass(frozen=True, slots=True)
class EndpointProcessSeen:
    """The answer of an endpoint process."""

    node_uid: NodeUid
    at: datetime
    answers: bool
    has_ended: bool = False
    """No process listens on its control socket: the process and its client connections no longer exist."""
    pid: int = 0
    endpoints: tuple[EndpointSeen, ...] = ()
    totals: dict[str, int] = field(default_factory=dict)
    version: str = ""
    """The version of the program that it runs; empty: one that did not say so yet."""
    silent_since: datetime | None = None
    """Since when no question of this leader was answered; None: the last one was."""
    instance: str = ""
    """Identifies the process; empty: it is of an older version."""
    leases: dict[EndpointUid, LeaseSeen] = field(default_factory=dict)
    """Of every endpoint of whose lease it was told, also of those that it does not serve."""

    def endpoint(self, uid: EndpointUid) -> EndpointSeen:
        """The endpoint with that uid; in state ABSENT if the process does not know it."""
        for seen in self.endpoints:
            if seen.endpoint_uid == uid:
                return seen
        return _absent(uid)


def with_figures(known: ServerSeen, latest: ServerSeen) -> ServerSeen:
    """``known`` with the figures of ``latest``, if both are answers of the same incarnation; otherwise ``known`` as it is.
    What decisions depend on does not change."""
    if known.incarnation != latest.incarnation or not (answers(known) and answers(latest)):
        return known
    return replace(known, **{name: getattr(latest, name) for name in _FIGURES})


_FIGURES = (
    "offset",
    "keys",
    "used_memory_bytes",
    "link_down_s",
    "heard_primary_s",
    "sync_total_bytes",
    "sync_done_bytes",
    "replicas",
)
