"""The state of a live action: moving, slow, waiting or blocked, its blockers, and its expected end. Pure.

Derived from the records alone, so that any node can answer, even without a leader.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from shardwright.model.action import Action, ActionStatus
from shardwright.model.codes import Code
from shardwright.model.move import Move, MoveState, Relocation, shard_of
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView

SLOW_AFTER: Final = timedelta(seconds=5)
"""A live move without a change for this long is slow."""


class Condition(StrEnum):
    """The state of an action at a glance."""

    ENDED = "ended"
    QUEUED = "queued"
    MOVING = "moving"
    SLOW = "slow"
    """Moves are in flight, but none has changed for a while."""
    WAITING = "waiting"
    """Nothing moves; the obstacles pass by themselves."""
    BLOCKED = "blocked"
    """Nothing moves, and an operator must intervene."""


@dataclass(frozen=True, slots=True)
class StandingOfAction:
    """The state of a live action."""

    condition: Condition
    reasons: tuple[Reason, ...]
    bytes_total: int
    bytes_done: int
    eta_s: float | None
    """Seconds until the expected end; None without an estimate."""


def standing(action: Action, moves: Sequence[Move], view: ClusterView, now: datetime) -> StandingOfAction:
    """The state of an action. ``moves`` are the action's."""
    relocations = (m for m in moves if isinstance(m, Relocation))
    counted = [m for m in relocations if m.state not in (MoveState.FAILED, MoveState.CANCELLED)]
    done = sum(m.bytes_copied for m in counted)
    total = max(action.work_total_bytes, sum(m.bytes_total for m in counted))
    if action.status.is_terminal:
        return StandingOfAction(Condition.ENDED, action.reasons, total, done, None)
    reasons = action.reasons if view.leadership is not None else (_no_leader(view), *action.reasons)
    condition = _condition(action, [m for m in moves if not m.state.is_terminal], reasons, now)
    eta_s = None
    if action.expected_end_at is not None and condition is not Condition.BLOCKED:
        eta_s = max(0.0, (action.expected_end_at - now).total_seconds())
    return StandingOfAction(condition, reasons, total, done, eta_s)


def _condition(action: Action, live: Sequence[Move], reasons: Sequence[Reason], now: datetime) -> Condition:
    if any(r.code == NO_LEADER for r in reasons):
        return Condition.BLOCKED
    held_up = {r.shard_uid for r in reasons if r.grade is not Grade.SOFT_LIMIT}
    fresh = [m for m in live if now - m.state_since < SLOW_AFTER and shard_of(m) not in held_up]
    if fresh:
        return Condition.MOVING
    if _firm(reasons) or any(r.remedy for r in reasons):
        return Condition.BLOCKED
    if live:
        return Condition.SLOW
    if action.status is ActionStatus.QUEUED:
        return Condition.QUEUED
    return Condition.WAITING if reasons else Condition.MOVING


def _firm(reasons: Sequence[Reason]) -> bool:
    return any(r.grade is not Grade.SOFT_LIMIT for r in reasons)


NO_LEADER: Final = Code.NO_LEADER


def _no_leader(view: ClusterView) -> Reason:
    text = "the cluster currently has no leader: decisions wait for a new one"
    remedy = "" if view.daemons else "start the daemon of any node"
    return Reason(NO_LEADER, text, Grade.SOFT_LIMIT, remedy=remedy)
