"""Undo of a cancelled action: its marks are restored at once, its moves are reversed, in bounded time.

Called by ``base`` on every turn of a cancelling action whose request asks for an undo. Decides from the action's record and
its moves alone, so it continues under any leader. If something cannot be restored, it is named, and the action ends failed,
not cancelled.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from shardwright.actions.advance import RetryRule, advance, holds, own_moves
from shardwright.actions.turn import Turn
from shardwright.model.action import ActionName
from shardwright.model.codes import Code
from shardwright.model.view import ClusterView
from shardwright.plan.proposal import ReturnPlan
from shardwright.plan.undo import plan_undo

UNDOING: Final = "undoing"
"""The phase of an action that is being undone: its marks are restored."""
_LIMIT_MIN = timedelta(seconds=120)
_LIMIT_FACTOR = 3
"""Limit of the way back, as a multiple of the time that the action took."""


def decide(turn: Turn) -> None:
    """One turn of an action that is being undone; its own unfinished moves have been asked to stop."""
    if turn.action.phase != UNDOING:
        put_marks_back(turn)
        turn.change(phase=UNDOING)
        turn.begin_step("undo")
    plan = _plan(turn)
    until = give_up_at(turn)
    left = advance(turn, plan, moves_max=None, retry=RetryRule(attempts_max=None, until=until))
    if left.is_under_way or any(holds(turn.view, m) for m in own_moves(turn)):
        turn.wake_at(max(until, turn.now + timedelta(seconds=1)))
    elif left.left and not left.stuck and turn.now < until:
        turn.wake_at(until)  # an absent daemon may be back before the time limit
    elif left.left:
        text = f"not everything is back on its node: {len(left.left)} of the moved shards and endpoints stay elsewhere"
        turn.fail(Code.UNDO_INCOMPLETE, text, reasons=left.left)
    else:
        _forget_snapshot(turn)
        turn.cancelled(reasons=plan.differences)


def put_marks_back(turn: Turn) -> None:
    """Restore the node's marks from before the request: nothing can return to a node that accepts nothing."""
    node = turn.view.nodes.get(turn.node_uid)
    if node is None:
        return
    was_quorum_only, was_closed = turn.action.was_quorum_only, turn.action.was_closed
    changed = replace(
        node,
        is_quorum_only=node.is_quorum_only if was_quorum_only is None else was_quorum_only,
        is_closed=node.is_closed if was_closed is None else was_closed,
        is_decommissioning=False if turn.action.name == ActionName.REMOVE else node.is_decommissioning,
    )
    if changed != node:
        turn.put(changed)
        turn.note_step("unmark", f"node {node.uid} is marked as before the action")


def give_up_at(turn: Turn) -> datetime:
    """After this time, nothing is retried and waits end; moves in flight still finish."""
    asked_at = turn.action.cancel_requested_at or turn.now
    ran = asked_at - (turn.action.started_at or asked_at)
    return asked_at + max(_LIMIT_MIN, _LIMIT_FACTOR * ran)


def _plan(turn: Turn) -> ReturnPlan:
    return plan_undo(_as_it_will_be(turn), own_moves(turn))


def _as_it_will_be(turn: Turn) -> ClusterView:
    """The planner excludes nodes that are leaving or in maintenance. Lift both marks here, so that an undo may use this
    node even if it carried them before."""
    others = {uid: a for uid, a in turn.view.actions.items() if uid != turn.action.uid}
    nodes = dict(turn.view.nodes)
    if turn.node_uid in nodes:
        node = nodes[turn.node_uid]
        nodes[node.uid] = replace(node, is_quorum_only=False, is_closed=False, is_decommissioning=False)
    return replace(turn.view, actions=others, nodes=nodes)


def _forget_snapshot(turn: Turn) -> None:
    """Delete the snapshot that this ``maintenance_on`` took: it has no further use. An older one, or a user's, stays."""
    if turn.action.name != ActionName.MAINTENANCE_ON:
        return
    snapshot = turn.view.snapshots.get((turn.node_uid, turn.action.snapshot_name))
    if snapshot is not None and snapshot.is_maintenance and snapshot.created_at >= turn.action.created_at:
        turn.delete(snapshot)
