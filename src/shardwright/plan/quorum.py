"""The quorum rule before a node leaves: a majority of voters must remain without it and without all absent ones.

Called in the pre-flights of ``maintenance_on`` and ``remove``, and before a removed node's member leaves the store. The
voters are the nodes that carry a member of the store; if no node does, every daemon votes. Unlike Redis Enterprise, it also
counts nodes that are down, in maintenance, about to leave, or not yet back from maintenance as absent. A node whose presence
is merely missing at this moment counts as absent here, because that refuses more; but it is not let go as one that is down
already, and an action waits for it (``returning_voters``) instead of failing.
"""

from collections.abc import Set
from dataclasses import dataclass, replace

from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.store_member import StoreRole
from shardwright.model.view import ClusterView

_GOING = frozenset({ActionName.MAINTENANCE_ON, ActionName.REMOVE})


@dataclass(frozen=True, slots=True)
class Voters:
    """The members that vote. The store works while more than half of them do."""

    uids: frozenset[NodeUid]
    what: str = "nodes"
    """For people."""
    are_members: bool = False
    """Whether they are members of the store, and not daemons."""


def voters_of(view: ClusterView) -> Voters:
    """The nodes whose member of the store votes; if there is none, all nodes."""
    members = frozenset(uid for uid, node in view.nodes.items() if node.store_role is StoreRole.VOTER)
    return Voters(members, "members of the store", are_members=True) if members else Voters(frozenset(view.nodes))


def quorum_refusals(
    view: ClusterView, action: Action, voters: Voters, *, present: Set[NodeUid] = frozenset()
) -> tuple[Reason, ...]:
    """Why the action's node may not leave; empty if it does not vote, or a majority remains without it. ``present``: nodes
    that count as there although their daemon holds no lease."""
    if action.node_uid not in voters.uids:
        return ()
    if action.name == ActionName.REMOVE and voters.are_members and voters.uids == {action.node_uid}:
        text = f"node {action.node_uid} runs the only member of the store that votes"
        return (Reason(Code.NO_QUORUM, text, Grade.HARD_LIMIT, remedy="add a node that runs a member of the store"),)
    away = {uid: why for uid, why in _away(view, action, voters, present).items() if uid in voters.uids}
    gone = len(set(away) | {action.node_uid})
    remaining = len(voters.uids) - gone
    # A removed node is no longer a member, so the majority is counted without it.
    members = len(voters.uids) - (action.name == ActionName.REMOVE)
    needed = members // 2 + 1
    if remaining >= needed or (action.name == ActionName.REMOVE and _is_away(view, action, voters)):
        return ()
    if action.name == ActionName.REMOVE:
        return _removal_refusals(action, away, remaining=remaining, members=members)
    text = f"without node {action.node_uid}, {remaining} of {members} {voters.what} would remain; a majority needs {needed}"
    if members < 3:
        text = f"{text}; maintenance needs at least three {voters.what}"
        return (Reason(Code.NO_QUORUM, text, Grade.HARD_LIMIT, remedy="add a node"),)
    causes = tuple(
        Reason(Code.NODE_AWAY, f"node {uid} {why}", Grade.CONFIGURATION, remedy=remedy, node_uid=uid)
        for uid, (why, remedy) in sorted(away.items())
    )
    first = next((r.remedy for r in causes if r.remedy), "add nodes")
    return (Reason(Code.NO_QUORUM, text, Grade.HARD_LIMIT, remedy=first), *causes)


def returning_voters(view: ClusterView, action: Action, voters: Voters) -> tuple[Reason, ...]:
    """The nodes for which a refused action waits, because with them the refusal would not hold: their presence is missing
    for a moment, as after an interruption of the store, or their member of the store is new and does not vote yet. Empty:
    the refusal holds."""
    returning = {
        uid
        for uid in view.nodes
        if uid != action.node_uid and not view.has_agent(uid) and (not view.is_away(uid) or uid in view.returning)
    }
    learners = {uid for uid, node in view.nodes.items() if node.store_role is StoreRole.LEARNER and uid != action.node_uid}
    expected = replace(voters, uids=voters.uids | learners) if voters.are_members else voters
    if not returning | learners or quorum_refusals(view, action, expected, present=returning):
        return ()
    return tuple(_awaited(uid, is_learner=uid not in returning) for uid in sorted(returning | learners))


def _awaited(uid: NodeUid, *, is_learner: bool) -> Reason:
    if is_learner:
        text = f"the member of the store on node {uid} does not vote yet"
        return Reason(Code.STORE_LEARNER_PENDING, text, Grade.SOFT_LIMIT, node_uid=uid)
    text = f"the daemon of node {uid} holds no lease at the moment"
    return Reason(Code.NODE_AWAY, text, Grade.SOFT_LIMIT, remedy=Code.NODE_AWAY.remedy, node_uid=uid)


def unknown_voters(view: ClusterView, action: Action, voters: Voters) -> tuple[Reason, ...]:
    """Why the answer of ``quorum_refusals`` may be too favorable: the leader has not heard yet which members answer. Until
    then a refusal holds, and a permission does not."""
    is_known = view.silent_members is not None or not voters.are_members
    if (
        is_known
        or action.node_uid not in voters.uids
        or (action.name == ActionName.REMOVE and _is_away(view, action, voters))
    ):
        return ()
    text = "the leader does not know yet which members of the store answer"
    return (Reason(Code.STORE_MEMBERS_UNKNOWN, text, Grade.SOFT_LIMIT, node_uid=action.node_uid),)


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


def _is_away(view: ClusterView, action: Action, voters: Voters) -> bool:
    """Whether the action's node is down or quorum-only. Removing a node that is already down costs no vote. A quorum-only
    node's member of the store still votes, so its removal may cost one."""
    node = view.nodes.get(action.node_uid)
    if view.is_away(action.node_uid):
        return True
    return not voters.are_members and node is not None and node.is_quorum_only


def _away(view: ClusterView, action: Action, voters: Voters, present: Set[NodeUid]) -> dict[NodeUid, tuple[str, str]]:
    """Other nodes that count as absent, each with the cause and the remedy."""
    away: dict[NodeUid, tuple[str, str]] = {}
    for uid, node in view.nodes.items():
        if uid == action.node_uid:
            continue
        if not view.has_agent(uid) and uid not in present:
            away[uid] = ("has no running daemon", f"start the daemon of node {uid}")
        elif voters.are_members and uid in (view.silent_members or ()):
            away[uid] = ("has a member of the store that does not answer", f"start the store's member on node {uid}")
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
