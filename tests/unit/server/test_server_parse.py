from datetime import UTC, datetime

import pytest

from shardwright.model.database import Role
from shardwright.model.ids import ShardUid
from shardwright.model.seen import Health, ReplicaSeen, ServerSeen, ServerTrouble
from shardwright.server.parse import parse_info

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ID = "a" * 40
PRIMARY = f"""# Server\r
redis_version:7.0.15\r
run_id:{"b" * 40}\r
loading:0\r
async_loading:0\r
used_memory:1000\r
rdb_bgsave_in_progress:0\r
rdb_last_save_time:1767225600\r
rdb_last_bgsave_status:ok\r
rdb_saves:2\r
aof_enabled:1\r
aof_rewrite_in_progress:0\r
aof_rewrite_scheduled:0\r
aof_last_bgrewrite_status:ok\r
aof_last_write_status:ok\r
aof_rewrites:3\r
role:master\r
connected_slaves:1\r
slave0:ip=127.0.0.3,port=7001,state=online,offset=99,lag=0,type=replica\r
slave_expires_tracked_keys:0\r
master_replid:{ID}\r
master_replid2:{"0" * 40}\r
master_repl_offset:100\r
second_repl_offset:-1\r
used_cpu_sys:1.5\r
used_cpu_user:2.25\r
# Keyspace\r
db0:keys=5,expires=0,avg_ttl=0\r
db3:keys=7,expires=1,avg_ttl=0,keys_with_volatile_items=0\r
"""
REPLICA = PRIMARY.replace(
    "role:master",
    "role:slave\r\nmaster_host:127.0.0.2\r\nmaster_port:7000\r\nmaster_link_status:up\r\n"
    "master_sync_in_progress:0\r\nslave_read_repl_offset:98\r\nslave_repl_offset:90",
)


def _seen(text: str) -> ServerSeen:
    return parse_info(text, shard_uid=ShardUid(1), incarnation=2, at=NOW)


@pytest.mark.parametrize(
    ("line", "lag_s"),
    [
        ("state=online,offset=99,lag=2", 2),
        ("state=online,offset=99,lag=3", 3),
        ("state=online,offset=99,lag=-5", -5),  # the clock of its machine was set back
        ("state=online,offset=99", None),
        ("state=send_bulk,offset=0,lag=60", 60),
    ],
)
def test_how_long_a_primary_has_not_heard_of_a_replica(line: str, lag_s: int | None) -> None:
    (replica,) = _seen(PRIMARY.replace("state=online,offset=99,lag=0", line)).replicas
    assert replica.lag_s == lag_s


def test_a_primary() -> None:
    seen = _seen(PRIMARY)
    assert (seen.role, seen.health, seen.offset, seen.keys) == (Role.PRIMARY, Health.OK, 100, 12)
    assert (seen.kind, seen.version) == ("redis", "7.0.15")
    assert seen.replicas == (ReplicaSeen("127.0.0.3", 7001, "online", 99, lag_s=0),)
    assert (seen.replication_id, seen.second_replication_id, seen.second_offset) == (ID, "", -1)
    assert (seen.saves_since_start, seen.is_aof_on, seen.is_persistence_busy, seen.is_persistence_ok) == (
        5,
        True,
        False,
        True,
    )
    assert seen.last_save_at == NOW
    assert seen.cpu_s == 3.75
    assert not seen.is_link_up
    assert seen.unanswered_since is None


def test_a_replica_counts_its_applied_offset() -> None:
    seen = _seen(REPLICA)
    assert (seen.role, seen.offset, seen.is_link_up) == (Role.REPLICA, 90, True)
    assert (seen.primary_address, seen.primary_port) == ("127.0.0.2", 7000)


def test_the_fence_is_visible_as_its_line() -> None:
    assert not _seen(PRIMARY).is_fenced
    assert _seen(PRIMARY + "min_slaves_good_slaves:0\r\n").is_fenced
    assert _seen(REPLICA + "min_slaves_good_slaves:0\r\n").is_fenced


def test_valkey_is_recognized_by_its_own_version() -> None:
    seen = _seen(PRIMARY + "server_name:valkey\r\nvalkey_version:9.1.2\r\n")
    assert (seen.kind, seen.version) == ("valkey", "9.1.2")


@pytest.mark.parametrize(
    ("lines", "total", "done"),
    [
        ("master_sync_total_bytes:2000\r\nmaster_sync_read_bytes:500\r\n", 2000, 500),
        ("master_sync_total_bytes:0\r\nmaster_sync_read_bytes:700\r\n", 0, 700),
        ("master_sync_total_bytes:-1\r\nmaster_sync_read_bytes:0\r\nloading_loaded_bytes:300\r\n", 0, 300),
        ("", 0, 0),
    ],
)
def test_the_progress_of_a_sync(lines: str, total: int, done: int) -> None:
    text = REPLICA.replace("master_sync_in_progress:0", "master_sync_in_progress:1").replace("status:up", "status:down")
    seen = _seen(text + lines)
    assert (seen.is_syncing, seen.sync_total_bytes, seen.sync_done_bytes) == (True, total, done)


def test_loading_of_another_kind_is_not_a_sync() -> None:
    seen = _seen(REPLICA + "loading_loaded_bytes:300\r\n")
    assert (seen.is_syncing, seen.sync_done_bytes) == (False, 0)


@pytest.mark.parametrize(("changed", "health"), [("loading:1", Health.LOADING), ("loading:0", Health.OK)])
def test_loading(changed: str, health: Health) -> None:
    assert _seen(PRIMARY.replace("\nloading:0", "\n" + changed)).health == health


def test_asynchronous_loading_still_answers() -> None:
    text = PRIMARY.replace("\nloading:0", "\nloading:1").replace("async_loading:0", "async_loading:1")
    assert _seen(text).health == Health.OK


@pytest.mark.parametrize("name", ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled"])
def test_busy_persistence(name: str) -> None:
    assert _seen(PRIMARY.replace(f"{name}:0", f"{name}:1")).is_persistence_busy


@pytest.mark.parametrize("name", ["rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status"])
def test_failed_persistence(name: str) -> None:
    assert not _seen(PRIMARY.replace(f"{name}:ok", f"{name}:err")).is_persistence_ok


def test_the_second_id_is_visible_after_a_promotion() -> None:
    seen = _seen(PRIMARY.replace("0" * 40, "c" * 40).replace("second_repl_offset:-1", "second_repl_offset:51"))
    assert (seen.second_replication_id, seen.second_offset) == ("c" * 40, 51)


@pytest.mark.parametrize("text", ["", "# Server\r\n", "role:master\r\n", "nonsense"])
def test_a_text_that_is_not_info(text: str) -> None:
    with pytest.raises(ValueError, match="INFO"):
        _seen(text)


LIMITS = (
    "maxmemory:1000\r\nmaxmemory_policy:noeviction\r\nmem_not_counted_for_evict:0\r\n"
    "maxclients:10000\r\nconnected_clients:3\r\ncluster_connections:0\r\n"
)


def _troubles(*changes: tuple[str, str], text: str = PRIMARY + LIMITS) -> tuple[ServerTrouble, ...]:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return _seen(text).troubles


ROOM = ("used_memory:1000", "used_memory:500")


def test_a_healthy_server_has_no_trouble() -> None:
    assert _troubles(ROOM) == ()
    assert _seen(PRIMARY).troubles == ()  # a server that prints no limits has none


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("aof_last_write_status", ServerTrouble.AOF_WRITE_FAILED),
        ("aof_last_bgrewrite_status", ServerTrouble.AOF_REWRITE_FAILED),
        ("rdb_last_bgsave_status", ServerTrouble.SNAPSHOT_FAILED),
    ],
)
def test_files_that_cannot_be_written(line: str, trouble: ServerTrouble) -> None:
    assert _troubles(ROOM, (f"{line}:ok", f"{line}:err")) == (trouble,)


def test_a_disabled_append_only_file_causes_no_trouble() -> None:
    off = ("aof_enabled:1", "aof_enabled:0")
    assert _troubles(ROOM, off, ("aof_last_write_status:ok", "aof_last_write_status:err")) == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), (ServerTrouble.MEMORY_FULL,)),
        ((("used_memory:1000", "used_memory:999"),), (ServerTrouble.MEMORY_SHORT,)),
        ((("used_memory:1000", "used_memory:949"),), ()),
        ((("maxmemory:1000", "maxmemory:0"),), ()),
        ((("mem_not_counted_for_evict:0", "mem_not_counted_for_evict:100"),), ()),
        ((("noeviction", "allkeys-lru"),), ()),
        ((("noeviction", "volatile-lru"),), ()),
        ((("noeviction", "volatile-lru"), ("expires=1", "expires=0")), (ServerTrouble.MEMORY_FULL,)),
    ],
)
def test_full_memory(changes: tuple[tuple[str, str], ...], expected: tuple[ServerTrouble, ...]) -> None:
    assert _troubles(*changes) == expected


def test_every_connection_is_in_use() -> None:
    assert _troubles(ROOM, ("connected_clients:3", "connected_clients:9999")) == (ServerTrouble.CLIENTS_FULL,)
    # The replica is one more connection.
    assert _troubles(ROOM, ("connected_clients:3", "connected_clients:9998")) == (ServerTrouble.CLIENTS_SHORT,)
    assert _troubles(ROOM, ("connected_clients:3", "connected_clients:9000")) == ()
