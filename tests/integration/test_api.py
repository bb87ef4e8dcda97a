"""The API through TLS on a real store: node actions, databases, users, permissions, and bad input that changes nothing."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from api_harness import PASSWORD, RunningApi, default_view

from shardwright.model.account import ManagementRole
from shardwright.model.action import ActionStatus
from shardwright.model.cluster import RemovedNode, Snapshot
from shardwright.model.database import DatabaseStatus
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.store import keys
from shardwright.store.protocol import DeleteKey

GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def api() -> Iterator[RunningApi]:
    with RunningApi() as running:
        yield running


@pytest.fixture
def http(api: RunningApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def ok(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content) > 0
    return answer.json()


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error_code", "description", "message"}
    assert body["error_code"] == code, body
    assert body["message"] == body["description"] != ""
    return str(body["description"])


# -- node actions ------------------------------------------------------------------------------------------------------


def test_an_action_from_post_to_forgotten(api: RunningApi, http: httpx.Client) -> None:
    assert ok(http.get("/v1/nodes/1/actions")) == {"actions": []}
    started = ok(http.post("/v1/nodes/1/actions/maintenance_on"))
    assert GUID.fullmatch(started["action_uid"])
    assert started["task_id"] == started["action_uid"]
    assert (started["status"], started["node_uid"], started["progress"]) == ("queued", "1", 0.0)
    assert started["description"] == "maintenance_on was queued for node 1"
    uid = started["action_uid"]
    assert api.bare("locks/nodes/00000001") == uid
    refused(http.post("/v1/nodes/1/actions/maintenance_on"), 409, "node_action_in_progress")
    refused(http.post("/v1/nodes/1/actions/enslave_node"), 409, "node_action_in_progress")
    (listed,) = ok(http.get("/v1/nodes/actions"))["actions"]
    assert listed["action_uid"] == uid
    assert ok(http.get(f"/v1/actions/{uid}"))["progress"] == "0"
    assert isinstance(ok(http.get(f"/v2/actions/{uid}"))["progress"], float)
    api.set_action(uid, ActionStatus.COMPLETED, progress=100.0, ended_at=datetime.now(UTC))
    assert ok(http.get("/v1/nodes/1/actions/maintenance_on"))["status"] == "completed"
    again = ok(http.post("/v1/nodes/1/actions/maintenance_on", content=b"null"))
    assert again["action_uid"] != uid
    assert ok(http.get("/v1/nodes/1/actions/maintenance_on"))["action_uid"] == again["action_uid"]
    api.set_action(again["action_uid"], ActionStatus.FAILED, error_code="insufficient_resources", error_message="no room")
    failed = ok(http.get("/v1/nodes/1/actions/maintenance_on"))
    assert (failed["error_code"], failed["error_message"]) == ("insufficient_resources", "no room")
    assert ok(http.delete("/v1/nodes/1/actions/maintenance_on"))["status"] == "failed"
    refused(http.delete("/v1/nodes/1/actions/maintenance_on"), 404, "action_not_found")
    refused(http.get("/v1/nodes/1/actions/maintenance_on"), 404, "action_not_found")
    assert ok(http.get(f"/v1/actions/{again['action_uid']}"))["status"] == "failed", "a poller by uid meets no 404"


def test_cancel(api: RunningApi, http: httpx.Client) -> None:
    uid = ok(http.post("/v1/nodes/2/actions/remove", json={}))["action_uid"]
    for _ in range(2):
        shown = ok(http.request("DELETE", "/v1/nodes/2/actions/remove_node", json={"ignored": 1}))
        assert (shown["status"], shown["name"]) == ("cancelling", "remove_node")
    action = next(iter(api.view().actions.values()))
    assert (action.uid, action.status, action.cancel_requested_by) == (uid, ActionStatus.QUEUED, "admin@example.com")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{}", "application/x-www-form-urlencoded"),
        (b"", ""),
        (b"null", "application/json"),
        (b"{}", "application/json;charset=utf-8"),
        (b" \n", "text/plain"),
    ],
)
def test_bodies_that_say_nothing(http: httpx.Client, content: bytes, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    assert ok(http.post("/v1/nodes/1/actions/remove", content=content, headers=headers))["name"] == "remove_node"


def test_a_dry_run_says_what_would_move_and_starts_nothing(api: RunningApi, http: httpx.Client) -> None:
    before = api.everything()
    shown = ok(http.post("/v1/nodes/2/actions/remove?dry_run"))
    assert (shown["status"], shown["name"], shown["dry_run"]) == ("possible", "remove_node", True)
    assert {(move["what"], move["from"]) for move in shown["moves"]} >= {("redis:2", "node:2"), ("redis:3", "node:2")}
    assert "action_uid" not in shown
    for action in ("maintenance_on", "maintenance_off", "enslave_node"):
        shown = ok(http.post(f"/v1/nodes/2/actions/{action}?dry_run=true"))
        assert shown["status"] in ("possible", "failed"), shown
    stepping = ok(http.post("/v1/nodes/2/actions/enslave_node?dry_run=true"))
    assert (stepping["status"], stepping["moves"]) == ("failed", [])
    assert [reason["shard_uid"] for reason in stepping["reasons"]] == ["3"], "the primary without a replica is named"
    refused(http.post("/v1/nodes/2/actions/remove?dry_run", content=b"[]"), 400, "invalid_request")
    assert api.everything() == before


def test_a_removal_closes_the_node_at_once_and_stays_so(api: RunningApi, http: httpx.Client) -> None:
    uid = ok(http.post("/v1/nodes/3/actions/remove"))["action_uid"]
    assert ok(http.get("/v1/nodes/3"))["accept_servers"] is False
    refused(http.post("/v1/nodes/2/actions/remove"), 409, "remove_in_progress")
    refused(http.put("/v1/nodes/3", json={"accept_servers": True}), 409, "node_action_in_progress")
    api.set_action(uid, ActionStatus.FAILED, error_code="insufficient_resources", error_message="no room")
    assert ok(http.get("/v1/nodes/3"))["accept_servers"] is False
    assert ok(http.put("/v1/nodes/3", json={"accept_servers": True}))["accept_servers"] is True


def test_a_removed_node_stays_readable_for_a_while(api: RunningApi, http: httpx.Client) -> None:
    uid = ok(http.post("/v1/nodes/3/actions/remove"))["action_uid"]
    api.set_action(uid, ActionStatus.COMPLETED)
    node, now = api.view().nodes[NodeUid(3)], datetime.now(UTC)
    api.write(DeleteKey(keys.key_of(node)))
    api.put(RemovedNode(NodeUid(3), now, now + timedelta(hours=1)))
    refused(http.get("/v1/nodes/3"), 404, "node_not_found")
    assert ok(http.get("/v1/nodes/3/actions/remove"))["progress"] == 100.0
    assert [a["action_uid"] for a in ok(http.get("/v1/nodes/3/actions"))["actions"]] == [uid]
    assert ok(http.get(f"/v1/actions/{uid}"))["status"] == "completed"
    refused(http.post("/v1/nodes/3/actions/remove"), 404, "node_not_found")
    api.put(RemovedNode(NodeUid(3), now, now - timedelta(seconds=1)))
    refused(http.get("/v1/nodes/3/actions"), 404, "node_not_found")
    assert ok(http.get("/v1/nodes/actions")) == {"actions": []}


# -- bad input changes nothing -----------------------------------------------------------------------------------------

BAD: list[tuple[str, str, bytes, int, str]] = [
    ("POST", "/v1/nodes/9/actions/remove", b"", 404, "node_not_found"),
    ("POST", "/v1/nodes/1/actions/drain", b"", 400, "invalid_action"),
    ("POST", "/v1/nodes/1/actions/remove", b"{", 400, "invalid_request"),
    ("POST", "/v1/nodes/1/actions/remove", b"[]", 400, "invalid_request"),
    ("POST", "/v1/nodes/1/actions/remove", b'"x"', 400, "invalid_request"),
    ("POST", "/v1/nodes/1/actions/remove", b'{"wait_for_persistence":1}', 400, "invalid_parameter"),
    ("POST", "/v1/nodes/9/actions/remove?dry_run=true", b"", 404, "node_not_found"),
    ("POST", "/v1/nodes/1/actions/remove?dry_run=maybe", b"", 400, "invalid_parameter"),
    ("POST", "/v1/nodes/1/actions/maintenance_on", b'{"evict_dbs":["77"]}', 400, "invalid_parameter"),
    (
        "POST",
        "/v1/nodes/1/actions/maintenance_off",
        b'{"snapshot_name":"a","skip_shards_restore":true}',
        400,
        "conflicting_parameters",
    ),
    ("POST", "/v1/nodes/1/actions/maintenance_on", b"x" * (1024 * 1024 + 1), 413, "body_too_large"),
    ("POST", "/v1/nodes/1/actions/remove", b'{"a":' * 3000, 400, "invalid_request"),
    ("POST", "/v1/nodes/1/actions", b'{"action":"remove"}', 405, "method_not_allowed"),
    ("DELETE", "/v1/nodes/1", b"", 405, "method_not_allowed"),
    ("POST", "/v1/nodes/1", b'{"maintenance_mode":true}', 405, "method_not_allowed"),
    ("DELETE", "/v1/nodes/1/actions/remove", b"", 404, "action_not_found"),
    ("DELETE", "/v1/nodes/1/actions/drain", b"", 404, "action_not_found"),
    ("GET", "/v1/nodes/1/actions/drain", b"", 404, "action_not_found"),
    ("GET", "/v1/nodes/99999999999999999999999999", b"", 404, "node_not_found"),
    ("GET", "/v1/nodes/one", b"", 404, "not_found"),
    ("GET", "/v1/nodes/-1", b"", 404, "not_found"),
    ("GET", "/v1/nodes/" + "9" * 3000, b"", 414, "uri_too_long"),
    ("PUT", "/v1/nodes/9", b"{}", 404, "node_not_found"),
    ("PUT", "/v1/nodes/1", b'{"accept_servers":"no"}', 400, "invalid_parameter"),
    ("PUT", "/v1/nodes/1", b'{"accept_servers":false}', 406, "node_already_populated"),
    ("POST", "/v1/nodes", b'{"addr":"10.0.0.1"}', 400, "invalid_address"),
    ("POST", "/v1/nodes/1/snapshots/maintenance_mode_x", b"", 400, "invalid_snapshot_name"),
    ("DELETE", "/v1/nodes/1/snapshots/none", b"", 404, "snapshot_not_found"),
    ("POST", "/v1/bdbs", b"{}", 400, "missing_db_name"),
    ("POST", "/v1/bdbs", b'{"name":"orders","memory_size":10000000}', 409, "name_violation"),
    ("POST", "/v1/bdbs", b'{"name":"x","memory_size":"1"}', 400, "invalid_parameter"),
    ("POST", "/v1/bdbs", b'{"name":"x","memory_size":10000000,"shards_count":2}', 406, "invalid_sharding"),
    ("POST", "/v1/bdbs", b'{"name":"x","memory_size":90000000000000}', 406, "insufficient_resources"),
    (
        "POST",
        "/v1/bdbs",
        b'{"name":"x","memory_size":10000000,"server":"redis","redis_version":"1"}',
        406,
        "invalid_version",
    ),
    ("PUT", "/v1/bdbs/1", b'{"port":12000}', 406, "port_unavailable"),
    ("PUT", "/v1/bdbs/9", b"{}", 404, "db_not_found"),
    ("DELETE", "/v1/bdbs/9", b"", 404, "db_not_found"),
    ("GET", "/v1/shards/99", b"", 404, "shard_not_exist"),
    ("GET", "/v1/actions/none", b"", 404, "action_not_found"),
    ("GET", "/v1/actions/bdb/9", b"", 404, "db_not_found"),
    ("PUT", "/v1/cluster", b'{"name":"other"}', 406, "invalid_configuration"),
    ("PUT", "/v1/cluster/policy", b'{"slave_ha":1}', 400, "invalid_parameter"),
    ("POST", "/v1/users", b'{"email":"x","password":"longenough","role":"admin"}', 400, "invalid_email"),
    (
        "POST",
        "/v1/users",
        b'{"email":"ADMIN@example.com","password":"longenough","role":"admin"}',
        409,
        "email_already_exists",
    ),
    ("DELETE", "/v1/users/1", b"", 406, "change_last_admin_role_not_allowed"),
    ("PUT", "/v1/users/1", b'{"role":"db_viewer"}', 406, "change_last_admin_role_not_allowed"),
    ("DELETE", "/v1/users/77", b"", 404, "user_not_exist"),
    ("PUT", "/v1/users/password", b'{"old_password":"wrong","new_password":"longenough"}', 401, "wrong_password"),
    ("PUT", "/v1/users/password", b'{"new_password":"longenough"}', 401, "wrong_password"),
    ("PUT", "/v1/license", b'{"license":"x"}', 406, "license_not_needed"),
    ("GET", "/v1/logs?order=up", b"", 400, "invalid_parameter"),
    ("PATCH", "/v1/nodes/1", b"", 405, "method_not_allowed"),
    ("DELETE", "/v1/actions/x", b"", 405, "method_not_allowed"),
]
ABSENT = [
    "/v1/cluster/settings",
    "/v1/cluster/topology",
    "/v1/cluster/alert_settings",
    "/v1/endpoints",
    "/v1/endpoints/1:1",
    "/v1/license/usage",
    "/v1/roles/builtin",
    "/v1/nodes/1/endpoints",
    "/v1/bootstrap/join",
    "/docs",
    "/",
    "/v1/nodes/",
    "//v1/nodes",
]


def test_bad_input_changes_nothing(api: RunningApi, http: httpx.Client) -> None:
    before = api.everything()
    for method, path, content, status, code in BAD:
        answer = http.request(method, path, content=content)
        assert answer.status_code == status, (method, path, answer.text)
        refused(answer, status, code)
    for path in ABSENT:
        refused(http.get(path), 404, "not_found")
    for method, path in (("POST", "/v1/bootstrap"), ("DELETE", "/v1/bootstrap"), ("POST", "/v1/license/validate")):
        assert http.request(method, path).status_code in (404, 405)
    assert api.everything() == before


def test_hints_and_allowed_methods(http: httpx.Client) -> None:
    text = refused(http.post("/v1/nodes/7/actions", json={"action": "remove"}), 405, "method_not_allowed")
    assert "/v1/nodes/7/actions/<action>" in text
    assert "/v1/nodes/7/actions/remove" in refused(http.delete("/v1/nodes/7"), 405, "method_not_allowed")
    assert http.delete("/v1/nodes/7").headers["allow"] == "GET, OPTIONS, PUT"
    options = http.options("/v1/nodes/1/actions/remove")
    assert ok(options) == {}
    assert options.headers["allow"] == "DELETE, GET, OPTIONS, POST"
    refused(http.options("/v1/nowhere"), 404, "not_found")


def test_a_chunked_body_is_bounded_too(api: RunningApi, http: httpx.Client) -> None:
    def chunks(count: int) -> Iterator[bytes]:
        for _ in range(count):
            yield b" " * 65_536

    refused(http.post("/v1/nodes/1/actions/remove", content=chunks(40)), 413, "body_too_large")
    assert not api.view().actions
    ok(http.post("/v1/nodes/1/actions/remove", content=chunks(16)))


def test_versions(http: httpx.Client) -> None:
    refused(http.get("/v1/cluster", headers={"x-api-version": "99"}), 505, "unsupported_api_version")
    answer = http.get("/v1/cluster", headers={"x-api-version": "1"})
    ok(answer)
    assert int(answer.headers["cluster-state-id"]) > 0


# -- who may -----------------------------------------------------------------------------------------------------------


def test_no_credentials_no_answer(api: RunningApi) -> None:
    before = api.everything()
    with api.client(None) as http:
        for method, path in [
            ("GET", "/v1/nodes"),
            ("POST", "/v1/nodes/1/actions/remove"),
            ("GET", "/nope"),
            ("OPTIONS", "/"),
        ]:
            answer = http.request(method, path)
            refused(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"].startswith("Basic")
        for auth in (("admin@example.com", "wrong"), ("nobody@example.com", PASSWORD), ("", ""), ("admin@example.com", "")):
            refused(http.get("/v1/nodes", auth=auth), 401, "unauthenticated")
        ok(http.get("/v1/nodes", auth=("ADMIN@EXAMPLE.COM", PASSWORD)))
        refused(http.post("/v1/bdbs", content=b"x" * 3_000_000), 401, "unauthenticated")
    assert api.everything() == before


def test_roles(api: RunningApi) -> None:
    before = api.everything()
    roles = [role for role in ManagementRole if role not in (ManagementRole.ADMIN, ManagementRole.NONE)]
    for role in roles:
        with api.client(role) as http:
            ok(http.get("/v1/nodes/1/actions"))
            ok(http.get("/v1/nodes"))
            for method in ("POST", "DELETE"):
                refused(http.request(method, "/v1/nodes/1/actions/remove"), 403, "forbidden")
            refused(http.put("/v1/nodes/1", json={}), 403, "forbidden")
            sees_password = "authentication_redis_pass" in ok(http.get("/v1/bdbs/1"))
            assert sees_password is (role not in (ManagementRole.CLUSTER_VIEWER, ManagementRole.DB_VIEWER))
            sees_users = role is ManagementRole.USER_MANAGER
            assert http.get("/v1/users").status_code == (200 if sees_users else 403)
    with api.client(ManagementRole.NONE) as http:
        for path in ("/v1/nodes", "/v1/nodes/actions", "/v1/bdbs", "/v1/cluster", "/v1/logs", "/v1/actions"):
            refused(http.get(path), 403, "forbidden")
    assert api.everything() == before


def test_a_changed_password_counts_at_once(api: RunningApi, http: httpx.Client) -> None:
    made = ok(http.post("/v1/users", json={"email": "a@b.c", "password": "first-one", "role": "db_viewer"}))
    auth = ("a@b.c", "first-one")
    ok(http.get("/v1/nodes", auth=auth))
    wish = {"old_password": "first-one", "new_password": "second-one"}
    refused(http.put("/v1/users/password", auth=auth, json={**wish, "username": "admin@example.com"}), 403, "forbidden")
    same = {"old_password": "first-one", "new_password": "first-one"}
    refused(http.put("/v1/users/password", auth=auth, json=same), 400, "new_password_same_as_current")
    ok(http.put("/v1/users/password", auth=auth, json=wish))
    refused(http.get("/v1/nodes", auth=auth), 401, "unauthenticated")
    ok(http.get("/v1/nodes", auth=("a@b.c", "second-one")))
    ok(http.put(f"/v1/users/{made['uid']}", json={"password": "third-one", "name": "A"}))
    refused(http.get("/v1/nodes", auth=("a@b.c", "second-one")), 401, "unauthenticated")
    ok(http.delete(f"/v1/users/{made['uid']}"))
    refused(http.get("/v1/nodes", auth=("a@b.c", "third-one")), 401, "unauthenticated")
    ok(http.post("/v1/users", json={"email": "a@b.c", "password": "first-one", "role_uids": [5]}))


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
            return dict(ok(http.post("/v1/bdbs", json={"name": f"db-{number % 6}", "memory_size": 2_000_000})))

    with api.client() as http:  # the slow first verification of the password is done once
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


# -- shapes ------------------------------------------------------------------------------------------------------------

READS = [
    "/v1/actions",
    "/v1/bdbs",
    "/v1/bdbs/1",
    "/v1/bdbs/1/availability",
    "/v1/bdbs/1/availability?extend_check=lag&availability_lag_tolerance_ms=100",
    "/v1/bdbs/1/shards",
    "/v1/bootstrap",
    "/v1/cluster",
    "/v1/cluster/policy",
    "/v1/cluster/stats",
    "/v1/cluster/stats/last",
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


def test_snapshots_and_the_sign_of_maintenance(api: RunningApi, http: httpx.Client) -> None:
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
        ("POST", "/v1/bdbs", {"name": "x", "memory_size": 2_000_000}, "bdb_create_request"),
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


def test_a_locked_store_is_said_so(api: RunningApi, http: httpx.Client) -> None:
    import sqlite3
    from contextlib import closing

    ok(http.get("/v1/nodes"))
    path = api.certificate.parent / "store.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        refused(http.post("/v1/nodes/1/actions/maintenance_on"), 503, "store_unavailable")
        locker.execute("ROLLBACK")
    ok(http.post("/v1/nodes/1/actions/maintenance_on"))


def test_without_a_live_daemon_nothing_hides_it() -> None:
    view = default_view()
    with RunningApi(view) as api, api.client() as http:
        api.write(DeleteKey(keys.key_of(view.daemons[NodeUid(3)])))
        assert ok(http.get("/v1/nodes/3"))["status"] == "down"
        assert ok(http.post("/v1/nodes"))["status"] == "provisioning"
        assert "node" in refused(
            http.post("/v1/bdbs", json={"name": "x", "memory_size": 12 * 2**30}), 406, "insufficient_resources"
        )
