"""The quorum rule before a node leaves: a majority of nodes must remain without it and without all absent nodes.

Called once, in the pre-flights of ``maintenance_on`` and ``remove``. Unlike Redis Enterprise, it also counts nodes that are
down, in maintenance, about to leave, or not yet back from maintenance as absent.
"""

from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView

_GOING = frozenset({ActionName.MAINTENANCE_ON, ActionName.REMOVE})


def quorum_refusals(view: ClusterView, action: Action) -> tuple[Reason, ...]:
    """Why the action's node may not leave; empty if a majority remains without it."""
    away = _away(view, action)
    gone = len(set(away) | {action.node_uid})
    remaining = len(view.nodes) - gone
    # A removed node is no longer a member, so the majority is counted without it.
    members = len(view.nodes) - (action.name == ActionName.REMOVE)
    needed = members // 2 + 1
    if remaining >= needed or (action.name == ActionName.REMOVE and _is_away(view, action)):
        return ()
    if action.name == ActionName.REMOVE:
        return _removal_refusals(action, away, remaining=remaining, members=members)
    text = f"without node {action.node_uid}, {remaining} of {members} nodes would remain; a majority needs {needed}"
    if members < 3:
        return (
            Reason(Code.NO_QUORUM, f"{text}; maintenance needs at least three nodes", Grade.HARD_LIMIT, remedy="add a node"),
        )
    causes = tuple(
        Reason(Code.NODE_AWAY, f"node {uid} {why}", Grade.CONFIGURATION, remedy=remedy, node_uid=uid)
        for uid, (why, remedy) in sorted(away.items())
    )
    first = next((r.remedy for r in causes if r.remedy), "add nodes")
    return (Reason(Code.NO_QUORUM, text, Grade.HARD_LIMIT, remedy=first), *causes)


def _removal_refusals(
    action: Action, away: dict[NodeUid, tuple[str, str]], *, remaining: int, members: int
) -> tuple[Reason, ...]:
    """The refusal if the cluster has its majority only because of this node."""
    needed = members // 2 + 1
    text = f"without node {action.node_uid}, {remaining} of {members} members would be available; a majority needs {needed}"
    causes = tuple(
        Reason(Code.NODE_AWAY, f"node {uid} {why}", Grade.CONFIGURATION, remedy=remedy, node_uid=uid)
        for uid, (why, remedy) in sorted(away.items())
    )
    return (
        Reason(Code.NO_QUORUM, text, Grade.HARD_LIMIT, remedy=next((r.remedy for r in causes if r.remedy), "add nodes")),
        *causes,
    )


def _is_away(view: ClusterView, action: Action) -> bool:
    """Whether the action's node is down or quorum-only. Removing a node that is already down costs no vote."""
    node = view.nodes.get(action.node_uid)
    return action.node_uid not in view.daemons or (node is not None and node.is_quorum_only)


def _away(view: ClusterView, action: Action) -> dict[NodeUid, tuple[str, str]]:
    """Other nodes that count as absent, each with the cause and the remedy."""
    away: dict[NodeUid, tuple[str, str]] = {}
    for uid, node in view.nodes.items():
        if uid == action.node_uid:
            continue
        if uid not in view.daemons:
            away[uid] = ("has no running daemon", f"start the daemon of node {uid}")
        elif node.is_quorum_only:
            away[uid] = ("is in maintenance", f"end the maintenance of node {uid} (maintenance_off)")
    for other in view.live_actions():
        if other.name in _GOING and _is_before(other, action) and other.node_uid != action.node_uid:
            away.setdefault(other.node_uid, (f"is about to leave ({other.name})", f"wait for the end of {other.name}"))
        elif other.name == ActionName.MAINTENANCE_OFF and other.was_quorum_only and other.node_uid != action.node_uid:
            # The node returns to maintenance if its restore fails or is undone.
            away.setdefault(other.node_uid, ("has not left maintenance yet", "wait for the end of maintenance_off"))
    return {uid: why for uid, why in away.items() if uid in view.nodes}


def _is_before(other: Action, action: Action) -> bool:
    """Of two actions that wait for their pre-flight, only the older one counts; otherwise each would refuse the other."""
    has_passed = other.status not in (ActionStatus.QUEUED, ActionStatus.STARTING)
    return has_passed or (other.created_at, other.uid) < (action.created_at, action.uid)
