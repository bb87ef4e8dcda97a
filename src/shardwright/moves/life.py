"""What all kinds of moves share: to enter a state, to end, to wait, and to say why. Pure."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from shardwright.model.codes import Code
from shardwright.model.database import SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.move import (
    MOVE_TRANSITIONS,
    GroupMove,
    HandoffMove,
    Move,
    MoveState,
    Rebind,
    Relocation,
    reason_of_move,
)
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import Put
from shardwright.plan.waiting import told

AnyMove = TypeVar("AnyMove", HandoffMove, Relocation, Rebind)
AGENT_ABSENT_LIMIT = timedelta(seconds=10)
"""If the target's daemon is absent this long and the server has not started, the move gives up: a daemon that merely died
is back sooner, and another node may have room now."""


def enter(move: AnyMove, state: MoveState, now: datetime, **changes: object) -> AnyMove:
    """The move in its next state, with the times that belong to it."""
    assert state in MOVE_TRANSITIONS[move.kind][move.state], f"move {move.uid} ({move.kind}): {move.state} -> {state}"
    if state.is_terminal:
        changes.setdefault("ended_at", now)
    if move.started_at is None:
        changes.setdefault("started_at", now)
    if state is MoveState.READY:
        changes.setdefault("ready_at", now)
    return replace(move, state=state, state_since=now, **changes)  # type: ignore[arg-type]


def end(move: AnyMove, now: datetime, *reasons: Reason) -> Decision:
    """FAILED with these reasons, or CANCELLED if that was requested."""
    state = MoveState.CANCELLED if move.is_cancel_wanted else MoveState.FAILED
    return Decision(writes=(Put(enter(move, state, now, reasons=reasons or move.reasons)),))


def reason(move: Move, code: Code, text: str, grade: Grade = Grade.HARD_LIMIT) -> Reason:
    """A reason that names the move's target node."""
    return reason_of_move(move, code, text, grade, node_uid=move.to_node)


def starting_over(move: GroupMove, group: SlotGroup) -> Reason:
    """While a slot group starts, neither the sync marks nor the servers' answers show what a copy holds."""
    text, remedy = told(group, "the slot group is starting")
    return replace(reason(move, Code.GROUP_STARTING, text, Grade.SOFT_LIMIT), remedy=remedy)


def wait(move: GroupMove, now: datetime, reason: Reason) -> Decision:
    """Look again in a second; the move's record names the reason."""
    writes = () if move.reasons == (reason,) else (Put(replace(move, reasons=(reason,))),)
    return Decision(writes=writes, wake_at=now + timedelta(seconds=1), reasons=(reason,))


def age(move: Move, now: datetime) -> timedelta:
    """How long it has been in its state, or without progress in it."""
    return now - move.state_since
