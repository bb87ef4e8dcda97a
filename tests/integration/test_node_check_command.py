"""The check of the nodes: its paths over a real API, and its command over a real HTTP server."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardwright.model.account import ManagementRole
from tests.integration.api_harness import RunningApi, ok, refused
from tests.integration.canned_api import canned_api
from tests.integration.test_cli import run

FINDING: dict[str, Any] = {
    "code": "port_no_answer",
    "grade": "failed",
    "description": "from node 1 to 10.0.0.2:9444 (agent): the connection is not answered",
    "remedy": "on node 2, one of: ufw allow 9444/tcp",
    "node_uid": 2,
    "from_node_uid": 1,
}
SLOW: dict[str, Any] = {
    "code": "disk_slow",
    "grade": "warning",
    "description": "a synchronous write takes 14.0 ms",
    "remedy": "use a faster disk for the state",
    "node_uid": 1,
    "from_node_uid": None,
}


def test_the_paths_of_a_check() -> None:
    with RunningApi() as api, api.client() as http:
        whole = ok(http.get("/v1/cluster/check"))
        assert whole["cluster_test_result"] is True
        assert [node["node_uid"] for node in whole["nodes"]] == [1, 2, 3]
        for node in whole["nodes"]:
            assert (node["result"], "error" in node) == (True, False)
            assert [finding["code"] for finding in node["findings"]] == ["files_few"]
        assert ok(http.get("/v1/nodes/2/check")) == ok(http.get("/v1/nodes/check/2")) == whole["nodes"][1]
        refused(http.get("/v1/nodes/9/check"), 404, "node_not_found")
        with api.client(ManagementRole.NONE) as nobody:
            for path in ("/v1/nodes/2/check", "/v1/cluster/check"):
                refused(nobody.get(path), 403, "forbidden")


def answer(*nodes: tuple[int, list[dict[str, Any]]]) -> dict[str, Any]:
    found = [
        {"node_uid": uid, "result": all(f["grade"] != "failed" for f in findings), "findings": findings}
        for uid, findings in nodes
    ]
    return {"cluster_test_result": all(node["result"] for node in found), "nodes": found}


@pytest.mark.parametrize(
    ("told", "exit_code", "words"),
    [
        (answer((1, []), (2, [])), 0, ["node:1, node:2: nothing found"]),
        (answer((1, [SLOW]), (2, [])), 0, ["a synchronous write", "use a faster disk", "0 failed, 1 warnings"]),
        (answer((1, [FINDING, SLOW]), (2, [FINDING])), 1, ["10.0.0.2:9444", "ufw allow", "1 failed, 1 warnings"]),
    ],
)
def test_the_command_shows_each_finding_once_and_only_failures_make_it_fail(
    tmp_path: Path, told: dict[str, Any], exit_code: int, words: list[str]
) -> None:
    with canned_api({"GET /v1/cluster/check": (200, told)}) as api:
        done = run(tmp_path / "cluster", api, "node", "check")
        assert done.exit_code == exit_code, done.output
        for word in words:
            assert done.output.count(word) == 1, done.output
        printed = run(tmp_path / "cluster", api, "node", "check", "--json")
        assert (printed.exit_code, json.loads(printed.stdout)) == (exit_code, told)


def test_some_nodes_are_checked_one_by_one(tmp_path: Path) -> None:
    good, bad = answer((3, []))["nodes"][0], answer((2, [FINDING]))["nodes"][0]
    with canned_api({"GET /v1/nodes/3/check": (200, good), "GET /v1/nodes/2/check": (200, bad)}) as api:
        done = run(tmp_path / "cluster", api, "node", "check", "node:3", "2", "3")
        assert (done.exit_code, api.lines()) == (1, ["GET /v1/nodes/3/check", "GET /v1/nodes/2/check"])
        assert "node:3, node:2: 1 failed, 0 warnings" in done.output
        assert run(tmp_path / "cluster", api, "node", "check", "three").exit_code == 2
        assert run(tmp_path / "cluster", api, "node", "check", "4").exit_code == 1
