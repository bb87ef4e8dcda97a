"""A move's next step. Called by the leader each turn for every live move. Pure.

Nothing here waits: observations decide the next state, so a restart, a retry and a new leader take the same path.
"""

from datetime import datetime

from shardwright.model.decision import Decision
from shardwright.model.move import HandoffMove, Move, Rebind, Relocation
from shardwright.model.view import ClusterView
from shardwright.moves.handoff import decide_handoff
from shardwright.moves.rebind import decide_rebind
from shardwright.moves.relocation import decide_relocation


def decide_move(move: Move, view: ClusterView, now: datetime) -> Decision:
    """The next step of a live move."""
    match move:
        case Rebind():
            return decide_rebind(move, view, now)
        case HandoffMove():
            return decide_handoff(move, view, now)
        case Relocation():
            return decide_relocation(move, view, now)
