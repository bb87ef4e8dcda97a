"""Pure: parses a server's answer to INFO into a ``ServerSeen``. Called by the adapter and by tests; no I/O, no clock.

Valkey 9.1 still uses ``master_`` and ``slave`` names here, so both servers are parsed the same way.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from shardwright.model.database import Role, ServerKind
from shardwright.model.ids import ShardUid
from shardwright.model.seen import Health, ReplicaSeen, ServerSeen, ServerTrouble

DATABASES = 16
"""``databases`` of every server: the default value."""
NEARLY_FULL_SHARE = 0.95
"""Share of a limit above which it counts as nearly reached."""
_NO_ID = "0" * 40


def parse_info(text: str, *, shard_uid: ShardUid, incarnation: int, at: datetime) -> ServerSeen:
    """Parse INFO (all default sections). Raises ValueError if the text is not a server's INFO."""
    fields = info_fields(text)
    if "role" not in fields or "run_id" not in fields:
        raise ValueError("the answer is not the output of INFO")
    role = Role.PRIMARY if fields["role"] == "master" else Role.REPLICA
    is_valkey = "valkey_version" in fields
    is_syncing = fields.get("master_sync_in_progress") == "1"
    second_id = fields.get("master_replid2", "")
    total, done = _sync_bytes(fields) if is_syncing else (0, 0)
    return ServerSeen(
        shard_uid=shard_uid,
        incarnation=incarnation,
        at=at,
        health=Health.LOADING if _is_loading(fields) else Health.OK,
        run_id=fields["run_id"],
        role=role,
        replication_id=fields.get("master_replid", ""),
        second_replication_id="" if second_id == _NO_ID else second_id,
        second_offset=_number(fields, "second_repl_offset", -1),
        offset=_offset(fields, role),
        primary_address=fields.get("master_host", ""),
        primary_port=_number(fields, "master_port"),
        is_link_up=fields.get("master_link_status") == "up",
        link_down_s=max(0, _number(fields, "master_link_down_since_seconds")),
        heard_primary_s=max(0, _number(fields, "master_last_io_seconds_ago")),
        is_syncing=is_syncing,
        sync_total_bytes=total,
        sync_done_bytes=done,
        keys=_keys(fields),
        used_memory_bytes=_number(fields, "used_memory"),
        # Both servers, also as replicas, print this line exactly while min-replicas-to-write and its lag are set; only the
        # fence sets them.
        is_fenced="min_slaves_good_slaves" in fields,
        replicas=_replicas(fields),
        is_aof_on=fields.get("aof_enabled") == "1",
        is_persistence_busy=_is_persistence_busy(fields),
        is_persistence_ok=_is_persistence_ok(fields),
        last_save_at=_last_save(fields),
        # Both counters grow at the start: a finished save has a higher counter, is not busy, and is ok.
        saves_since_start=_number(fields, "rdb_saves") + _number(fields, "aof_rewrites"),
        kind=ServerKind.VALKEY if is_valkey else ServerKind.REDIS,
        version=fields["valkey_version"] if is_valkey else fields.get("redis_version", ""),
        cpu_s=_seconds(fields, "used_cpu_sys") + _seconds(fields, "used_cpu_user"),
        troubles=tuple(_troubles(fields)),
    )


def info_fields(text: str) -> dict[str, str]:
    """The lines of INFO by name."""
    # A leader parses thousands of these per minute: avoid every unnecessary call per line.
    return {
        name: value.strip()
        for line in text.splitlines()
        if ":" in line and line[0] != "#"
        for name, value in (line.split(":", 1),)
    }


def _is_loading(fields: dict[str, str]) -> bool:
    # An asynchronous load (diskless, into a second database) still answers with the old data.
    return fields.get("loading") == "1" and fields.get("async_loading", "0") == "0"


def _offset(fields: dict[str, str], role: Role) -> int:
    # A replica's ``master_repl_offset`` already includes data that it has read but, while paused, not applied.
    name = "master_repl_offset" if role == Role.PRIMARY else "slave_repl_offset"
    return max(0, _number(fields, name))


def _sync_bytes(fields: dict[str, str]) -> tuple[int, int]:
    """Announced size (0: none) and received bytes. A load directly from the socket counts only as loading."""
    total = max(0, _number(fields, "master_sync_total_bytes"))
    received = max(0, _number(fields, "master_sync_read_bytes"))
    return total, max(received, _number(fields, "loading_loaded_bytes"))


def _keys(fields: dict[str, str]) -> int:
    return sum(int(_parts(value).get("keys", "0")) for value in _keyspace(fields))


def _replicas(fields: dict[str, str]) -> tuple[ReplicaSeen, ...]:
    listed = (fields.get(f"slave{number}") for number in range(_number(fields, "connected_slaves")))
    replicas = (_parts(value) for value in listed if value is not None)
    return tuple(
        ReplicaSeen(
            address=parts.get("ip", ""),
            port=int(parts.get("port", "0")),
            state=parts.get("state", ""),
            offset=int(parts.get("offset", "0")),
            lag_s=int(parts["lag"]) if "lag" in parts else None,
        )
        for parts in replicas
    )


def _parts(value: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in value.split(",") if "=" in part)


def _is_persistence_busy(fields: dict[str, str]) -> bool:
    names = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
    return any(fields.get(name) == "1" for name in names)


def _is_persistence_ok(fields: dict[str, str]) -> bool:
    names = ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")
    return all(fields.get(name, "ok") == "ok" for name in names)


def _troubles(fields: dict[str, str]) -> Iterator[ServerTrouble]:
    if fields.get("aof_enabled") == "1":
        if fields.get("aof_last_write_status", "ok") != "ok":
            yield ServerTrouble.AOF_WRITE_FAILED
        if fields.get("aof_last_bgrewrite_status", "ok") != "ok":
            yield ServerTrouble.AOF_REWRITE_FAILED
    if fields.get("rdb_last_bgsave_status", "ok") != "ok":
        yield ServerTrouble.SNAPSHOT_FAILED
    limit = _number(fields, "maxmemory")
    # Data that is still to be sent to replicas does not count against the limit.
    counted = _number(fields, "used_memory") - _number(fields, "mem_not_counted_for_evict")
    if limit > 0 and counted >= NEARLY_FULL_SHARE * limit and not _may_evict(fields):
        yield ServerTrouble.MEMORY_FULL if counted >= limit else ServerTrouble.MEMORY_SHORT
    # Connected clients do not include replicas; the limit counts all.
    names = ("connected_clients", "connected_slaves", "cluster_connections")
    connected, most = sum(_number(fields, name) for name in names), _number(fields, "maxclients")
    if most > 0 and connected >= NEARLY_FULL_SHARE * most:
        yield ServerTrouble.CLIENTS_FULL if connected >= most else ServerTrouble.CLIENTS_SHORT


def _may_evict(fields: dict[str, str]) -> bool:
    policy = fields.get("maxmemory_policy", "noeviction")
    if policy.startswith("volatile"):
        return any(_parts(value).get("expires", "0") != "0" for value in _keyspace(fields))
    return policy != "noeviction"


def _keyspace(fields: dict[str, str]) -> list[str]:
    return [value for number in range(DATABASES) if (value := fields.get(f"db{number}")) is not None]


def _last_save(fields: dict[str, str]) -> datetime | None:
    seconds = _number(fields, "rdb_last_save_time")
    return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None


def _number(fields: dict[str, str], name: str, default: int = 0) -> int:
    return int(fields.get(name, default))


def _seconds(fields: dict[str, str], name: str) -> float:
    return float(fields.get(name, 0.0))
