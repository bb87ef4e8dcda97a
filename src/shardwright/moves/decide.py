"""A move's next step. Called by the leader each turn for every live move. Pure.

Nothing here waits: observations decide the next state, so a restart, a retry and a new leader take the same path.
"""

from datetime import datetime

from shardwright.model.codes import Code
from shardwright.model.decision import Decision
from shardwright.model.move import GroupMove, HandoffMove, Move, MoveState, Rebind, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView
from shardwright.moves.handoff import decide_handoff
from shardwright.moves.life import reason, wait
from shardwright.moves.rebind import decide_rebind
from shardwright.moves.relocation import decide_relocation


def decide_move(move: Move, view: ClusterView, now: datetime) -> Decision:
    """The next step of a live move. While a copy takes over from a primary out of reach, the group's moves wait."""
    if not isinstance(move, Rebind) and (waiting := _takeover(move, view)) is not None:
        return wait(move, now, waiting)
    match move:
        case Rebind():
            return decide_rebind(move, view, now)
        case HandoffMove():
            return decide_handoff(move, view, now)
        case Relocation():
            return decide_relocation(move, view, now)


def _takeover(move: GroupMove, view: ClusterView) -> Reason | None:
    """The takeover that the move waits for; None if there is none, or if the move has not begun and is cancelled."""
    group = view.groups.get(move.group_uid)
    has_not_begun = move.state is MoveState.PLANNED and move.is_cancel_wanted
    if group is None or group.parking is None or has_not_begun:
        return None
    shard = view.shards.get(group.parking.from_shard)
    where = "" if shard is None else f" on node {shard.node_uid}"
    text = f"the primary of slot group {group.uid}{where} is out of reach, and another copy is about to take over"
    return reason(move, Code.PRIMARY_OUT_OF_REACH, text, Grade.SOFT_LIMIT)
