"""Where clients find the databases, as one node sees it. Pure: functions of the records.

Called by ``server.py`` at every change of the records. A node names itself wherever it serves, because a client that has
reached it reaches its endpoints too. It names another node when it does not serve, or when it is about to stop serving.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shardwright.model.cluster import Node
from shardwright.model.database import Database, DatabaseStatus, Endpoint
from shardwright.model.ids import NodeUid
from shardwright.model.serving import accepting_nodes, listening_address, own_address
from shardwright.model.view import ClusterView

INTERNAL = "@internal"
"""Behind a database's name: its address inside the cluster's network, which may be the same as the external one."""
_SERVING = frozenset({DatabaseStatus.ACTIVE, DatabaseStatus.ACTIVE_CHANGE_PENDING})


@dataclass(frozen=True, slots=True)
class FoundAddress:
    """An address of a database."""

    address: str
    port: int


def places(view: ClusterView, own: NodeUid) -> Mapping[str, FoundAddress]:
    """The place of every database that serves, by its name and by ``NAME@internal``, for the clients of this node."""
    found: dict[str, FoundAddress] = {}
    for database in view.databases.values():
        if database.status in _SERVING and (place := _place(database, view, own)) is not None:
            external, internal = place
            found[database.name], found[f"{database.name}{INTERNAL}"] = external, internal
    return found


def _place(database: Database, view: ClusterView, own: NodeUid) -> tuple[FoundAddress, FoundAddress] | None:
    """The external and the internal place; None: no node accepts clients."""
    for endpoint in view.endpoints_of(database.uid):
        if (node := _best(endpoint, view, own)) is not None:
            external = listening_address(endpoint, node.uid, view)
            internal = node.address if node.external_addresses else external
            return FoundAddress(external, endpoint.port), FoundAddress(internal, endpoint.port)
    return None


def _best(endpoint: Endpoint, view: ClusterView, own: NodeUid) -> Node | None:
    """The node that clients should connect to: one that stays, then one with a daemon, then this one."""
    members = [view.nodes[uid] for uid in accepting_nodes(endpoint) if uid in view.nodes]

    def rank(node: Node) -> tuple[bool, bool, bool, NodeUid]:
        is_going = endpoint.leaving_of(node.uid) is not None or node.is_quorum_only or node.is_decommissioning
        return is_going, node.uid not in view.daemons, node.uid != own, node.uid

    return min(members, key=rank, default=None)


def others(view: ClusterView, own: NodeUid, port: int) -> list[tuple[NodeUid, FoundAddress]]:
    """The discovery services of the other nodes that have a daemon, by uid. ``port``: the same on all nodes."""
    return [
        (uid, FoundAddress(own_address(node), port))
        for uid, node in sorted(view.nodes.items())
        if uid != own and uid in view.daemons
    ]
