"""The address and login of a shard's server, from a view. Pure."""

from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.database import Shard
from shardwright.model.view import ClusterView
from shardwright.server.protocol import ServerTarget


def server_target(view: ClusterView, shard: Shard) -> ServerTarget:
    """The target of a shard's current incarnation. Raises Transient if its node or its secrets are not recorded."""
    node = view.nodes.get(shard.node_uid)
    secrets = view.secrets.get(shard.database_uid)
    if node is None or secrets is None:
        raise Transient(Code.SHARD_UNKNOWN, f"the node or the secrets of shard {shard.uid} are not recorded")
    database = view.databases.get(shard.database_uid)
    uses_tls = database is not None and database.uses_tls
    return ServerTarget(shard.uid, shard.incarnation, node.servers_at, shard.port, secrets, uses_tls)
