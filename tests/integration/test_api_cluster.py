"""The cluster itself over HTTP: its leader, the members of its store, its certificates; and any node serves any request."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from redis_enterprise import EnterpriseClient

from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole, IssuedCertificate
from testkit.builders import ClusterBuilder
from testkit.store_members import MemoryMembers
from tests.integration.api_harness import PASSWORD, RunningApi, default_view
from tests.integration.test_api_resources import READS

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ISSUED = IssuedCertificate("0a", NodeUid(2), CertificateRole.API, NOW, NOW + timedelta(days=90))


@pytest.fixture
def members() -> MemoryMembers:
    found = MemoryMembers((1, 2))
    asyncio.run(found.add_learner("https://127.0.0.3:2380"))
    found.silent = {"node-2"}
    return found


@pytest.fixture
def api(members: MemoryMembers) -> Iterator[RunningApi]:
    view = ClusterBuilder(default_view()).with_records(ISSUED, replace(ISSUED, serial="0b", revoked_at=NOW)).view
    with RunningApi(view, node_uid=2, leads=False, members=members) as running:
        yield running


@pytest.fixture
def http(api: RunningApi) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


def ok(answer: httpx.Response) -> object:
    assert answer.status_code == 200, answer.text
    found: object = answer.json()
    return found


def test_the_leader_is_changed_by_the_calls_that_operators_know(api: RunningApi, http: httpx.Client) -> None:
    path = "/v1/cluster/actions/change_master"
    assert ok(http.get("/v1/cluster/actions")) == {"actions": []}
    asked = ok(http.post(path, json={"node_uid": "2"}))
    assert isinstance(asked, dict)
    assert (asked["name"], asked["status"], asked["progress"]) == ("change_master", "queued", 0.0)
    assert ok(http.get(path)) == asked
    assert ok(http.get("/v1/cluster/actions")) == {"actions": [asked]}
    change = api.view().leader_change
    assert change is not None
    assert (change.node_uid, change.requested_by) == (2, "admin@example.com")
    assert ok(http.delete(path)) == {**asked, "status": "cancelled"}
    assert api.view().leader_change is None


def test_the_typed_client_reaches_the_action(api: RunningApi) -> None:
    client = EnterpriseClient(base_url=api.url, username="admin@example.com", password=PASSWORD, insecure=True)
    assert client.post_sync("/v1/cluster/actions/change_master", {"node_uid": "1"})["status"] == "completed"
    assert client.get_sync("/v1/cluster/actions")["actions"][0]["node_uid"] == "1"
    with pytest.raises(ValueError, match="not found"):
        client.post_sync("/v1/cluster/actions/change_master", {"node_uid": "77"})


def test_the_members_of_the_store_are_listed_and_asked(http: httpx.Client, members: MemoryMembers) -> None:
    found = ok(http.get("/v1/cluster/store_members"))
    assert isinstance(found, list)
    assert [(m["node_uid"], m["name"], m["role"], m["reachable"]) for m in found] == [
        (1, "node-1", "voter", True),
        (2, "node-2", "voter", False),
        (3, "", "learner", False),
    ]
    assert found[0]["client_urls"] == ["https://127.0.0.1:2379"]
    members.is_cut = True
    answer = http.get("/v1/cluster/store_members")
    assert (answer.status_code, answer.json()["error_code"]) == (503, "store_unavailable")


def test_certificates_are_shown_without_keys(api: RunningApi, http: httpx.Client) -> None:
    found = ok(http.get("/v1/cluster/certificates"))
    assert isinstance(found, dict)
    assert found["api_cert"] == api.certificate.read_text()
    assert [(one["serial"], one["node_uid"], one["role"], one["revoked"]) for one in found["issued"]] == [
        ("0a", 2, "api", None),
        ("0b", 2, "api", "2026-01-02T03:04:05Z"),
    ]


def test_a_node_that_does_not_lead_serves_every_request_itself(http: httpx.Client) -> None:
    """Never a redirect: all daemons read and write the same store."""
    assert ok(http.get("/v1/local/node/master_healthcheck")) == {"status": "inactive"}
    cluster_object = ok(http.get("/v1/cluster"))
    assert isinstance(cluster_object, dict)
    assert cluster_object["leader"]["node_uid"] == 1
    assert cluster_object["handle_redirects"] is False
    for path in READS:
        # A path below /v1/local asks for this very node.
        assert path.startswith("/v1/local/") or http.get(path).status_code == 200, path
    ok(http.put("/v1/nodes/3", json={"rack_id": "b", "external_addr": ["203.0.113.7"]}))
    node = ok(http.get("/v1/nodes/3"))
    assert isinstance(node, dict)
    assert (node["addr"], node["rack_id"], node["external_addr"]) == ("127.0.0.3", "b", ["203.0.113.7"])
    ok(http.post("/v1/nodes/3/actions/maintenance_on"))


def test_the_cluster_key_is_changed_by_an_action_of_the_cluster(api: RunningApi, http: httpx.Client) -> None:
    path = "/v1/cluster/actions/rotate_key"
    assert http.get(path).status_code == 404
    # The store of this test has its secrets in clear.
    refused = http.post(path)
    assert (refused.status_code, refused.json()["error_code"]) == (406, "cluster_key_absent")
    assert api.view().key_rotation is None
