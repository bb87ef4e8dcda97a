"""The change of the cluster key on the wire, an extension: the cluster's action ``rotate_key``. Pure."""

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.actions import ClusterActionAnswer, ReasonAnswer, reason_json
from shardwright.api.schemas.v1.common import iso, iso_or_none
from shardwright.api.services.key_rotation import NAME, Shown
from shardwright.model.action import ActionStatus
from shardwright.model.key_rotation import KeyPhase


class KeyRotationAnswer(TypedDict):
    """The cluster's action ``rotate_key``. Contains no key: ``key_id`` is a name that reveals nothing of it."""

    name: str
    status: str
    progress: float
    phase: str
    """making, spreading, sealing, dropping or done."""
    key_id: str | None
    """Of the new key; null: it is not made yet."""
    former_key_id: str
    requested: str
    requested_by: str
    sealed: str | None
    """When everything was sealed with the new key."""
    ended: str | None
    values: int
    values_left: int
    """How many of them another key has sealed."""
    nodes: int
    node_uids: list[int]
    """The nodes that hold the new key."""
    reasons: list[ReasonAnswer]


class ClusterActionsAnswer(TypedDict):
    """The latest actions of the cluster."""

    actions: list[ClusterActionAnswer | KeyRotationAnswer]


def key_rotation(shown: Shown) -> KeyRotationAnswer:
    """The action on the wire."""
    rotation = shown.rotation
    return {
        "name": NAME,
        "status": _status(rotation.phase).value,
        "progress": round(shown.percent, 1),
        "phase": rotation.phase.value,
        "key_id": rotation.new,
        "former_key_id": rotation.old,
        "requested": iso(rotation.requested_at),
        "requested_by": rotation.requested_by,
        "sealed": iso_or_none(rotation.sealed_at),
        "ended": iso_or_none(rotation.ended_at),
        "values": shown.values,
        "values_left": shown.left,
        "nodes": shown.nodes,
        "node_uids": [int(node) for node in shown.holding],
        "reasons": [reason_json(reason) for reason in rotation.reasons],
    }


def _status(phase: KeyPhase) -> ActionStatus:
    match phase:
        case KeyPhase.MAKING:
            return ActionStatus.QUEUED
        case KeyPhase.DONE:
            return ActionStatus.COMPLETED
        case _:
            return ActionStatus.RUNNING
