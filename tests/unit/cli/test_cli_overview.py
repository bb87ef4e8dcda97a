from typing import Any

import pytest

from shardwright.cli.overview import (
    address_of,
    databases_table,
    endpoints_table,
    node_status,
    nodes_table,
    shard_status,
    shards_table,
    troubles_text,
    upgrade_text,
)

GB = 1 << 30


def node(uid: int = 1, **changes: object) -> dict[str, Any]:
    return {
        "uid": uid,
        "status": "active",
        "addr": f"127.0.0.{uid}",
        "external_addr": [],
        "accept_servers": True,
        "in_maintenance": False,
        "max_redis_servers": 100,
        "rack_id": "",
        "cores": 2,
        "shard_count": 2,
        "software_version": "0.1.0",
    } | changes


def status(role: str = "slave") -> dict[str, Any]:
    return {
        "role": role,
        "hostname": "host",
        "free_ram": 3 * GB,
        "total_memory": 4 * GB,
        "free_provisional_ram": 2 * GB,
        "total_provisional_ram": 4 * GB,
    }


def database(uid: int = 1, **changes: object) -> dict[str, Any]:
    return {
        "uid": uid,
        "name": "orders",
        "status": "active",
        "server": "valkey",
        "version": "9.1.2",
        "shards_count": 1,
        "memory_size": GB,
        "replication": True,
        "data_persistence": "aof",
        "tls_mode": "disabled",
        "endpoints": [{"uid": f"{uid}:1", "addr": ["127.0.0.1"], "port": 10000, "proxy_policy": "single", "node_uids": [2]}],
    } | changes


def test_nodes_show_their_role_and_memory() -> None:
    text = nodes_table([node(1), node(2, shard_count=0)], {"1": status("master"), "2": status()}, title="CLUSTER NODES")
    assert text.splitlines() == [
        "CLUSTER NODES:",
        "NODE    ROLE    ADDRESS    HOSTNAME  SHARDS  CORES  FREE_RAM  PROVISIONAL_RAM  VERSION  STATUS",
        "node:1  leader  127.0.0.1  host      2/100   2      3GB/4GB   2GB/4GB          0.1.0    OK",
        "node:2  member  127.0.0.2  host      0/100   2      3GB/4GB   2GB/4GB          0.1.0    OK",
    ]


def test_a_rack_has_a_column_when_there_is_one() -> None:
    assert "RACK" in nodes_table([node(rack_id="a")], {})
    assert "RACK" not in nodes_table([node()], {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "OK"),
        ({"accept_servers": False}, "closed"),
        ({"accept_servers": False, "in_maintenance": True}, "in maintenance"),
        ({"status": "decommissioning", "accept_servers": False}, "being removed"),
        ({"status": "provisioning"}, "starting"),
        ({"status": "down"}, "DOWN"),
        ({"status": "down", "in_maintenance": True, "accept_servers": False}, "DOWN, in maintenance"),
    ],
)
def test_the_status_of_a_node(changes: dict[str, Any], words: str) -> None:
    assert node_status(node(**changes)) == words


def test_a_node_that_takes_no_shards_has_no_free_slots() -> None:
    assert " 2/0 " in nodes_table([node(accept_servers=False)], {})


def test_databases() -> None:
    assert databases_table([database(), database(2, name="cache", memory_size=0, endpoints=[])]).splitlines() == [
        "DB    NAME    TYPE          STATUS  SHARDS  MEMORY    REPLICATION  PERSISTENCE  ENDPOINT",
        "db:1  orders  valkey 9.1.2  active  1       1GB       enabled      aof          127.0.0.1:10000",
        "db:2  cache   valkey 9.1.2  active  1       no limit  enabled      aof          N/A",
    ]


def test_troubles_of_databases() -> None:
    assert troubles_text([database()]) == ""
    reasons = [{"code": "writes_refused", "description": "shard 1 refuses writes", "remedy": "free disk space"}]
    assert troubles_text([database(), database(2, name="cache", reasons=reasons)]).splitlines() == [
        "TROUBLES:",
        "db:2 cache: shard 1 refuses writes (remedy: free disk space)",
    ]


def test_an_upgrade_that_is_under_way() -> None:
    assert upgrade_text({"cluster_version": 2, "upgrade": None}) == upgrade_text({}) == ""
    reason = {"description": "node 2 runs 0.1.0", "remedy": "install 0.2.0 there"}
    upgrade = {"version": "0.2.0", "cluster_version": 3, "reasons": [reason]}
    assert upgrade_text({"cluster_version": 2, "upgrade": upgrade}).splitlines() == [
        "UPGRADE:",
        "to 0.2.0; the records have version 2, and get version 3 when all nodes are upgraded",
        "node 2 runs 0.1.0 (remedy: install 0.2.0 there)",
    ]
    last = upgrade_text({"cluster_version": 3, "upgrade": {**upgrade, "reasons": []}})
    assert last.splitlines() == ["UPGRADE:", "to 0.2.0; the records have version 3"]


def test_endpoints_name_the_node_that_serves_them() -> None:
    assert endpoints_table([database()]).splitlines()[1].split() == [
        "db:1",
        "orders",
        "endpoint:1:1",
        "127.0.0.1:10000",
        "node:2",
        "single",
        "No",
    ]


def test_shards_are_primary_or_replica_and_in_order() -> None:
    shards = [
        {
            "uid": "10",
            "bdb_uid": 1,
            "node_uid": "2",
            "role": "slave",
            "assigned_slots": "0-16383",
            "used_memory": 1536,
            "status": "active",
        },
        {"uid": "9", "bdb_uid": 1, "node_uid": "1", "role": "master", "detailed_status": "ok", "used_memory": 0},
    ]
    lines = shards_table(shards, [database()]).splitlines()
    assert [line.split()[2] for line in lines] == ["ID", "redis:9", "redis:10"]
    assert "primary" in lines[1]
    assert "replica" in lines[2]
    assert "1.5KB" in lines[2]


@pytest.mark.parametrize(
    ("shard", "text"),
    [
        ({"detailed_status": "ok", "sync": {"status": "idle"}}, "OK"),
        ({"detailed_status": "busy", "sync": {"status": "in_progress", "progress": 12.5}}, "SYNCING 12.5%"),
        ({"detailed_status": "ok", "sync": {"status": "link_down"}}, "LINK DOWN"),
        ({"detailed_status": "loading"}, "LOADING"),
        ({}, "N/A"),
    ],
)
def test_the_status_of_a_shard(shard: dict[str, Any], text: str) -> None:
    assert shard_status(shard) == text


def test_an_ipv6_address_is_bracketed() -> None:
    assert address_of({"addr": ["::1"], "port": 1}) == "[::1]:1"
