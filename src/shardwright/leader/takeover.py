"""What a new leader does with the times that its predecessors left: their clocks were others, or have jumped since.

Called once at the beginning of a leadership, before anything is decided. How long something has lasted is counted by each
leader itself, on a clock that does not jump (``SteadyClock``): a limit is at most begun anew, never missed and never reached
too early.
"""

from dataclasses import replace
from datetime import datetime

from shardwright.model.decision import Decision
from shardwright.model.view import ClusterView, Put, Write

WRITES_MAX = 60
"""Half of a transaction's bound on operations."""


def decide_takeover(view: ClusterView, now: datetime, *, began_at: datetime) -> Decision:
    """Count the states of live moves from the beginning of this leadership; a request began no later than now. Nothing is
    left to write when all of it is done; a bounded number at once."""
    writes: list[Write] = [
        Put(replace(move, state_since=now)) for move in view.live_moves() if not began_at <= move.state_since <= now
    ]
    writes += [Put(replace(action, started_at=now)) for action in view.live_actions() if _is_ahead(action.started_at, now)]
    return Decision(writes=tuple(writes[:WRITES_MAX]))


def _is_ahead(at: datetime | None, now: datetime) -> bool:
    return at is not None and at > now
