"""Corrects the times that earlier leaders recorded: their clocks may differ from this leader's, or may have jumped.

Called once at the beginning of a leadership, before the first decision. Each leader measures durations itself, on a clock
that does not jump (``SteadyClock``). At worst a time limit starts over after a change of leader. It is never missed, and it
is never reached too early.
"""

from dataclasses import replace
from datetime import datetime

from shardwright.model.decision import Decision
from shardwright.model.view import ClusterView, Put, Write

WRITES_MAX = 60
"""Half of a transaction's bound on operations."""


def decide_takeover(view: ClusterView, now: datetime, *, began_at: datetime) -> Decision:
    """Restart the time in state of live moves, and the time of nodes that leave an endpoint or a virtual address, where the
    recorded time lies outside this leadership. Correct start times of actions that lie in the future. Writes a limited
    number of records; call it again until it writes nothing."""

    def is_own(at: datetime) -> bool:
        return began_at <= at <= now

    writes: list[Write] = [Put(replace(move, state_since=now)) for move in view.live_moves() if not is_own(move.state_since)]
    for endpoint in sorted(view.endpoints.values(), key=lambda e: e.uid):
        leaving = tuple(one if is_own(one.since) else replace(one, since=now) for one in endpoint.leaving)
        if leaving != endpoint.leaving:
            writes.append(Put(replace(endpoint, leaving=leaving)))
    for _, one in sorted(view.virtual_addresses.items()):
        if one.leaving_since is not None and not is_own(one.leaving_since):
            writes.append(Put(replace(one, leaving_since=now)))
    writes += [Put(replace(action, started_at=now)) for action in view.live_actions() if _is_ahead(action.started_at, now)]
    return Decision(writes=tuple(writes[:WRITES_MAX]))


def _is_ahead(at: datetime | None, now: datetime) -> bool:
    return at is not None and at > now
