"""The change of the leader as intents: ask that a certain daemon leads, find out, forget. Pure."""

from dataclasses import replace

from shardwright.api.codes import invalid, not_acceptable, not_found
from shardwright.api.schemas.v1.requests import ChangeLeaderBody
from shardwright.api.services.intent import Intent, Look, audit
from shardwright.api.services.nodes import node_of
from shardwright.model.action import ActionStatus
from shardwright.model.event import EventKind
from shardwright.model.ids import NodeUid
from shardwright.model.leader_change import LeaderChange
from shardwright.model.view import Delete, Put

NAME = "change_master"
"""Its word on the wire."""


def check_name(name: str) -> None:
    """Raises Rejected (404) unless the cluster has an action with this name."""
    if name != NAME:
        raise not_found("invalid_action", f"The cluster has no action {name!r}; it has {NAME} and rotate_key.")


def request(seen: Look, name: str, body: ChangeLeaderBody) -> Intent[LeaderChange]:
    """Ask for another leader. A wish that is under way for another node is replaced. Raises Rejected."""
    check_name(name)
    node = node_of(seen.view, _wanted(body))
    held, earlier = seen.view.leadership, seen.view.leader_change
    if not seen.view.has_agent(node.uid):
        raise not_acceptable(
            "leader_not_available", f"Node {node.uid} has no running daemon.", remedy=f"Start the daemon of node {node.uid}."
        )
    if node.is_decommissioning:
        raise not_acceptable("leader_not_available", f"Node {node.uid} is being removed.")
    if earlier is not None and not earlier.status.is_terminal and earlier.node_uid == node.uid:
        return Intent(earlier)
    change = LeaderChange(node.uid, 0 if held is None else held.term, seen.now, seen.by)
    if held is not None and held.node_uid == node.uid:
        change = replace(change, status=ActionStatus.COMPLETED, ended_at=seen.now)
    text = f"it was requested that node {node.uid} leads"
    return Intent(change, (Put(change), audit(seen, EventKind.LEADER_CHANGE_REQUEST, text, node_uid=node.uid)))


def _wanted(body: ChangeLeaderBody) -> NodeUid:
    given = body.node_uid
    if given is None:
        raise invalid("invalid_parameter", "node_uid: which node is to lead?")
    text = str(given)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise invalid("invalid_parameter", "node_uid: must be the uid of a node.")
    return NodeUid(int(text))


def find(seen: Look, name: str) -> LeaderChange:
    """The last wish. Raises Rejected (404)."""
    check_name(name)
    if seen.view.leader_change is None:
        raise not_found("action_not_found", f"The cluster has no result of {NAME}.")
    return seen.view.leader_change


def forget(seen: Look, name: str) -> Intent[LeaderChange]:
    """Delete the result; a wish that is under way is given up, unless the leader has yielded already. Raises Rejected
    (404)."""
    change = find(seen, name)
    if change.status.is_terminal:
        return Intent(change, (Delete(change),))
    text = f"the request that node {change.node_uid} leads was withdrawn"
    event = audit(seen, EventKind.LEADER_CHANGE_REQUEST, text, node_uid=change.node_uid)
    return Intent(replace(change, status=ActionStatus.CANCELLED), (Delete(change), event))
