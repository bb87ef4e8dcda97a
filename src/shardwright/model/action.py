"""Actions (durable operator requests) and moves (durable relocations or role changes that serve them)."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.reason import Reason


class ActionName(StrEnum):
    """What an operator can ask of a node."""

    REMOVE = "remove"
    MAINTENANCE_ON = "maintenance_on"
    MAINTENANCE_OFF = "maintenance_off"
    STEP_DOWN = "step_down"
    """On the wire: ``enslave_node``."""


class ActionStatus(StrEnum):
    """Life of an action; the values are also the wire's (rest-api.md 2.5)."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether the action has ended."""
        return self in (ActionStatus.COMPLETED, ActionStatus.CANCELLED, ActionStatus.FAILED)


ACTION_TRANSITIONS: dict[ActionStatus, frozenset[ActionStatus]] = {
    ActionStatus.QUEUED: frozenset({ActionStatus.STARTING, ActionStatus.CANCELLED}),
    ActionStatus.STARTING: frozenset({ActionStatus.RUNNING, ActionStatus.CANCELLING, ActionStatus.FAILED}),
    ActionStatus.RUNNING: frozenset({ActionStatus.COMPLETED, ActionStatus.CANCELLING, ActionStatus.FAILED}),
    ActionStatus.CANCELLING: frozenset({ActionStatus.CANCELLED, ActionStatus.FAILED}),
    ActionStatus.COMPLETED: frozenset(),
    ActionStatus.CANCELLED: frozenset(),
    ActionStatus.FAILED: frozenset(),
}
"""Legal changes of status."""


@dataclass(frozen=True, slots=True)
class RemoveParameters:
    """``wait_for_persistence`` None means: as the policy says."""

    kind: Literal["remove"] = "remove"
    wait_for_persistence: bool | None = None


@dataclass(frozen=True, slots=True)
class MaintenanceOnParameters:
    """``evict_databases`` None means all databases; an empty tuple lists none."""

    kind: Literal["maintenance_on"] = "maintenance_on"
    overwrite_snapshot: bool = False
    evict_replicas: bool = True
    """False keeps replicas on the node; its primaries leave all the same."""
    evict_databases: tuple[DatabaseUid, ...] | None = None
    """Listed databases leave entirely; of the others only primaries leave."""
    yields_leadership: bool = False
    moves_max: int | None = None
    """None: as the policy says; 0: no limit."""


@dataclass(frozen=True, slots=True)
class MaintenanceOffParameters:
    """``snapshot_name`` None means the latest maintenance snapshot of the node."""

    kind: Literal["maintenance_off"] = "maintenance_off"
    snapshot_name: str | None = None
    skips_restore: bool = False
    moves_max: int | None = None


@dataclass(frozen=True, slots=True)
class StepDownParameters:
    """``retry_timeout_s`` None means 60: how long failed handoffs are tried again."""

    kind: Literal["step_down"] = "step_down"
    yields_leadership: bool = False
    endpoints_only: bool = False
    shards_only: bool = False
    retry_timeout_s: int | None = None


ActionParameters = RemoveParameters | MaintenanceOnParameters | MaintenanceOffParameters | StepDownParameters


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an action, in the order in which it began. ``ended_at`` None: under way."""

    name: str
    started_at: datetime
    ended_at: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class PlannedTarget:
    """Where an accepted plan takes a copy or an endpoint; exactly one of the first two is given."""

    shard_uid: ShardUid | None
    endpoint_uid: EndpointUid | None
    to_node: NodeUid


@dataclass(frozen=True, slots=True)
class Action:
    """A durable operator request on one node."""

    uid: ActionUid
    name: ActionName
    node_uid: NodeUid
    parameters: ActionParameters
    status: ActionStatus
    created_at: datetime
    requested_by: str
    phase: str = ""
    """Where the action's own state machine stands; each kind of action owns its words."""
    progress: float = 0.0
    """0 to 100, never falling."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str = ""
    error_code: str = ""
    error_message: str = ""
    steps: tuple[Step, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """While it runs: what blocks it. After a failure: why. After a restore: each difference that stays."""
    moves_started: int = 0
    """Numbers its moves."""
    snapshot_name: str = ""
    """The snapshot this action took or restores; empty before it is known."""
    was_quorum_only: bool | None = None
    """The node's mark when the action began, so that a failed ``maintenance_off`` can put it back. None: not yet known."""
    work_total_bytes: int = 0
    """Bytes its moves must transfer in sum, estimated when the moves were planned; grows only."""
    is_undo_wanted: bool = False
    """The cancel wish asks for everything back where it was, not only for an end. Never taken back."""
    was_closed: bool | None = None
    """Whether the node was closed before a removal was asked for, so that an undo can reopen it. None: not recorded."""
    plan_uid: str = ""
    """Digest of the plan that the request named; empty when it named none."""
    targets: tuple[PlannedTarget, ...] = ()
    """Where that plan takes what moves."""
    expected_end_at: datetime | None = None
    """When it may end, by what its moves and those before it took; None while nothing can be said."""


class MoveKind(StrEnum):
    """What a move changes."""

    HANDOFF = "handoff"
    """The primary role passes to a replica that exists; no shard changes its node."""
    RELOCATE = "relocate"
    """A new copy on another node replaces one, and takes its role."""
    REBIND = "rebind"
    """Another node's endpoint process begins to serve an endpoint."""


class MoveState(StrEnum):
    """Life of a move. A rebind goes from PLANNED to HANDOFF; a handoff likewise."""

    PLANNED = "planned"
    STARTING = "starting"
    """The new server process is being started."""
    SYNCING = "syncing"
    READY = "ready"
    """The new copy holds what the primary holds."""
    HANDOFF = "handoff"
    CLEANING = "cleaning"
    """The new copy serves; the old one leaves once the new one's own persistence is in place."""
    UNDOING = "undoing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the move has ended."""
        return self in (MoveState.DONE, MoveState.FAILED, MoveState.CANCELLED)


MOVE_TRANSITIONS: dict[MoveState, frozenset[MoveState]] = {
    MoveState.PLANNED: frozenset({MoveState.STARTING, MoveState.HANDOFF, MoveState.CANCELLED, MoveState.FAILED}),
    MoveState.STARTING: frozenset({MoveState.SYNCING, MoveState.UNDOING}),
    MoveState.SYNCING: frozenset({MoveState.READY, MoveState.UNDOING}),
    MoveState.READY: frozenset({MoveState.HANDOFF, MoveState.CLEANING, MoveState.UNDOING}),
    MoveState.HANDOFF: frozenset(
        {MoveState.CLEANING, MoveState.DONE, MoveState.UNDOING, MoveState.FAILED, MoveState.CANCELLED}
    ),
    MoveState.CLEANING: frozenset({MoveState.DONE, MoveState.HANDOFF, MoveState.UNDOING}),
    MoveState.UNDOING: frozenset({MoveState.FAILED, MoveState.CANCELLED}),
    MoveState.DONE: frozenset(),
    MoveState.FAILED: frozenset(),
    MoveState.CANCELLED: frozenset(),
}
"""Legal changes of state."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The facts that prove a handoff lost nothing."""

    generation: int
    from_shard: ShardUid
    to_shard: ShardUid
    from_run_id: str
    to_run_id: str
    replication_id_before: str
    replication_id_after: str
    second_replication_id: str
    """Of the new primary after the promotion; must equal ``replication_id_before``."""
    fenced_offset: int
    """Replication offset of the old primary, read after the hard fence."""
    promoted_offset: int
    """Offset of the candidate, asked directly, before it was promoted; at least ``fenced_offset``."""
    fence_ms: float
    """From the pause of the old primary to the confirmed promotion."""
    pause_ms: float | None
    """Longest hold at any endpoint, from hold to release, as the endpoint measured it; None when none held."""
    held_commands: int
    finished_by: str = "handoff"
    """``handoff``, or ``recovery`` when a successor finished it."""
    began_at: datetime | None = None
    """When the endpoints were told to hold; None when a successor finished it."""
    released_at: datetime | None = None
    """When the endpoints had been told to go on."""
    not_held_nodes: tuple[NodeUid, ...] = ()
    """Nodes whose endpoint process was not held: it had ended."""


@dataclass(frozen=True, slots=True)
class Move:
    """A durable relocation or role change. At most one live move per slot group."""

    uid: MoveUid
    action_uid: ActionUid | None
    """None: the cluster's own repair."""
    kind: MoveKind
    state: MoveState
    database_uid: DatabaseUid
    created_at: datetime
    group_uid: GroupUid | None = None
    shard_uid: ShardUid | None = None
    """The copy that leaves (relocate) or gives up the role (handoff)."""
    new_shard_uid: ShardUid | None = None
    """The copy that replaces it (relocate) or takes the role (handoff)."""
    endpoint_uid: EndpointUid | None = None
    from_node: NodeUid | None = None
    to_node: NodeUid | None = None
    hands_over: bool = False
    """The new copy shall become primary."""
    is_cancel_wanted: bool = False
    started_at: datetime | None = None
    sync_began_at: datetime | None = None
    """When the new copy was told to follow; None: not yet, or not a relocation."""
    ended_at: datetime | None = None
    state_since: datetime | None = None
    bytes_total: int = 0
    """Size of the sync stream; an estimate until the sync begins."""
    bytes_done: int = 0
    attempts: int = 0
    """Handoffs tried and undone so far."""
    not_before: datetime | None = None
    """Earliest time of the next attempt."""
    evidence: Evidence | None = None
    reasons: tuple[Reason, ...] = ()
    """What it waits for, or why it failed."""
    has_left: bool = False
    """Nothing of it runs on ``from_node`` any more."""
    is_undo: bool = False
    """It takes back what an earlier move of the same action did."""
    ready_at: datetime | None = None
    """When the new copy held what the primary held; None: not yet."""
    left_at: datetime | None = None
    """When nothing of it ran on ``from_node`` any more; None: not yet, or not a relocation."""
