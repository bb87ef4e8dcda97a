"""The progress of an action: bytes and steps of its moves, never decreasing. The expected end comes from ``plan/eta``.

Called by ``turn`` on every turn. Writes nothing.
"""

from collections.abc import Iterable, Sequence

from shardwright.model.action import Action
from shardwright.model.move import Move, MoveState, Relocation
from shardwright.plan.proposal import MoveProposal

STEP_BYTES = 4 * 1024 * 1024
"""The fixed weight of a move: about the bytes copied in the time of a handoff or a start."""
PROGRESS_RUNNING_MAX = 99.0
"""Only a completed action shows 100."""

_STATE_SHARE = {
    MoveState.PLANNED: 0.0,
    MoveState.STARTING: 0.1,
    MoveState.SYNCING: 0.2,
    MoveState.READY: 0.6,
    MoveState.HANDOFF: 0.7,
    MoveState.CLEANING: 0.9,
    MoveState.DONE: 1.0,
}


def work_total_bytes(action: Action, moves: Iterable[Move], pending: Iterable[MoveProposal]) -> int:
    """Total bytes of the action's moves, including those not yet started; never less than an earlier result."""
    known = sum(_bytes(m)[0] for m in moves if _counts(m)) + sum(p.bytes_total for p in pending)
    return max(action.work_total_bytes, known)


def progress(action: Action, moves: Iterable[Move], pending: Iterable[MoveProposal], drains: Sequence[float] = ()) -> float:
    """0 to 99, with one decimal place; never less than the action has already shown. ``drains``: for each endpoint whose
    clients are leaving the node, the share of their time that has passed."""
    counted = [m for m in moves if _counts(m)]
    waiting = list(pending)
    total = sum(_weight(_bytes(m)[0]) for m in counted) + sum(_weight(p.bytes_total) for p in waiting)
    total += STEP_BYTES * len(drains)
    done = sum(_done_weight(m) for m in counted) + STEP_BYTES * sum(drains)
    if total == 0:
        return action.progress
    return max(action.progress, round(min(PROGRESS_RUNNING_MAX, 100.0 * done / total), 1))


def _counts(move: Move) -> bool:
    """A failed or cancelled move is not counted; its next attempt is."""
    return move.state not in (MoveState.FAILED, MoveState.CANCELLED, MoveState.UNDOING)


def _weight(bytes_total: int) -> int:
    return bytes_total + STEP_BYTES


def _bytes(move: Move) -> tuple[int, int]:
    """Bytes to copy, and bytes copied."""
    return (move.bytes_total, move.bytes_copied) if isinstance(move, Relocation) else (0, 0)


def _done_weight(move: Move) -> float:
    return _bytes(move)[1] + STEP_BYTES * _STATE_SHARE.get(move.state, 0.0)
