"""A balancer's question over the wire: without credentials, and also while the store does not answer."""

from dataclasses import replace

import httpx
import pytest

from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.store.protocol import StoreUnavailable
from tests.integration.api_harness import RunningApi, default_view, ok, refused

READY = "/v1/local/bdbs/1/endpoint/ready"


def test_the_question_needs_no_credentials_and_wrong_ones_do_not_matter() -> None:
    with RunningApi() as api, api.client(role=None) as http:
        assert ok(http.get(READY)) == {"status": "ready"}
        assert ok(http.get(READY, auth=("nobody@example.com", "wrong"))) == {"status": "ready"}
        refused(http.get("/v1/local/bdbs/99/endpoint/ready"), 404, "endpoint_leaving")
        refused(http.get("/v1/local/bdbs/1/endpoint/availability"), 401, "unauthenticated")
        refused(http.post(READY), 401, "unauthenticated")


def test_a_node_in_maintenance_takes_no_new_clients() -> None:
    view = default_view()
    node = replace(view.nodes[NodeUid(1)], is_quorum_only=True)
    with RunningApi(replace(view, nodes={**view.nodes, NodeUid(1): node})) as api, api.client(role=None) as http:
        refused(http.get(READY), 404, "endpoint_leaving")


def test_a_node_without_an_endpoint_process_says_so() -> None:
    view = default_view()
    seen = {uid: replace(found, endpoint_process=None) for uid, found in view.node_seen.items()}
    with RunningApi(replace(view, node_seen=seen)) as api, api.client(role=None) as http:
        refused(http.get(READY), 503, "bdb_endpoint_unavailable")


def test_nodes_are_not_taken_out_when_the_store_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fresh(since: float | None = None) -> None:
        raise StoreUnavailable(Code.STORE_UNAVAILABLE, "it does not answer")

    with RunningApi() as api, api.client() as http:
        monkeypatch.setattr(api.mirror, "fresh", fresh)
        assert http.get("/v1/nodes").status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert ok(http.get(READY)) == {"status": "ready"}
