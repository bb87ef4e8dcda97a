"""The lifecycle of every action: queued, starting, running, cancelling, ended. Each kind has its own rules in its module.

Called by the leader once per turn and live action, oldest first; the view must include the writes of the decisions before.
Locks and retention belong to the shell; the answer to the operator belongs to the API.
"""

from dataclasses import replace
from datetime import datetime
from typing import assert_never

from shardwright.actions import maintenance_off, maintenance_on, remove, step_down, undo
from shardwright.actions.advance import holds, own_moves
from shardwright.actions.blockers import blockers_of
from shardwright.actions.turn import Turn
from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.codes import Code
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import EventKind, Severity
from shardwright.model.move import Move, reason_of_move
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView


def decide_action(action: Action, view: ClusterView, now: datetime) -> Decision:
    """The next step of the action; empty if it has ended or has to wait. At most one change of status per call."""
    if action.status.is_terminal:
        return NOTHING
    turn = Turn(action, view, now)
    is_cancel_wanted = action.cancel_requested_at is not None
    match action.status:
        case ActionStatus.QUEUED if is_cancel_wanted:
            if action.is_undo_wanted:
                undo.put_marks_back(turn)
            turn.cancelled()
        case ActionStatus.QUEUED:
            turn.become(ActionStatus.STARTING)
            turn.change(started_at=now)
            turn.event(EventKind.NODE_ACTION_STARTED, Severity.INFO, f"{action.name} of node {action.node_uid} started")
        case ActionStatus.STARTING | ActionStatus.RUNNING if is_cancel_wanted:
            turn.become(ActionStatus.CANCELLING)
            turn.begin_step("cancel")
            _cancel_moves(turn)
        case ActionStatus.CANCELLING:
            _cancel_moves(turn)
            if action.is_undo_wanted:
                undo.decide(turn)
            else:
                _finish_cancelling(turn)
        case _:
            _decide_kind(turn)
    return turn.decision()


def _decide_kind(turn: Turn) -> None:
    match turn.action.name:
        case ActionName.REMOVE:
            remove.decide(turn)
        case ActionName.MAINTENANCE_ON:
            maintenance_on.decide(turn)
        case ActionName.MAINTENANCE_OFF:
            maintenance_off.decide(turn)
        case ActionName.STEP_DOWN:
            step_down.decide(turn)
        case _ as never:
            assert_never(never)


def _cancel_moves(turn: Turn) -> None:
    """Ask the running moves to finish or to undo, whichever is nearer; moves on the way back continue."""
    for move in own_moves(turn):
        if not (move.state.is_terminal or move.is_cancel_wanted or move.is_undo):
            turn.put(replace(move, is_cancel_wanted=True))


def _finish_cancelling(turn: Turn) -> None:
    """Moved copies and marks stay; only a removal loses its mark."""
    live = [m for m in own_moves(turn) if holds(turn.view, m)]
    if live:
        blockers = blockers_of(turn.view, live, turn.now)
        turn.blocked(blockers or [_still_moving(move) for move in live])
        return
    if turn.action.name == ActionName.REMOVE:
        remove.unmark(turn)
    turn.cancelled()


def _still_moving(move: Move) -> Reason:
    text = f"move {move.uid} ({move.kind}) is {move.state}"
    return reason_of_move(move, Code.MOVE_ENDING, text, Grade.SOFT_LIMIT, node_uid=None)
