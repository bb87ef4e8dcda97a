"""Which stored state of an action or of a move may follow which. Written down here once more, independently of the product.

A turn stores the last of several steps, so states between may be skipped. Each single step is asserted where it is decided.
"""

from collections.abc import Mapping

NEXT_STATUS = {
    "queued": {"starting", "cancelled"},
    "starting": {"running", "cancelling", "failed"},
    "running": {"completed", "cancelling", "failed"},
    "cancelling": {"cancelled", "failed"},
}
NEXT_STATE = {
    "planned": {"starting", "handoff", "cancelled", "failed"},
    "starting": {"syncing", "undoing"},
    "syncing": {"ready", "undoing"},
    "ready": {"handoff", "cleaning", "undoing"},
    "handoff": {"cleaning", "done", "undoing", "failed", "cancelled"},
    "cleaning": {"done", "handoff", "undoing"},
    "undoing": {"failed", "cancelled"},
}
ENDED_STATES, ENDED_STATUS = {"done", "failed", "cancelled"}, {"completed", "failed", "cancelled"}


def may_become(steps: Mapping[str, set[str]], old: str, new: str) -> bool:
    """Whether one or more steps lead from one state to the other."""
    reached: set[str] = set()
    ahead = {old}
    while ahead:
        ahead = set().union(*(steps.get(state, set()) for state in ahead)) - reached
        reached |= ahead
    return new in reached
