"""Actions (durable operator requests) and moves (durable relocations or role changes that serve them)."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.reason import Reason


class ActionName(StrEnum):
    """The action that an operator requests for a node."""

    REMOVE = "remove"
    MAINTENANCE_ON = "maintenance_on"
    MAINTENANCE_OFF = "maintenance_off"
    STEP_DOWN = "step_down"
    """On the wire: ``enslave_node``."""


class ActionStatus(StrEnum):
    """Life cycle of an action; the values are also the wire's."""

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
"""Legal transitions of the status."""


@dataclass(frozen=True, slots=True)
class RemoveParameters:
    """``wait_for_persistence`` None: as in the policy."""

    kind: Literal["remove"] = "remove"
    wait_for_persistence: bool | None = None


@dataclass(frozen=True, slots=True)
class MaintenanceOnParameters:
    """``evict_databases`` None: all databases; an empty tuple lists none."""

    kind: Literal["maintenance_on"] = "maintenance_on"
    overwrite_snapshot: bool = False
    evict_replicas: bool = True
    """False keeps replicas on the node; its primaries still leave."""
    evict_databases: tuple[DatabaseUid, ...] | None = None
    """Listed databases leave entirely; only the primaries of all others leave."""
    yields_leadership: bool = False
    moves_max: int | None = None
    """None: as in the policy; 0: no limit."""


@dataclass(frozen=True, slots=True)
class MaintenanceOffParameters:
    """``snapshot_name`` None: the latest maintenance snapshot of the node."""

    kind: Literal["maintenance_off"] = "maintenance_off"
    snapshot_name: str | None = None
    skips_restore: bool = False
    moves_max: int | None = None


@dataclass(frozen=True, slots=True)
class StepDownParameters:
    """``retry_timeout_s``: how long failed handoffs are retried; None means 60."""

    kind: Literal["step_down"] = "step_down"
    yields_leadership: bool = False
    endpoints_only: bool = False
    shards_only: bool = False
    retry_timeout_s: int | None = None


ActionParameters = RemoveParameters | MaintenanceOnParameters | MaintenanceOffParameters | StepDownParameters


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an action, in starting order. ``ended_at`` None: under way."""

    name: str
    started_at: datetime
    ended_at: datetime | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class PlannedTarget:
    """The target of a copy or an endpoint in an accepted plan; exactly one of the first two fields is set."""

    shard_uid: ShardUid | None
    endpoint_uid: EndpointUid | None
    to_node: NodeUid


@dataclass(frozen=True, slots=True)
class Action:
    """A durable request of an operator for one node."""

    uid: ActionUid
    name: ActionName
    node_uid: NodeUid
    parameters: ActionParameters
    status: ActionStatus
    created_at: datetime
    requested_by: str
    phase: str = ""
    """The state of the action's own state machine; each kind of action has its own values."""
    progress: float = 0.0
    """0 to 100, never decreasing."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    cancel_requested_by: str = ""
    error_code: str = ""
    error_message: str = ""
    steps: tuple[Step, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """While it runs: its blockers. After a failure: the causes. After a restore: each remaining difference."""
    moves_started: int = 0
    """Used to number its moves."""
    snapshot_name: str = ""
    """The snapshot that this action took or restores; empty until it is known."""
    was_quorum_only: bool | None = None
    """The node's mark at the start, so that a failed ``maintenance_off`` can restore it. None: not yet known."""
    work_total_bytes: int = 0
    """Total bytes that its moves must transfer, estimated when they were planned; only grows."""
    is_undo_wanted: bool = False
    """The cancel request asks for a full undo, not only for an end. Never revoked."""
    was_closed: bool | None = None
    """Whether the node was closed before the removal request, so that an undo can reopen it. None: not recorded."""
    plan_uid: str = ""
    """Digest of the plan that the request named; empty if it named none."""
    targets: tuple[PlannedTarget, ...] = ()
    """The targets in that plan."""
    expected_end_at: datetime | None = None
    """Expected end, estimated from the durations of earlier moves; None while no estimate exists."""


class MoveKind(StrEnum):
    """The kind of change that a move makes."""

    HANDOFF = "handoff"
    """The primary role passes to an existing replica; all shards stay on their nodes."""
    RELOCATE = "relocate"
    """A new copy on another node replaces a copy and takes its role."""
    REBIND = "rebind"
    """Another node's endpoint process takes over an endpoint."""


class MoveState(StrEnum):
    """Life cycle of a move. A rebind goes from PLANNED to HANDOFF; so does a handoff."""

    PLANNED = "planned"
    STARTING = "starting"
    """The new server process is starting."""
    SYNCING = "syncing"
    READY = "ready"
    """The new copy holds all data of the primary."""
    HANDOFF = "handoff"
    CLEANING = "cleaning"
    """The new copy serves; the old one leaves once the new copy's own persistence is in place."""
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
"""Legal transitions of the state."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The facts that prove that a handoff lost nothing."""

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
    """Offset of the candidate, queried directly before its promotion; at least ``fenced_offset``."""
    fence_ms: float
    """From the pause of the old primary to the confirmed promotion."""
    pause_ms: float | None
    """Longest hold at any endpoint, from hold to release, as measured by the endpoint; None if none held."""
    held_commands: int
    finished_by: str = "handoff"
    """``handoff``, or ``recovery`` if a new leader finished it."""
    began_at: datetime | None = None
    """When the endpoints were told to hold; None if a new leader finished the handoff."""
    released_at: datetime | None = None
    """When the endpoints were told to continue."""
    not_held_nodes: tuple[NodeUid, ...] = ()
    """Nodes whose endpoint process was not held because it had ended."""


@dataclass(frozen=True, slots=True)
class Move:
    """A durable relocation or role change. At most one live move per slot group."""

    uid: MoveUid
    action_uid: ActionUid | None
    """None: a move of the cluster itself (repair)."""
    kind: MoveKind
    state: MoveState
    database_uid: DatabaseUid
    created_at: datetime
    group_uid: GroupUid | None = None
    shard_uid: ShardUid | None = None
    """The copy that leaves (relocate) or hands over the role (handoff)."""
    new_shard_uid: ShardUid | None = None
    """The copy that replaces it (relocate) or takes the role (handoff)."""
    endpoint_uid: EndpointUid | None = None
    from_node: NodeUid | None = None
    to_node: NodeUid | None = None
    hands_over: bool = False
    """The new copy becomes the primary."""
    is_cancel_wanted: bool = False
    started_at: datetime | None = None
    sync_began_at: datetime | None = None
    """When the new copy was told to replicate; None: not yet, or not a relocation."""
    ended_at: datetime | None = None
    state_since: datetime | None = None
    bytes_total: int = 0
    """Size of the sync stream; an estimate until the sync begins."""
    bytes_done: int = 0
    attempts: int = 0
    """Number of handoffs attempted and undone so far."""
    not_before: datetime | None = None
    """Earliest time of the next attempt."""
    evidence: Evidence | None = None
    reasons: tuple[Reason, ...] = ()
    """Why it waits or why it failed."""
    has_left: bool = False
    """Nothing of the copy runs on ``from_node`` any longer."""
    is_undo: bool = False
    """It reverses an earlier move of the same action."""
    ready_at: datetime | None = None
    """When the new copy was in sync with the primary; None: not yet."""
    left_at: datetime | None = None
    """When nothing of the copy ran on ``from_node`` any longer; None: not yet, or not a relocation."""
