"""Ports for shard processes. This module only chooses; the start of the server shows whether the port is free."""

from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.view import ClusterView

SHARD_PORT_FIRST = 20_000
SHARD_PORTS = 10_000
"""20000–29999, the range of Redis Enterprise."""


def shard_port(view: ClusterView, node_uid: NodeUid, shard_uid: ShardUid, incarnation: int) -> int:
    """A port on the node's address that no recorded shard uses, and a different one for every incarnation: a replica that
    still follows the old port must not reach a new, empty server."""
    address = view.nodes[node_uid].servers_at
    used = {
        s.port for s in view.shards.values() if s.node_uid in view.nodes and view.nodes[s.node_uid].servers_at == address
    }
    start = shard_uid * 101 + incarnation - 1
    for step in range(SHARD_PORTS):
        port = SHARD_PORT_FIRST + (start + step) % SHARD_PORTS
        if port not in used:
            return port
    raise AssertionError("a node has fewer shards than ports")
