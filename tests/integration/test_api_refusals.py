"""Bad input of every kind changes nothing; permissions of the roles."""

from collections.abc import Iterator

import httpx
import pytest

from shardwright.model.account import ManagementRole
from tests.integration.api_harness import PASSWORD, RunningApi, ok, refused


@pytest.fixture
def api() -> Iterator[RunningApi]:
    with RunningApi() as running:
        yield running


@pytest.fixture
def http(api: RunningApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


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
    ("POST", "/v1/cluster/actions/change_master", b"{}", 400, "invalid_parameter"),
    ("POST", "/v1/cluster/actions/change_master", b'{"node_uid":"77"}', 404, "node_not_found"),
    ("POST", "/v1/cluster/actions/reboot", b'{"node_uid":"1"}', 404, "invalid_action"),
    ("GET", "/v1/cluster/actions/change_master", b"", 404, "action_not_found"),
    ("DELETE", "/v1/cluster/actions/change_master", b"", 404, "action_not_found"),
    ("PUT", "/v1/cluster/certificates", b'{"certificates":[]}', 501, "certificates_not_replaceable"),
    ("PUT", "/v1/cluster/update_cert", b'{"name":"api"}', 501, "certificates_not_replaceable"),
    ("DELETE", "/v1/cluster/certificates/api", b"", 501, "certificates_not_replaceable"),
    ("PUT", "/v1/nodes/1", b'{"external_addr":["not a host"]}', 400, "invalid_parameter"),
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
    ("POST", "/v1/cluster/certificates/rotate", b"", 405, "method_not_allowed"),
    ("PATCH", "/v1/nodes/1", b"", 405, "method_not_allowed"),
    ("GET", "/v1/bootstrap/join", b"", 405, "method_not_allowed"),
    ("POST", "/v1/bootstrap/join", b"{}", 409, "local_cluster"),
    ("POST", "/v1/nodes/tokens", b"", 409, "local_cluster"),
    ("POST", "/v1/bootstrap/create_cluster", b"{}", 409, "already_bootstrapped"),
    ("POST", "/v1/bootstrap/join_cluster", b"{}", 409, "already_bootstrapped"),
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


# -- permissions -------------------------------------------------------------------------------------------------------


def test_without_credentials_there_is_no_answer(api: RunningApi) -> None:
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


def test_a_changed_password_is_valid_at_once(api: RunningApi, http: httpx.Client) -> None:
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
