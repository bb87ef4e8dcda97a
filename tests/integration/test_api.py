"""Node actions through TLS on a real store."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from shardwright.model.action import ActionStatus
from shardwright.model.cluster import RemovedNode
from shardwright.model.ids import NodeUid
from shardwright.store import keys
from shardwright.store.protocol import DeleteKey
from tests.integration.api_harness import RunningApi, ok, refused

GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def api() -> Iterator[RunningApi]:
    with RunningApi() as running:
        yield running


@pytest.fixture
def http(api: RunningApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


# -- node actions ------------------------------------------------------------------------------------------------------


def test_an_action_from_post_to_deletion(api: RunningApi, http: httpx.Client) -> None:
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
    assert ok(http.get(f"/v1/actions/{again['action_uid']}"))["status"] == "failed", "a client that polls by uid gets no 404"


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
def test_empty_bodies(http: httpx.Client, content: bytes, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    assert ok(http.post("/v1/nodes/1/actions/remove", content=content, headers=headers))["name"] == "remove_node"


def test_a_dry_run_shows_the_moves_and_starts_nothing(api: RunningApi, http: httpx.Client) -> None:
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


@pytest.mark.parametrize("action", ["remove", "maintenance_on", "maintenance_off", "enslave_node"])
def test_a_misspelt_dry_run_starts_nothing(api: RunningApi, http: httpx.Client, action: str) -> None:
    before = api.everything()
    answer = http.post(f"/v1/nodes/3/actions/{action}?dryrun=true")
    refused(answer, 400, "unknown_parameter")
    assert "Did you mean dry_run?" in answer.json()["description"]
    assert api.everything() == before


def test_a_cancellation_with_a_misspelt_mode_cancels_nothing(api: RunningApi, http: httpx.Client) -> None:
    started = ok(http.post("/v1/nodes/1/actions/maintenance_on"))
    refused(http.delete("/v1/nodes/1/actions/maintenance_on?Mode=undo"), 400, "unknown_parameter")
    assert api.view().actions[started["action_uid"]].cancel_requested_at is None
    assert ok(http.delete("/v1/nodes/1/actions/maintenance_on?mode=undo"))["cancel_mode"] == "undo"


def test_unknown_keys_of_an_action_are_reported(http: httpx.Client) -> None:
    started = ok(http.post("/v1/nodes/1/actions/maintenance_on", json={"evict_ha_replicas": False, "demote_node": False}))
    assert (started["status"], started["ignored"]) == ("queued", ["evict_ha_replicas"])
    assert "ignored" not in ok(http.get("/v1/nodes/1/actions/maintenance_on"))
    assert "ignored" not in ok(http.post("/v1/nodes/2/actions/enslave_node", json={"demote_node": False}))


def test_a_removal_closes_the_node_at_once_and_permanently(api: RunningApi, http: httpx.Client) -> None:
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
