"""The leader's part in a requested change of the leader: yield, or say how the change has ended.

Called by the leader each turn. A term yields at most for a wish of its own time: two daemons never take turns for ever. The
other daemons let the wanted one go first (``leader/leadership.py:way_for``).
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.action import ActionStatus
from shardwright.model.commands import YieldLeadership
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.leader_change import LeaderChange
from shardwright.model.view import ClusterView, Put

LOOK_AGAIN = timedelta(seconds=1)


def decide_leader_change(view: ClusterView, now: datetime) -> Decision:
    """Yield to the wanted daemon; or note that it leads, or why it does not."""
    change, held = view.leader_change, view.leadership
    if change is None or change.status.is_terminal or held is None:
        return NOTHING
    wanted = change.node_uid
    if held.node_uid == wanted:
        return _ended(change, now, "")
    if wanted not in view.nodes or not view.has_agent(wanted):
        return _ended(change, now, f"node {wanted} has no running daemon")
    if held.term != change.term:
        return _ended(change, now, f"the daemon of node {wanted} did not take over in time; node {held.node_uid} leads")
    return Decision(commands=(YieldLeadership(),), wake_at=now + LOOK_AGAIN)


def _ended(change: LeaderChange, now: datetime, error: str) -> Decision:
    status = ActionStatus.FAILED if error else ActionStatus.COMPLETED
    ended = replace(change, status=status, ended_at=now, error_message=error)
    kind, severity, text = (
        (EventKind.LEADER_CHANGE_FAILED, Severity.WARNING, f"node {change.node_uid} was to lead, but {error}")
        if error
        else (EventKind.LEADER_CHANGED, Severity.INFO, f"node {change.node_uid} leads, as requested")
    )
    event = Event(now, kind, severity, text, node_uid=change.node_uid, by=change.requested_by)
    return Decision(writes=(Put(ended), Put(event)))
