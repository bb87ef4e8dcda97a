"""The capacity model of one plan: everything that each node holds or is promised.

One pass over the shards of a view builds it at the start of a plan. Every later choice is noted, so the next choice sees
it. Data that only a few slot groups need is looked up on demand. It lives for one call of the planner and changes no
record. Called by the other planners.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from shardwright.model.action import ActionName
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.database import Database, Shard, ShardWanted
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.liveness import has_ended
from shardwright.model.move import GroupMove, Move, MoveState, Rebind, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView
from shardwright.plan.explain import about_node, megabytes

_LEAVING_ACTIONS = frozenset({ActionName.REMOVE, ActionName.MAINTENANCE_ON, ActionName.STEP_DOWN})


@dataclass(slots=True)
class Load:
    """One node's numbers. ``leaving_*`` are part of the other numbers and become free by themselves."""

    held_bytes: int = 0
    """Provisioned (or, without a limit, used) by the copies on the node and by those promised to it."""
    available_bytes: int = 0
    """Room for further copies."""
    leaving_bytes: int = 0
    shards: int = 0
    leaving_shards: int = 0
    endpoints: int = 0
    leaving_endpoints: int = 0
    primaries: int = 0


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """A copy that needs a node."""

    database: Database
    group_uid: GroupUid
    size_bytes: int
    is_primary: bool = False
    """The copy takes the primary role immediately."""
    leaving: ShardUid | None = None
    """The copy that it replaces: its node is not a candidate, its rack is not an obstacle."""
    leaving_node: NodeUid | None = None


class ShardsOf:
    """Recorded copies of slot groups, looked up on demand."""

    def __init__(self, view: ClusterView) -> None:
        self._view = view

    def get(self, uid: GroupUid, default: list[Shard] | tuple[()] = ()) -> list[Shard]:
        """The group's copies by uid; ``default`` if the group has none."""
        return self._view.shards_of_group(uid)


@dataclass(slots=True)
class Ledger:
    """The capacity model of one plan. ``by_free_memory``: judge room by free instead of provisioned memory."""

    view: ClusterView
    by_free_memory: bool = False
    loads: dict[NodeUid, Load] = field(default_factory=dict)
    moves_of: dict[GroupUid, GroupMove] = field(default_factory=dict)
    """The live move of each slot group."""
    rebinds_of: dict[EndpointUid, Rebind] = field(default_factory=dict)
    """The live move of each endpoint."""
    leaving_nodes: set[NodeUid] = field(default_factory=set)
    """Nodes that a live action is emptying or relieving of primaries."""
    removed_soon: set[NodeUid] = field(default_factory=set)
    """The subset of ``leaving_nodes`` that copies must leave too."""
    planned: set[GroupUid] = field(default_factory=set)
    """Slot groups with a copy that this plan has placed."""
    _copies: dict[GroupUid, dict[ShardUid | None, NodeUid]] = field(default_factory=dict)
    _coming: dict[GroupUid, NodeUid] = field(default_factory=dict)
    _open: dict[bool, list[tuple[Node, Load]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for uid, node in self.view.nodes.items():
            self.loads[uid] = Load(available_bytes=self._memory_limit(node))
        self._count_shards()
        for endpoint in self.view.endpoints.values():
            for uid in endpoint.nodes:
                if uid in self.loads:
                    self.loads[uid].endpoints += 1
        shards, loads = self.view.shards, self.loads
        for group in self.view.groups.values():
            primary = None if group.primary is None else shards.get(group.primary)
            if primary is not None and primary.node_uid in loads:
                loads[primary.node_uid].primaries += 1
        for move in self.view.live_moves():
            self._count_move(move)
        for action in self.view.live_actions():
            if action.name in _LEAVING_ACTIONS:
                self.leaving_nodes.add(action.node_uid)
                if action.name != ActionName.STEP_DOWN:
                    self.removed_soon.add(action.node_uid)

    # -- slot groups -------------------------------------------------------------------------------------------------

    @property
    def shards_of(self) -> ShardsOf:
        """Recorded copies of slot groups, including those that are stopping."""
        return ShardsOf(self.view)

    def copies_of(self, uid: GroupUid) -> dict[ShardUid | None, NodeUid]:
        """Nodes with copies of a slot group that stay or arrive; key None is a copy without a record yet. Internal notes of
        the planners: ``place`` changes them."""
        found = self._copies.get(uid)
        if found is None:
            shards = self.view.shards_of_group(uid)
            found = {s.uid: s.node_uid for s in shards if s.wanted != ShardWanted.GONE}
            if uid in self._coming:
                found[None] = self._coming[uid]
            self._copies[uid] = found
        return found

    def ending_of(self, uid: GroupUid) -> set[NodeUid]:
        """Nodes on which something of a slot group is still being cleaned up."""
        return {s.node_uid for s in self.view.shards_of_group(uid) if s.wanted == ShardWanted.GONE}

    def primary_nodes(self, uid: DatabaseUid) -> set[NodeUid]:
        """Nodes that hold a committed primary of the database."""
        primaries = [self.view.shards.get(g.primary) for g in self.view.groups_of(uid) if g.primary is not None]
        return {s.node_uid for s in primaries if s is not None and s.node_uid in self.loads}

    # -- sizes -------------------------------------------------------------------------------------------------------

    def used_bytes(self, group_uid: GroupUid) -> int:
        """Memory that one copy of the group uses, as reported by its servers; 0 without a report."""
        found = [self.view.servers.get(s.uid) for s in self.shards_of.get(group_uid, ())]
        return max((seen.used_memory_bytes for seen in found if seen is not None), default=0)

    def size_of_copy(self, database: Database, group_uid: GroupUid) -> int:
        """Size of a new copy of the group on its node."""
        if self.by_free_memory or database.memory_bytes == 0:
            return self.used_bytes(group_uid)
        return database.shard_memory_bytes

    def _memory_limit(self, node: Node) -> int:
        free_bytes = self._free_bytes(node.uid) if self.by_free_memory else 0
        return free_bytes or node.memory_bytes

    def _is_free_memory_seen(self, uid: NodeUid) -> bool:
        return self.by_free_memory and self._free_bytes(uid) > 0

    def _free_bytes(self, uid: NodeUid) -> int:
        figures = self.view.figures.get(uid)
        return 0 if figures is None else figures.memory_free_bytes

    def _size_of_shard(self, shard: Shard) -> int:
        database = self.view.databases.get(shard.database_uid)
        seen = self.view.servers.get(shard.uid)
        used = 0 if seen is None else seen.used_memory_bytes
        if database is None or database.memory_bytes == 0 or self.by_free_memory:
            return used or self._used_by_primary(shard.group_uid)
        return database.shard_memory_bytes

    def _used_by_primary(self, group_uid: GroupUid) -> int:
        group = self.view.groups.get(group_uid)
        seen = None if group is None or group.primary is None else self.view.servers.get(group.primary)
        return 0 if seen is None else seen.used_memory_bytes

    # -- counting ----------------------------------------------------------------------------------------------------

    def _count_shards(self) -> None:
        # The one loop over all shards: kept flat, because there may be a million.
        loads = self.loads
        fixed = {} if self.by_free_memory else {u: d.shard_memory_bytes for u, d in self.view.databases.items()}
        by_free = {uid for uid in loads if self._is_free_memory_seen(uid)}
        for shard in self.view.shards.values():
            node_uid = shard.node_uid
            load = loads.get(node_uid)
            if load is None:
                continue
            is_going = shard.wanted is ShardWanted.GONE
            if is_going and has_ended(self.view.liveness(shard)):
                continue
            size = fixed.get(shard.database_uid) or self._size_of_shard(shard)
            load.held_bytes += size
            load.shards += 1
            if node_uid not in by_free:
                load.available_bytes -= size
            if is_going:
                load.leaving_bytes += size
                load.leaving_shards += 1

    def _count_move(self, move: Move) -> None:
        if isinstance(move, Rebind):
            self._count_rebind(move)
            return
        self.moves_of[move.group_uid] = move
        if isinstance(move, Relocation):
            self._count_relocation(move)

    def _count_rebind(self, move: Rebind) -> None:
        self.rebinds_of[move.endpoint_uid] = move
        endpoint = self.view.endpoints.get(move.endpoint_uid)
        bound = () if endpoint is None else endpoint.nodes
        if move.to_node in self.loads and move.to_node not in bound:
            self.loads[move.to_node].endpoints += 1
        if move.from_node in self.loads and move.from_node in bound:
            self.loads[move.from_node].leaving_endpoints += 1

    def _count_relocation(self, move: Relocation) -> None:
        database = self.view.databases.get(move.database_uid)
        size = 0 if database is None else self.size_of_copy(database, move.group_uid)
        load = self.loads.get(move.to_node)
        is_recorded = move.new_shard_uid is not None and move.new_shard_uid in self.view.shards
        if not is_recorded and move.state in (MoveState.PLANNED, MoveState.STARTING):
            self._coming[move.group_uid] = move.to_node
            if load is not None:
                load.held_bytes += size
                load.available_bytes -= size
                load.shards += 1
        elif load is not None and self._is_free_memory_seen(move.to_node) and move.state != MoveState.CLEANING:
            # Free memory was read before the sync filled it.
            load.available_bytes -= size
        source = self.loads.get(move.from_node)
        leaving = self.view.shards.get(move.shard_uid)
        if source is None or leaving is None or leaving.wanted == ShardWanted.GONE or move.state == MoveState.UNDOING:
            return
        source.leaving_bytes += size
        source.leaving_shards += 1

    def place(self, request: CopyRequest, node_uid: NodeUid) -> None:
        """Reserve the node for the copy. The copy that it replaces still counts on its own node: it leaves last."""
        self._change_load(request, node_uid, 1)
        copies = self.copies_of(request.group_uid)
        copies.pop(request.leaving, None)
        copies[None if request.leaving is None else ShardUid(-request.leaving)] = node_uid
        self.planned.add(request.group_uid)

    def take_back(self, request: CopyRequest, node_uid: NodeUid) -> None:
        """Cancel the reservation of a copy that replaces another one."""
        assert request.leaving is not None, "only a copy that replaces another one can be taken back"
        assert request.leaving_node is not None, "a leaving copy has a node"
        self._change_load(request, node_uid, -1)
        copies = self.copies_of(request.group_uid)
        copies.pop(ShardUid(-request.leaving), None)
        copies[request.leaving] = request.leaving_node
        self.planned.discard(request.group_uid)

    def _change_load(self, request: CopyRequest, node_uid: NodeUid, sign: int) -> None:
        load = self.loads[node_uid]
        load.held_bytes += sign * request.size_bytes
        load.available_bytes -= sign * request.size_bytes
        load.shards += sign
        load.primaries += sign * request.is_primary

    def place_endpoint(self, node_uid: NodeUid) -> None:
        """Reserve the node for an endpoint."""
        self.loads[node_uid].endpoints += 1

    # -- capacity ----------------------------------------------------------------------------------------------------

    def open_nodes(self, *, needs_primary: bool) -> list[tuple[Node, Load]]:
        """Nodes that accept new copies at all, by uid, with their numbers. The set stays the same during a plan."""
        found = self._open.get(needs_primary)
        if found is None:
            nodes = sorted_nodes(self.view)
            usable = (n for n in nodes if next(self._node_obstacles(n, needs_primary=needs_primary), None) is None)
            found = [(n, self.loads[n.uid]) for n in usable]
            self._open[needs_primary] = found
        return found

    def suitable(self, request: CopyRequest) -> list[tuple[Node, Load]]:
        """Nodes whose only possible obstacle for the copy is missing room."""
        held = self.copies_of(request.group_uid)
        others = [uid for shard, uid in held.items() if shard is None or shard != request.leaving]
        taken = {*others, *self.ending_of(request.group_uid), request.leaving_node}
        nodes = self.open_nodes(needs_primary=request.is_primary)
        if not request.database.is_rack_aware:
            return [pair for pair in nodes if pair[0].uid not in taken]
        racks = {self.view.nodes[uid].rack for uid in others if uid in self.view.nodes} | {""}
        return [pair for pair in nodes if pair[0].uid not in taken and pair[0].rack not in racks]

    def fitting(self, request: CopyRequest) -> list[tuple[Node, Load]]:
        """Nodes without any obstacle for the copy."""
        size = request.size_bytes
        return [
            (node, load)
            for node, load in self.suitable(request)
            if load.available_bytes >= size and load.shards < node.shards_max
        ]

    # -- obstacles -----------------------------------------------------------------------------------------------------

    def obstacles(self, node: Node, request: CopyRequest) -> Iterator[Reason]:
        """All obstacles for the copy on the node; empty if it fits."""
        yield from self._node_obstacles(node, needs_primary=request.is_primary)
        yield from self._group_obstacles(node, request)
        yield from self._room_obstacles(node, request)

    def endpoint_obstacles(self, node: Node) -> Iterator[Reason]:
        """All obstacles for an endpoint on the node; empty if it fits."""
        yield from self._node_obstacles(node, needs_primary=True)
        load = self.loads[node.uid]
        if load.endpoints >= node.endpoints_max:
            passes = load.endpoints - load.leaving_endpoints < node.endpoints_max
            grade = Grade.SOFT_LIMIT if passes else Grade.CONFIGURATION
            remedy = "" if passes else f"raise max_listeners of node {node.uid}"
            text = f"{{}} has reached its limit of {node.endpoints_max} endpoints"
            yield about_node(node, Code.ENDPOINT_LIMIT, text, grade=grade, remedy=remedy)

    def missing_bytes(self, node: Node, request: CopyRequest) -> int:
        """Memory that the node lacks for the copy, in bytes; 0 if it has enough."""
        return max(0, request.size_bytes - self.loads[node.uid].available_bytes)

    def _node_obstacles(self, node: Node, *, needs_primary: bool) -> Iterator[Reason]:
        uid = node.uid
        if node.is_decommissioning:
            yield about_node(
                node, Code.NODE_DECOMMISSIONING, "{} is being removed", grade=Grade.HARD_LIMIT, remedy="add a node"
            )
        elif node.is_quorum_only:
            remedy = f"end the maintenance of node {uid} (maintenance_off)"
            yield about_node(
                node, Code.NODE_IN_MAINTENANCE, "{} is in maintenance", grade=Grade.CONFIGURATION, remedy=remedy
            )
        elif node.is_closed:
            remedy = f"PUT /v1/nodes/{uid} with accept_servers true"
            yield about_node(node, Code.NODE_CLOSED, "{} is closed for new shards", grade=Grade.CONFIGURATION, remedy=remedy)
        elif uid in (self.leaving_nodes if needs_primary else self.removed_soon):
            yield about_node(node, Code.NODE_IS_LEAVING, "an action is emptying {}", grade=Grade.SOFT_LIMIT)
        if not self.view.is_away(uid):
            return
        if uid in self.view.returning:
            yield about_node(node, Code.NODE_DOWN, "the daemon of {} has just ended", grade=Grade.SOFT_LIMIT)
        else:
            remedy = f"start the daemon of node {uid}"
            yield about_node(node, Code.NODE_DOWN, "{} has no running daemon", grade=Grade.HARD_LIMIT, remedy=remedy)

    def _group_obstacles(self, node: Node, request: CopyRequest) -> Iterator[Reason]:
        held = self.copies_of(request.group_uid)
        others = [uid for shard, uid in held.items() if shard is None or shard != request.leaving]
        if node.uid in others:
            text = f"{{}} holds another copy of slot group {request.group_uid}"
            yield about_node(node, Code.NODE_HAS_COPY, text, grade=Grade.HARD_LIMIT, remedy="add a node")
        elif node.uid in self.ending_of(request.group_uid):
            text = f"{{}} is still removing an old copy of slot group {request.group_uid}"
            yield about_node(node, Code.NODE_HAS_COPY, text, grade=Grade.SOFT_LIMIT)
        if not request.database.is_rack_aware:
            return
        if not node.rack:
            text, remedy = "{} has no rack, and the database is rack-aware", f"give node {node.uid} a rack"
            yield about_node(node, Code.NODE_WITHOUT_RACK, text, grade=Grade.CONFIGURATION, remedy=remedy)
            return
        for uid in others:
            other = self.view.nodes.get(uid)
            if other is not None and uid != node.uid and other.rack == node.rack:
                text = f"{{}} is in rack {node.rack}, like node {uid}, which holds another copy"
                remedy = "add a node in another rack"
                yield about_node(node, Code.RACK_CONFLICT, text, grade=Grade.HARD_LIMIT, remedy=remedy)

    def _room_obstacles(self, node: Node, request: CopyRequest) -> Iterator[Reason]:
        load = self.loads[node.uid]
        if load.shards >= node.shards_max:
            passes = load.shards - load.leaving_shards < node.shards_max
            grade = Grade.SOFT_LIMIT if passes else Grade.CONFIGURATION
            remedy = "" if passes else f"raise max_redis_servers of node {node.uid}"
            yield about_node(
                node, Code.SHARD_LIMIT, f"{{}} has reached its limit of {node.shards_max} shards", grade=grade, remedy=remedy
            )
        missing = self.missing_bytes(node, request)
        if missing > 0:
            passes = missing <= load.leaving_bytes and not self._is_free_memory_seen(node.uid)
            grade = Grade.SOFT_LIMIT if passes else Grade.HARD_LIMIT
            text = f"{{}} lacks {megabytes(missing)} of the {megabytes(request.size_bytes)} needed"
            remedy = "" if passes else f"free {megabytes(missing)} on node {node.uid}, or add a node"
            yield about_node(node, Code.INSUFFICIENT_MEMORY, text, grade=grade, remedy=remedy)

    # -- choosing ------------------------------------------------------------------------------------------------------

    def evenness(self, node: Node, request: CopyRequest) -> tuple[int, ...]:
        """Sort key: the lower, the more even the cluster. Memory counts in whole percents, so that primaries and shard
        counts decide between nodes that are about equally full."""
        load = self.loads[node.uid]
        part = (load.held_bytes + request.size_bytes) * 1_000_000 // max(node.memory_bytes, 1)
        primaries = load.primaries if request.is_primary else 0
        return (part // 10_000, primaries, load.shards, part, node.uid)

    def tightness(self, node: Node, request: CopyRequest) -> tuple[int, ...]:
        """Sort key: the lower, the less room stays unused on the node. For plans in which the even way leaves a copy
        without a place."""
        return (self.loads[node.uid].available_bytes - request.size_bytes, self.loads[node.uid].shards, node.uid)


def sorted_nodes(view: ClusterView) -> list[Node]:
    """All nodes by uid."""
    return sorted(view.nodes.values(), key=lambda n: n.uid)
