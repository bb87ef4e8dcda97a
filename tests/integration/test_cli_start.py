"""``shardwright db start``, and how a waiting database is shown, with a real HTTP server and canned answers."""

import json
from pathlib import Path
from typing import Any

from tests.integration.canned_api import Answer, Script, canned_api
from tests.integration.test_cli import DATABASE, run

COPY = {"node_uid": "2", "role": "slave", "keys": 6, "in_sync": True, "missing_since": None, "served_at": None}
COPY |= {
    "served_offset": 1000,
    "served_keys": 6,
    "may_lack": "It was 200 bytes behind.",
    "shard_uid": "2",
    "state": "loaded",
}
LOST = COPY | {"shard_uid": "1", "node_uid": "1", "role": "master", "state": "out_of_reach", "keys": None, "may_lack": ""}
REASON = {"code": "copy_out_of_reach", "description": "shard 1 does not run", "remedy": "start the daemon of node 1"}
WAITING: dict[str, Any] = DATABASE | {
    "waiting": [
        {
            "slot_group": "1:1",
            "start_from": "2",
            "since": "2026-01-02T03:04:05Z",
            "reasons": [REASON],
            "copies": [LOST, COPY],
        }
    ]
}
ASKED: Script = {"GET /v1/bdbs": (200, [WAITING]), "POST /v1/bdbs/1/actions/start": (200, WAITING)}


def test_a_dry_run_shows_the_cause_and_the_data_of_the_copies(tmp_path: Path) -> None:
    with canned_api(ASKED) as api:
        result = run(tmp_path, api, "db", "start", "orders", "--dry-run")
        as_json = run(tmp_path, api, "db", "start", "orders", "--dry-run", "--json")
        assert set(api.lines()) == {"GET /v1/bdbs"}
    assert result.exit_code == 0
    for said in (
        "waits since 2026-01-02T03:04:05Z",
        "shard 1 does not run",
        "remedy: start the daemon of node 1",
        "redis:2",
    ):
        assert said in result.stdout
    assert json.loads(as_json.stdout) == WAITING["waiting"]


def test_nothing_is_decided_without_confirmation_but_the_loss_is_shown(tmp_path: Path) -> None:
    with canned_api(ASKED) as api:
        result = run(tmp_path, api, "db", "start", "orders", "--from-copy", "redis:2")
        assert set(api.lines()) == {"GET /v1/bdbs"}
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert "It was 200 bytes behind." in result.stdout
    assert "overwritten when they return" in result.stdout


def test_the_copy_is_sent_to_the_api(tmp_path: Path) -> None:
    with canned_api(ASKED) as api:
        result = run(tmp_path, api, "db", "start", "orders", "--from-copy", "2", "--yes")
        assert api.body_of("POST /v1/bdbs/1/actions/start") == {"from_copy": 2}
    assert (result.exit_code, result.stdout) == (0, "db:1 orders: will serve the data of redis:2\n")


def test_the_damaged_end_of_its_file_can_be_cut(tmp_path: Path) -> None:
    with canned_api(ASKED) as api:
        line = ("db", "start", "orders", "--from-copy", "2", "--cut-damaged-tail")
        assert "is kept next to it" in run(tmp_path, api, *line).stdout
        assert run(tmp_path, api, *line, "--yes").exit_code == 0
        assert api.body_of("POST /v1/bdbs/1/actions/start") == {"from_copy": 2, "cut_damaged_tail": True}


def test_a_start_that_did_not_happen_is_not_awaited(tmp_path: Path) -> None:
    away = (503, {"error_code": "bdb_unavailable", "description": "its end could not be cut"})
    failed = DATABASE | {"waiting": [WAITING["waiting"][0] | {"start_from": None}]}
    script = {**ASKED, "GET /v1/bdbs/1/availability": away, "GET /v1/bdbs/1": (200, failed)}
    with canned_api(script) as api:
        result = run(tmp_path, api, "db", "start", "orders", "--from-copy", "2", "--yes", "--wait")
    assert result.exit_code == 1
    assert "its end could not be cut" in result.stderr


def test_a_start_can_be_awaited(tmp_path: Path) -> None:
    away = (503, {"error_code": "bdb_unavailable", "description": "waits"})
    script: Script = {**ASKED, "GET /v1/bdbs/1/availability": [away, (200, {})], "GET /v1/bdbs/1": (200, DATABASE)}
    with canned_api(script) as api:
        result = run(tmp_path, api, "db", "start", "orders", "--from-copy", "2", "--yes", "--wait")
    assert (result.exit_code, result.stdout) == (0, "db:1 orders: serves the data of redis:2\n")


def test_wrong_usage_changes_nothing(tmp_path: Path) -> None:
    with canned_api(ASKED) as api:
        for options in ((), ("--from-copy", "two"), ("--from-copy", "redis:")):
            assert run(tmp_path, api, "db", "start", "orders", *options).exit_code == 2
        assert set(api.lines()) == {"GET /v1/bdbs"}


def test_a_waiting_database_is_shown_with_its_reason(tmp_path: Path) -> None:
    empty: Answer = (200, [])
    script = {"GET /v1/bdbs": (200, [WAITING]), "GET /v1/nodes": empty, "GET /v1/shards": empty}
    cluster: dict[str, Answer] = {"GET /v1/cluster": (200, {}), "GET /v1/cluster/actions": (200, {"actions": []})}
    with canned_api({**script, **cluster, "GET /v1/nodes/status": (200, {}), "GET /v1/bdbs/1/shards": empty}) as api:
        for command in (("status",), ("db", "show", "orders")):
            result = run(tmp_path, api, *command)
            assert "shard 1 does not run (copy_out_of_reach)" in result.stdout
        assert " waiting " in run(tmp_path, api, "db", "list").stdout
