"""Addresses of shards, and the endpoint processes that serve them. Pure look-ups in a view."""

from shardwright.endpoint.protocol import Target
from shardwright.model.database import Shard, SlotGroup
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.view import ClusterView
from shardwright.moves import handoff_rules as rules


def endpoint_target(view: ClusterView, shard: Shard, *, generation: int) -> Target:
    """The shard as the target of an endpoint. The run id is the last one observed; empty: none."""
    seen, database = view.servers.get(shard.uid), view.databases.get(shard.database_uid)
    return Target(
        shard_uid=shard.uid,
        generation=generation,
        address=view.nodes[shard.node_uid].servers_at,
        port=shard.port,
        run_id="" if seen is None else seen.run_id,
        uses_tls=database is not None and database.uses_tls,
    )


def processes_to_hold(view: ClusterView, group: SlotGroup) -> tuple[tuple[EndpointUid, tuple[NodeUid, ...]], ...]:
    """For each endpoint of the database, the nodes whose endpoint processes may forward to the old primary."""
    found = []
    for endpoint in view.endpoints_of(group.database_uid):
        serving = tuple(node for node, process in view.endpoint_processes.items() if rules.serves(process, endpoint.uid))
        found.append((endpoint.uid, rules.nodes_to_hold(endpoint.nodes, serving)))
    return tuple(found)
