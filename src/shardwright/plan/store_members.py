"""Which member of the store is promoted or removed next, and what a node's record must say of it. Pure.

Called by the leader every few seconds (``leader/members.py``). It proposes one small step or none, and sees the result
before the next. Safety: a voter is removed only while the other voters that answer are a majority of those that stay. A
store in which no node's record has a role is not the cluster's own, and nothing is changed there.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from shardwright.model.action import ActionName
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.store_member import MemberState, StoreMember, StoreRole
from shardwright.model.view import ClusterView

LEAVING_STORE: Final = "leaving_store"
"""The phase of a removal in which the node is empty, and only its member of the store remains."""
UNKNOWN_KEPT: Final = timedelta(seconds=60)
"""A new member that belongs to no node is left alone for this long: the record of its node may be under way."""
SILENT_LOOKS: Final = 3
"""Looks in a row that find a voting member without an answer, or without a leader, until it counts as silent. On a busy
machine one answer may be late, and an action would be refused for it."""

_NAME = re.compile(r"node-([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class Note:
    """Write on the node's record what its member is."""

    node_uid: NodeUid
    role: StoreRole


@dataclass(frozen=True, slots=True)
class PromoteMember:
    """Let the node's learner vote, if it has caught up."""

    member_id: int
    node_uid: NodeUid


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a member. ``node_uid`` None: it belongs to no node."""

    member_id: int
    node_uid: NodeUid | None
    why: str
    """For people: the end of a sentence that names the member."""


Step = Note | PromoteMember | Remove


@dataclass(frozen=True, slots=True)
class Judgment:
    """The next step, and why others wait. ``step`` None: nothing can or need be done now."""

    step: Step | None = None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberSilence:
    """At how many looks in a row the voting member of each node did not answer."""

    looks: Mapping[NodeUid, int] = field(default_factory=dict)

    def after(self, unanswering: Iterable[NodeUid]) -> "MemberSilence":
        """After one more look, at which the members of these nodes did not answer."""
        return MemberSilence({uid: self.looks.get(uid, 0) + 1 for uid in unanswering})

    @property
    def nodes(self) -> frozenset[NodeUid] | None:
        """The nodes whose member is silent. None: not certain, because one has not answered for fewer than ``SILENT_LOOKS``
        looks. Nothing is permitted or refused for it until then."""
        is_certain = all(looks >= SILENT_LOOKS for looks in self.looks.values())
        return frozenset(self.looks) if is_certain else None


def next_step(
    view: ClusterView, states: Sequence[MemberState], *, unknown_for: Mapping[int, timedelta] | None = None
) -> Judgment:
    """The next step. ``states``: all members; empty: the store was not asked. ``unknown_for``: for how long the leader has
    known each of ``strangers``, by member."""
    roles = roles_of(view, states)
    if not states or not any(node.store_role is not StoreRole.NONE for node in view.nodes.values()):
        return Judgment()
    for node_uid, node in sorted(view.nodes.items()):
        if node.store_role is not roles.get(node_uid, StoreRole.NONE):
            return Judgment(Note(node_uid, roles.get(node_uid, StoreRole.NONE)))
    reasons: list[Reason] = []
    for state, why in _leaving(view, states, unknown_for or {}):
        if state.member.is_learner or _is_safe_without(state, states):
            return Judgment(Remove(state.member.id, node_of(state.member, view), why), tuple(reasons))
        reasons.append(_needed(state, view))
    for state in states:
        uid = node_of(state.member, view)
        if uid is None or uid not in view.nodes or not state.member.is_learner:
            continue
        if state.is_reached:
            return Judgment(PromoteMember(state.member.id, uid), tuple(reasons))
        reasons.append(_silent(uid, has_started=bool(state.member.name)))
    return Judgment(None, tuple(reasons))


# -- who is who --------------------------------------------------------------------------------------------------------


def node_of(member: StoreMember, view: ClusterView) -> NodeUid | None:
    """The node to which the member belongs, or did before it was removed. None: it is not one of the cluster's, or its node
    is not on record yet. A member that has not started has no name and is known by its address."""
    match = _NAME.fullmatch(member.name)
    if match is not None:
        uid = NodeUid(int(match[1]))
        return uid if uid in view.nodes or uid < view.counters.next_node else None
    if member.name:
        return None
    hosts = {_host(url) for url in member.peer_urls}
    return next((uid for uid, node in sorted(view.nodes.items()) if node.address in hosts), None)


def roles_of(view: ClusterView, states: Iterable[MemberState]) -> dict[NodeUid, StoreRole]:
    """What each node is in the store, by the store's own word. Nodes without a member are left out."""
    found: dict[NodeUid, StoreRole] = {}
    for state in states:
        uid = node_of(state.member, view)
        if uid is not None and found.get(uid) is not StoreRole.VOTER:
            found[uid] = StoreRole.LEARNER if state.member.is_learner else StoreRole.VOTER
    return found


def unanswering_members(view: ClusterView, states: Iterable[MemberState]) -> frozenset[NodeUid]:
    """Nodes whose member votes and did not answer at this look."""
    silent = (node_of(s.member, view) for s in states if not s.is_reached and not s.member.is_learner)
    return frozenset(uid for uid in silent if uid is not None)


def strangers(view: ClusterView, states: Iterable[MemberState]) -> frozenset[int]:
    """New members that have not started and belong to no node on record: a join may be under way, or was given up."""
    return frozenset(s.member.id for s in states if _is_unclaimed(s.member) and node_of(s.member, view) is None)


def _is_unclaimed(member: StoreMember) -> bool:
    return member.is_learner and not member.name


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


# -- removal -----------------------------------------------------------------------------------------------------------


def _leaving(
    view: ClusterView, states: Sequence[MemberState], unknown_for: Mapping[int, timedelta]
) -> list[tuple[MemberState, str]]:
    """The members to remove, each with the cause. Those that cost nothing come first: learners, then silent ones."""
    found = [(s, why) for s in states if (why := _why_leaving(s.member, view, unknown_for))]
    return sorted(found, key=lambda f: (not f[0].member.is_learner, f[0].is_reached, f[0].member.id))


def _why_leaving(member: StoreMember, view: ClusterView, unknown_for: Mapping[int, timedelta]) -> str:
    """Why the member is to be removed; empty: it stays. A member with a name that is not the cluster's stays: it is an
    operator's."""
    uid = node_of(member, view)
    if uid is None:
        was_long = unknown_for.get(member.id, timedelta(0)) >= UNKNOWN_KEPT
        return "it belongs to no node and never started" if _is_unclaimed(member) and was_long else ""
    if uid not in view.nodes:
        return f"node {uid} is no longer a member of the cluster"
    for action in view.live_actions():
        if action.node_uid == uid and action.name is ActionName.REMOVE and action.phase == LEAVING_STORE:
            return f"node {uid} is being removed"
    successor = next((node.uid for node in view.nodes.values() if node.replaces == uid), None)
    return f"node {successor} takes the place of node {uid}, which is off" if successor and view.is_off(uid) else ""


def _is_safe_without(state: MemberState, states: Iterable[MemberState]) -> bool:
    """Whether those that answer are a majority of the voters that stay."""
    stay = [s for s in states if not s.member.is_learner and s.member.id != state.member.id]
    return sum(s.is_reached for s in stay) > len(stay) // 2


def _needed(state: MemberState, view: ClusterView) -> Reason:
    uid = node_of(state.member, view)
    text = f"the store's member of node {uid} stays until a majority of the other members answers"
    return Reason(Code.NO_QUORUM, text, Grade.HARD_LIMIT, remedy="start the store's members that are down", node_uid=uid)


def _silent(uid: NodeUid, *, has_started: bool) -> Reason:
    text = f"the new member of the store on node {uid} {'does not answer' if has_started else 'has not started'}"
    remedy = f"start the store's member on node {uid}, or remove the node"
    return Reason(Code.STORE_LEARNER_PENDING, text, Grade.SOFT_LIMIT, remedy=remedy, node_uid=uid)
