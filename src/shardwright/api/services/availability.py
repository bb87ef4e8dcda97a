"""Whether a database serves, according to the last observation. Pure."""

from enum import StrEnum

from shardwright.api.errors import Unavailable
from shardwright.api.schemas.v1.waiting import waiting_json
from shardwright.model.codes import Code
from shardwright.model.database import Database, GroupPhase, SlotGroup
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.liveness import has_ended
from shardwright.model.reason import Reason
from shardwright.model.seen import Health
from shardwright.model.view import ClusterView
from shardwright.plan.standing import has_left
from shardwright.plan.waiting import waiting_of
from shardwright.reconcile.troubles import STOPPING


def check_database(view: ClusterView, database: Database, *, with_replicas: bool = False) -> None:
    """Raises Unavailable unless every slot group has a serving primary, a node serves the endpoint, and the database has no
    trouble that stops it. ``with_replicas``: the replicas must also follow."""
    _check_troubles(view, database)
    groups = view.groups_of(database.uid)
    if waiting := waiting_of(view, database):
        text = "; ".join(r.text for one in waiting for r in one.reasons)
        remedy = "; ".join(dict.fromkeys(r.remedy for one in waiting for r in one.reasons if r.remedy))
        extra = {"remedy": remedy, "waiting": waiting_json(waiting)}
        raise Unavailable("bdb_unavailable", f"Database {database.uid} waits: {text}.", extra=extra)
    if not groups or any(group.phase is not GroupPhase.SERVING for group in groups):
        raise Unavailable("bdb_unavailable", f"Database {database.uid} is {database.status}: not started yet.")
    for group in groups:
        _check_group(view, group, with_replicas=with_replicas)
    serving = [
        node
        for endpoint in view.endpoints_of(database.uid)
        for node in endpoint.bound_nodes
        if _has_endpoint_process(view, node)
    ]
    if not serving:
        raise Unavailable("bdb_unavailable_port_unbound", f"No node serves the endpoint of database {database.uid}.")


def _check_troubles(view: ClusterView, database: Database) -> None:
    noted = view.troubles.get(database.uid)
    for reason in () if noted is None else noted.reasons:
        if reason.code in STOPPING and not _is_served_elsewhere(view, database, reason):
            is_port = reason.code == Code.ENDPOINT_CANNOT_LISTEN
            text = reason.text[:1].upper() + reason.text[1:]
            code = "bdb_unavailable_port_unbound" if is_port else "bdb_unavailable"
            raise Unavailable(code, f"{text}. Remedy: {reason.remedy}.")


def _is_served_elsewhere(view: ClusterView, database: Database, reason: Reason) -> bool:
    """Whether a node cannot listen, but other nodes serve the endpoint too."""
    if reason.code != Code.ENDPOINT_CANNOT_LISTEN:
        return False
    noted = view.troubles.get(database.uid)
    reasons = () if noted is None else noted.reasons
    failed = {r.node_uid for r in reasons if r.code == Code.ENDPOINT_CANNOT_LISTEN}
    bound = [endpoint.bound_nodes for endpoint in view.endpoints_of(database.uid)]
    return any(len(nodes) > 1 and not failed >= set(nodes) for nodes in bound)


def _check_group(view: ClusterView, group: SlotGroup, *, with_replicas: bool) -> None:
    for shard in view.shards_of_group(group.uid):
        is_primary = shard.uid == group.primary
        if has_left(view, shard) or not (is_primary or with_replicas):
            continue
        server = view.servers.get(shard.uid)
        if has_ended(view.liveness(shard)) or server is None or server.health is not Health.OK:
            raise Unavailable("bdb_unavailable_shard_unreachable", f"Shard {shard.uid} does not answer.")
        if not is_primary and not server.is_link_up:
            raise Unavailable("bdb_unavailable", f"Replica {shard.uid} does not follow its primary.")


def check_local_endpoint(view: ClusterView, database: Database, node_uid: NodeUid) -> None:
    """Raises Unavailable unless this node serves the database's endpoint and the database serves."""
    if not any(node_uid in endpoint.bound_nodes for endpoint in view.endpoints_of(database.uid)):
        raise Unavailable(
            "bdb_endpoint_unavailable", f"Node {node_uid} does not serve the endpoint of database {database.uid}."
        )
    if not _has_endpoint_process(view, node_uid):
        raise Unavailable("bdb_endpoint_unavailable", f"The endpoint process of node {node_uid} is not running.")
    check_database(view, database)
    for reason in _cannot_listen(view, database.uid, node_uid):
        raise Unavailable("bdb_endpoint_unavailable", f"{reason.text[:1].upper()}{reason.text[1:]}.")


def _cannot_listen(view: ClusterView, uid: DatabaseUid, node_uid: NodeUid) -> list[Reason]:
    """Why the node cannot listen for the database, as recorded; empty: it can."""
    noted = view.troubles.get(uid)
    reasons = () if noted is None else noted.reasons
    return [r for r in reasons if r.code == Code.ENDPOINT_CANNOT_LISTEN and r.node_uid == node_uid]


class Readiness(StrEnum):
    """What a node says to a balancer that asks whether it should send new clients of a database."""

    READY = "ready"
    LEAVING = "leaving"
    """It does not serve the endpoint, or is about to stop: clients that are connected may stay until it closes them."""
    FAILED = "failed"
    """It should serve the endpoint, and cannot."""


def readiness(view: ClusterView, uid: DatabaseUid, node_uid: NodeUid) -> Readiness:
    """The node's answer, by its records alone. Whether the primary answers does not matter: another node would have none
    either."""
    node = view.nodes.get(node_uid)
    endpoints = [e for e in view.endpoints_of(uid) if node_uid in e.bound_nodes]
    if node is None or node.is_quorum_only or node.is_decommissioning or not endpoints:
        return Readiness.LEAVING
    if any(endpoint.leaving_of(node_uid) is not None for endpoint in endpoints):
        return Readiness.LEAVING
    can_serve = _has_endpoint_process(view, node_uid) and not _cannot_listen(view, uid, node_uid)
    return Readiness.READY if can_serve else Readiness.FAILED


def _has_endpoint_process(view: ClusterView, uid: NodeUid) -> bool:
    seen = view.node_seen.get(uid)
    return seen is not None and seen.endpoint_process is not None
