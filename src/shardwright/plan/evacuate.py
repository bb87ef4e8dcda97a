"""Evacuation plans: the cheapest safe way off a node for every shard, role and endpoint that must leave it.

Called by the actions on every turn. The plan follows from the observed state, so completed work is simply no longer part of
it. A primary whose group has a proven replica elsewhere hands over and then leaves as a replica; a primary without one gets
a new copy that takes the role; endpoints leave last. Capacity includes moves in flight and the placements of the plan
itself. Copies of other nodes step aside only if there is no other way to free room.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from shardwright.model.codes import Code
from shardwright.model.database import Database, Endpoint, GroupPhase, Shard, ShardWanted, SlotGroup, reason_about
from shardwright.model.ids import DatabaseUid, MoveUid, NodeUid
from shardwright.model.liveness import has_ended
from shardwright.model.move import Move, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.serving import policy_of
from shardwright.model.view import ClusterView
from shardwright.plan.absence import remedy_of_absence
from shardwright.plan.assignment import ENDING, Assignment, Failures, Leaver, assign
from shardwright.plan.chains import SearchBudget
from shardwright.plan.explain import Unplaceable, unplaceable
from shardwright.plan.leaving import clients_leaving, clients_left_behind, is_alone
from shardwright.plan.ledger import Ledger, sorted_nodes
from shardwright.plan.placement import choose_endpoint, copy_request
from shardwright.plan.proposal import Draft, MoveProposal, Unplaced
from shardwright.plan.standing import GroupStanding, answers, busy_reason, group_standing, is_busy
from shardwright.plan.waiting import told


class Leaves(StrEnum):
    """The part of a database that leaves the node."""

    ALL = "all"
    PRIMARIES = "primaries"
    """Replicas stay; a primary without a proven replica elsewhere is relocated."""
    ROLES = "roles"
    """Only the primary role leaves; all shards stay on their nodes."""
    NOTHING = "nothing"
    """No shard and no role leaves; endpoints are handled separately."""


@dataclass(frozen=True, slots=True)
class EvacuationScope:
    """Everything that has to leave."""

    default: Leaves = Leaves.ALL
    databases: Mapping[DatabaseUid, Leaves] = field(default_factory=dict)
    """Exceptions from ``default``."""
    includes_endpoints: bool = True
    """Whether the node's endpoints leave too."""

    def of(self, uid: DatabaseUid) -> Leaves:
        """The part of this database that leaves."""
        return self.databases.get(uid, self.default)


@dataclass(frozen=True, slots=True)
class EvacuationPlan:
    """All three empty: the node holds nothing that has to leave."""

    moves: tuple[MoveProposal, ...] = ()
    """In starting order. A move from another node makes room for the moves behind it."""
    waiting: tuple[Reason, ...] = ()
    """Things that have to leave and cannot start yet; these obstacles pass by themselves."""
    unplaced: tuple[Unplaced, ...] = ()
    in_flight: tuple[Move, ...] = ()
    """Live moves that take something off the node."""

    @property
    def is_empty(self) -> bool:
        """Whether everything that has to leave has left and no move is in flight."""
        return not (self.moves or self.waiting or self.unplaced or self.in_flight)


def plan_evacuation(
    view: ClusterView, node_uid: NodeUid, scope: EvacuationScope, *, failures: Failures | None = None
) -> EvacuationPlan:
    """Plan the evacuation of one node. Even memory usage first if everything fits that way; then full nodes; then
    displacement of other copies."""
    return plan_evacuations(view, [node_uid], scope, failures=failures)[node_uid]


def plan_evacuations(
    view: ClusterView, node_uids: Sequence[NodeUid], scope: EvacuationScope, *, failures: Failures | None = None
) -> dict[NodeUid, EvacuationPlan]:
    """Plans for several nodes that fit together: each counts the placements of the plans before it, and no evacuated node
    receives anything from another. With one node, the same as ``plan_evacuation``."""
    ledger = Ledger(view, by_free_memory=view.policy.evict_node_use_free_memory)
    if len(node_uids) > 1:
        ledger.leaving_nodes |= set(node_uids)
        ledger.removed_soon |= set(node_uids)
    budget = SearchBudget()
    return {uid: _Evacuation(ledger, uid, scope, failures or {}, budget=budget).plan() for uid in node_uids}


@dataclass(frozen=True, slots=True)
class _Leave:
    """A copy that leaves, and the way it leaves."""

    leaver: Leaver
    hands_over: bool
    is_later: bool


class _Evacuation:
    """One plan under construction."""

    def __init__(
        self, ledger: Ledger, node_uid: NodeUid, scope: EvacuationScope, failures: Failures, *, budget: SearchBudget
    ) -> None:
        self.view = ledger.view
        self.node_uid = node_uid
        self.scope = scope
        self.failures = failures
        self.budget = budget
        self.ledger = ledger
        self.leaves: list[_Leave] = []
        self.draft = Draft()
        self.in_flight: dict[MoveUid, Move] = {}

    def plan(self) -> EvacuationPlan:
        # The largest first: they are the hardest to place and take the longest.
        sized = [(self._size(shard), shard) for shard in self.view.shards_on(self.node_uid)]
        for _, shard in sorted(sized, key=lambda s: (-s[0], s[1].uid)):
            self._plan_shard(shard)
        self._propose(assign(self.ledger, [leave.leaver for leave in self.leaves], self.failures, budget=self.budget))
        if self.scope.includes_endpoints:
            for endpoint in self.view.endpoints_on(self.node_uid):
                self._plan_endpoint(endpoint)
            self.draft.waiting.extend(clients_left_behind(self.node_uid, self.view))
        draft = self.draft
        moves: tuple[MoveProposal, ...] = (*draft.handoffs, *draft.relocations, *draft.rebinds)
        return EvacuationPlan(moves, tuple(draft.waiting), tuple(draft.unplaced), tuple(self.in_flight.values()))

    def _size(self, shard: Shard) -> int:
        database = self.view.databases.get(shard.database_uid)
        return 0 if database is None else self.ledger.size_of_copy(database, shard.group_uid)

    # -- shards ----------------------------------------------------------------------------------------------------------

    def _plan_shard(self, shard: Shard) -> None:
        leaves = self.scope.of(shard.database_uid)
        group, database = self.view.groups.get(shard.group_uid), self.view.databases.get(shard.database_uid)
        is_primary = group is not None and group.primary == shard.uid
        move = self.ledger.moves_of.get(shard.group_uid)
        if leaves != Leaves.NOTHING and move is not None and move.shard_uid == shard.uid:
            self.in_flight[move.uid] = move
            if shard.wanted == ShardWanted.GONE or isinstance(move, Relocation):
                return
        if leaves == Leaves.NOTHING or (leaves != Leaves.ALL and not is_primary):
            return
        if shard.wanted == ShardWanted.GONE:
            self._plan_ending(shard)
        elif group is None or database is None or database.status in ENDING:
            self._wait(shard, Code.STOPPING, f"database {shard.database_uid} is being deleted")
        elif is_primary:
            self._plan_primary(shard, group, database, leaves=leaves, standing=self._standing(group))
        else:
            self._plan_replica(shard, group, database, standing=self._standing(group))

    def _standing(self, group: SlotGroup) -> GroupStanding:
        shards = self.ledger.shards_of.get(group.uid, [])
        unwanted = self.ledger.leaving_nodes - {self.node_uid}
        return group_standing(self.view, group, shards=shards, leaving=self.node_uid, unwanted=unwanted)

    def _plan_ending(self, shard: Shard) -> None:
        """A copy that is to be deleted: there is nothing to plan, but the node is not empty while its process runs."""
        if has_ended(self.view.liveness(shard)):
            return
        has_daemon = not self.view.is_away(shard.node_uid)
        text = "is being stopped" if has_daemon else f"cannot be stopped: node {shard.node_uid} has no running daemon"
        remedy = "" if has_daemon else remedy_of_absence(self.view, shard.node_uid)
        self._wait(shard, Code.STOPPING, text, remedy=remedy)

    def _plan_primary(
        self, shard: Shard, group: SlotGroup, database: Database, *, leaves: Leaves, standing: GroupStanding
    ) -> None:
        is_busy = self._is_busy(group, standing)
        if standing.primary_answers is False:
            self._plan_dead_primary(shard, group, standing)
            return
        if standing.proven or (leaves == Leaves.ROLES and standing.coming):
            if leaves == Leaves.ALL:
                self._relocate(shard, group, database, is_later=True)
            if is_busy or not standing.proven:
                self._wait_unless_moving(shard, group, standing)
            else:
                # Hand over even if the copy itself has no place: the fewer roles the node has, the better.
                self.draft.handoff(group, shard, self.view.shards[standing.proven[0]])
            return
        if leaves == Leaves.ROLES:
            self._refuse(shard, Code.NO_REPLICA, f"slot group {group.uid} has no live replica on another usable node")
            return
        waits = is_busy or bool(standing.coming) or standing.primary_answers is None
        if standing.coming:
            # It will hand over; only a copy that leaves after that needs a place.
            if leaves == Leaves.ALL:
                self._relocate(shard, group, database, is_later=True)
        else:
            self._relocate(shard, group, database, hands_over=True, is_later=waits)
        if waits:
            self._wait_unless_moving(shard, group, standing)

    def _plan_dead_primary(self, shard: Shard, group: SlotGroup, standing: GroupStanding) -> None:
        """Only a failover or a restart can bring the group back; other modules decide both."""
        if is_busy(self.view.servers.get(shard.uid)):
            self.draft.waiting.append(busy_reason(self.view, shard))
        elif standing.coming or standing.proven:
            self._wait_for_failover(shard, group)
        elif not self.view.is_away(shard.node_uid) and not shard.failure:
            self._wait(shard, Code.FAILOVER_PENDING, f"the only copy of slot group {group.uid} is being restarted")
        else:
            is_away = self.view.is_away(shard.node_uid)
            remedy = remedy_of_absence(self.view, shard.node_uid) if is_away else ""
            self._refuse(shard, Code.NO_LIVE_COPY, f"slot group {group.uid} has no live copy", remedy=remedy)

    def _wait_for_failover(self, shard: Shard, group: SlotGroup) -> None:
        text, remedy = f"slot group {group.uid} waits for a failover", ""
        if group.phase is GroupPhase.STARTING and self.view.is_away(shard.node_uid):
            text = f"slot group {group.uid} waits for the data of shard {shard.uid} on node {shard.node_uid}"
            remedy = f"start the daemon of node {shard.node_uid}, or discard the data: delete database {shard.database_uid}"
        if group.waits_for:
            text, remedy = told(group, f"slot group {group.uid} is starting and waits")
        self._wait(shard, Code.FAILOVER_PENDING, text, remedy=remedy)

    def _plan_replica(self, shard: Shard, group: SlotGroup, database: Database, *, standing: GroupStanding) -> None:
        if standing.primary_answers is False and standing.primary is not None:
            self._plan_orphan(shard, group, standing.primary, standing)
            return
        waits = self._is_busy(group, standing) or standing.primary_answers is None
        self._relocate(shard, group, database, is_later=waits)
        if waits:
            self._wait_unless_moving(shard, group, standing)

    def _plan_orphan(self, shard: Shard, group: SlotGroup, primary: Shard, standing: GroupStanding) -> None:
        """A replica whose primary does not answer."""
        if is_busy(self.view.servers.get(primary.uid)):
            self.draft.waiting.append(busy_reason(self.view, primary))
            return
        is_alive = answers(self.view, shard) is not False or bool(standing.coming or standing.proven)
        if is_alive or not self.view.is_away(primary.node_uid):
            text, remedy = told(group, f"slot group {group.uid} waits for its primary, shard {primary.uid}")
            self._wait(shard, Code.FAILOVER_PENDING, text, remedy=remedy)
        else:
            remedy = remedy_of_absence(self.view, primary.node_uid)
            self._refuse(shard, Code.NO_LIVE_COPY, f"slot group {group.uid} has no live copy", remedy=remedy)

    def _is_busy(self, group: SlotGroup, standing: GroupStanding) -> bool:
        return not standing.is_ready or group.uid in self.ledger.moves_of

    def _wait_unless_moving(self, shard: Shard, group: SlotGroup, standing: GroupStanding) -> None:
        move = self.ledger.moves_of.get(group.uid)
        if move is not None:
            if move.uid not in self.in_flight:
                self._wait(shard, Code.GROUP_BUSY, f"slot group {group.uid} waits for move {move.uid}")
        elif not standing.is_ready:
            text, remedy = told(group, f"slot group {group.uid} is starting or handing over")
            self._wait(shard, Code.GROUP_BUSY, text, remedy=remedy)
        elif standing.primary_answers is None:
            self._wait(shard, Code.NOT_OBSERVED, f"the primary of slot group {group.uid} has not been observed yet")
        else:
            waited = ", ".join(f"shard {uid}" for uid in standing.coming)
            self._wait(shard, Code.REPLICA_NOT_IN_SYNC, f"slot group {group.uid} waits for {waited} to be in sync")

    def _relocate(
        self, shard: Shard, group: SlotGroup, database: Database, *, hands_over: bool = False, is_later: bool = False
    ) -> None:
        """The copy leaves; its target is chosen once all leaving copies are known."""
        request = copy_request(self.ledger, database, group.uid, leaving=shard, is_primary=hands_over)
        self.leaves.append(_Leave(Leaver(shard, request), hands_over, is_later))

    def _propose(self, found: Assignment) -> None:
        for leaver, to_node in found.displaced:
            is_later = leaver.shard.uid in found.later
            hands_over = leaver.request.is_primary
            self._propose_move(leaver.shard, to_node, hands_over=hands_over, is_later=is_later)
        for leave in self.leaves:
            shard = leave.leaver.shard
            chosen = found.places.get(shard.uid)
            if chosen is None:
                self.draft.refuse(found.refused[shard.uid], _name(shard), shard)
                continue
            waits = shard.uid in found.later
            is_later = leave.is_later or waits
            self._propose_move(shard, chosen, hands_over=leave.hands_over, is_later=is_later)
            if waits:
                self._wait(shard, Code.INSUFFICIENT_MEMORY, f"waits until another copy frees room on node {chosen}")

    def _propose_move(self, copy: Shard, to_node: NodeUid, *, hands_over: bool, is_later: bool) -> None:
        size = self.ledger.used_bytes(copy.group_uid)
        self.draft.relocation(copy, to_node, bytes_total=size, hands_over=hands_over, is_later=is_later)

    # -- endpoints -------------------------------------------------------------------------------------------------------

    def _plan_endpoint(self, endpoint: Endpoint) -> None:
        if endpoint.leaving_of(self.node_uid) is not None or not policy_of(endpoint, self.view).is_single:
            self._plan_shared_endpoint(endpoint)
            return
        move = self.ledger.rebinds_of.get(endpoint.uid)
        if move is not None:
            self.in_flight[move.uid] = move
            return
        failures = self.failures.get(endpoint.uid)
        found = choose_endpoint(
            self.ledger, near=self._future_primaries(endpoint), leaving=self.node_uid, failures=failures, bound=endpoint
        )
        if isinstance(found, Unplaceable):
            self.draft.refuse_endpoint(found, endpoint)
            return
        self.ledger.place_endpoint(found)
        self.draft.rebind(endpoint, self.node_uid, found)

    def _plan_shared_endpoint(self, endpoint: Endpoint) -> None:
        """The other nodes serve it already. This node leaves by itself when its mark says so, and the plan waits for its
        clients; the plan of a node that only loses its roles does not."""
        if self.scope.default not in (Leaves.ALL, Leaves.PRIMARIES):
            return
        if is_alone(endpoint, self.node_uid, self.view):
            nodes = [n for n in sorted_nodes(self.view) if n.uid != self.node_uid]
            found = unplaceable((0, tuple(self.ledger.endpoint_obstacles(n))) for n in nodes)
            self.draft.refuse_endpoint(found, endpoint)
        else:
            self.draft.waiting.append(clients_leaving(endpoint, self.node_uid, self.view))

    def _future_primaries(self, endpoint: Endpoint) -> set[NodeUid]:
        proposed: tuple[MoveProposal, ...] = (*self.draft.handoffs, *self.draft.relocations)
        planned = [m for m in proposed if m.changes_role and m.database_uid == endpoint.database_uid]
        if planned:
            return {m.to_node for m in planned}
        return self.ledger.primary_nodes(endpoint.database_uid)

    # -- reasons ---------------------------------------------------------------------------------------------------------

    def _refuse(self, shard: Shard, code: Code, text: str, *, remedy: str = "") -> None:
        text = f"{_name(shard)}: {text}"
        reason = reason_about(shard, code, text, Grade.HARD_LIMIT, remedy=remedy)
        self.draft.unplaced.append(Unplaced(reason, shard.uid))

    def _wait(self, shard: Shard, code: Code, text: str, *, remedy: str = "") -> None:
        text = f"{_name(shard)}: {text}"
        self.draft.waiting.append(reason_about(shard, code, text, Grade.SOFT_LIMIT, remedy=remedy))


def _name(shard: Shard) -> str:
    return f"shard {shard.uid} of database {shard.database_uid}"


__all__ = [
    "EvacuationPlan",
    "EvacuationScope",
    "Failures",
    "Leaves",
    "plan_evacuation",
    "plan_evacuations",
]
