"""Bad input of every kind is refused with a code and changes nothing: the store is compared before and after."""

import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.e2e.rest_harness import Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e]
ACTIONS = ("remove", "maintenance_on", "maintenance_off", "enslave_node")
MIB = 1024 * 1024
DB: Json = {"name": "fine", "memory_size": 10_000_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    with RestCluster() as running:
        running.create("orders", replication=True, port=12000)
        running.create("cache")
        for role in ("cluster_member", "cluster_viewer", "db_member", "db_viewer", "user_manager"):
            user = {"email": f"{role}@example.com", "password": "Good-pass-1", "name": role, "role": role}
            running.ok("POST", "/v1/users", user)
        yield running


@pytest.fixture(autouse=True)
def _unchanged(cluster: RestCluster) -> Iterator[None]:
    """Nothing that a request can change is different after any of these tests."""
    with cluster.unchanged():
        yield


@pytest.mark.parametrize("action", ACTIONS)
def test_unknown_nodes(cluster: RestCluster, action: str) -> None:
    for node in ("99", "0", "99999999999999999999"):
        path = f"/v1/nodes/{node}/actions/{action}"
        cluster.refused("POST", path, 404, "node_not_found", {})
        cluster.refused("GET", path, 404, "node_not_found")
        cluster.refused("DELETE", path, 404, "node_not_found")
    for node in ("-1", "one", "1.5", "1e0", "%00"):
        cluster.refused("POST", f"/v1/nodes/{node}/actions/{action}", 404, "not_found", {})


def test_unknown_nodes_elsewhere(cluster: RestCluster) -> None:
    for path in ("/v1/nodes/99", "/v1/nodes/99/status", "/v1/nodes/99/snapshots", "/v1/nodes/99/actions"):
        cluster.refused("GET", path, 404, "node_not_found")
    cluster.refused("PUT", "/v1/nodes/99", 404, "node_not_found", {"accept_servers": True})
    cluster.refused("POST", "/v1/nodes/99/snapshots/x", 404, "node_not_found", {})
    cluster.refused("DELETE", "/v1/nodes/99/snapshots/x", 404, "node_not_found")


@pytest.mark.parametrize("word", ["rebalance", "drain", "restart", "REMOVE", "maintenance", "remove%20", "x" * 300])
def test_unknown_actions(cluster: RestCluster, word: str) -> None:
    path = f"/v1/nodes/1/actions/{word}"
    cluster.refused("POST", path, 400, "invalid_action", {})
    cluster.refused("GET", path, 404, "action_not_found")
    cluster.refused("DELETE", path, 404, "action_not_found")


def test_aliases_give_a_hint(cluster: RestCluster) -> None:
    said = cluster.refused("POST", "/v1/nodes/1/actions", 405, "method_not_allowed", {"action": "remove", "node_uid": "1"})
    assert "/actions/" in said
    said = cluster.refused("DELETE", "/v1/nodes/1", 405, "method_not_allowed")
    assert "actions/remove" in said
    cluster.refused("POST", "/v1/nodes/1", 405, "method_not_allowed", {"maintenance_mode": True})


_WRONG_TYPES: list[tuple[str, Json]] = [
    ("remove", {"wait_for_persistence": 1}),
    ("remove", {"wait_for_persistence": "true"}),
    ("maintenance_on", {"overwrite_snapshot": "yes"}),
    ("maintenance_on", {"evict_ha_replica": 0}),
    ("maintenance_on", {"evict_active_active_replica": []}),
    ("maintenance_on", {"evict_dbs": "1"}),
    ("maintenance_on", {"evict_dbs": [1.0]}),
    ("maintenance_on", {"evict_dbs": [True]}),
    ("maintenance_on", {"evict_dbs": [None]}),
    ("maintenance_on", {"evict_dbs": ["1", "77"]}),
    ("maintenance_on", {"evict_dbs": ["-1"]}),
    ("maintenance_on", {"evict_dbs": ["orders;drop"]}),
    ("maintenance_on", {"keep_slave_shards": "false"}),
    ("maintenance_on", {"demote_node": 1}),
    ("maintenance_on", {"max_concurrent_actions": "3"}),
    ("maintenance_on", {"max_concurrent_actions": -1}),
    ("maintenance_on", {"max_concurrent_actions": 1.5}),
    ("maintenance_off", {"snapshot_name": 5}),
    ("maintenance_off", {"snapshot_name": ["a"]}),
    ("maintenance_off", {"skip_shards_restore": "true"}),
    ("enslave_node", {"retry_timeout_seconds": "10"}),
    ("enslave_node", {"retry_timeout_seconds": -5}),
    ("enslave_node", {"endpoints_only": 1}),
]


@pytest.mark.parametrize(("action", "body"), _WRONG_TYPES, ids=lambda value: str(value)[:60])
def test_wrong_types(cluster: RestCluster, action: str, body: Json) -> None:
    said = cluster.refused("POST", f"/v1/nodes/1/actions/{action}", 400, "invalid_parameter", body)
    assert next(iter(body)) in said


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("query", ["dryrun=true", "dry_run=true&plan-id=x", "DRY_RUN=true", "force", "=", "mode=stop"])
def test_misspelt_query_parameters(cluster: RestCluster, action: str, query: str) -> None:
    cluster.refused("POST", f"/v1/nodes/1/actions/{action}?{query}", 400, "unknown_parameter", {})


def test_the_nearest_query_parameter_is_named(cluster: RestCluster) -> None:
    said = cluster.refused("POST", "/v1/nodes/1/actions/remove?dryrun=true", 400, "unknown_parameter", {})
    assert "'dryrun'" in said
    assert "Did you mean dry_run?" in said
    for method, path in (
        ("DELETE", "/v1/nodes/1/actions/remove?modus=undo"),
        ("DELETE", "/v1/bdbs/1?dry_run=true"),
        ("PUT", "/v1/bdbs/1?dryrun=1"),
        ("POST", "/v1/bdbs?dry-run=true"),
        ("PUT", "/v1/nodes/1?dry_run=true"),
        ("POST", "/v1/nodes/1/snapshots/mine?dry_run=true"),
    ):
        cluster.refused(method, path, 400, "unknown_parameter", {} if method != "DELETE" else None)


def test_reads_ignore_unknown_parameters(cluster: RestCluster) -> None:
    assert cluster.ok("GET", "/v1/bdbs/1?nonsense=1")["uid"] == 1


def test_unknown_keys_are_reported(cluster: RestCluster) -> None:
    body = {"evict_ha_replicas": False, "overwrite_snapshot": True, "node_uid": None, "action": "maintenance_on"}
    shown = cluster.ok("POST", "/v1/nodes/1/actions/maintenance_on?dry_run=true", body)
    assert shown["ignored"] == ["evict_ha_replicas", "action"]
    assert "ignored" not in cluster.ok("POST", "/v1/nodes/1/actions/remove?dry_run=true", {"wait_for_persistence": True})


def test_contradictory_parameters(cluster: RestCluster) -> None:
    contradictions: list[tuple[str, Json]] = [
        ("maintenance_off", {"snapshot_name": "a", "skip_shards_restore": True}),
        ("maintenance_on", {"keep_slave_shards": True, "evict_ha_replica": True}),
        ("maintenance_on", {"keep_slave_shards": True, "evict_active_active_replica": True}),
        ("enslave_node", {"endpoints_only": True, "shards_only": True}),
    ]
    for action, body in contradictions:
        cluster.refused("POST", f"/v1/nodes/1/actions/{action}", 400, "conflicting_parameters", body)


_NOT_OBJECTS = [b"[]", b'["remove"]', b'"remove"', b"1", b"1.5", b"true", b"false"]
_NOT_JSON = [
    *(b"{", b"}", b"{}{}", b"{'a':1}", b'{"a":NaN}', b"nul", b"a=b&c=d", b"<xml/>", b"\xff\xfe", b"\x00", b'{"a":1,}'),
    *(b"[" * 100_000, b'{"a":"\xed\xa0\x80"}', b'{"snapshot_name":"\\ud800"}'),
]


@pytest.mark.parametrize("body", [*_NOT_OBJECTS, *_NOT_JSON], ids=lambda body: repr(body[:20]))
def test_bodies_that_are_not_json_objects(cluster: RestCluster, body: bytes) -> None:
    for method, path in (
        *(("POST", f"/v1/nodes/1/actions/{action}") for action in ACTIONS),
        *(
            ("POST", "/v1/bdbs"),
            ("PUT", "/v1/bdbs/1"),
            ("PUT", "/v1/nodes/1"),
            ("PUT", "/v1/cluster"),
            ("POST", "/v1/users"),
        ),
        ("PUT", "/v1/cluster/policy"),
    ):
        cluster.refused(method, path, 400, "invalid_request", content=body)


def test_oversized_bodies(cluster: RestCluster) -> None:
    largest = b'{"name":"' + b"x" * (MIB - 11) + b'"}'
    assert len(largest) == MIB
    for path in ("/v1/nodes/1/actions/remove", "/v1/bdbs"):
        cluster.refused("POST", path, 413, "body_too_large", content=largest + b" ")
        cluster.refused("POST", path, 413, "body_too_large", content=iter([largest, b" "]))
        cluster.refused("POST", path, 413, "body_too_large", content=iter([b" " * 65536] * 64))
    cluster.refused("POST", "/v1/bdbs", 400, "invalid_parameter", content=largest)


def test_broken_http(cluster: RestCluster) -> None:
    """A missing body, a wrong length, and input that is not HTTP: the server continues."""
    host = cluster.url().removeprefix("https://").partition(":")[0]
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for sent in (
        b"POST /v1/nodes/1/actions/remove HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{",
        b"POST /v1/nodes/1/actions/remove HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{}",
        b"POST /v1/nodes/1/actions/remove HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",
        b"POST /v1/nodes/1/actions/remove HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01 not HTTP\r\n\r\n",
    ):
        with socket.create_connection((host, 9443), timeout=5) as plain, context.wrap_socket(plain) as secured:
            secured.sendall(sent)
            secured.settimeout(0.3)
            try:
                answer = secured.recv(4096)
            except (TimeoutError, ssl.SSLError, ConnectionError):
                answer = b""
            assert b" 200 " not in answer.partition(b"\r\n")[0]
    assert cluster.get("/v1/cluster")["name"]


@pytest.mark.parametrize("role", ["cluster_member", "cluster_viewer", "db_member", "db_viewer", "user_manager"])
def test_wrong_roles(cluster: RestCluster, role: str) -> None:
    auth = (f"{role}@example.com", "Good-pass-1")
    for action in ACTIONS:
        cluster.refused("POST", f"/v1/nodes/1/actions/{action}", 403, "forbidden", {}, auth=auth)
        cluster.refused("DELETE", f"/v1/nodes/1/actions/{action}", 403, "forbidden", auth=auth)
    cluster.refused("PUT", "/v1/nodes/1", 403, "forbidden", {"accept_servers": False}, auth=auth)
    cluster.refused("PUT", "/v1/cluster", 403, "forbidden", {"name": "mine"}, auth=auth)
    cluster.refused("PUT", "/v1/cluster/policy", 403, "forbidden", {"slave_ha": False}, auth=auth)
    cluster.refused("POST", "/v1/nodes/1/snapshots/mine", 403, "forbidden", {}, auth=auth)
    if role not in ("cluster_member", "db_member"):
        cluster.refused("POST", "/v1/bdbs", 403, "forbidden", DB, auth=auth)
        cluster.refused("PUT", "/v1/bdbs/1", 403, "forbidden", {"memory_size": 20_000_000}, auth=auth)
        cluster.refused("DELETE", "/v1/bdbs/1", 403, "forbidden", auth=auth)
    if role != "user_manager":
        cluster.refused("GET", "/v1/users", 403, "forbidden", auth=auth)


def test_no_credentials(cluster: RestCluster) -> None:
    nobody = ("", "")
    for method, path in (
        *(("POST", f"/v1/nodes/1/actions/{action}") for action in ACTIONS),
        *(
            ("DELETE", "/v1/bdbs/1"),
            ("PUT", "/v1/nodes/1"),
            ("POST", "/v1/bdbs"),
            ("PUT", "/v1/cluster"),
            ("GET", "/v1/users"),
        ),
        ("POST", "/v1/nowhere"),
    ):
        cluster.refused(method, path, 401, "unauthenticated", auth=nobody)
    for header in ("Basic", "Basic !!!", "Basic YQ==", "Bearer x", "JWT x", "Basic " + "A" * 5000):
        cluster.refused("GET", "/v1/nodes", 401, "unauthenticated", auth=_no_auth, headers={"Authorization": header})


def _no_auth(request):  # type: ignore[no-untyped-def]
    """Keeps the header that the test sets."""
    return request


_BAD_DATABASES: list[tuple[int, str, Json]] = [
    (400, "missing_db_name", {"memory_size": 10_000_000}),
    (400, "missing_memory_size", {"name": "fine"}),
    (400, "name_violation", {**DB, "name": "x" * 64}),
    (400, "invalid_parameter", {**DB, "name": "x" * 2000}),
    (400, "name_violation", {**DB, "name": "-x"}),
    (400, "name_violation", {**DB, "name": "a b"}),
    (400, "name_violation", {**DB, "name": "../../etc"}),
    (400, "name_violation", {**DB, "name": "näme"}),
    (409, "name_violation", {**DB, "name": "orders"}),
    (409, "name_violation", {**DB, "name": "ORDERS"}),
    (400, "invalid_parameter", {**DB, "name": 5}),
    (400, "invalid_parameter", {**DB, "memory_size": -1}),
    (400, "memory_size_too_small", {**DB, "memory_size": 10}),
    (400, "memory_size_too_small", {**DB, "memory_size": 7_000_000, "replication": True}),
    (400, "invalid_parameter", {**DB, "memory_size": "1gb"}),
    (400, "invalid_parameter", {**DB, "memory_size": 1.5e9}),
    (400, "invalid_parameter", {**DB, "memory_size": True}),
    (400, "invalid_parameter", {**DB, "memory_size": 10**30}),
    (406, "insufficient_resources", {**DB, "memory_size": 2**40}),
    (406, "insufficient_resources", {**DB, "memory_size": 9 * 2**30, "replication": True}),
    (406, "port_unavailable", {**DB, "port": 10050}),
    (406, "port_unavailable", {**DB, "port": 9999}),
    (406, "port_unavailable", {**DB, "port": 20000}),
    (406, "port_unavailable", {**DB, "port": 22}),
    (409, "port_unavailable", {**DB, "port": 12000}),
    (400, "invalid_parameter", {**DB, "port": -1}),
    (400, "invalid_parameter", {**DB, "port": 70000}),
    (400, "invalid_parameter", {**DB, "port": "12001"}),
    (400, "invalid_parameter", {**DB, "replication": "yes"}),
    (400, "invalid_parameter", {**DB, "replication": 1}),
    (400, "invalid_data_persistence", {**DB, "data_persistence": "always"}),
    (400, "invalid_data_persistence", {**DB, "data_persistence": "snapshot"}),
    (400, "invalid_data_persistence", {**DB, "data_persistence": "aof", "aof_policy": "sometimes"}),
    (400, "invalid_parameter", {**DB, "data_persistence": "snapshot", "snapshot_policy": [{"secs": -1, "writes": 1}]}),
    (400, "invalid_parameter", {**DB, "data_persistence": "snapshot", "snapshot_policy": "hourly"}),
    (400, "eviction_policy_violation", {**DB, "eviction_policy": "random"}),
    (406, "invalid_sharding", {**DB, "shards_count": 2}),
    (406, "invalid_sharding", {**DB, "sharding": True}),
    (400, "invalid_proxy_policy", {**DB, "proxy_policy": "none"}),
    (406, "invalid_oss_cluster_configuration", {**DB, "oss_cluster": True}),
    (406, "missing_module", {**DB, "module_list": [{"module_name": "search"}]}),
    (406, "not_rack_aware", {**DB, "rack_aware": True, "replication": True}),
    (406, "invalid_version", {**DB, "redis_version": "99.9"}),
    (406, "invalid_version", {**DB, "server": "postgres"}),
    (409, "uid_exists", {**DB, "uid": 1}),
    (400, "invalid_parameter", {**DB, "uid": "7"}),
    (400, "invalid_parameter", {**DB, "authentication_redis_pass": "x" * 600}),
    (400, "invalid_parameter", {**DB, "authentication_redis_pass": "a\r\nFLUSHALL"}),
    (400, "invalid_parameter", {**DB, "authentication_redis_pass": 12345}),
]


@pytest.mark.parametrize(("status", "code", "body"), _BAD_DATABASES, ids=lambda value: str(value)[:70])
def test_bad_databases(cluster: RestCluster, status: int, code: str, body: Json) -> None:
    cluster.refused("POST", "/v1/bdbs", status, code, body)


_BAD_CHANGES: list[tuple[int, str, Json]] = [
    (409, "name_violation", {"name": "cache"}),
    (400, "name_violation", {"name": "x" * 64}),
    (406, "port_unavailable", {"port": 12001}),
    (406, "insufficient_resources", {"memory_size": 2**40}),
    (400, "invalid_parameter", {"memory_size": -5}),
    (400, "memory_size_too_small", {"memory_size": 7_999_999}),
    (400, "invalid_parameter", {"replication": "off"}),
    (400, "invalid_data_persistence", {"data_persistence": "snapshot"}),
    (406, "invalid_sharding", {"shards_count": 3}),
    (406, "invalid_version", {"server": "redis"}),
    (406, "invalid_configuration", {"uid": 5}),
    (406, "invalid_configuration", {"tls_mode": "enabled"}),
    (406, "not_rack_aware", {"rack_aware": True}),
    (400, "eviction_policy_violation", {"eviction_policy": ""}),
]


@pytest.mark.parametrize(("status", "code", "body"), _BAD_CHANGES, ids=lambda value: str(value)[:70])
def test_bad_changes_of_databases(cluster: RestCluster, status: int, code: str, body: Json) -> None:
    cluster.refused("PUT", "/v1/bdbs/1", status, code, body)


def test_unknown_databases(cluster: RestCluster) -> None:
    for method in ("GET", "PUT", "DELETE"):
        body = {"memory_size": 20_000_000} if method == "PUT" else None
        cluster.refused(method, "/v1/bdbs/77", 404, "db_not_found", body)
    for path in ("/v1/bdbs/77/shards", "/v1/actions/bdb/77"):
        cluster.refused("GET", path, 404, "db_not_found")
    cluster.refused("GET", "/v1/bdbs/orders", 404, "not_found")
    cluster.refused("GET", "/v1/shards/77", 404, "shard_not_exist")
    for path in ("/v1/actions/nothing", "/v2/actions/nothing"):
        cluster.refused("GET", path, 404, "action_not_found")


def test_bad_changes_of_nodes(cluster: RestCluster) -> None:
    node = cluster.primary(1)
    path = f"/v1/nodes/{node}"
    for body in ({"accept_servers": 0}, {"accept_servers": "false"}, {"max_redis_servers": -1}, {"rack_id": 7}):
        cluster.refused("PUT", path, 400, "invalid_parameter", body)
    cluster.refused("PUT", path, 406, "node_already_populated", {"accept_servers": False})
    cluster.refused("PUT", path, 406, "node_already_has_rack_id", {"rack_id": "a"})
    cluster.refused("PUT", path, 406, "node_not_offline", {"addr": "127.0.0.99"})


def test_bad_snapshots(cluster: RestCluster) -> None:
    for name in ("maintenance_mode_2026-01-01_00-00-00", "a%20b", "x" * 200, "-x", "%2e%2e"):
        answer = cluster.call("POST", f"/v1/nodes/1/snapshots/{name}", {})
        assert answer.status_code in (400, 404, 405), (name, answer.text)
        assert answer.json()["error_code"]
    cluster.refused("DELETE", "/v1/nodes/1/snapshots/nothing", 404, "snapshot_not_found")


def test_bad_new_nodes(cluster: RestCluster) -> None:
    taken = cluster.node(1)["addr"]
    cluster.refused("POST", "/v1/nodes", 400, "invalid_address", {"addr": "not an address"})
    cluster.refused("POST", "/v1/nodes", 400, "invalid_address", {"addr": "10.0.0.1"})
    cluster.refused("POST", "/v1/nodes", 409, "invalid_address", {"addr": taken})
    cluster.refused("POST", "/v1/nodes", 400, "invalid_parameter", {"memory": -1})
    cluster.refused("POST", "/v1/nodes", 400, "invalid_parameter", {"memory": "4gb"})


def test_bad_users_and_policies(cluster: RestCluster) -> None:
    good = {"email": "new@example.com", "password": "Good-pass-1", "name": "new", "role": "db_viewer"}
    bad: list[tuple[int, str, Json]] = [
        (409, "email_already_exists", {"email": "db_viewer@example.com"}),
        (400, "invalid_email", {"email": "no-address"}),
        (400, "password_not_complex", {"password": "x"}),
        (400, "invalid_parameter", {"password": 5}),
    ]
    for status, code, change in bad:
        answer = cluster.call("POST", "/v1/users", {**good, **change})
        assert answer.json()["error_code"] == code, answer.text
        assert answer.status_code in (status, 406), answer.text
    assert cluster.call("POST", "/v1/users", {**good, "role": "emperor"}).status_code in (400, 406)
    cluster.refused("DELETE", "/v1/users/1", 406, "change_last_admin_role_not_allowed")
    for rule in ({"slave_ha": "no"}, {"default_concurrent_restore_actions": -1}, {"persistent_node_removal": 1}):
        assert cluster.call("PUT", "/v1/cluster/policy", rule).status_code == 400, rule


def test_long_addresses_and_versions(cluster: RestCluster) -> None:
    cluster.refused("GET", "/v1/nodes?x=" + "y" * 3000, 414, "uri_too_long")
    cluster.refused("GET", "/v1/nodes", 505, "unsupported_api_version", headers={"x-api-version": "99"})
    cluster.refused("PATCH", "/v1/nodes/1", 405, "method_not_allowed", {})
    cluster.refused("GET", "/v1/nowhere", 404, "not_found")
