"""The compatibility checks of the REST API, one test each, on a running cluster: curl, httpx and the typed PyPI client."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis_enterprise import EnterpriseClient

from tests.e2e.rest_harness import Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e]
MEMBER, MEMBER_PASSWORD = "member@example.com", "Member-pass-1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    """``orders`` with a replica, ``cache`` without one, and a user with the role db_member."""
    with RestCluster() as running:
        running.create("orders", replication=True, data_persistence="aof")
        running.create("cache")
        member = {"email": MEMBER, "password": MEMBER_PASSWORD, "name": "member", "role": "db_member"}
        running.ok("POST", "/v1/users", member)
        yield running


@pytest.fixture(autouse=True)
def _open_again(cluster: RestCluster) -> Iterator[None]:
    yield
    cluster.reopen()
    for uid in (1, 2):
        cluster.settled(uid)


@contextmanager
def full(cluster: RestCluster) -> Iterator[None]:
    """No node has room for a copy of another node."""
    made = [cluster.create(f"heavy{number}", memory_size=3 * 2**30)["uid"] for number in range(3)]
    try:
        yield
    finally:
        for uid in made:
            cluster.delete(uid)


@contextmanager
def busy(cluster: RestCluster) -> Iterator[int]:
    """A node whose evacuation waits, because the replica that should take over is frozen."""
    replica = next(shard for shard in cluster.shards(1) if shard["role"] == "slave")
    with cluster.frozen(cluster.server_of(replica)):
        yield cluster.primary(1)


def curl(cluster: RestCluster, *arguments: str) -> tuple[int, Json]:
    """Status and answer of a request by curl."""
    command = ["curl", "-sS", "-k", "-u", f"{cluster.username}:{cluster.password}", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def typed(cluster: RestCluster) -> EnterpriseClient:
    return EnterpriseClient(cluster.url(), cluster.username, cluster.password, insecure=True, timeout_secs=15)


def test_01_curl_as_documented_without_a_content_type(cluster: RestCluster) -> None:
    with full(cluster):
        url = f"{cluster.url()}/v1/nodes/1/actions/remove"
        status, answer = curl(cluster, "-X", "POST", "-d", "{}", url)
        assert (status, answer["status"]) == (200, "queued")
        cluster.ended(answer["action_uid"])
        assert curl(cluster, url)[1]["status"] == "failed"


@pytest.mark.parametrize("kind", ["", "null", "{}", " \n"])
def test_02_empty_bodies_and_a_charset_suffix(cluster: RestCluster, kind: str) -> None:
    for headers in ({}, {"Content-Type": "application/json;charset=utf-8"}, {"Content-Type": "text/plain"}):
        path = "/v1/nodes/2/actions/maintenance_off"
        answer = cluster.ok("POST", path, content=kind.encode(), headers=headers)
        assert cluster.ended(answer["action_uid"])["error_code"] == "snapshot_not_found"


def test_03_the_answer_names_the_action_twice(cluster: RestCluster) -> None:
    answer = cluster.ok("POST", "/v1/nodes/1/actions/maintenance_on", {})
    assert isinstance(answer["action_uid"], str)
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", answer["action_uid"])
    assert answer["action_uid"] == answer["task_id"]
    assert (answer["name"], answer["node_uid"], answer["status"], answer["progress"]) == ("maintenance_on", "1", "queued", 0)
    assert cluster.ended(answer["action_uid"])["status"] == "completed"


def test_04_the_same_action_while_it_runs(cluster: RestCluster) -> None:
    with busy(cluster) as node:
        uid = cluster.start(node, "maintenance_on")
        path = f"/v1/nodes/{node}/actions/maintenance_on"
        text = cluster.refused("POST", path, 409, "node_action_in_progress", {})
        assert uid in text
        for other in ("maintenance_off", "remove", "enslave_node"):
            cluster.refused("POST", f"/v1/nodes/{node}/actions/{other}", 409, "node_action_in_progress", {})
        assert cluster.get(path)["action_uid"] == uid
    assert cluster.ended(uid)["status"] == "completed"


def test_05_a_result_is_replaced_and_forgotten(cluster: RestCluster) -> None:
    path = "/v1/nodes/3/actions/maintenance_off"
    first = cluster.failed(3, "maintenance_off", "snapshot_not_found")["action_uid"]
    assert cluster.get(path)["action_uid"] == first
    second = cluster.failed(3, "maintenance_off", "snapshot_not_found")["action_uid"]
    assert cluster.get(path)["action_uid"] == second != first
    assert [a["action_uid"] for a in cluster.get("/v1/nodes/3/actions")["actions"]].count(first) == 0
    forgotten = cluster.ok("DELETE", path)
    assert (forgotten["action_uid"], forgotten["status"]) == (second, "failed")
    cluster.refused("DELETE", path, 404, "action_not_found")
    cluster.refused("GET", path, 404, "action_not_found")
    assert cluster.get(f"/v1/actions/{second}")["status"] == "failed"


def test_06_an_idle_node_has_an_empty_list(cluster: RestCluster) -> None:
    for action in ("maintenance_on", "maintenance_off", "remove", "enslave_node"):
        cluster.call("DELETE", f"/v1/nodes/1/actions/{action}")
    assert cluster.call("GET", "/v1/nodes/1/actions").text == '{"actions":[]}'


def test_07_roles_and_credentials(cluster: RestCluster) -> None:
    cluster.failed(1, "maintenance_off", "snapshot_not_found")
    paths = ["/v1/nodes/actions", "/v1/nodes/1/actions", "/v1/nodes/1/actions/maintenance_off"]
    reading = [*paths, "/v1/cluster", "/v1/nodes", "/v1/bdbs", "/v1/shards", "/v1/actions", "/v2/actions", "/v1/logs"]
    member = (MEMBER, MEMBER_PASSWORD)
    for path in reading:
        assert cluster.call("GET", path, auth=member).status_code == 200, path
    with cluster.unchanged():
        cluster.refused("POST", paths[2], 403, "forbidden", {}, auth=member)
        cluster.refused("DELETE", paths[2], 403, "forbidden", auth=member)
        for path in [*reading, "/v1/nowhere", "/v1/nodes/99"]:
            cluster.refused("GET", path, 401, "unauthenticated", auth=("", ""))
        for wrong in (("nobody@example.com", "x"), (MEMBER, "x"), (cluster.username, "")):
            cluster.refused("GET", paths[0], 401, "unauthenticated", auth=wrong)
        cluster.refused("POST", paths[2], 401, "unauthenticated", {}, auth=("", ""))
        cluster.refused("DELETE", paths[2], 401, "unauthenticated", auth=("", ""))
        command = ["curl", "-sS", "-k", "-o", "/dev/null", "-w", "%{http_code}", cluster.url() + paths[0]]
        assert subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout == "401"


def test_08_maintenance_on_twice_leaves_one_snapshot(cluster: RestCluster) -> None:
    node = cluster.primary(1)
    cluster.done(node, "maintenance_on")
    first = cluster.snapshots(node)
    assert len(first) == 1
    assert re.fullmatch(r"maintenance_mode_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", first[0])
    cluster.done(node, "maintenance_on")
    assert cluster.snapshots(node) == first
    # Snapshot names have a resolution of seconds.
    cluster.wait("another second", lambda: cluster.ok("GET", "/v1/cluster") and _second() != first[0][-2:])
    cluster.done(node, "maintenance_on", overwrite_snapshot=True)
    second = cluster.snapshots(node)
    assert len(second) == 1
    assert second != first


def _second() -> str:
    from datetime import UTC, datetime

    return f"{datetime.now(UTC):%S}"


def test_09_an_unknown_snapshot_fails_and_the_node_stays_closed(cluster: RestCluster) -> None:
    cluster.done(2, "maintenance_on")
    record = cluster.failed(2, "maintenance_off", "snapshot_not_found", snapshot_name="nobody-made-it")
    assert "nobody-made-it" in record["error_message"]
    assert cluster.in_maintenance(2)
    assert cluster.is_empty(2)


def test_10_a_skipped_restore_deletes_the_snapshot(cluster: RestCluster) -> None:
    node = cluster.primary(1)
    cluster.done(node, "maintenance_on")
    before = cluster.layout(1, 2)
    cluster.done(node, "maintenance_off", skip_shards_restore=True)
    assert cluster.snapshots(node) == []
    assert cluster.layout(1, 2) == before
    assert cluster.node(node)["accept_servers"] is True


def test_11_permissions_to_delete_snapshots(cluster: RestCluster) -> None:
    path = "/v1/nodes/1/snapshots"
    made = cluster.ok("POST", f"{path}/mine", {})
    assert made["name"] == "mine"
    cluster.done(1, "maintenance_on")
    (kept,) = [name for name in cluster.snapshots(1) if name.startswith("maintenance_mode_")]
    cluster.refused("DELETE", f"{path}/{kept}", 403, "maintenance_snapshot")
    deleted = cluster.ok("DELETE", f"{path}/mine")
    assert deleted == made == {"name": "mine", "node_uid": "1", "created_time": made["created_time"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", made["created_time"])
    cluster.refused("DELETE", f"{path}/mine", 404, "snapshot_not_found")
    assert cluster.snapshots(1) == [kept]


def test_12_the_status_shows_maintenance(cluster: RestCluster) -> None:
    assert "maintenance_snapshot" not in cluster.get("/v1/nodes/1/status")
    cluster.done(1, "maintenance_on")
    shown = cluster.get("/v1/nodes/1/status")["maintenance_snapshot"]
    assert [shown["name"]] == cluster.snapshots(1)
    assert cluster.get("/v1/nodes/status")["1"]["maintenance_snapshot"] == shown
    cluster.done(1, "maintenance_off")
    assert "maintenance_snapshot" not in cluster.get("/v1/nodes/1/status")


def test_13_the_removal_of_a_removed_node(cluster: RestCluster) -> None:
    node = cluster.add_node()
    uid = cluster.done(node, "remove")["action_uid"]
    cluster.refused("GET", f"/v1/nodes/{node}", 404, "node_not_found")
    assert node not in cluster.nodes()
    assert cluster.get(f"/v1/actions/{uid}")["status"] == "completed"
    assert cluster.get(f"/v2/actions/{uid}")["status"] == "completed"
    assert cluster.get(f"/v1/nodes/{node}/actions/remove")["action_uid"] == uid
    assert [a["name"] for a in cluster.get(f"/v1/nodes/{node}/actions")["actions"]] == ["remove_node"]


def test_14_a_failed_removal_leaves_the_node_closed(cluster: RestCluster) -> None:
    with full(cluster):
        node = cluster.primary(1)
        before = cluster.layout(1, 2)
        record = cluster.failed(node, "remove", "insufficient_resources")
        assert record["moves"] == []
        assert re.search(r"shard \d+", record["error_message"])
        assert cluster.node(node)["accept_servers"] is False
        assert cluster.layout(1, 2) == before
    for number in range(3):  # more than the other nodes have room for
        made = cluster.create(f"after{number}", replication=True)
        assert node not in {int(shard["node_uid"]) for shard in cluster.shards(made["uid"])}
        cluster.delete(made["uid"])


def test_15_the_typed_client(cluster: RestCluster) -> None:
    client = typed(cluster)
    assert client.cluster_info_sync()["name"]
    assert client.cluster_stats_sync()
    assert client.license_sync()["expired"] is False
    assert sorted(d["name"] for d in client.databases_sync()) == ["cache", "orders"]
    assert client.database_sync(1)["name"] == "orders"
    assert [n["uid"] for n in client.nodes_sync()] == cluster.nodes()
    assert client.node_sync(1)["status"] == "active"
    assert {u["email"] for u in client.users_sync()} == {cluster.username, MEMBER}
    for path in _READABLE:
        assert client.get_sync(path) is not None, path
    answers = [client.post_sync(f"/v1/nodes/1/snapshots/{name}", body) for name, body in (("a", None), ("b", {}))]
    assert [answer["name"] for answer in answers] == ["a", "b"]
    assert [client.delete_sync(f"/v1/nodes/1/snapshots/{name}")["name"] for name in "ab"] == ["a", "b"]
    for action, status in (("maintenance_on", "completed"), ("maintenance_off", "completed"), ("enslave_node", None)):
        started = client.post_sync(f"/v1/nodes/1/actions/{action}", None)
        ended = cluster.ended(started["action_uid"])["status"]
        assert status is None or ended == status
        assert client.get_sync(f"/v1/nodes/1/actions/{action}")["status"] == ended
        assert client.delete_sync(f"/v1/nodes/1/actions/{action}")["status"] == ended
    with pytest.raises(ValueError, match=r"."):
        client.get_sync("/v1/nodes/1/actions/maintenance_on")
    made = client.post_sync("/v1/bdbs", {"name": "typed", "memory_size": 5_000_000})
    assert cluster.settled(made["uid"])["name"] == "typed"
    client.delete_sync(f"/v1/bdbs/{made['uid']}")


_READABLE = (
    *("/v1/cluster", "/v1/cluster/policy", "/v1/nodes", "/v1/nodes/status", "/v1/nodes/1/status", "/v1/nodes/1/snapshots"),
    *("/v1/bdbs", "/v1/bdbs/1/shards", "/v1/shards", "/v1/actions", "/v2/actions", "/v1/users", "/v1/roles", "/v1/license"),
    *("/v1/logs", "/v1/bootstrap", "/v1/nodes/actions", "/v1/actions/bdb/1"),
)


def test_16_types_of_shards(cluster: RestCluster) -> None:
    for path, count in (("/v1/shards", 3), ("/v1/bdbs/1/shards", 2)):
        shards = cluster.wait(path, lambda: found if len(found := cluster.get(path)) == count else None)  # noqa: B023
        for shard in shards:
            assert (type(shard["uid"]), type(shard["node_uid"]), type(shard["bdb_uid"])) == (str, str, int)
            assert shard["role"] in ("master", "slave")


def test_17_answers_are_compact(cluster: RestCluster) -> None:
    answers = [cluster.call("GET", path) for path in _READABLE]
    answers += [cluster.call("GET", "/v1/nodes/77"), cluster.call("POST", "/v1/nodes/1/actions/nothing", {})]
    for answer in answers:
        assert answer.text == json.dumps(answer.json(), separators=(",", ":"), ensure_ascii=False), answer.url
        assert answer.headers["content-type"].startswith("application/json")
        assert int(answer.headers["content-length"]) == len(answer.content)
    assert cluster.call("GET", "/v1/bdbs").text.startswith("[")
    assert '"name":"orders"' in cluster.call("GET", "/v1/bdbs").text
