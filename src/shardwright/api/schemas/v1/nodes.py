"""Nodes, their status and their snapshots on the wire. Pure."""

import re
from ipaddress import ip_address
from typing import NotRequired

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.common import Json, iso, snapshot_time
from shardwright.api.schemas.v1.shards import shown
from shardwright.api.services.check import NodeResult
from shardwright.model.cluster import DeclaredOff, Node, Snapshot
from shardwright.model.ids import NodeUid
from shardwright.model.seen import NodeFigures, NodeSeen
from shardwright.model.view import ClusterView


class SupportedVersion(TypedDict):
    """A server program on the node. ``server`` is an extension: its kind."""

    db_type: str
    version: str
    redis_version: str
    major: bool
    server: str


class FindingAnswer(TypedDict):
    """A finding of a check. ``from_node_uid``: the node from which a connection comes; null: one node is concerned."""

    code: str
    grade: str
    description: str
    remedy: str
    node_uid: int
    from_node_uid: int | None


class NodeCheckAnswer(TypedDict):
    """The result of a check. ``error``: the first failure, absent without one. ``findings`` is an extension."""

    node_uid: int
    result: bool
    error: NotRequired[str]
    findings: list[FindingAnswer]


class ClusterCheckAnswer(TypedDict):
    """The results of a check of all nodes."""

    cluster_test_result: bool
    nodes: list[NodeCheckAnswer]


class DeclaredOffAnswer(TypedDict):
    """The word that the node's machine is off: when and by whom."""

    at: str
    by: str


class NodeAnswer(TypedDict):
    """A node. ``quorum_only``, ``in_maintenance`` and ``declared_off`` are extensions."""

    uid: int
    status: str
    addr: str
    external_addr: list[str]
    accept_servers: bool
    quorum_only: bool
    in_maintenance: bool
    declared_off: DeclaredOffAnswer | None
    max_listeners: int
    max_redis_servers: int
    max_redis_forks: int
    max_slave_full_syncs: int
    rack_id: str
    second_rack_id: str
    recovery_path: str
    cores: int
    total_memory: int
    uptime: int
    shard_count: int
    ram_shard_count: int
    flash_shard_count: int
    shard_list: list[int]
    software_version: str
    architecture: str
    os_name: str
    os_family: str
    os_version: str
    os_semantic_version: str
    persistent_storage_path: str
    persistent_storage_size: float
    ephemeral_storage_path: str
    ephemeral_storage_size: float
    bigredis_storage_path: str
    bigstore_enabled: bool
    bigstore_size: int
    bigstore_driver: str
    supported_database_versions: list[SupportedVersion]
    use_internal_ipv6: bool
    fips_enabled: bool


class SnapshotAnswer(TypedDict):
    """Placement and roles at one moment."""

    created_time: str
    name: str
    node_uid: str


class NodeStatusAnswer(TypedDict):
    """Input of upgrade checks. ``rack_id`` and the endpoints are extensions."""

    node_status: str
    role: str
    hostname: str
    software_version: str
    software_version_sha: str
    cores: int
    total_memory: int
    free_ram: int
    total_provisional_ram: int
    free_provisional_ram: int
    node_overbooking_depth: int
    master_shards: list[int]
    slave_shards: list[int]
    endpoints: list[str]
    maintenance_snapshot: NotRequired[SnapshotAnswer]


def node(record: Node, view: ClusterView) -> NodeAnswer:
    """The node, with its agent's observations of the machine."""
    seen = _seen(view, record.uid)
    shards = [shard.uid for shard in shown(view, node_uid=record.uid)]
    os_family, os_version = _os(seen.os_name)
    return {
        "uid": record.uid,
        "status": node_status(record, view),
        "addr": record.address,
        "external_addr": list(record.external_addresses),
        "accept_servers": record.accepts_placement,
        "quorum_only": record.is_quorum_only,
        "in_maintenance": record.is_quorum_only,
        "declared_off": _declared_off(record.declared_off),
        "max_listeners": record.endpoints_max,
        "max_redis_servers": record.shards_max,
        "max_redis_forks": _option(record, "max_redis_forks", -1),
        "max_slave_full_syncs": _option(record, "max_slave_full_syncs", -1),
        "rack_id": record.rack,
        "second_rack_id": _text(record, "second_rack_id"),
        "recovery_path": _text(record, "recovery_path"),
        "cores": seen.cores,
        "total_memory": total_memory(record, view),
        "uptime": view.figures.get(record.uid, NodeFigures()).uptime_s,
        "shard_count": len(shards),
        "ram_shard_count": len(shards),
        "flash_shard_count": 0,
        "shard_list": list(shards),
        "software_version": _version(view, record.uid),
        "architecture": seen.architecture,
        "os_name": os_family,
        "os_family": os_family,
        "os_version": seen.os_name,
        "os_semantic_version": os_version,
        "persistent_storage_path": seen.directory,
        "persistent_storage_size": float(seen.disk_total_bytes),
        "ephemeral_storage_path": seen.directory,
        "ephemeral_storage_size": float(seen.disk_total_bytes),
        "bigredis_storage_path": "",
        "bigstore_enabled": False,
        "bigstore_size": 0,
        "bigstore_driver": "",
        "supported_database_versions": supported_versions(seen),
        "use_internal_ipv6": False,
        "fips_enabled": False,
    }


def _declared_off(word: DeclaredOff | None) -> DeclaredOffAnswer | None:
    return None if word is None else {"at": iso(word.at), "by": word.by}


def node_status(record: Node, view: ClusterView) -> str:
    """``active``, ``decommissioning``, ``provisioning`` (its daemon has never been observed) or ``down`` (its daemon does
    not answer; its shards and endpoints may still serve)."""
    if record.is_decommissioning:
        return "decommissioning"
    if record.uid in view.daemons:
        return "active"
    return "down" if record.uid in view.node_seen else "provisioning"


def status(record: Node, view: ClusterView) -> NodeStatusAnswer:
    """The node's status object."""
    seen = _seen(view, record.uid)
    shards = shown(view, node_uid=record.uid)
    total = total_memory(record, view)
    provisional = record.memory_bytes if record.accepts_placement else 0
    leads = view.leadership is not None and view.leadership.node_uid == record.uid
    answer: NodeStatusAnswer = {
        "node_status": node_status(record, view),
        "role": "master" if leads else "slave",
        "hostname": seen.hostname,
        "software_version": _version(view, record.uid),
        "software_version_sha": "",
        "cores": seen.cores,
        "total_memory": total,
        "free_ram": min(view.figures.get(record.uid, NodeFigures()).memory_free_bytes, total),
        "total_provisional_ram": provisional,
        "free_provisional_ram": max(0, provisional - provisioned_memory(record.uid, view)),
        "node_overbooking_depth": 0,
        "master_shards": [s.uid for s in shards if view.is_primary(s)],
        "slave_shards": [s.uid for s in shards if not view.is_primary(s)],
        "endpoints": [e.uid for e in view.endpoints_on(record.uid)],
    }
    if (taken := view.maintenance_snapshot(record.uid)) is not None:
        answer["maintenance_snapshot"] = snapshot(taken)
    return answer


def check(found: NodeResult) -> NodeCheckAnswer:
    """The result of a check of one node."""
    answer: NodeCheckAnswer = {
        "node_uid": found.uid,
        "result": not found.error,
        "findings": [
            {
                "code": one.code.value,
                "grade": one.grade.value,
                "description": one.text,
                "remedy": one.remedy,
                "node_uid": one.node_uid,
                "from_node_uid": one.from_uid,
            }
            for one in found.findings
        ],
    }
    return answer | {"error": found.error} if found.error else answer


def snapshot(record: Snapshot) -> SnapshotAnswer:
    """A snapshot of a node."""
    return {"created_time": snapshot_time(record.created_at), "name": record.name, "node_uid": str(record.node_uid)}


def total_memory(record: Node, view: ClusterView) -> int:
    """Upper limit of the memory provisioned to shards of the node; the machine's memory if the operator set no limit."""
    return record.memory_bytes or _seen(view, record.uid).memory_total_bytes


def provisioned_memory(uid: NodeUid, view: ClusterView) -> int:
    """Memory provisioned to the recorded shards of the node. A shard without a limit counts with its current usage."""
    total = 0
    for shard in view.shards_on(uid):
        record = view.databases.get(shard.database_uid)
        limit = 0 if record is None else record.shard_memory_bytes
        server = view.servers.get(shard.uid)
        total += limit or (0 if server is None else server.used_memory_bytes)
    return total


def supported_versions(seen: NodeSeen) -> list[SupportedVersion]:
    """Server programs of a node, in the format for clients that choose a version."""
    return [
        {
            "db_type": "redis",
            "version": version,
            "redis_version": ".".join(version.split(".")[:2]),
            "major": True,
            "server": kind,
        }
        for kind, version in seen.servers
    ]


def local_node_info(record: Node, view: ClusterView) -> Json:
    """``local_node_info`` of ``/v1/bootstrap``; its uid is a string."""
    seen = _seen(view, record.uid)
    shown = node(record, view)
    return {
        "uid": str(record.uid),
        "software_version": shown["software_version"],
        "cnm_version_sha": "",
        "architecture": shown["architecture"],
        "cores": shown["cores"],
        "total_memory": shown["total_memory"],
        "uptime": shown["uptime"],
        "os_name": shown["os_name"],
        "os_family": shown["os_family"],
        "os_version": shown["os_version"],
        "os_semantic_version": shown["os_semantic_version"],
        "persistent_storage_path": shown["persistent_storage_path"],
        "persistent_storage_size": shown["persistent_storage_size"],
        "ephemeral_storage_path": shown["ephemeral_storage_path"],
        "ephemeral_storage_size": shown["ephemeral_storage_size"],
        "bigredis_storage_path": "",
        "short_hostname": seen.hostname.partition(".")[0],
        "supported_bigstore_drivers": [],
        "supported_database_versions": shown["supported_database_versions"],
        "available_addresses": [_available(address) for address in (record.address, *record.external_addresses)],
        "bridge_interfaces": [],
        "fips_enabled": False,
    }


def _available(text: str) -> Json:
    """An address of the node; an external one may be a host name."""
    try:
        address = ip_address(text)
    except ValueError:
        return {"address": text, "format": "ipv4", "if_name": "", "private": False}
    if_name = "lo" if address.is_loopback else ""
    return {"address": text, "format": f"ipv{address.version}", "if_name": if_name, "private": address.is_private}


def _seen(view: ClusterView, uid: NodeUid) -> NodeSeen:
    found = view.node_seen.get(uid)
    return found if found is not None else NodeSeen(uid, view.nodes[uid].created_at)


def _version(view: ClusterView, uid: NodeUid) -> str:
    """Of the node's daemon; empty: it has none, and may return with any version."""
    daemon = view.daemons.get(uid)
    return "" if daemon is None else daemon.version


def _os(name: str) -> tuple[str, str]:
    match = re.match(r"([A-Za-z]+)\D*([0-9.]*)", name)
    return (match[1].lower(), match[2]) if match else ("", "")


def _option(record: Node, key: str, default: int) -> int:
    value = record.options.get(key, default)
    return value if isinstance(value, int) else default


def _text(record: Node, key: str) -> str:
    value = record.options.get(key, "")
    return value if isinstance(value, str) else ""
