"""Independent clients: curl as in Redis Enterprise's documentation, and the typed PyPI client ``redis-enterprise``."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from redis_enterprise import EnterpriseClient

from shardwright.model.action import ActionStatus
from tests.integration.api_harness import PASSWORD, RunningApi


@pytest.fixture
def api() -> Iterator[RunningApi]:
    with RunningApi() as running:
        yield running


def client_of(api: RunningApi, password: str = PASSWORD) -> EnterpriseClient:
    return EnterpriseClient(api.url, "admin@example.com", password, insecure=True, timeout_secs=15)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_as_documented(api: RunningApi) -> None:
    def curl(*arguments: str) -> dict[str, object]:
        command = ["curl", "-sS", "-k", "-u", f"admin@example.com:{PASSWORD}", *arguments]
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    started = curl("-X", "POST", "-d", "{}", f"{api.url}/v1/nodes/1/actions/remove")
    assert (started["status"], started["action_uid"]) == ("queued", started["task_id"])
    conflict = curl("-X", "POST", "-d", "{}", f"{api.url}/v1/nodes/1/actions/remove")
    assert conflict["error_code"] == "node_action_in_progress"
    assert curl(f"{api.url}/v1/nodes/1/actions/remove")["name"] == "remove_node"
    assert curl("-X", "DELETE", f"{api.url}/v1/nodes/1/actions/remove")["status"] == "cancelling"
    assert curl("-X", "POST", f"{api.url}/v1/nodes/2/actions/maintenance_on")["status"] == "queued"
    oversized = curl("-X", "POST", "--data-binary", f"@{_large_file(api)}", f"{api.url}/v1/nodes/3/actions/remove")
    assert oversized["error_code"] == "body_too_large"


def _large_file(api: RunningApi) -> str:
    path = api.certificate.parent / "large"
    path.write_bytes(b"x" * 3_000_000)
    return str(path)


def test_typed_calls(api: RunningApi) -> None:
    client = client_of(api)
    assert client.cluster_info_sync()["name"]
    assert client.cluster_stats_sync()["intervals"]
    assert client.license_sync()["expired"] is False
    assert [database["name"] for database in client.databases_sync()] == ["orders", "cache"]
    assert client.database_sync(1)["uid"] == 1
    assert [node["uid"] for node in client.nodes_sync()] == [1, 2, 3]
    assert client.node_sync(2)["status"] == "active"
    assert client.users_sync()[0]["email"] == "admin@example.com"


def test_raw_calls(api: RunningApi) -> None:
    client = client_of(api)
    path = "/v1/nodes/1/actions/maintenance_on"
    started = client.post_sync(path, None)
    assert started["action_uid"] == started["task_id"]
    with pytest.raises(RuntimeError, match="node_action_in_progress"):
        client.post_sync(path, None)
    assert client.delete_sync(path)["status"] == "cancelling"
    api.set_action(started["action_uid"], ActionStatus.CANCELLED)
    assert client.delete_sync(path)["status"] == "cancelled"
    with pytest.raises(ValueError, match=r"."):
        client.get_sync(path)
    with pytest.raises(RuntimeError, match="invalid_parameter"):
        client.post_sync(path, {"overwrite_snapshot": "yes"})
    made = client.post_sync("/v1/bdbs", {"name": "typed", "memory_size": 5_000_000})
    assert client.database_sync(made["uid"])["name"] == "typed"
    assert client.delete_sync(f"/v1/bdbs/{made['uid']}")["status"] == "delete-pending"
    assert client.get_sync("/v1/shards")[0]["uid"] == "1"
