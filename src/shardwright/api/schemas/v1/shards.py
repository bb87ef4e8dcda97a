"""Shards on the wire. Pure."""

from collections.abc import Collection

from typing_extensions import TypedDict

from shardwright.api.schemas.v1.actions import ReasonAnswer, reason_json
from shardwright.api.schemas.v1.common import Json, iso
from shardwright.model.database import Shard
from shardwright.model.liveness import has_ended
from shardwright.model.reason import Reason
from shardwright.model.seen import Health, ServerSeen
from shardwright.model.view import ClusterView
from shardwright.plan.standing import has_left


class ProgressAnswer(TypedDict):
    """State of loading, syncing or a backup."""

    status: str
    progress: float


class ShardAnswer(TypedDict):
    """A shard. ``addr``, ``port``, ``incarnation``, ``generation``, ``used_memory`` and ``reasons`` are extensions. So is
    the value ``unhealthy`` of ``detailed_status``: the shard answers but does not serve properly; ``reasons`` name the
    causes."""

    uid: str
    bdb_uid: int
    node_uid: str
    role: str
    status: str
    detailed_status: str
    assigned_slots: str
    loading: ProgressAnswer
    sync: ProgressAnswer
    backup: ProgressAnswer
    redis_info: Json
    report_timestamp: str
    bigstore_ram_weight: float
    addr: str
    port: int
    incarnation: int
    generation: int
    used_memory: int
    reasons: list[ReasonAnswer]


def shown(view: ClusterView, *, node_uid: int | None = None, database_uid: int | None = None) -> list[Shard]:
    """The shards of the cluster, of one node or of one database, by uid. Shards that have left and whose files are only
    being deleted are omitted."""
    found = (s for s in view.shards.values() if node_uid in (None, s.node_uid) and database_uid in (None, s.database_uid))
    return sorted((s for s in found if not has_left(view, s)), key=lambda s: s.uid)


def shard(record: Shard, view: ClusterView, *, info_keys: Collection[str] = ()) -> ShardAnswer:
    """The shard as last observed. ``info_keys`` name keys of the server's INFO to include, if they are known."""
    seen = view.servers.get(record.uid)
    group = view.groups.get(record.group_uid)
    is_primary = view.is_primary(record)
    node = view.nodes.get(record.node_uid)
    reasons = _reasons(record, view)
    is_running = not has_ended(view.liveness(record))
    return {
        "uid": str(record.uid),
        "bdb_uid": record.database_uid,
        "node_uid": str(record.node_uid),
        "role": "master" if is_primary else "slave",
        "status": "active" if is_running and seen is not None and seen.health is Health.OK else "inactive",
        "detailed_status": _detailed(seen, is_running=is_running, is_troubled=bool(reasons)),
        "assigned_slots": "" if group is None else f"{group.slot_first}-{group.slot_last}",
        "loading": _loading(seen),
        "sync": _sync(seen, is_primary=is_primary),
        "backup": {"status": "idle", "progress": 0.0},
        "redis_info": _info(seen, info_keys),
        "report_timestamp": iso(record.created_at if seen is None else seen.at),
        "bigstore_ram_weight": 0.0,
        "addr": "" if node is None else node.servers_at,
        "port": record.port,
        "incarnation": record.incarnation,
        "generation": 0 if group is None else group.generation,
        "used_memory": 0 if seen is None else seen.used_memory_bytes,
        "reasons": [reason_json(r) for r in reasons],
    }


def _reasons(record: Shard, view: ClusterView) -> list[Reason]:
    troubles = view.troubles.get(record.database_uid)
    return [] if troubles is None else [r for r in troubles.reasons if r.shard_uid == record.uid]


def _detailed(seen: ServerSeen | None, *, is_running: bool, is_troubled: bool) -> str:
    if not is_running:
        return "down"
    match None if seen is None else seen.health:
        case Health.OK if is_troubled:
            return "unhealthy"
        case Health.OK:
            return "busy" if seen is not None and seen.is_syncing else "ok"
        case Health.LOADING:
            return "loading"
        case Health.REFUSED | Health.UNREACHABLE:
            return "down"
        case Health.TIMEOUT:
            return "timeout"
        case _:
            return "unknown"


def _loading(seen: ServerSeen | None) -> ProgressAnswer:
    is_loading = seen is not None and seen.health is Health.LOADING
    return {"status": "in_progress" if is_loading else "idle", "progress": 0.0}


def _sync(seen: ServerSeen | None, *, is_primary: bool) -> ProgressAnswer:
    if is_primary or seen is None:
        return {"status": "idle", "progress": 0.0}
    if seen.is_syncing:
        share = 100.0 * seen.sync_done_bytes / seen.sync_total_bytes if seen.sync_total_bytes else 0.0
        return {"status": "in_progress", "progress": round(min(share, 100.0), 1)}
    return {"status": "idle" if seen.is_link_up else "link_down", "progress": 0.0}


def _info(seen: ServerSeen | None, keys: Collection[str]) -> Json:
    if seen is None or not keys:
        return {}
    known: Json = {
        "run_id": seen.run_id,
        "role": "" if seen.role is None else {"primary": "master", "replica": "slave"}[seen.role.value],
        "redis_version": seen.version,
        "server_name": seen.kind,
        "used_memory": seen.used_memory_bytes,
        "master_replid": seen.replication_id,
        "master_replid2": seen.second_replication_id,
        "second_repl_offset": seen.second_offset,
        "master_repl_offset": seen.offset,
        "master_link_status": "up" if seen.is_link_up else "down",
        "connected_slaves": len(seen.replicas),
        "keys": seen.keys,
    }
    return {key: value for key, value in known.items() if key in keys}
