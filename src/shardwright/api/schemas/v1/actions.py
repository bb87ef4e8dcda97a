"""Node actions, their steps, moves and evidence on the wire: under a node, in ``/v1/actions``, in ``/v2/actions``. Pure."""

from datetime import datetime
from typing import NotRequired

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.common import Json, action_name, iso, iso_exact, iso_or_none
from shardwright.api.schemas.v1.parameters import parameters_json
from shardwright.api.services.standing import standing
from shardwright.model.action import Action, ActionStatus, Step
from shardwright.model.leader_change import LeaderChange
from shardwright.model.move import Evidence, Move, Rebind, Relocation
from shardwright.model.reason import Reason
from shardwright.model.view import ClusterView


class StepAnswer(TypedDict):
    """Extension: one step of an action."""

    name: str
    started: str
    ended: str | None
    description: str


class ReasonAnswer(TypedDict):
    """Extension: why something waits or failed, with the smallest remedy."""

    code: str
    description: str
    grade: str
    remedy: str
    shard_uid: NotRequired[str]
    bdb_uid: NotRequired[int]
    node_uid: NotRequired[str]


class ClusterActionAnswer(TypedDict):
    """The cluster's action ``change_master``. All but name, status and progress are extensions."""

    name: str
    status: str
    progress: float
    node_uid: str
    requested: str
    ended: str | None
    error_code: NotRequired[str]
    error_message: NotRequired[str]


class EvidenceAnswer(TypedDict):
    """Extension: the facts that prove that a handoff lost nothing."""

    generation: int
    from_shard: str
    to_shard: str
    from_run_id: str
    to_run_id: str
    replication_id_before: str
    replication_id_after: str
    second_replication_id: str
    fenced_offset: int
    promoted_offset: int
    fence_ms: float
    pause_ms: float | None
    held_commands: int
    held_nodes: list[int]
    not_held_nodes: list[int]
    not_released_nodes: list[int]
    finished_by: str
    began_at: str | None
    released_at: str | None


MoveAnswer = TypedDict(
    "MoveAnswer",
    {
        "uid": str,
        "kind": str,
        "what": str,
        "bdb_uid": int,
        "from": str | None,
        "to": str | None,
        "state": str,
        "bytes_total": int,
        "bytes_done": int,
        "attempts": int,
        "started": str | None,
        "ended": str | None,
        "reasons": list[ReasonAnswer],
        "evidence": EvidenceAnswer | None,
    },
)


class NodeActionAnswer(TypedDict):
    """An action under its node."""

    action_uid: str
    task_id: str
    name: str
    node_uid: str
    status: str
    progress: float
    creation_time: str
    error_code: NotRequired[str]
    error_message: NotRequired[str]
    description: NotRequired[str]
    ignored: NotRequired[list[str]]
    requested_by: str
    started: str | None
    ended: str | None
    cancel_requested: NotRequired[str]
    cancel_requested_by: NotRequired[str]
    cancel_mode: NotRequired[str]
    condition: str
    eta_seconds: float | None
    bytes_total: int
    bytes_done: int
    plan_id: NotRequired[str]
    parameters: Json
    snapshot_name: NotRequired[str]
    steps: list[StepAnswer]
    moves: list[MoveAnswer]
    reasons: list[ReasonAnswer]


class NodeActionsAnswer(TypedDict):
    """A list of node actions."""

    actions: list[NodeActionAnswer]


class TaskAnswer(TypedDict):
    """An action in ``/v1/actions``: as in Redis Enterprise, every value is a string."""

    action_uid: str
    task_id: str
    name: str
    node_uid: str
    status: str
    progress: str
    creation_time: str
    error_code: NotRequired[str]
    error_message: NotRequired[str]
    requested_by: str
    condition: str
    eta_seconds: float | None
    bytes_total: int
    bytes_done: int
    cancel_mode: NotRequired[str]
    steps: list[StepAnswer]
    moves: list[MoveAnswer]
    reasons: list[ReasonAnswer]


class ActionV2Answer(TypedDict):
    """An item of ``/v2/actions``: numbers are numbers."""

    action_type: str
    action_uid: str
    creation_time: int
    name: str
    progress: float
    status: str
    additional_info: NotRequired[Json]


_V2_STATUS = {
    ActionStatus.QUEUED: "queued",
    ActionStatus.STARTING: "running",
    ActionStatus.RUNNING: "running",
    ActionStatus.CANCELLING: "running",
    ActionStatus.COMPLETED: "completed",
    ActionStatus.CANCELLED: "failed",
    ActionStatus.FAILED: "failed",
}
"""Version 2 has only these four words; ``additional_info`` contains the details."""


def node_action(action: Action, view: ClusterView, now: datetime) -> NodeActionAnswer:
    """The action with all of its details."""
    moves = view.moves_of_action(action.uid)
    found = standing(action, moves, view, now)
    answer: NodeActionAnswer = {
        "action_uid": action.uid,
        "task_id": action.uid,
        "name": action_name(action.name),
        "node_uid": str(action.node_uid),
        "status": action.status.value,
        "progress": _progress(action),
        "creation_time": _epoch(action),
        "requested_by": action.requested_by,
        "started": iso_or_none(action.started_at),
        "ended": iso_or_none(action.ended_at),
        "condition": found.condition.value,
        "eta_seconds": None if found.eta_s is None else round(found.eta_s, 1),
        "bytes_total": found.bytes_total,
        "bytes_done": found.bytes_done,
        "parameters": parameters_json(action.parameters),
        "steps": [_step(step) for step in action.steps],
        "moves": [_move(move) for move in moves],
        "reasons": [reason_json(reason) for reason in found.reasons],
    }
    if action.plan_uid:
        answer["plan_id"] = action.plan_uid
    if action.status is ActionStatus.FAILED:
        answer["error_code"] = action.error_code or "internal_error"
        answer["error_message"] = action.error_message
    if action.snapshot_name:
        answer["snapshot_name"] = action.snapshot_name
    if action.cancel_requested_at is not None:
        answer["cancel_requested"] = iso(action.cancel_requested_at)
        answer["cancel_requested_by"] = action.cancel_requested_by
        answer["cancel_mode"] = "undo" if action.is_undo_wanted else "stop"
    return answer


def task(action: Action, view: ClusterView, now: datetime) -> TaskAnswer:
    """The action in the format of ``/v1/actions``."""
    full = node_action(action, view, now)
    answer: TaskAnswer = {
        "action_uid": full["action_uid"],
        "task_id": full["task_id"],
        "name": full["name"],
        "node_uid": full["node_uid"],
        "status": full["status"],
        "progress": f"{full['progress']:g}",
        "creation_time": full["creation_time"],
        "requested_by": full["requested_by"],
        "condition": full["condition"],
        "eta_seconds": full["eta_seconds"],
        "bytes_total": full["bytes_total"],
        "bytes_done": full["bytes_done"],
        "steps": full["steps"],
        "moves": full["moves"],
        "reasons": full["reasons"],
    }
    if "error_code" in full:
        answer["error_code"] = full["error_code"]
        answer["error_message"] = full["error_message"]
    if "cancel_mode" in full:
        answer["cancel_mode"] = full["cancel_mode"]
    return answer


def action_v2(action: Action) -> ActionV2Answer:
    """The action in the format of ``/v2/actions``."""
    info: Json = {
        "object_type": "node",
        "object_uid": str(action.node_uid),
        "description": f"The action is {action.status}.",
    }
    if action.status is ActionStatus.FAILED:
        info["error"] = f"{action.error_code}: {action.error_message}"
    elif action.status is ActionStatus.CANCELLED:
        info["error"] = "cancelled"
    return {
        "action_type": "task",
        "action_uid": action.uid,
        "creation_time": int(action.created_at.timestamp()),
        "name": action_name(action.name),
        "progress": _progress(action),
        "status": _V2_STATUS[action.status],
        "additional_info": info,
    }


def cluster_action(name: str, change: LeaderChange) -> ClusterActionAnswer:
    """The cluster's action on the wire."""
    answer: ClusterActionAnswer = {
        "name": name,
        "status": change.status.value,
        "progress": 100.0 if change.status is ActionStatus.COMPLETED else 0.0,
        "node_uid": str(change.node_uid),
        "requested": iso(change.requested_at),
        "ended": iso_or_none(change.ended_at),
    }
    if change.status is ActionStatus.FAILED:
        answer["error_code"] = "leader_not_changed"
        answer["error_message"] = change.error_message
    return answer


def reason_json(reason: Reason) -> ReasonAnswer:
    """A reason; uids that it does not name are left out."""
    answer: ReasonAnswer = {
        "code": reason.code,
        "description": reason.text,
        "grade": reason.grade.value,
        "remedy": reason.remedy,
    }
    if reason.shard_uid is not None:
        answer["shard_uid"] = str(reason.shard_uid)
    if reason.database_uid is not None:
        answer["bdb_uid"] = reason.database_uid
    if reason.node_uid is not None:
        answer["node_uid"] = str(reason.node_uid)
    return answer


def _progress(action: Action) -> float:
    return 100.0 if action.status is ActionStatus.COMPLETED else round(float(action.progress), 1)


def _epoch(action: Action) -> str:
    return str(int(action.created_at.timestamp()))


def _step(step: Step) -> StepAnswer:
    return {
        "name": step.name,
        "started": iso(step.started_at),
        "ended": iso_or_none(step.ended_at),
        "description": step.text,
    }


def _move(move: Move) -> MoveAnswer:
    return {
        "uid": move.uid,
        "kind": move.kind.value,
        "what": _what(move),
        "bdb_uid": move.database_uid,
        "from": f"node:{move.from_node}",
        "to": f"node:{move.to_node}",
        "state": move.state.value,
        "bytes_total": move.bytes_total if isinstance(move, Relocation) else 0,
        "bytes_done": move.bytes_done if isinstance(move, Relocation) else 0,
        "attempts": 0 if isinstance(move, Rebind) else move.attempts,
        "started": iso_or_none(move.started_at),
        "ended": iso_or_none(move.ended_at),
        "reasons": [reason_json(reason) for reason in move.reasons],
        "evidence": None if isinstance(move, Rebind) or move.evidence is None else _evidence(move.evidence),
    }


def _what(move: Move) -> str:
    return f"endpoint:{move.endpoint_uid}" if isinstance(move, Rebind) else f"redis:{move.shard_uid}"


def _evidence(evidence: Evidence) -> EvidenceAnswer:
    return {
        "generation": evidence.generation,
        "from_shard": str(evidence.from_shard),
        "to_shard": str(evidence.to_shard),
        "from_run_id": evidence.from_run_id,
        "to_run_id": evidence.to_run_id,
        "replication_id_before": evidence.replication_id_before,
        "replication_id_after": evidence.replication_id_after,
        "second_replication_id": evidence.second_replication_id,
        "fenced_offset": evidence.fenced_offset,
        "promoted_offset": evidence.promoted_offset,
        "fence_ms": evidence.fence_ms,
        "pause_ms": evidence.pause_ms,
        "held_commands": evidence.held_commands,
        "held_nodes": list(evidence.held_nodes),
        "not_held_nodes": list(evidence.not_held_nodes),
        "not_released_nodes": list(evidence.not_released_nodes),
        "finished_by": evidence.finished_by,
        "began_at": None if evidence.began_at is None else iso_exact(evidence.began_at),
        "released_at": None if evidence.released_at is None else iso_exact(evidence.released_at),
    }
