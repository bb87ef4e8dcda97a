"""Databases, snapshots, the log, and the formats that clients rely on, over the wire."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from shardwright.model.cluster import Snapshot
from shardwright.model.database import DatabaseStatus
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.store import keys
from shardwright.store.protocol import DeleteKey
from tests.integration.api_harness import RunningApi, default_view, ok, refused


@pytest.fixture
def api() -> Iterator[RunningApi]:
    with RunningApi() as running:
        yield running


@pytest.fixture
def http(api: RunningApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


# -- databases ---------------------------------------------------------------------------------------------------------


def test_a_database_from_post_to_delete(api: RunningApi, http: httpx.Client) -> None:
    wish = {"name": "sessions", "memory_size": 50_000_000, "replication": True, "data_persistence": "aof"}
    before = api.everything()
    assert ok(http.post("/v1/bdbs?dry_run", json=wish))["status"] == "pending"
    assert api.everything() == before
    made = ok(http.post("/v1/bdbs", json={**wish, "authentication_redis_pass": "sesame"}))
    assert (made["uid"], made["status"], made["port"]) == (3, "pending", 0)
    assert made["endpoints"][0]["addr"] == ["127.0.0.1"]
    assert 10_000 <= made["endpoints"][0]["port"] <= 19_999
    assert api.bare("names/sessions") == "3"
    secrets = api.view().secrets[DatabaseUid(3)]
    assert min(len(s) for s in (secrets.application, secrets.replication, secrets.observation, secrets.management)) >= 32
    assert len({secrets.application, secrets.replication, secrets.observation, secrets.management}) == 4
    assert re.fullmatch(r"[0-9a-f]{16}", secrets.hash_seed)
    refused(http.post("/v1/bdbs", json=wish), 409, "name_violation")
    refused(http.put("/v1/bdbs/3", json={"eviction_policy": "noeviction"}), 409, "db_busy")
    refused(http.get("/v1/bdbs/3/availability"), 503, "bdb_unavailable")
    machine = ok(http.get(f"/v1/actions/{made['action_uid']}"))
    assert (machine["name"], machine["status"]) == ("SMCreateBDB", "active")
    assert ok(http.get("/v1/actions/bdb/3")) == [machine]
    gone = ok(http.delete("/v1/bdbs/3"))
    assert gone["status"] == "delete-pending"
    assert ok(http.delete("/v1/bdbs/3")) == gone


def test_a_change_of_a_database(api: RunningApi, http: httpx.Client) -> None:
    changed = ok(http.put("/v1/bdbs/1", json={"memory_size": 300_000_000, "name": "invoices"}))
    assert (changed["status"], changed["name"]) == ("active-change-pending", "invoices")
    assert (api.bare("names/orders"), api.bare("names/invoices")) == (None, "1")
    assert api.view().databases[DatabaseUid(1)].status is DatabaseStatus.ACTIVE_CHANGE_PENDING


def test_two_creators_at_once_get_two_uids_and_ports(api: RunningApi) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def create(number: int) -> dict[str, Any]:
        with api.client() as http:
            return dict(ok(http.post("/v1/bdbs", json={"name": f"db-{number % 6}", "memory_size": 5_000_000})))

    with api.client() as http:  # The slow first verification of the password has happened.
        ok(http.get("/v1/nodes"))
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(create, range(6)))
    assert len({m["uid"] for m in made}) == 6
    assert len({m["endpoints"][0]["port"] for m in made}) == 6


def test_one_of_two_simultaneous_actions_wins(api: RunningApi) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with api.client() as http:
        ok(http.get("/v1/nodes"))

    def start(node: int) -> int:
        with api.client() as http:
            return http.post(f"/v1/nodes/{node}/actions/remove").status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(start, [1, 2, 1, 2])) == [200, 409, 409, 409]
    closed = [node.uid for node in api.view().nodes.values() if node.is_closed]
    assert len(closed) == 1


# -- formats -----------------------------------------------------------------------------------------------------------

READS = [
    "/v1/actions",
    "/v1/bdbs",
    "/v1/bdbs/1",
    "/v1/bdbs/1/availability",
    "/v1/bdbs/1/availability?extend_check=lag&availability_lag_tolerance_ms=100",
    "/v1/bdbs/1/shards",
    "/v1/bootstrap",
    "/v1/cluster",
    "/v1/cluster/actions",
    "/v1/cluster/certificates",
    "/v1/cluster/policy",
    "/v1/cluster/stats",
    "/v1/cluster/stats/last",
    "/v1/cluster/store_members",
    "/v1/license",
    "/v1/local/bdbs/1/endpoint/availability",
    "/v1/local/node/master_healthcheck",
    "/v1/logs",
    "/v1/modules",
    "/v1/nodes",
    "/v1/nodes/1",
    "/v1/nodes/1/snapshots",
    "/v1/nodes/1/status",
    "/v1/nodes/actions",
    "/v1/nodes/status",
    "/v1/proxies",
    "/v1/roles",
    "/v1/roles/1",
    "/v1/shards",
    "/v1/shards/1",
    "/v1/users",
    "/v1/users/1",
    "/v1/users/permissions",
    "/v1/users/permissions/admin",
    "/v1/users/role",
    "/v2/actions",
    "/openapi.json",
]


def test_every_read_answers_compact_json(http: httpx.Client) -> None:
    for path in READS:
        answer = http.get(path)
        value = ok(answer)
        assert answer.text == json.dumps(value, separators=(",", ":"), ensure_ascii=False), path


def test_types_that_clients_rely_on(http: httpx.Client) -> None:
    (shard, *_) = ok(http.get("/v1/shards"))
    assert [type(shard[key]) for key in ("uid", "node_uid", "bdb_uid")] == [str, str, int]
    assert (shard["role"], shard["status"], shard["assigned_slots"]) == ("master", "active", "0-16383")
    assert shard["redis_info"] == {}
    info = ok(http.get("/v1/shards/1?extra_info_keys=used_memory&extra_info_keys=role&extra_info_keys=secret"))["redis_info"]
    assert set(info) == {"used_memory", "role"}
    node = ok(http.get("/v1/nodes/1"))
    for key in ("uid", "cores", "total_memory", "uptime"):
        assert type(node[key]) is int
    assert (node["status"], node["shard_list"], node["rack_id"]) == ("active", [1], "")
    database = ok(http.get("/v1/bdbs/1"))
    assert (database["tags"], database["module_list"], database["background_op"]) == ([], [], [{"status": "idle"}])
    endpoint = database["endpoints"][-1]
    assert (endpoint["addr_type"], endpoint["dns_name"], endpoint["node_uids"]) == ("external", "127.0.0.1", [1])
    assert ok(http.get("/v1/bdbs?fields=uid,endpoints"))[0].keys() == {"uid", "endpoints"}
    assert ok(http.get("/v1/bootstrap"))["bootstrap_status"]["state"] == "completed"
    assert type(ok(http.get("/v1/bootstrap"))["local_node_info"]["uid"]) is str
    assert ok(http.get("/v1/cluster"))["reserved_ports"] == []


def test_snapshots_and_the_mark_of_maintenance(api: RunningApi, http: httpx.Client) -> None:
    assert "maintenance_snapshot" not in ok(http.get("/v1/nodes/1/status"))
    assert ok(http.post("/v1/nodes/1/snapshots/mine", json={}))["node_uid"] == "1"
    refused(http.post("/v1/nodes/1/snapshots/mine", json={}), 409, "snapshot_exists")
    name = "maintenance_mode_2026-01-02_03-04-05"
    api.put(Snapshot(NodeUid(1), name, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))
    taken = {"created_time": "2026-01-02 03:04:05", "name": name, "node_uid": "1"}
    assert ok(http.get("/v1/nodes/1/status"))["maintenance_snapshot"] == taken
    assert ok(http.get(f"/v1/nodes/1/snapshots/{name}")) == taken
    refused(http.delete(f"/v1/nodes/1/snapshots/{name}"), 403, "maintenance_snapshot")
    assert ok(http.delete("/v1/nodes/1/snapshots/mine"))["name"] == "mine"
    assert [s["name"] for s in ok(http.get("/v1/nodes/1/snapshots"))] == [name]


def test_every_change_is_in_the_log(api: RunningApi, http: httpx.Client) -> None:
    changes = [
        ("POST", "/v1/nodes", {}, "node_add_request"),
        ("PUT", "/v1/nodes/1", {"max_listeners": 7}, "node_change_request"),
        ("POST", "/v1/bdbs", {"name": "x", "memory_size": 5_000_000}, "bdb_create_request"),
        ("POST", "/v1/nodes/1/snapshots/s", {}, "node_snapshot_created"),
        ("DELETE", "/v1/nodes/1/snapshots/s", {}, "node_snapshot_deleted"),
        ("POST", "/v1/nodes/1/actions/maintenance_on", {}, "maintenance_on_request"),
        ("DELETE", "/v1/nodes/1/actions/maintenance_on", {}, "maintenance_on_cancel_request"),
        ("POST", "/v1/nodes/2/actions/enslave_node", {}, "step_down_request"),
        ("POST", "/v1/nodes/3/actions/remove", {}, "node_remove_request"),
        ("PUT", "/v1/bdbs/1", {"eviction_policy": "noeviction"}, "bdb_update_request"),
        ("DELETE", "/v1/bdbs/2", {}, "bdb_delete_request"),
        ("PUT", "/v1/cluster", {"email_alerts": True}, "cluster_options_changed"),
        ("PUT", "/v1/cluster/policy", {"slave_ha": False}, "cluster_policy_changed"),
        ("POST", "/v1/users", {"email": "a@b.c", "password": "secret-word", "role": "admin"}, "user_created"),
        ("PUT", "/v1/users/8", {"role": "db_viewer"}, "user_changed"),
        ("DELETE", "/v1/users/8", {}, "user_deleted"),
    ]
    for method, path, body, _ in changes:
        ok(http.request(method, path, json=body))
    log = ok(http.get("/v1/logs"))
    assert [line["type"] for line in log] == [kind for *_, kind in changes]
    assert {line["by"] for line in log} == {"admin@example.com"}
    assert "secret-word" not in json.dumps(log)
    for line in log:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"])
    assert [line["type"] for line in ok(http.get("/v1/logs?order=desc&limit=1"))] == ["user_deleted"]


def test_a_locked_store_is_reported(api: RunningApi, http: httpx.Client) -> None:
    import sqlite3
    from contextlib import closing

    ok(http.get("/v1/nodes"))
    path = api.certificate.parent / "store.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        refused(http.post("/v1/nodes/1/actions/maintenance_on"), 503, "store_unavailable")
        locker.execute("ROLLBACK")
    ok(http.post("/v1/nodes/1/actions/maintenance_on"))


def test_the_absence_of_live_daemons_is_visible() -> None:
    view = default_view()
    with RunningApi(view) as api, api.client() as http:
        api.write(DeleteKey(keys.key_of(view.daemons[NodeUid(3)])))
        assert ok(http.get("/v1/nodes/3"))["status"] == "down"
        assert ok(http.post("/v1/nodes"))["status"] == "provisioning"
        assert "node" in refused(
            http.post("/v1/bdbs", json={"name": "x", "memory_size": 12 * 2**30}), 406, "insufficient_resources"
        )
