"""Placement of copies and endpoints: constraints first, then even memory usage, then evenly spread primaries.

Called by the API and the leader when they create databases, by the repair of lost copies, and by the other planners.
Deterministic: nodes are considered in the order of their uids, which also breaks ties. Writes nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shardwright.model.cluster import Node
from shardwright.model.database import Database, Endpoint, Shard, SlotGroup
from shardwright.model.ids import GroupUid, NodeUid, ShardUid, uid_of_group
from shardwright.model.view import ClusterView
from shardwright.plan.explain import Unplaceable, unplaceable
from shardwright.plan.ledger import CopyRequest, Ledger, sorted_nodes

__all__ = ["Placed", "Unplaceable", "choose_copy", "choose_endpoint", "place_copy", "place_database", "place_endpoint"]

EXPLAINED_MAX = 64
"""Nodes whose obstacles a refusal lists; a longer list would not be read."""


@dataclass(frozen=True, slots=True)
class Placed:
    """Placement of a new database."""

    groups: tuple[tuple[NodeUid, ...], ...]
    """Per slot group, by number: the node of each copy, the primary's first."""
    endpoint_node: NodeUid


def place_database(view: ClusterView, database: Database) -> Placed | Unplaceable:
    """Nodes for every copy of a new database and for its endpoint. Always judged by provisioned memory, regardless of the
    policy: a new database does not use its memory yet, so free memory would say nothing."""
    ledger = Ledger(view)
    groups: list[tuple[NodeUid, ...]] = []
    for number in range(1, database.shards_count + 1):
        nodes = _place_group(ledger, database, uid_of_group(database.uid, number))
        if isinstance(nodes, Unplaceable):
            return nodes
        groups.append(nodes)
    primaries = {nodes[0] for nodes in groups}
    endpoint_node = choose_endpoint(ledger, near=primaries)
    if isinstance(endpoint_node, Unplaceable):
        return endpoint_node
    return Placed(tuple(groups), endpoint_node)


def place_copy(
    view: ClusterView,
    group: SlotGroup,
    *,
    database: Database,
    leaving: Shard | None = None,
    avoid: Collection[NodeUid] = (),
    is_primary: bool = False,
) -> NodeUid | Unplaceable:
    """A node for one more copy of a slot group, or for the copy that replaces ``leaving``. ``avoid``: nodes that are used
    only if nothing else fits. ``is_primary``: the copy takes the primary role immediately."""
    ledger = Ledger(view, by_free_memory=view.policy.evict_node_use_free_memory)
    request = copy_request(ledger, database, group.uid, leaving=leaving, is_primary=is_primary)
    return choose_copy(ledger, request, failures=dict.fromkeys(avoid, 1))


def place_endpoint(
    view: ClusterView, database: Database, *, leaving: NodeUid | None = None, avoid: Collection[NodeUid] = ()
) -> NodeUid | Unplaceable:
    """A node for an endpoint of the database; ``leaving`` is the node that serves it now and is to be relieved of it."""
    ledger = Ledger(view)
    return choose_endpoint(ledger, near=primary_nodes(view, database), leaving=leaving, failures=dict.fromkeys(avoid, 1))


def copy_request(
    ledger: Ledger, database: Database, group_uid: GroupUid, *, leaving: Shard | None = None, is_primary: bool = False
) -> CopyRequest:
    """The request for one copy of an existing slot group."""
    return CopyRequest(
        database,
        group_uid,
        ledger.size_of_copy(database, group_uid),
        is_primary,
        None if leaving is None else leaving.uid,
        None if leaving is None else leaving.node_uid,
    )


def primary_nodes(view: ClusterView, database: Database) -> set[NodeUid]:
    """Nodes that hold a committed primary of the database."""
    primaries = [g.primary for g in view.groups_of(database.uid) if g.primary is not None]
    return {view.shards[uid].node_uid for uid in primaries if uid in view.shards}


def choose_copy(
    ledger: Ledger, request: CopyRequest, *, failures: Mapping[NodeUid, int] | None = None, is_tight: bool = False
) -> NodeUid | Unplaceable:
    """The best node for a copy. ``failures``: number of failed attempts per node; fewer failures win over evenness.
    ``is_tight``: fill nodes up instead of evening them out. Notes nothing in the ledger."""
    tried = failures or {}
    fitting = ledger.fitting(request)
    if not fitting:
        return explain_copy(ledger, request)
    if tried:
        fewest = min(tried.get(n.uid, 0) for n, _ in fitting)
        fitting = [pair for pair in fitting if tried.get(pair[0].uid, 0) == fewest]
    if is_tight:
        return NodeUid(min(ledger.tightness(n, request) for n, _ in fitting)[-1])
    # Whole percents first, without objects: only the emptiest nodes are ranked in full.
    size = request.size_bytes * 100
    parts = [(load.held_bytes * 100 + size) // max(node.memory_bytes, 1) for node, load in fitting]
    lowest = min(parts)
    best = min(ledger.evenness(n, request) for (n, _), part in zip(fitting, parts, strict=True) if part == lowest)
    return NodeUid(best[-1])


def explain_copy(ledger: Ledger, request: CopyRequest) -> Unplaceable:
    """Why no node accepts the copy. In a very large cluster, only the nearest candidates are examined."""
    nodes = [n for n in sorted_nodes(ledger.view) if n.uid != request.leaving_node]
    if len(nodes) > EXPLAINED_MAX:
        near = sorted(ledger.suitable(request), key=lambda p: (ledger.missing_bytes(p[0], request), p[0].uid))
        nodes = [n for n, _ in near[:EXPLAINED_MAX]] or nodes[:EXPLAINED_MAX]
    return unplaceable((ledger.missing_bytes(n, request), tuple(ledger.obstacles(n, request))) for n in nodes)


def choose_endpoint(
    ledger: Ledger,
    *,
    near: Collection[NodeUid] = (),
    leaving: NodeUid | None = None,
    failures: Mapping[NodeUid, int] | None = None,
    bound: Endpoint | None = None,
    also_leaving: bool = False,
) -> NodeUid | Unplaceable:
    """The best node for an endpoint: the fewest endpoints, then a node of ``near`` (nodes of its primaries). Nodes that
    already serve ``bound`` are not candidates. ``also_leaving``: accept a node that an action only relieves of its roles.
    Notes nothing in the ledger."""
    tried = failures or {}
    excluded = set() if bound is None else set(bound.nodes)
    usable = ledger.open_nodes(needs_primary=not also_leaving)
    is_free = [n for n, load in usable if load.endpoints < n.endpoints_max and n.uid != leaving]
    fitting = [n for n in is_free if n.uid not in excluded]
    if not fitting:
        nodes = [n for n in sorted_nodes(ledger.view) if n.uid != leaving and n.uid not in excluded]
        return unplaceable((0, tuple(ledger.endpoint_obstacles(n))) for n in nodes)

    def rank(node: Node) -> tuple[int, ...]:
        return (tried.get(node.uid, 0), ledger.loads[node.uid].endpoints, int(node.uid not in near), node.uid)

    return min(fitting, key=rank).uid


def _place_group(ledger: Ledger, database: Database, group_uid: GroupUid) -> tuple[NodeUid, ...] | Unplaceable:
    """Nodes for all copies of a new slot group; a success is noted in the ledger."""
    size = database.shard_memory_bytes
    refusals: list[Unplaceable] = []

    def search(taken: tuple[Node, ...]) -> tuple[Node, ...] | None:
        if len(taken) == database.copies:
            return taken
        request = CopyRequest(database, group_uid, size, is_primary=not taken)
        held = ledger.copies_of(group_uid)
        candidates = [n for n, _ in ledger.fitting(request)]
        if not candidates:
            nodes = [n for n in sorted_nodes(ledger.view) if n not in taken]
            refusals.append(
                unplaceable((ledger.missing_bytes(n, request), tuple(ledger.obstacles(n, request))) for n in nodes)
            )
        for node in sorted(candidates, key=lambda n: ledger.evenness(n, request)):
            # A copy without a record: the key only has to be unique.
            key = -1 - len(taken)
            held[ShardUid(key)] = node.uid
            found = search((*taken, node))
            del held[ShardUid(key)]
            if found is not None:
                return found
        return None

    nodes = search(())
    if nodes is None:
        return refusals[0]
    for number, node in enumerate(nodes):
        request = CopyRequest(database, group_uid, size, is_primary=number == 0, leaving=ShardUid(number + 1))
        ledger.place(request, node.uid)
    return tuple(n.uid for n in nodes)
