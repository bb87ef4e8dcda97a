"""Who serves an endpoint, and at which address: functions of the records alone.

Used by decisions, by the leader and the agents when they tell a process what to serve, and by the API. Changes nothing:
``reconcile/serving.py`` brings the endpoint's record in line.
"""

from typing import assert_never

from shardwright.model.cluster import Node
from shardwright.model.database import Database, Endpoint, ProxyPolicy
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from shardwright.model.virtual_address import VirtualAddress

LOCAL_ADDRESS = "127.0.0.1"
"""Address of the endpoints of a cluster without a record."""


def policy_of(endpoint: Endpoint, view: ClusterView) -> ProxyPolicy:
    """The proxy policy of the endpoint's database; ``single`` if the database has no record."""
    database = view.databases.get(endpoint.database_uid)
    return ProxyPolicy.SINGLE if database is None else database.proxy_policy


def serving_nodes(database: Database, view: ClusterView, bound: tuple[NodeUid, ...] = ()) -> tuple[NodeUid, ...]:
    """The nodes that should serve the database's endpoint, in ascending order. ``bound``: the nodes that serve it now, of
    which one stays with ``single``, and all stay if no other node qualifies. Empty: no node qualifies."""
    members = tuple(uid for uid in bound if uid in view.nodes)
    match database.proxy_policy:
        case ProxyPolicy.SINGLE:
            found = _one_of(database, members, view)
        case ProxyPolicy.ALL_NODES:
            found = tuple(uid for uid, node in view.nodes.items() if _is_active(node, members))
        case ProxyPolicy.ALL_MASTER_SHARDS:
            found = primary_nodes(database, view)
        case _ as never:
            assert_never(never)
    return tuple(sorted(found)) or members


def primary_nodes(database: Database, view: ClusterView) -> tuple[NodeUid, ...]:
    """The nodes that hold a committed primary of the database, in ascending order."""
    primaries = (view.shards.get(g.primary) for g in view.groups_of(database.uid) if g.primary is not None)
    return tuple(sorted({shard.node_uid for shard in primaries if shard is not None and shard.node_uid in view.nodes}))


def _is_active(node: Node, bound: tuple[NodeUid, ...]) -> bool:
    """A closed node takes no endpoint, but keeps what it has until its removal begins."""
    if node.is_quorum_only or node.is_decommissioning:
        return False
    return not node.is_closed or node.uid in bound


def _one_of(database: Database, bound: tuple[NodeUid, ...], view: ClusterView) -> tuple[NodeUid, ...]:
    """The one node that keeps the endpoint when the policy becomes ``single``: one that is not dead, then the node that
    listens at its address already, because two cannot, then an active one, then one with a primary."""
    if len(bound) <= 1:
        return bound
    primaries, address = primary_nodes(database, view), endpoint_address(view)

    def rank(uid: NodeUid) -> tuple[bool, bool, bool, bool, NodeUid]:
        node = view.nodes[uid]
        return uid not in view.daemons, own_address(node) != address, not _is_active(node, bound), uid not in primaries, uid

    return (min(bound, key=rank),)


def endpoint_address(view: ClusterView) -> str:
    """The one address of all endpoints with proxy policy ``single`` in a local cluster."""
    return LOCAL_ADDRESS if view.cluster is None else view.cluster.endpoint_address


def own_address(node: Node) -> str:
    """The address at which the node's endpoint process serves clients: its first external address, else its own."""
    return node.external_addresses[0] if node.external_addresses else node.address


def listening_address(endpoint: Endpoint, node_uid: NodeUid, view: ClusterView) -> str:
    """The address at which this node's endpoint process must serve the endpoint. A node that is leaving keeps its own.
    Several machines have no common address, so that each node uses its own."""
    node = view.nodes.get(node_uid)
    if node is None:
        return endpoint.address
    is_single = policy_of(endpoint, view).is_single and endpoint.leaving_of(node_uid) is None
    return endpoint.address if is_single and not _is_of_machines(view) else own_address(node)


def virtual_places(endpoint: Endpoint, node_uid: NodeUid, view: ClusterView) -> tuple[tuple[str, bool], ...]:
    """The virtual addresses at which this node's process must serve the endpoint too, and whether it must close the clients
    there because the address goes. It listens whether or not its node has the address, so that a move binds nothing. While
    the node has an address that was given to another one, it accepts no clients there: they would lose it a moment later."""
    found = sorted(view.virtual_addresses.items())
    return tuple((name, _is_going(one, node_uid, view)) for name, one in found if one.is_for(endpoint.database_uid))


def _is_going(address: VirtualAddress, node_uid: NodeUid, view: ClusterView) -> bool:
    if address.holder == node_uid:
        return address.leaving_since is not None
    seen = view.node_seen.get(node_uid)
    held = () if seen is None else seen.virtual_addresses
    return any(one.address == address.address and not one.failure for one in held)


def _is_of_machines(view: ClusterView) -> bool:
    return view.cluster is not None and view.cluster.is_of_machines


def accepting_nodes(endpoint: Endpoint) -> tuple[NodeUid, ...]:
    """The nodes whose process accepts clients: those that stay first, then those that are leaving."""
    return tuple(sorted(endpoint.bound_nodes, key=lambda uid: (endpoint.leaving_of(uid) is not None, uid)))


def addresses_of(endpoint: Endpoint, view: ClusterView) -> tuple[str, ...]:
    """Every address at which clients reach the endpoint, in the order of ``accepting_nodes``."""
    found = dict.fromkeys(listening_address(endpoint, uid, view) for uid in accepting_nodes(endpoint))
    return tuple(found) or (endpoint.address,)
