"""Builds the specifications of endpoints from the records. Pure. Called by the leader and the agents."""

from shardwright.endpoint.protocol import EndpointSpec, LeaseTerms, Target, VirtualPlace
from shardwright.model.database import Endpoint, GroupPhase, SlotGroup
from shardwright.model.ids import GroupUid, NodeUid
from shardwright.model.serving import listening_address, virtual_places
from shardwright.model.view import ClusterView


def spec_of(view: ClusterView, endpoint: Endpoint, node_uid: NodeUid) -> EndpointSpec | None:
    """The specification of an endpoint for the process of this node; None if its database is no longer recorded."""
    database, secrets = view.databases.get(endpoint.database_uid), view.secrets.get(endpoint.database_uid)
    if database is None or secrets is None:
        return None
    groups = view.groups_of(endpoint.database_uid)
    return EndpointSpec(
        uid=endpoint.uid,
        database_uid=endpoint.database_uid,
        database_name=database.name,
        address=listening_address(endpoint, node_uid, view),
        port=endpoint.port,
        target=target_of(view, groups[0].uid) if groups else None,
        password=database.password,
        application_secret=secrets.application,
        is_strict=database.is_strict,
        virtual=tuple(VirtualPlace(one, is_closing) for one, is_closing in virtual_places(endpoint, node_uid, view)),
        lease=terms_of(groups[0]) if groups else None,
    )


def terms_of(group: SlotGroup) -> LeaseTerms | None:
    """The lease of a slot group, as processes are told; None: it has none. A process that ran when the lease began and has
    never answered since is not named: it serves without a proof only until it is told of the lease."""
    lease = group.lease
    if lease is None:
        return None
    named = tuple(waiver.instance for waiver in lease.waived if waiver.instance)
    return LeaseTerms(lease.version, group.generation, lease.is_needed, named)


def target_of(view: ClusterView, group_uid: GroupUid) -> Target | None:
    """The target of a slot group's commands; None while no primary is open."""
    group = view.groups.get(group_uid)
    if group is None or group.phase is not GroupPhase.SERVING or group.primary is None:
        return None
    shard = view.shards.get(group.primary)
    node = view.nodes.get(shard.node_uid) if shard is not None else None
    if shard is None or node is None:
        return None
    seen = view.servers.get(shard.uid)
    return Target(
        shard_uid=shard.uid,
        generation=group.generation,
        address=node.servers_at,
        port=shard.port,
        run_id=seen.run_id if seen is not None else "",
        uses_tls=group.database_uid in view.databases and view.databases[group.database_uid].uses_tls,
    )
