"""Where things are, for callers of servers and endpoint processes. Pure look-ups in a view."""

from shardwright.endpoint.protocol import EndpointSpec, Target
from shardwright.errors import Transient
from shardwright.model.database import Endpoint, GroupPhase, Shard, SlotGroup
from shardwright.model.view import ClusterView
from shardwright.server.protocol import ServerTarget


def server_target(view: ClusterView, shard: Shard) -> ServerTarget:
    """How to reach a shard's current incarnation. Raises Transient when its node or its secrets are not recorded."""
    node = view.nodes.get(shard.node_uid)
    secrets = view.secrets.get(shard.database_uid)
    if node is None or secrets is None:
        raise Transient("shard_unknown", f"shard {shard.uid} has no node or no secrets on record")
    return ServerTarget(shard.uid, shard.incarnation, node.address, shard.port, secrets)


def endpoint_target(view: ClusterView, shard: Shard, *, generation: int) -> Target:
    """The shard as the server that an endpoint forwards to. The run id is the last one seen; empty when none was."""
    seen = view.servers.get(shard.uid)
    return Target(
        shard_uid=shard.uid,
        generation=generation,
        address=view.nodes[shard.node_uid].address,
        port=shard.port,
        run_id="" if seen is None else seen.run_id,
    )


def group_target(view: ClusterView, group: SlotGroup) -> Target | None:
    """The group's committed primary; None while there is none that serves."""
    shard = view.shards.get(group.primary) if group.primary is not None else None
    if group.phase is not GroupPhase.SERVING or shard is None or shard.node_uid not in view.nodes:
        return None
    return endpoint_target(view, shard, generation=group.generation)


def endpoint_spec(view: ClusterView, endpoint: Endpoint) -> EndpointSpec:
    """What an endpoint process shall serve for this endpoint. Raises Transient when the database is not recorded."""
    database = view.databases.get(endpoint.database_uid)
    secrets = view.secrets.get(endpoint.database_uid)
    if database is None or secrets is None:
        raise Transient("database_unknown", f"endpoint {endpoint.uid} has no database on record")
    groups = view.groups_of(database.uid)
    return EndpointSpec(
        uid=endpoint.uid,
        database_uid=database.uid,
        database_name=database.name,
        address=endpoint.address,
        port=endpoint.port,
        target=group_target(view, groups[0]) if groups else None,
        password=database.password,
        application_secret=secrets.application,
    )
