"""How a node gets back what a snapshot says it held: copies, then roles, then endpoints.

Called by ``maintenance_off`` on every turn: what is back already is no longer in the plan. What does not exist any more
is listed as a difference and hinders nothing.
"""

from dataclasses import dataclass

from shardwright.model.action import Move, MoveKind
from shardwright.model.cluster import Node, Snapshot, SnapshotShard
from shardwright.model.database import Database, DatabaseStatus, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView
from shardwright.plan.evacuate import MoveProposal, Unplaced
from shardwright.plan.explain import Code, unplaceable
from shardwright.plan.ledger import Ledger
from shardwright.plan.placement import copy_request
from shardwright.plan.standing import Standing, answers, standing_of


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """``moves``, ``waiting``, ``unplaced`` and ``in_flight`` empty: all is back that can come back."""

    moves: tuple[MoveProposal, ...] = ()
    waiting: tuple[Reason, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    in_flight: tuple[Move, ...] = ()
    differences: tuple[Reason, ...] = ()
    """What the snapshot names and the cluster no longer has."""


def plan_restore(view: ClusterView, snapshot: Snapshot) -> RestorePlan:
    """See the module's text. The node must accept placement in ``view`` (it is unmarked first)."""
    node = view.nodes[snapshot.node_uid]
    return _Restoration(view, snapshot, node).plan()


class _Restoration:
    """One plan in the making."""

    def __init__(self, view: ClusterView, snapshot: Snapshot, node: Node) -> None:
        self.view = view
        self.snapshot = snapshot
        self.node = node
        self.ledger = Ledger(view, by_free_memory=view.policy.evict_node_use_free_memory)
        self.relocations: list[MoveProposal] = []
        self.handoffs: list[MoveProposal] = []
        self.rebinds: list[MoveProposal] = []
        self.waiting: list[Reason] = []
        self.unplaced: list[Unplaced] = []
        self.in_flight: list[Move] = []
        self.differences: list[Reason] = []
        others = (s for (node_uid, _), s in view.snapshots.items() if node_uid != node.uid and s.is_maintenance)
        self.promised = {(s.node_uid, shard.group_uid) for s in others for shard in s.shards}

    def plan(self) -> RestorePlan:
        for wanted in sorted(self.snapshot.shards, key=lambda s: (s.database_uid, s.group_uid)):
            self._plan_shard(wanted)
        for uid in sorted(self.snapshot.endpoints):
            self._plan_endpoint(uid)
        moves = (*self.relocations, *self.handoffs, *self.rebinds)
        return RestorePlan(moves, tuple(self.waiting), tuple(self.unplaced), tuple(self.in_flight), tuple(self.differences))

    # -- shards ----------------------------------------------------------------------------------------------------------

    def _plan_shard(self, wanted: SnapshotShard) -> None:
        database, group = self.view.databases.get(wanted.database_uid), self.view.groups.get(wanted.group_uid)
        if database is None or group is None or database.status == DatabaseStatus.DELETE_PENDING:
            self._differs(
                wanted, "database_gone", f"database {wanted.database_uid} no longer has slot group {wanted.group_uid}"
            )
            return
        # A copy that is stopped here only waits for its successor's files: it does not count as back.
        copies = [s for s in self.ledger.shards_of.get(group.uid, []) if s.wanted == ShardWanted.RUNNING]
        here = next((s for s in copies if s.node_uid == self.node.uid), None)
        move = self.ledger.moves_of.get(group.uid)
        if move is not None and move.to_node == self.node.uid:
            self.in_flight.append(move)
            if here is None:
                return
        if here is not None:
            self._plan_role(wanted, group, here, copies)
        elif move is not None or group.handoff is not None:
            self._wait(wanted, Code.GROUP_BUSY, f"slot group {group.uid} waits for another change of it")
        else:
            self._plan_copy(wanted, database, group, copies)

    def _plan_copy(self, wanted: SnapshotShard, database: Database, group: SlotGroup, copies: list[Shard]) -> None:
        if not copies:
            self._differs(wanted, "no_copies", f"slot group {group.uid} has no copy that could come back")
            return
        if len(copies) == 1 and wanted.role == Role.REPLICA:
            self._differs(wanted, "replica_gone", f"slot group {group.uid} has no replica any more")
            return
        primary = None if group.primary is None else self.view.shards.get(group.primary)
        if primary is None or not answers(self.view, primary):
            self._wait(wanted, Code.FAILOVER_PENDING, f"slot group {group.uid} waits for its primary")
            return
        refusals = []
        is_only = len(copies) == 1
        for copy in sorted(copies, key=lambda s: self._reluctance(s, group)):
            hands_over = copy.uid == group.primary
            if hands_over and not is_only and wanted.role == Role.REPLICA:
                continue
            request = copy_request(self.ledger, database, group.uid, leaving=copy, is_primary=hands_over)
            obstacles = tuple(self.ledger.obstacles(self.node, request))
            if not obstacles:
                self.ledger.place(request, self.node.uid)
                self.relocations.append(self._relocation(copy, group, hands_over=hands_over))
                return
            refusals.append((self.ledger.missing_bytes(self.node, request), obstacles))
        refusal = unplaceable(refusals)
        subject = f"slot group {group.uid} of database {group.database_uid}"
        reason = refusal.as_reason(subject, database_uid=group.database_uid, shard_uid=copies[0].uid)
        if refusal.passes_by_itself:
            self.waiting.append(reason)
        else:
            self.unplaced.append(Unplaced(reason, copies[0].uid))

    def _reluctance(self, copy: Shard, group: SlotGroup) -> tuple[bool, bool, bool, float, int]:
        """Which copy should come back, least reluctant first: not the primary (a replica comes back at no risk and gets the
        role afterwards), not one that another node in maintenance is promised, one that came into being after the snapshot,
        the youngest."""
        is_promised = (copy.node_uid, group.uid) in self.promised
        is_older = copy.created_at < self.snapshot.created_at
        return copy.uid == group.primary, is_promised, is_older, -copy.created_at.timestamp(), -copy.uid

    def _relocation(self, copy: Shard, group: SlotGroup, *, hands_over: bool) -> MoveProposal:
        return MoveProposal(
            MoveKind.RELOCATE,
            group.database_uid,
            group.uid,
            copy.uid,
            from_node=copy.node_uid,
            to_node=self.node.uid,
            hands_over=hands_over,
            bytes_total=self.ledger.used_bytes(group.uid),
        )

    def _plan_role(self, wanted: SnapshotShard, group: SlotGroup, here: Shard, copies: list[Shard]) -> None:
        is_primary = group.primary == here.uid
        if wanted.role == Role.REPLICA and is_primary:
            self._differs(wanted, "role_changed", f"shard {here.uid} is the primary of slot group {group.uid} now")
        if wanted.role == Role.REPLICA or is_primary:
            return
        primary = next((s for s in copies if s.uid == group.primary), None)
        is_coming = any(m.group_uid == group.uid for m in self.in_flight)
        if primary is not None and is_coming:
            self.handoffs.append(self._handoff(group, primary, here, is_later=True))
        elif primary is None or group.handoff is not None or group.uid in self.ledger.moves_of:
            self._wait(wanted, Code.GROUP_BUSY, f"slot group {group.uid} waits for another change of it")
        elif standing_of(self.view, here, primary) == Standing.PROVEN:
            self.handoffs.append(self._handoff(group, primary, here))
        else:
            self._wait(wanted, Code.NOT_IN_SYNC, f"slot group {group.uid} waits for shard {here.uid} to be in sync")

    def _handoff(self, group: SlotGroup, primary: Shard, here: Shard, *, is_later: bool = False) -> MoveProposal:
        return MoveProposal(
            MoveKind.HANDOFF,
            group.database_uid,
            group.uid,
            primary.uid,
            here.uid,
            from_node=primary.node_uid,
            to_node=self.node.uid,
            hands_over=True,
            is_later=is_later,
        )

    # -- endpoints -------------------------------------------------------------------------------------------------------

    def _plan_endpoint(self, uid: EndpointUid) -> None:
        endpoint = self.view.endpoints.get(uid)
        if endpoint is None:
            text = f"endpoint {uid} no longer exists"
            self.differences.append(Reason("endpoint_gone", text, Grade.SOFT_LIMIT, node_uid=self.node.uid))
            return
        move = self.ledger.rebinds_of.get(uid)
        if move is not None and move.to_node == self.node.uid:
            self.in_flight.append(move)
            return
        if self.node.uid in endpoint.nodes:
            return
        if move is not None:
            text = f"endpoint {uid} waits for move {move.uid}"
            self.waiting.append(Reason(Code.GROUP_BUSY, text, Grade.SOFT_LIMIT, database_uid=endpoint.database_uid))
            return
        obstacles = tuple(self.ledger.endpoint_obstacles(self.node))
        if not obstacles:
            self.ledger.place_endpoint(self.node.uid)
            self.rebinds.append(
                MoveProposal(
                    MoveKind.REBIND,
                    endpoint.database_uid,
                    endpoint_uid=uid,
                    from_node=_bound_to(endpoint.nodes),
                    to_node=self.node.uid,
                    is_later=self._has_shards_to_come(endpoint.database_uid),
                )
            )
            return
        refusal = unplaceable([(0, obstacles)])
        reason = refusal.as_reason(f"endpoint {uid}", database_uid=endpoint.database_uid)
        if refusal.passes_by_itself:
            self.waiting.append(reason)
        else:
            self.unplaced.append(Unplaced(reason, endpoint_uid=uid))

    def _has_shards_to_come(self, database_uid: DatabaseUid) -> bool:
        """Endpoints come last: until its primary is back the node would only pass commands on to another."""
        proposed = (*self.relocations, *self.handoffs)
        if any(p.database_uid == database_uid for p in proposed):
            return True
        return any(m.database_uid == database_uid and m.group_uid is not None for m in self.in_flight)

    # -- reasons ---------------------------------------------------------------------------------------------------------

    def _differs(self, wanted: SnapshotShard, code: str, text: str) -> None:
        reason = Reason(code, text, Grade.SOFT_LIMIT, "", wanted.shard_uid, wanted.database_uid, self.node.uid)
        self.differences.append(reason)

    def _wait(self, wanted: SnapshotShard, code: Code, text: str) -> None:
        reason = Reason(code, text, Grade.SOFT_LIMIT, "", wanted.shard_uid, wanted.database_uid, self.node.uid)
        self.waiting.append(reason)


def _bound_to(nodes: tuple[NodeUid, ...]) -> NodeUid | None:
    return nodes[0] if nodes else None
