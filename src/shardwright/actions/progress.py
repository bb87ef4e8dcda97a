"""How far an action is: bytes and steps of its moves, never falling. When it may end is ``plan/eta``'s.

Called by ``turn`` on every turn. Writes nothing.
"""

from collections.abc import Iterable

from shardwright.model.action import Action, Move, MoveKind, MoveState
from shardwright.plan.proposal import MoveProposal

STEP_BYTES = 4 * 1024 * 1024
"""What a move weighs besides its bytes: about what is copied in the time that a handoff or a start takes."""
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
    """Bytes that the action's moves transfer in sum, those still to come included; never less than said before."""
    known = sum(m.bytes_total for m in moves if _counts(m)) + sum(p.bytes_total for p in pending)
    return max(action.work_total_bytes, known)


def progress(action: Action, moves: Iterable[Move], pending: Iterable[MoveProposal]) -> float:
    """0 to 99, one digit after the point; never less than the action has shown already."""
    counted = [m for m in moves if _counts(m)]
    waiting = list(pending)
    total = sum(_weight(m.bytes_total) for m in counted) + sum(_weight(p.bytes_total) for p in waiting)
    done = sum(_done_weight(m) for m in counted)
    if total == 0:
        return action.progress
    return max(action.progress, round(min(PROGRESS_RUNNING_MAX, 100.0 * done / total), 1))


def _counts(move: Move) -> bool:
    """A move that failed or was cancelled is tried anew, and then counted."""
    return move.state not in (MoveState.FAILED, MoveState.CANCELLED, MoveState.UNDOING)


def _weight(bytes_total: int) -> int:
    return bytes_total + STEP_BYTES


def _bytes_done(move: Move) -> int:
    is_copied = move.kind == MoveKind.RELOCATE and move.state in _COPIED
    return move.bytes_total if is_copied else min(move.bytes_done, move.bytes_total)


_COPIED = frozenset({MoveState.READY, MoveState.HANDOFF, MoveState.CLEANING, MoveState.DONE})


def _done_weight(move: Move) -> float:
    return _bytes_done(move) + STEP_BYTES * _STATE_SHARE.get(move.state, 0.0)
