"""Actions: durable requests of an operator for a node."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, NodeUid, ShardUid
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
