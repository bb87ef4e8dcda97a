"""A cancelled action that shall leave no trace: its marks go back at once, what it moved follows, in bounded time.

Called by ``base`` on every turn of a cancelling action whose wish says undo. Decides from the action's record and its moves
alone, so that it goes on under any leader. What cannot be put back is named; then the action ends failed, not cancelled.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from shardwright.actions.turn import RetryRule, Turn, advance, holds, own_moves
from shardwright.model.action import ActionName
from shardwright.model.codes import Code
from shardwright.model.view import ClusterView
from shardwright.plan.proposal import ReturnPlan
from shardwright.plan.undo import plan_undo

UNDOING: Final = "undoing"
"""The phase of an action that is being undone: its marks are back."""
_LIMIT_MIN = timedelta(seconds=120)
_LIMIT_FACTOR = 3
"""The way back may take so many times what the way there took."""


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
        turn.wake_at(until)  # a daemon that is away now may be back before the time is over
    elif left.left:
        text = f"not everything is back on its node: {len(left.left)} of the shards and endpoints stay where they were moved"
        turn.fail(Code.UNDO_INCOMPLETE, text, reasons=left.left)
    else:
        _forget_snapshot(turn)
        turn.cancelled(reasons=plan.differences)


def put_marks_back(turn: Turn) -> None:
    """The node as it was before the request: nothing can return to a node that takes nothing."""
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
    """After this nothing is tried again and nothing is waited for; what moves then still ends."""
    asked_at = turn.action.cancel_requested_at or turn.now
    ran = asked_at - (turn.action.started_at or asked_at)
    return asked_at + max(_LIMIT_MIN, _LIMIT_FACTOR * ran)


def _plan(turn: Turn) -> ReturnPlan:
    return plan_undo(_as_it_will_be(turn), own_moves(turn))


def _as_it_will_be(turn: Turn) -> ClusterView:
    """To the planner a live action's node is about to go, and one in maintenance takes nothing. What came from this
    one goes back to it all the same, also when it was so before."""
    others = {uid: a for uid, a in turn.view.actions.items() if uid != turn.action.uid}
    nodes = dict(turn.view.nodes)
    if turn.node_uid in nodes:
        node = nodes[turn.node_uid]
        nodes[node.uid] = replace(node, is_quorum_only=False, is_closed=False, is_decommissioning=False)
    return replace(turn.view, actions=others, nodes=nodes)


def _forget_snapshot(turn: Turn) -> None:
    """The snapshot that this ``maintenance_on`` took serves nobody any more. An older one, or a user's, stays."""
    if turn.action.name != ActionName.MAINTENANCE_ON:
        return
    snapshot = turn.view.snapshots.get((turn.node_uid, turn.action.snapshot_name))
    if snapshot is not None and snapshot.is_maintenance and snapshot.created_at >= turn.action.created_at:
        turn.delete(snapshot)
