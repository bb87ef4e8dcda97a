"""How to reach the server of a shard. Pure look-up in a view."""

from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.database import Shard
from shardwright.model.view import ClusterView
from shardwright.server.protocol import ServerTarget


def server_target(view: ClusterView, shard: Shard) -> ServerTarget:
    """How to reach a shard's current incarnation. Raises Transient when its node or its secrets are not recorded."""
    node = view.nodes.get(shard.node_uid)
    secrets = view.secrets.get(shard.database_uid)
    if node is None or secrets is None:
        raise Transient(Code.SHARD_UNKNOWN, f"shard {shard.uid} has no node or no secrets on record")
    return ServerTarget(shard.uid, shard.incarnation, node.address, shard.port, secrets)
