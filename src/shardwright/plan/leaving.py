"""Endpoints that several nodes serve, while a node is emptied or comes back: what the plan waits for.

Used by the plans of evacuations and restores. No move belongs to it: the endpoint's record follows the marks of the nodes
(``reconcile/serving.py``).
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import Endpoint
from shardwright.model.ids import NodeUid
from shardwright.model.move import Rebind
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import EndpointState
from shardwright.model.serving import primary_nodes, serving_nodes
from shardwright.model.view import ClusterView, Put


def is_alone(endpoint: Endpoint, node_uid: NodeUid, view: ClusterView) -> bool:
    """Whether no other node could serve the endpoint if this one were taken out."""
    database, node = view.databases.get(endpoint.database_uid), view.nodes.get(node_uid)
    if database is None or node is None:
        return False
    without = view.with_writes((Put(replace(node, is_decommissioning=True)),))
    return set(serving_nodes(database, without, endpoint.nodes)) <= {node_uid} and not primary_nodes(database, view)


def clients_leaving(endpoint: Endpoint, node_uid: NodeUid, view: ClusterView) -> Reason:
    """What the evacuation of the node waits for."""
    process, way_out = view.endpoint_processes.get(node_uid), endpoint.leaving_of(node_uid)
    count = 0 if process is None else process.endpoint(endpoint.uid).connections
    what = f"node {node_uid} still serves endpoint {endpoint.uid}: {count} connections"
    if way_out is None and node_uid in endpoint.nodes:
        text = f"{what}; another node must serve it first"
    elif way_out is None or way_out.is_closing:
        text = f"{what}, which are closed behind a reply"
    else:
        until = way_out.since + timedelta(seconds=view.policy.drain_clients_s)
        text = f"{what}, which have time until {until:%H:%M:%S} UTC"
    return Reason(Code.CLIENTS_LEAVING, text, Grade.SOFT_LIMIT, database_uid=endpoint.database_uid, node_uid=node_uid)


def clients_left_behind(node_uid: NodeUid, view: ClusterView) -> Iterator[Reason]:
    """What the evacuation waits for although no record binds the endpoint to the node: the process was silent for so long
    that the endpoint left without it. Now it answers, and closes its connections."""
    process = view.endpoint_processes.get(node_uid)
    if process is None or not process.answers:
        return
    bound = {endpoint.uid for endpoint in view.endpoints_on(node_uid)}
    passing = {m.endpoint_uid for m in view.live_moves() if isinstance(m, Rebind)}
    for seen in process.endpoints:
        endpoint = view.endpoints.get(seen.endpoint_uid)
        if seen.connections and seen.state is EndpointState.DRAINING and endpoint and endpoint.uid not in bound | passing:
            yield clients_leaving(endpoint, node_uid, view)


def drained_shares(view: ClusterView, node_uid: NodeUid, now: datetime) -> list[float]:
    """For each endpoint that the node is leaving: the share of its clients' time that has passed, 0 to 1."""
    limit_s = max(view.policy.drain_clients_s, 1)
    ways = (e.leaving_of(node_uid) for e in view.endpoints_on(node_uid))
    return [1.0 if way.is_closing else min(1.0, (now - way.since).total_seconds() / limit_s) for way in ways if way]


def not_serving(endpoint: Endpoint, node_uid: NodeUid, view: ClusterView) -> Iterator[Reason]:
    """What the end of the node's maintenance waits for: its process must serve the endpoint again, unless something outside
    prevents it."""
    database, process = view.databases.get(endpoint.database_uid), view.endpoint_processes.get(node_uid)
    if database is None or node_uid not in view.daemons:
        return
    if node_uid not in serving_nodes(database, view, endpoint.nodes):
        return
    state = EndpointState.ABSENT if process is None else process.endpoint(endpoint.uid).state
    if node_uid not in endpoint.bound_nodes or state in (EndpointState.ABSENT, EndpointState.DRAINING):
        text = f"endpoint {endpoint.uid} does not listen on node {node_uid} yet"
        yield Reason(Code.ENDPOINT_NOT_READY, text, Grade.SOFT_LIMIT, database_uid=endpoint.database_uid, node_uid=node_uid)
