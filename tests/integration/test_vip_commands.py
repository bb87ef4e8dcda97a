"""``shardwright cluster vip``, with a real HTTP server and canned answers."""

import json
from pathlib import Path

import pytest
from typer.testing import Result

from tests.integration.canned_api import Script, canned_api
from tests.integration.test_cli import run

PATH = "/v1/cluster/virtual_addresses"
ADDRESS = {
    "addr": "10.0.0.9",
    "prefix_length": 24,
    "interface": "eth0",
    "bdb_uid": None,
    "node_uid": None,
    "generation": 0,
    "status": "pending",
    "able_nodes": [1, 2],
    "added": "2026-01-02T03:04:05Z",
}
HELD = ADDRESS | {"node_uid": 2, "generation": 1, "status": "active"}
GONE = {"error_code": "virtual_address_not_found", "description": "There is no virtual address 10.0.0.9."}
SCRIPT: Script = {
    f"GET {PATH}": (200, [HELD]),
    f"POST {PATH}": (200, ADDRESS),
    f"GET {PATH}/10.0.0.9": (200, HELD),
    f"DELETE {PATH}/10.0.0.9": (200, HELD | {"status": "ending"}),
    "GET /v1/bdbs": (200, [{"uid": 7, "name": "orders"}]),
}


def vip(directory: Path, *words: str, script: Script = SCRIPT) -> tuple[Result, list[str]]:
    with canned_api(script) as api:
        result = run(directory, api, "cluster", "vip", *words)
        return result, api.lines()


def test_it_is_added_at_once_or_with_a_wait(tmp_path: Path) -> None:
    result, asked = vip(tmp_path, "add", "10.0.0.9/24", "--interface", "eth0")
    assert (result.exit_code, asked) == (0, [f"POST {PATH}"])
    assert result.stdout == "10.0.0.9/24: added; a node gets it within seconds\n"
    waited, asked = vip(tmp_path, "add", "10.0.0.9/24", "--interface", "eth0", "--wait", "--json")
    assert (waited.exit_code, asked) == (0, [f"POST {PATH}", f"GET {PATH}/10.0.0.9"])
    assert json.loads(waited.stdout) == HELD


def test_a_database_may_be_given_by_its_name(tmp_path: Path) -> None:
    with canned_api(SCRIPT) as api:
        run(tmp_path, api, "cluster", "vip", "add", "10.0.0.9/24", "--interface", "eth0", "--database", "orders")
        body = api.body_of(f"POST {PATH}")
    assert body == {"address": "10.0.0.9/24", "interface": "eth0", "bdb_uid": 7}
    result, asked = vip(tmp_path, "add", "10.0.0.9/24", "--interface", "eth0", "--database", "other")
    assert (result.exit_code, asked) == (1, ["GET /v1/bdbs"])


def test_a_refusal_is_shown_with_its_remedy(tmp_path: Path) -> None:
    refused = {"error_code": "virtual_address_impossible", "description": "No node can add an address to eth7: …"}
    result, _ = vip(tmp_path, "add", "10.0.0.9/24", "--interface", "eth7", script={f"POST {PATH}": (406, refused)})
    assert result.exit_code == 1
    assert "virtual_address_impossible" in result.stderr


def test_they_are_listed(tmp_path: Path) -> None:
    result, _ = vip(tmp_path, "list")
    assert result.stdout.splitlines()[1].split() == ["10.0.0.9/24", "eth0", "all", "node:2", "active", "node:1,", "node:2"]


def test_a_removal_asks_first(tmp_path: Path) -> None:
    result, asked = vip(tmp_path, "remove", "10.0.0.9")
    assert (result.exit_code, asked) == (2, [])
    done, asked = vip(tmp_path, "remove", "10.0.0.9/24", "--yes")
    assert (done.exit_code, asked) == (0, [f"DELETE {PATH}/10.0.0.9"])
    assert done.stdout == "10.0.0.9: being removed\n"


def test_a_removal_may_be_waited_for(tmp_path: Path) -> None:
    script: Script = {**SCRIPT, f"GET {PATH}/10.0.0.9": (404, GONE)}
    result, _ = vip(tmp_path, "remove", "10.0.0.9", "--yes", "--wait", script=script)
    assert (result.exit_code, result.stdout) == (0, "10.0.0.9: removed\n")


@pytest.mark.parametrize("words", [("add", "10.0.0.9/24"), ("add",), ("remove",)])
def test_wrong_usage_asks_nothing(tmp_path: Path, words: tuple[str, ...]) -> None:
    result, asked = vip(tmp_path, *words)
    assert (result.exit_code, asked) == (2, [])
