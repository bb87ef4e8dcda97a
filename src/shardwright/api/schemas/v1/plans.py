"""Plans and explanations of node actions on the wire: ``dry_run`` and ``explain``. Pure."""

from typing import NotRequired

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.actions import ReasonAnswer, reason_json
from shardwright.api.schemas.v1.common import Json, action_name
from shardwright.api.schemas.v1.parameters import parameters_json
from shardwright.api.services.explain import Explanation, Verdict
from shardwright.api.services.preview import Preview
from shardwright.model.action import ActionStatus
from shardwright.model.move import MoveKind
from shardwright.plan.forecast import GroupCopies, PlannedMove, TargetMemory

PlannedMoveAnswer = TypedDict(
    "PlannedMoveAnswer",
    {
        "order": int,
        "kind": str,
        "what": str,
        "bdb_uid": int,
        "from": str | None,
        "to": str | None,
        "bytes_total": int,
        "begins_s": float,
        "seconds": float,
        "pause_ms": float,
    },
)


class GroupCopiesAnswer(TypedDict):
    """Extension: in-sync copies of a slot group before, at least during, and after a plan; and if the node were off
    then."""

    group: str
    bdb_uid: int
    before: int
    during: int
    after: int
    if_node_off: int


class TargetMemoryAnswer(TypedDict):
    """Extension: the memory that a plan needs on a node, in bytes. ``peak`` is the maximum need in addition to the current
    usage; ``free`` is the observed value, 0 if unknown."""

    node_uid: str
    capacity: int
    provisioned_before: int
    provisioned_after: int
    data: int
    copy_on_write: int
    buffers: int
    peak: int
    free: int


class PreviewAnswer(TypedDict):
    """Extension: the effects of an action (``dry_run``). ``status`` is ``possible``, ``partly`` (it would move as much as
    possible and end failed), ``blocked`` (it would wait for the obstacles in ``reasons``), ``failed`` (refused) or, if
    there is nothing to do, ``completed``. The answer has no ``action_uid``: nothing was started."""

    dry_run: bool
    name: str
    node_uid: str
    status: str
    error_code: NotRequired[str]
    error_message: NotRequired[str]
    parameters: Json
    ignored: NotRequired[list[str]]
    plan_id: str
    moves: list[PlannedMoveAnswer]
    bytes_total: int
    seconds: float
    pause_ms: float
    rates_are_measured: bool
    groups: list[GroupCopiesAnswer]
    targets: list[TargetMemoryAnswer]
    warnings: list[ReasonAnswer]
    reasons: list[ReasonAnswer]


class BlockAnswer(TypedDict):
    """Extension: reasons with the same code. ``shards`` contains some of them, ``count`` their number."""

    code: str
    grade: str
    count: int
    description: str
    remedies: list[str]
    shards: list[ReasonAnswer]


class ExplanationAnswer(TypedDict):
    """Extension: feasibility, effects, obstacles and smallest remedy of an action. ``verdict`` is ``yes``,
    ``nothing_to_do``, ``later``, ``blocked``, ``partly`` or ``no``."""

    node_uid: str
    action: str
    possible: bool
    verdict: str
    description: str
    moves: int
    bytes_total: int
    seconds: float
    pause_ms: float
    blocks: list[BlockAnswer]
    remedy: str
    warnings: list[ReasonAnswer]
    plan_id: str


def preview_json(found: Preview) -> PreviewAnswer:
    """The preview of an action."""
    action, cost = found.action, found.forecast
    answer: PreviewAnswer = {
        "dry_run": True,
        "name": action_name(action.name),
        "node_uid": str(action.node_uid),
        "status": found.outcome.value,
        "parameters": parameters_json(action.parameters),
        "plan_id": found.plan_uid,
        "moves": [_planned(move, order) for order, move in enumerate(cost.moves, start=1)],
        "bytes_total": sum(move.bytes_total for move in found.moves),
        "seconds": round(cost.seconds, 1),
        "pause_ms": max((move.pause_ms for move in cost.moves), default=0.0),
        "rates_are_measured": cost.rates.is_measured,
        "groups": [_copies(group) for group in cost.groups],
        "targets": [_target(target) for target in cost.targets],
        "warnings": [reason_json(warning) for warning in cost.warnings],
        "reasons": [reason_json(reason) for reason in found.obstacles],
    }
    if action.status is ActionStatus.FAILED:
        answer["error_code"] = action.error_code
        answer["error_message"] = action.error_message
    return answer


def explanation_json(found: Explanation) -> ExplanationAnswer:
    """The explanation of an action."""
    action, cost = found.preview.action, found.preview.forecast
    return {
        "node_uid": str(action.node_uid),
        "action": action_name(action.name),
        "possible": found.verdict in (Verdict.YES, Verdict.NOTHING_TO_DO),
        "verdict": found.verdict.value,
        "description": found.text,
        "moves": len(found.preview.moves),
        "bytes_total": sum(move.bytes_total for move in found.preview.moves),
        "seconds": round(cost.seconds, 1),
        "pause_ms": max((move.pause_ms for move in cost.moves), default=0.0),
        "blocks": [
            {
                "code": block.code,
                "grade": block.grade.value,
                "count": block.count,
                "description": block.text,
                "remedies": list(block.remedies),
                "shards": [reason_json(reason) for reason in block.reasons],
            }
            for block in found.blocks
        ],
        "remedy": found.remedy,
        "warnings": [reason_json(warning) for warning in cost.warnings],
        "plan_id": found.preview.plan_uid,
    }


def _planned(planned: PlannedMove, order: int) -> PlannedMoveAnswer:
    move = planned.proposal
    return {
        "order": order,
        "kind": move.kind.value,
        "what": f"endpoint:{move.subject}" if move.kind is MoveKind.REBIND else f"redis:{move.subject}",
        "bdb_uid": move.database_uid,
        "from": f"node:{move.from_node}",
        "to": f"node:{move.to_node}",
        "bytes_total": move.bytes_total,
        "begins_s": round(planned.begins_s, 1),
        "seconds": round(planned.seconds, 1),
        "pause_ms": round(planned.pause_ms, 1),
    }


def _copies(group: GroupCopies) -> GroupCopiesAnswer:
    return {
        "group": group.group_uid,
        "bdb_uid": group.database_uid,
        "before": group.before,
        "during": group.during,
        "after": group.after,
        "if_node_off": group.if_off,
    }


def _target(target: TargetMemory) -> TargetMemoryAnswer:
    return {
        "node_uid": str(target.node_uid),
        "capacity": target.capacity,
        "provisioned_before": target.provisioned_before,
        "provisioned_after": target.provisioned_after,
        "data": target.data,
        "copy_on_write": target.copy_on_write,
        "buffers": target.buffers,
        "peak": target.peak,
        "free": target.free,
    }
