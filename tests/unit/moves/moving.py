"""Moves of one small cluster, and what is decided about them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from shardwright.model.database import Role, Shard
from shardwright.model.decision import Decision
from shardwright.model.ids import GroupUid, NodeUid, ShardUid
from shardwright.model.move import HandoffMove, Move, MoveState, Rebind, Relocation
from shardwright.moves.decide import decide_move
from testkit import moves
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP = GroupUid("1:1")


def relocation(state: MoveState = MoveState.PLANNED, **changes: Any) -> Relocation:
    """Shard 2, the replica on node 2, goes to node 3."""
    return moves.relocation(**{"state": state, **changes})


def handoff(state: MoveState = MoveState.HANDOFF, **changes: Any) -> HandoffMove:
    """Shard 1 hands its role to shard 2."""
    return moves.handoff_move(**{"state": state, **changes})


def replicated() -> ClusterBuilder:
    return cluster(nodes=3).with_database(on=((1, 2),))


def with_new_copy(builder: ClusterBuilder, **changes: object) -> ClusterBuilder:
    """Shard 3 on node 3: running, linked and in sync unless said otherwise."""
    template = builder.view.shards[ShardUid(2)]
    shard = replace(template, uid=ShardUid(3), node_uid=NodeUid(3), port=template.port + 7)
    if changes.get("is_syncing") or changes.get("role") is Role.PRIMARY:
        shard = replace(shard, in_sync_generation=-1)
    counters = replace(builder.view.counters, next_shard=4)
    return builder.with_records(counters, shard).with_healthy_shard(3).with_server(3, **changes)


def decide(builder: ClusterBuilder, move: Move, *, later_s: float = 0) -> Decision:
    return decide_move(move, builder.with_move(move).view, NOW + timedelta(seconds=later_s))


def move_after(decision: Decision) -> Any:
    found = [w.record for w in decision.writes if isinstance(w.record, Move)]
    assert len(found) == 1, decision
    return found[0]


def move_after_or_none(decision: Decision) -> Any:
    return next((w.record for w in decision.writes if isinstance(w.record, Move)), None)


def shard_after(decision: Decision, uid: int) -> Shard:
    return next(w.record for w in decision.writes if isinstance(w.record, Shard) and w.record.uid == uid)


def rebind(state: MoveState) -> Rebind:
    """The endpoint goes from node 1 to node 3."""
    return moves.rebind(state=state)
