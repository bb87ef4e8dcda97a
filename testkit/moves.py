"""Moves for tests: one of each kind, with what a test does not say filled in."""

from typing import Any

from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import HandoffMove, MoveState, Rebind, Relocation
from testkit.builders import NOW


def handoff_move(**changes: Any) -> HandoffMove:
    """Shard 1 on node 1 hands the role of group 1:1 over to shard 2 on node 2; it is planned."""
    fields = {
        **_header(from_node=1, to_node=2),
        "group_uid": GroupUid("1:1"),
        "shard_uid": ShardUid(1),
        "new_shard_uid": ShardUid(2),
    }
    return HandoffMove(**{**fields, **changes})


def relocation(**changes: Any) -> Relocation:
    """Shard 2 of group 1:1 goes from node 2 to node 3; it is planned."""
    fields = {**_header(from_node=2, to_node=3), "group_uid": GroupUid("1:1"), "shard_uid": ShardUid(2)}
    return Relocation(**{**fields, **changes})


def rebind(**changes: Any) -> Rebind:
    """Endpoint 1:1 goes from node 1 to node 3; it is planned."""
    return Rebind(**{**_header(from_node=1, to_node=3), "endpoint_uid": EndpointUid("1:1"), **changes})


def _header(*, from_node: int, to_node: int) -> dict[str, Any]:
    return {
        "uid": MoveUid("a-1"),
        "action_uid": ActionUid("a"),
        "state": MoveState.PLANNED,
        "database_uid": DatabaseUid(1),
        "from_node": NodeUid(from_node),
        "to_node": NodeUid(to_node),
        "created_at": NOW,
        "state_since": NOW,
    }
