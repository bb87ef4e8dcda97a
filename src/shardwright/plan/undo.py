"""Returns everything that an action moved to its original place: decided from the action's own moves alone.

Called by ``actions/undo`` on every turn, with a view that omits the action itself (it would exclude its own node).
Completed steps are no longer in the plan, so a new leader continues where the old one stopped. A group whose primary role
can return immediately gets the role first; its copies follow.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shardwright.model.codes import Code
from shardwright.model.database import Database, DatabaseStatus, Shard, ShardWanted, SlotGroup
from shardwright.model.ids import EndpointUid, GroupUid, NodeUid
from shardwright.model.move import GroupMove, Move, MoveState, Rebind, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.serving import policy_of
from shardwright.model.view import ClusterView
from shardwright.plan.explain import unplaceable
from shardwright.plan.ledger import Ledger
from shardwright.plan.placement import copy_request
from shardwright.plan.proposal import Draft, MoveProposal, ReturnPlan
from shardwright.plan.standing import Standing, standing_of

_TOOK_EFFECT = frozenset({MoveState.CLEANING, MoveState.DONE})


@dataclass(frozen=True, slots=True)
class _Origin:
    """The placement of a slot group before the action touched it."""

    displaced: tuple[tuple[NodeUid, NodeUid], ...]
    """Per moved copy: its original node and its present node."""
    primary_node: NodeUid | None
    """The original node of the primary role; None: the action did not hand it over."""


def plan_undo(view: ClusterView, moves: Iterable[Move]) -> ReturnPlan:
    """Plan the way back. ``moves`` are the action's, oldest first."""
    return _Undo(view, list(moves)).plan()


class _Undo:
    def __init__(self, view: ClusterView, moves: list[Move]) -> None:
        self.view = view
        forward = [m for m in moves if not m.is_undo and m.state in _TOOK_EFFECT]
        self.group_moves = [m for m in forward if isinstance(m, GroupMove)]
        self.rebinds = [m for m in forward if isinstance(m, Rebind)]
        self.in_flight = [m for m in moves if m.is_undo and not m.state.is_terminal]
        self.ledger = Ledger(view, by_free_memory=view.policy.evict_node_use_free_memory)
        self.draft = Draft()
        self.differences: list[Reason] = []

    def plan(self) -> ReturnPlan:
        for group_uid in dict.fromkeys(m.group_uid for m in self.group_moves):
            self._plan_group(group_uid)
        for endpoint_uid in dict.fromkeys(m.endpoint_uid for m in self.rebinds):
            self._plan_endpoint(endpoint_uid)
        moves: tuple[MoveProposal, ...] = (*self.draft.handoffs, *self.draft.relocations, *self.draft.rebinds)
        return self.draft.to_return_plan(moves, self.in_flight, self.differences)

    # -- slot groups -----------------------------------------------------------------------------------------------------

    def _plan_group(self, uid: GroupUid) -> None:
        group = self.view.groups.get(uid)
        database = None if group is None else self.view.databases.get(group.database_uid)
        if group is None or database is None or database.status == DatabaseStatus.DELETE_PENDING:
            return  # a deleted database has nothing to restore
        origin = self._origin(uid)
        copies = {s.node_uid: s for s in self.ledger.shards_of.get(uid, []) if s.wanted == ShardWanted.RUNNING}
        away = [(was, now) for was, now in origin.displaced if was not in copies]
        primary = None if group.primary is None else self.view.shards.get(group.primary)
        is_role_back = origin.primary_node is None or (primary is not None and primary.node_uid == origin.primary_node)
        move = self.ledger.moves_of.get(uid)
        if is_role_back and not away:
            return
        if move is not None or group.is_changing_roles or primary is None:
            # A move of ours that is only cleaning up no longer delays completion; moves queued behind it still do.
            if move is None or not move.is_undo or move.state == MoveState.CLEANING:
                self._wait(group, Code.GROUP_BUSY, "waits for the end of another change")
            return
        if not is_role_back and origin.primary_node in copies:
            self._plan_role(group, primary, copies[origin.primary_node])
            return
        for was, now in away:
            self._plan_copy(group, database, copies.get(now), was)

    def _origin(self, uid: GroupUid) -> _Origin:
        displaced: dict[NodeUid, NodeUid] = {}
        primary_node: NodeUid | None = None
        for move in self.group_moves:
            if move.group_uid != uid:
                continue
            if primary_node is None and move.changes_role:
                primary_node = move.from_node
            if isinstance(move, Relocation):
                was = next((origin for origin, at in displaced.items() if at == move.from_node), move.from_node)
                displaced[was] = move.to_node
        return _Origin(tuple((was, now) for was, now in displaced.items() if was != now), primary_node)

    def _plan_role(self, group: SlotGroup, primary: Shard, here: Shard) -> None:
        if standing_of(self.view, here, primary) != Standing.PROVEN:
            self._wait(group, Code.REPLICA_NOT_IN_SYNC, f"waits for shard {here.uid} to be in sync")
            return
        self.draft.handoff(group, primary, here)

    def _plan_copy(self, group: SlotGroup, database: Database, copy: Shard | None, was: NodeUid) -> None:
        node = self.view.nodes.get(was)
        if copy is None or node is None:
            why = f"node {was} is no longer a member" if node is None else "the copy that replaced it no longer exists"
            text = f"slot group {group.uid} does not get its copy on node {was} back: {why}"
            self.differences.append(Reason(Code.NOT_RESTORABLE, text, Grade.SOFT_LIMIT, database_uid=group.database_uid))
            return
        hands_over = copy.uid == group.primary
        request = copy_request(self.ledger, database, group.uid, leaving=copy, is_primary=hands_over)
        obstacles = tuple(self.ledger.obstacles(node, request))
        if obstacles:
            refusal = unplaceable([(self.ledger.missing_bytes(node, request), obstacles)])
            self.draft.refuse(refusal, f"slot group {group.uid} of database {group.database_uid}", copy)
            return
        self.ledger.place(request, was)
        self.draft.relocation(copy, was, bytes_total=self.ledger.used_bytes(group.uid), hands_over=hands_over)

    # -- endpoints -------------------------------------------------------------------------------------------------------

    def _plan_endpoint(self, uid: EndpointUid) -> None:
        endpoint = self.view.endpoints.get(uid)
        was = next((m.from_node for m in self.rebinds if m.endpoint_uid == uid), None)
        if endpoint is None or was is None or was in endpoint.nodes or not endpoint.nodes:
            return
        if not policy_of(endpoint, self.view).is_single:
            return  # the proxy policy has changed: the record follows the marks of the nodes
        node = self.view.nodes.get(was)
        move = self.ledger.rebinds_of.get(uid)
        if move is not None:
            if not move.is_undo:
                self.draft.waiting.append(self._of_endpoint(uid, endpoint.database_uid, f"waits for move {move.uid}"))
            return
        if node is None:
            text = f"does not move back: node {was} is no longer a member"
            self.differences.append(self._of_endpoint(uid, endpoint.database_uid, text))
            return
        obstacles = tuple(self.ledger.endpoint_obstacles(node))
        if obstacles:
            self.draft.refuse_endpoint(unplaceable([(0, obstacles)]), endpoint)
            return
        self.ledger.place_endpoint(was)
        is_later = self.draft.has_shards_to_come(endpoint.database_uid, self.in_flight)
        self.draft.rebind(endpoint, endpoint.nodes[0], was, is_later=is_later)

    # -- reasons ---------------------------------------------------------------------------------------------------------

    def _wait(self, group: SlotGroup, code: Code, text: str) -> None:
        text = f"slot group {group.uid} {text}"
        self.draft.waiting.append(Reason(code, text, Grade.SOFT_LIMIT, database_uid=group.database_uid))

    @staticmethod
    def _of_endpoint(uid: EndpointUid, database_uid: int, text: str) -> Reason:
        return Reason(Code.GROUP_BUSY, f"endpoint {uid} {text}", Grade.SOFT_LIMIT, database_uid=database_uid)  # type: ignore[arg-type]
