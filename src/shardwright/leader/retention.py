"""Deletes expired records: ended actions and their moves, removed nodes, join tokens, issued certificates, and the oldest
events. Pure.

Called by the leader every few minutes. An action that the API still shows for a node stays, regardless of its age.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from shardwright.model.decision import Decision
from shardwright.model.ids import ActionUid
from shardwright.model.trust import has_ended, is_forgettable
from shardwright.model.view import ClusterView, Delete, Write

EVENTS_MAX = 20_000
"""The log keeps the latest ones. Some 300 bytes each, in the store and in the memory of each daemon."""
DELETIONS_AT_ONCE = 60
"""Half of a transaction's bound on operations."""


def surplus_events(found: Sequence[str], *, limit: int = EVENTS_MAX) -> Sequence[str]:
    """The keys of the oldest events above ``limit``, a limited number at once. ``found``: the keys of all events, oldest
    first."""
    return found[: min(DELETIONS_AT_ONCE, max(0, len(found) - limit))]


def decide_retention(view: ClusterView, now: datetime, *, last_actions: frozenset[ActionUid]) -> Decision:
    """Delete expired records, a limited number at once. ``last_actions``: the actions that the API still shows for a
    node."""
    limit = timedelta(seconds=view.policy.action_retention_s)
    retained_nodes = {n.uid for n in view.removed_nodes.values() if n.retained_until > now}
    doomed: list[Write] = []
    for action in view.actions.values():
        is_shown = action.uid in last_actions and (action.node_uid in view.nodes or action.node_uid in retained_nodes)
        if not action.status.is_terminal or is_shown or now - (action.ended_at or action.created_at) < limit:
            continue
        doomed.extend(Delete(m) for m in view.moves_of_action(action.uid))
        doomed.append(Delete(action))
    doomed.extend(
        Delete(m)
        for m in view.moves.values()
        if m.state.is_terminal and m.action_uid is None and now - (m.ended_at or m.created_at) >= limit
    )
    doomed.extend(Delete(n) for n in view.removed_nodes.values() if n.retained_until <= now)
    change = view.leader_change
    if change is not None and change.ended_at is not None and now - change.ended_at >= limit:
        doomed.append(Delete(change))
    doomed.extend(Delete(t) for t in view.join_tokens.values() if is_forgettable(t, now))
    doomed.extend(Delete(c) for c in view.issued_certificates.values() if has_ended(c, now))
    return Decision(writes=tuple(doomed[:DELETIONS_AT_ONCE]))
