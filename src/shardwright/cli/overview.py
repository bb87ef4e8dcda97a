"""The four tables that operators know: nodes, databases, endpoints, shards. Pure: API answers in, text out.

The wire's words end here: ``master`` and ``slave`` become primary and replica for a shard, leader and member for a node.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from shardwright.cli.table import UNKNOWN, table
from shardwright.units import format_bytes

Json = Mapping[str, Any]

SHARD_ROLES = {"master": "primary", "slave": "replica"}
NODE_ROLES = {"master": "leader", "slave": "member"}


def nodes_table(nodes: Sequence[Json], statuses: Mapping[str, Json], *, title: str = "") -> str:
    """The table NODES. The columns EXTERNAL_ADDRESS and RACK appear if a node has a value."""
    optional = [
        (name, key)
        for name, key in (("EXTERNAL_ADDRESS", "external_addr"), ("RACK", "rack_id"))
        if any(node.get(key) for node in nodes)
    ]
    columns = ["NODE", "ROLE", "ADDRESS", *(name for name, _ in optional), "HOSTNAME", "SHARDS", "CORES", "FREE_RAM"]
    columns += ["PROVISIONAL_RAM", "VERSION", "STATUS"]
    rows = []
    for node in nodes:
        status = statuses.get(str(node["uid"]), {})
        rows.append(
            [
                f"node:{node['uid']}",
                NODE_ROLES.get(str(status.get("role")), UNKNOWN),
                node.get("addr"),
                *(_listed(node.get(key)) for _, key in optional),
                status.get("hostname"),
                f"{node.get('shard_count', 0)}/{node.get('max_redis_servers', 0) if node.get('accept_servers') else 0}",
                node.get("cores"),
                _part(status.get("free_ram"), status.get("total_memory")),
                _part(status.get("free_provisional_ram"), status.get("total_provisional_ram")),
                node.get("software_version") or UNKNOWN,
                node_status(node),
            ]
        )
    return table(columns, rows, title=title)


def node_status(node: Json) -> str:
    """The state of a node in one or two words."""
    words = {"down": "DOWN", "decommissioning": "being removed", "provisioning": "starting"}
    found = [words[status]] if (status := str(node.get("status"))) in words else []
    if node.get("declared_off"):
        found.append("declared off")
    if node.get("in_maintenance"):
        found.append("in maintenance")
    elif not node.get("accept_servers", True) and status != "decommissioning":
        found.append("closed")
    return ", ".join(found) or "OK"


def databases_table(databases: Sequence[Json], *, title: str = "") -> str:
    """The table DATABASES."""
    rows = [
        [
            f"db:{database['uid']}",
            database.get("name"),
            server_of(database),
            "waiting" if database.get("waiting") else database.get("status"),
            database.get("shards_count"),
            format_bytes(size) if (size := int(database.get("memory_size") or 0)) else "no limit",
            bool(database.get("replication")),
            database.get("data_persistence"),
            ", ".join(address_of(endpoint) for endpoint in database.get("endpoints") or []),
        ]
        for database in databases
    ]
    columns = ("DB", "NAME", "TYPE", "STATUS", "SHARDS", "MEMORY", "REPLICATION", "PERSISTENCE", "ENDPOINT")
    return table(columns, rows, title=title)


def troubles_text(databases: Sequence[Json]) -> str:
    """The troubles of databases, one per line; empty: none."""
    lines = [
        f"db:{database['uid']} {database.get('name')}: {told(reason)}"
        for database in databases
        for reason in database.get("reasons") or []
    ]
    return "\n".join(["TROUBLES:", *lines]) if lines else ""


def upgrade_text(cluster: Json) -> str:
    """The upgrade that is under way, and what it waits for; empty if there is none."""
    upgrade = cluster.get("upgrade")
    if not upgrade:
        return ""
    now, then = cluster.get("cluster_version"), upgrade.get("cluster_version")
    records = f"version {now}" if now == then else f"version {now}, and get version {then} when all nodes are upgraded"
    lines = [f"to {upgrade.get('version')}; the records have {records}", *map(told, upgrade.get("reasons") or [])]
    return "\n".join(["UPGRADE:", *lines])


def told(reason: Json) -> str:
    """A reason with its remedy."""
    remedy = f" (remedy: {reason['remedy']})" if reason.get("remedy") else ""
    return f"{reason.get('description')}{remedy}"


def endpoints_table(databases: Sequence[Json], *, title: str = "") -> str:
    """The table ENDPOINTS. NODE lists the nodes whose endpoint process accepts clients of the endpoint."""
    rows = [
        [
            f"db:{database['uid']}",
            database.get("name"),
            f"endpoint:{endpoint.get('uid')}",
            address_of(endpoint),
            ", ".join(f"node:{uid}" for uid in endpoint.get("node_uids") or []),
            endpoint.get("proxy_policy"),
            "Yes" if database.get("tls_mode") == "enabled" else "No",
        ]
        for database in databases
        for endpoint in database.get("endpoints") or []
    ]
    return table(("DB", "NAME", "ID", "ADDRESS", "NODE", "POLICY", "SSL"), rows, title=title)


def shards_table(shards: Sequence[Json], databases: Sequence[Json], *, title: str = "") -> str:
    """The table SHARDS."""
    names = {database["uid"]: database.get("name") for database in databases}
    rows = [
        [
            f"db:{shard.get('bdb_uid')}",
            names.get(shard.get("bdb_uid")),
            f"redis:{shard.get('uid')}",
            f"node:{shard.get('node_uid')}",
            SHARD_ROLES.get(str(shard.get("role")), UNKNOWN),
            shard.get("assigned_slots"),
            format_bytes(used) if isinstance(used := shard.get("used_memory"), int) else UNKNOWN,
            shard_status(shard),
        ]
        for shard in sorted(shards, key=_shard_order)
    ]
    return table(("DB", "NAME", "ID", "NODE", "ROLE", "SLOTS", "USED_MEMORY", "STATUS"), rows, title=title)


def shard_status(shard: Json) -> str:
    """OK, or the status in the API's answer; a running sync with its percentage."""
    sync = shard.get("sync") or {}
    if sync.get("status") == "in_progress":
        return f"SYNCING {sync.get('progress', 0):g}%"
    if sync.get("status") == "link_down":
        return "LINK DOWN"
    detailed = str(shard.get("detailed_status") or UNKNOWN)
    return "OK" if detailed in ("ok", "busy") else detailed.upper() if detailed != UNKNOWN else UNKNOWN


def server_of(database: Json) -> str:
    """``valkey 9.1.2``."""
    return f"{database.get('server') or database.get('type') or ''} {database.get('version') or ''}".strip()


def address_of(endpoint: Json) -> str:
    """``127.0.0.1:10000``; each address of an endpoint that several nodes serve."""
    hosts = [str(host) for host in endpoint.get("addr") or [endpoint.get("dns_name") or UNKNOWN]]
    return ", ".join(
        f"[{host}]:{endpoint.get('port')}" if ":" in host else f"{host}:{endpoint.get('port')}" for host in hosts
    )


def _part(free: object, total: object) -> str:
    return f"{format_bytes(free)}/{format_bytes(total)}" if isinstance(free, int) and isinstance(total, int) else UNKNOWN


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _shard_order(shard: Json) -> tuple[int, int]:
    uid = str(shard.get("uid"))
    return int(shard.get("bdb_uid") or 0), int(uid) if uid.isdigit() else 0
