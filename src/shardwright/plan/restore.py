"""Restores the placement that a snapshot recorded for a node: copies first, then roles, then endpoints.

Called by ``maintenance_off`` on every turn: restored parts are no longer in the plan. Parts that no longer exist are listed
as differences and do not block the rest.
"""

from shardwright.model.cluster import Node, Snapshot, SnapshotShard
from shardwright.model.codes import Code
from shardwright.model.database import Database, DatabaseStatus, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.ids import EndpointUid
from shardwright.model.move import GroupMove, Move
from shardwright.model.reason import Grade, Reason
from shardwright.model.serving import policy_of
from shardwright.model.view import ClusterView
from shardwright.plan.explain import unplaceable
from shardwright.plan.leaving import not_serving
from shardwright.plan.ledger import Ledger
from shardwright.plan.placement import copy_request
from shardwright.plan.proposal import Draft, MoveProposal, ReturnPlan
from shardwright.plan.standing import Standing, answers, busy_reason, is_busy, standing_of


def plan_restore(view: ClusterView, snapshot: Snapshot) -> ReturnPlan:
    """Plan the restore of a snapshot. The node must accept placement in ``view`` (it is unmarked first)."""
    node = view.nodes[snapshot.node_uid]
    return _Restoration(view, snapshot, node).plan()


class _Restoration:
    """One plan under construction."""

    def __init__(self, view: ClusterView, snapshot: Snapshot, node: Node) -> None:
        self.view = view
        self.snapshot = snapshot
        self.node = node
        self.ledger = Ledger(view, by_free_memory=view.policy.evict_node_use_free_memory)
        self.draft = Draft()
        self.in_flight: list[Move] = []
        self.differences: list[Reason] = []
        others = (s for (node_uid, _), s in view.snapshots.items() if node_uid != node.uid and s.is_maintenance)
        self.promised = {(s.node_uid, shard.group_uid) for s in others for shard in s.shards}

    def plan(self) -> ReturnPlan:
        for wanted in sorted(self.snapshot.shards, key=lambda s: (s.database_uid, s.group_uid)):
            self._plan_shard(wanted)
        for uid in sorted(self.snapshot.endpoints):
            self._plan_endpoint(uid)
        moves: tuple[MoveProposal, ...] = (*self.draft.relocations, *self.draft.handoffs, *self.draft.rebinds)
        return self.draft.to_return_plan(moves, self.in_flight, self.differences)

    # -- shards ----------------------------------------------------------------------------------------------------------

    def _plan_shard(self, wanted: SnapshotShard) -> None:
        database, group = self.view.databases.get(wanted.database_uid), self.view.groups.get(wanted.group_uid)
        if database is None or group is None or database.status == DatabaseStatus.DELETE_PENDING:
            self._differs(
                wanted, Code.DATABASE_GONE, f"database {wanted.database_uid} no longer has slot group {wanted.group_uid}"
            )
            return
        # A stopped copy on this node only waits for its successor's files: it does not count as restored.
        copies = [s for s in self.ledger.shards_of.get(group.uid, []) if s.wanted == ShardWanted.RUNNING]
        here = next((s for s in copies if s.node_uid == self.node.uid), None)
        move = self.ledger.moves_of.get(group.uid)
        if move is not None and move.to_node == self.node.uid:
            self.in_flight.append(move)
            if here is None:
                return
        if here is not None:
            self._plan_role(wanted, group, here, copies)
        elif move is not None or group.is_changing_roles:
            self._wait(wanted, Code.GROUP_BUSY, f"slot group {group.uid} waits for the end of another change")
        else:
            self._plan_copy(wanted, database, group, copies)

    def _plan_copy(self, wanted: SnapshotShard, database: Database, group: SlotGroup, copies: list[Shard]) -> None:
        if not copies:
            self._differs(wanted, Code.NO_COPIES, f"slot group {group.uid} has no copy that could be moved back")
            return
        if len(copies) == 1 and wanted.role == Role.REPLICA:
            self._differs(wanted, Code.REPLICA_GONE, f"slot group {group.uid} no longer has a replica")
            return
        primary = None if group.primary is None else self.view.shards.get(group.primary)
        if primary is None or not answers(self.view, primary):
            if primary is not None and is_busy(self.view.servers.get(primary.uid)):
                self.draft.waiting.append(busy_reason(self.view, primary))
            else:
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
                size = self.ledger.used_bytes(group.uid)
                self.draft.relocation(copy, self.node.uid, bytes_total=size, hands_over=hands_over)
                return
            refusals.append((self.ledger.missing_bytes(self.node, request), obstacles))
        self.draft.refuse(unplaceable(refusals), f"slot group {group.uid} of database {group.database_uid}", copies[0])

    def _reluctance(self, copy: Shard, group: SlotGroup) -> tuple[bool, bool, bool, float, int]:
        """Sort key for the copy to bring back. Preferred, in this order: replicas (they move without risk and get the role
        afterwards), copies that are not promised to another node in maintenance, copies created after the snapshot, the
        youngest."""
        is_promised = (copy.node_uid, group.uid) in self.promised
        is_older = copy.created_at < self.snapshot.created_at
        return copy.uid == group.primary, is_promised, is_older, -copy.created_at.timestamp(), -copy.uid

    def _plan_role(self, wanted: SnapshotShard, group: SlotGroup, here: Shard, copies: list[Shard]) -> None:
        is_primary = group.primary == here.uid
        if wanted.role == Role.REPLICA and is_primary:
            self._differs(wanted, Code.ROLE_CHANGED, f"shard {here.uid} is now the primary of slot group {group.uid}")
        if wanted.role == Role.REPLICA or is_primary:
            return
        primary = next((s for s in copies if s.uid == group.primary), None)
        is_coming = any(isinstance(m, GroupMove) and m.group_uid == group.uid for m in self.in_flight)
        if primary is not None and is_coming:
            self.draft.handoff(group, primary, here, is_later=True)
        elif primary is None or group.is_changing_roles or group.uid in self.ledger.moves_of:
            self._wait(wanted, Code.GROUP_BUSY, f"slot group {group.uid} waits for the end of another change")
        elif standing_of(self.view, here, primary) == Standing.PROVEN:
            self.draft.handoff(group, primary, here)
        else:
            self._wait(wanted, Code.REPLICA_NOT_IN_SYNC, f"slot group {group.uid} waits for shard {here.uid} to be in sync")

    # -- endpoints -------------------------------------------------------------------------------------------------------

    def _plan_endpoint(self, uid: EndpointUid) -> None:
        endpoint = self.view.endpoints.get(uid)
        if endpoint is None:
            text = f"endpoint {uid} no longer exists"
            self.differences.append(Reason(Code.ENDPOINT_GONE, text, Grade.SOFT_LIMIT, node_uid=self.node.uid))
            return
        if not policy_of(endpoint, self.view).is_single:
            self.draft.waiting.extend(not_serving(endpoint, self.node.uid, self.view))
            return
        move = self.ledger.rebinds_of.get(uid)
        if move is not None and move.to_node == self.node.uid:
            self.in_flight.append(move)
            return
        if self.node.uid in endpoint.nodes or not endpoint.nodes:
            return
        if move is not None:
            text = f"endpoint {uid} waits for move {move.uid}"
            self.draft.waiting.append(Reason(Code.GROUP_BUSY, text, Grade.SOFT_LIMIT, database_uid=endpoint.database_uid))
            return
        obstacles = tuple(self.ledger.endpoint_obstacles(self.node))
        if obstacles:
            self.draft.refuse_endpoint(unplaceable([(0, obstacles)]), endpoint)
            return
        self.ledger.place_endpoint(self.node.uid)
        is_later = self.draft.has_shards_to_come(endpoint.database_uid, self.in_flight)
        self.draft.rebind(endpoint, endpoint.nodes[0], self.node.uid, is_later=is_later)

    # -- reasons ---------------------------------------------------------------------------------------------------------

    def _differs(self, wanted: SnapshotShard, code: Code, text: str) -> None:
        reason = Reason(
            code,
            text,
            Grade.SOFT_LIMIT,
            shard_uid=wanted.shard_uid,
            database_uid=wanted.database_uid,
            node_uid=self.node.uid,
        )
        self.differences.append(reason)

    def _wait(self, wanted: SnapshotShard, code: Code, text: str) -> None:
        reason = Reason(
            code,
            text,
            Grade.SOFT_LIMIT,
            shard_uid=wanted.shard_uid,
            database_uid=wanted.database_uid,
            node_uid=self.node.uid,
        )
        self.draft.waiting.append(reason)
