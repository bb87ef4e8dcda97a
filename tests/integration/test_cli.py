"""The command line against a real HTTP server with canned answers: what it sends, prints and returns."""

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner, Result

from shardwright.cli.access import Access
from shardwright.cli.client import ApiClient
from shardwright.cli.main import build
from tests.integration.canned_api import PASSWORD, USER, Answer, CannedApi, Script, canned_api

UID = "7b0d0000-0000-4000-8000-000000000001"
DATABASE = {
    "uid": 1,
    "name": "orders",
    "status": "active",
    "endpoints": [{"uid": "1:1", "addr": ["127.0.0.1"], "port": 10000}],
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


def run(directory: Path, api: CannedApi | list[str], *command: str) -> Result:
    urls = api if isinstance(api, list) else [api.url]
    directory.mkdir(exist_ok=True)
    (directory / "admin.json").write_text(json.dumps({"url": urls[0], "urls": urls, "username": USER, "password": PASSWORD}))
    return CliRunner().invoke(
        build(), [*command, "--dir", str(directory)], env={"SHARDWRIGHT_URL": ""} | dict.fromkeys(_OTHERS, "")
    )


_OTHERS = ("SHARDWRIGHT_DIR", "SHARDWRIGHT_USER", "SHARDWRIGHT_PASSWORD_FILE", "SHARDWRIGHT_CERTIFICATE")


def action(status: str = "running", **changes: object) -> dict[str, Any]:
    return {
        "action_uid": UID,
        "task_id": UID,
        "name": "maintenance_on",
        "node_uid": "3",
        "status": status,
        "progress": "0",
        "creation_time": "1760400087",
        "requested_by": USER,
        "steps": [],
        "moves": [],
        "reasons": [],
    } | changes


QUEUED = (200, {"action_uid": UID, "task_id": UID, "status": "queued"})
MOVE: dict[str, Any] = {"uid": "m", "kind": "relocate", "what": "redis:4", "from": "node:3", "to": "node:1", "reasons": []}
MOVE |= {"state": "syncing", "bytes_total": 200, "bytes_done": 50, "evidence": None, "started": None, "ended": None}


@pytest.mark.parametrize(
    ("command", "line", "body"),
    [
        (("node", "maintenance", "on", "3"), "POST /v1/nodes/3/actions/maintenance_on", {}),
        (
            (
                "node",
                "maintenance",
                "on",
                "node:3",
                "--keep-replicas",
                "--overwrite-snapshot",
                "--yield-leadership",
                "--max-moves",
                "0",
            ),
            "POST /v1/nodes/3/actions/maintenance_on",
            {
                "evict_ha_replica": False,
                "evict_active_active_replica": False,
                "overwrite_snapshot": True,
                "demote_node": True,
                "max_concurrent_actions": 0,
            },
        ),
        (
            ("node", "maintenance", "on", "3", "--evict-db", "orders", "--evict-db", "1"),
            "POST /v1/nodes/3/actions/maintenance_on",
            {"evict_dbs": ["1", "1"]},
        ),
        (
            ("node", "maintenance", "off", "3", "--snapshot", "before"),
            "POST /v1/nodes/3/actions/maintenance_off",
            {"snapshot_name": "before"},
        ),
        (
            ("node", "maintenance", "off", "3", "--no-restore", "--max-moves", "4"),
            "POST /v1/nodes/3/actions/maintenance_off",
            {"skip_shards_restore": True, "max_concurrent_actions": 4},
        ),
        (("node", "remove", "3", "--yes"), "POST /v1/nodes/3/actions/remove", {}),
        (
            ("node", "remove", "3", "--yes", "--no-wait-for-persistence"),
            "POST /v1/nodes/3/actions/remove",
            {"wait_for_persistence": False},
        ),
        (
            ("node", "step-down", "1", "--yield-leadership", "--shards-only", "--retry-timeout", "5"),
            "POST /v1/nodes/1/actions/enslave_node",
            {"demote_node": True, "shards_only": True, "retry_timeout_seconds": 5},
        ),
        (("node", "reopen", "3"), "PUT /v1/nodes/3", {"accept_servers": True}),
        (("node", "add", "--memory", "4gb", "--rack", "b"), "POST /v1/nodes", {"memory": 4 << 30, "rack_id": "b"}),
        (("node", "snapshots", "3", "--create", "before"), "POST /v1/nodes/3/snapshots/before", {}),
        (("node", "snapshots", "3", "--delete", "before"), "DELETE /v1/nodes/3/snapshots/before", None),
        (("db", "delete", "orders", "--yes"), "DELETE /v1/bdbs/1", None),
        (
            ("db", "update", "orders", "--memory", "2gb", "--no-replication", "--no-strict", "--notify-keyspace-events", ""),
            "PUT /v1/bdbs/1",
            {"memory_size": 2 << 30, "replication": False, "strict": False, "notify_keyspace_events": ""},
        ),
        (
            (
                "db",
                "create",
                "s",
                "--memory",
                "1gb",
                "--persistence",
                "snapshot",
                "--snapshot-policy",
                "3600:1",
                "--port",
                "12000",
            ),
            "POST /v1/bdbs",
            {
                "name": "s",
                "memory_size": 1 << 30,
                "data_persistence": "snapshot",
                "snapshot_policy": [{"secs": 3600, "writes": 1}],
                "port": 12000,
            },
        ),
        (
            (
                "db",
                "create",
                "o",
                "--memory",
                "0",
                "--replication",
                "--persistence",
                "aof",
                "--aof-policy",
                "always",
                "--server",
                "redis",
            ),
            "POST /v1/bdbs",
            {
                "name": "o",
                "memory_size": 0,
                "replication": True,
                "data_persistence": "aof",
                "aof_policy": "appendfsync-always",
                "server": "redis",
            },
        ),
    ],
)
def test_options_become_the_keys_of_the_wire(directory: Path, command: tuple[str, ...], line: str, body: object) -> None:
    node = {"uid": 4, "addr": "127.0.0.4", "status": "provisioning", "accept_servers": True}
    answers: dict[str, Any] = {"GET /v1/bdbs": (200, [DATABASE])}
    answers[line] = (200, node) if line == "POST /v1/nodes" else (200, DATABASE) if "bdbs" in line else QUEUED
    with canned_api(answers) as api:
        result = run(directory, api, *command)
        assert result.exit_code == 0, result.output
        assert api.body_of(line) == body


def test_a_database_password_comes_from_a_file(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    with canned_api({"POST /v1/bdbs": (200, DATABASE)}) as api:
        given = ("db", "create", "orders", "--memory", "1gb", "--database-password-file", str(tmp_path / "password"))
        assert run(directory, api, *given).exit_code == 0
        assert api.body_of("POST /v1/bdbs")["authentication_redis_pass"] == "s3cret"


def test_waiting_shows_moves_and_ends_with_the_action(directory: Path) -> None:
    answers: list[Answer] = [
        (200, action("starting")),
        (200, action(progress="20", moves=[MOVE])),
        (503, {"error_code": "store_unavailable", "description": "The store cannot be reached."}),
        (200, action("completed", progress="100", moves=[MOVE | {"state": "done", "bytes_done": 200}])),
    ]
    script: Script = {"POST /v1/nodes/3/actions/maintenance_on": QUEUED, f"GET /v1/actions/{UID}": answers}
    with canned_api(script) as api:
        result = run(directory, api, "node", "maintenance", "on", "3", "--wait")
    assert result.exit_code == 0, result.output
    assert "  relocate redis:4 node:3 -> node:1: syncing 50B/200B" in result.stdout
    assert "done 200B" in result.stdout
    assert result.stdout.splitlines()[-1] == "maintenance_on node:3: completed, 1 move, 200B"


def test_waiting_with_json_prints_one_object(directory: Path) -> None:
    script: Script = {
        "POST /v1/nodes/3/actions/maintenance_on": QUEUED,
        f"GET /v1/actions/{UID}": [(200, action()), (200, action("completed"))],
    }
    with canned_api(script) as api:
        result = run(directory, api, "node", "maintenance", "on", "3", "--wait", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["status"] == "completed"


@pytest.mark.parametrize("status", ["failed", "cancelled", "aborted"])
def test_an_action_that_does_not_complete_ends_with_1(directory: Path, status: str) -> None:
    failed = action(status, error_code="insufficient_resources", error_message="no room for redis:4")
    with canned_api({f"GET /v1/actions/{UID}": (200, failed)}) as api:
        result = run(directory, api, "action", "watch", UID)
    assert result.exit_code == 1
    assert "no room for redis:4 (insufficient_resources)" in result.stderr


def test_waiting_too_long_ends_with_4(directory: Path) -> None:
    with canned_api({f"GET /v1/actions/{UID}": (200, action())}) as api:
        result = run(directory, api, "action", "watch", UID, "--timeout", "0.3s")
    assert result.exit_code == 4
    assert "it continues" in result.stderr


def test_a_database_can_be_awaited(directory: Path) -> None:
    pending = DATABASE | {"status": "pending"}
    with canned_api({"POST /v1/bdbs": (200, pending), "GET /v1/bdbs/1": [(200, pending), (200, DATABASE)]}) as api:
        result = run(directory, api, "db", "create", "orders", "--memory", "1gb", "--wait")
    assert (result.exit_code, result.stdout) == (0, "created db:1 orders at 127.0.0.1:10000\n")


def test_a_database_that_cannot_be_created_has_a_reason(directory: Path) -> None:
    broken = DATABASE | {"status": "creation-failed", "failure_reason": "no port is free"}
    with canned_api({"POST /v1/bdbs": (200, DATABASE | {"status": "pending"}), "GET /v1/bdbs/1": (200, broken)}) as api:
        result = run(directory, api, "db", "create", "orders", "--memory", "1gb", "--wait")
    assert result.exit_code == 1
    assert "no port is free" in result.stderr


def test_a_deletion_can_be_awaited(directory: Path) -> None:
    gone = (404, {"error_code": "db_not_found", "description": "gone"})
    script: Script = {"GET /v1/bdbs": (200, [DATABASE]), "DELETE /v1/bdbs/1": (200, DATABASE), "GET /v1/bdbs/1": gone}
    with canned_api(script) as api:
        result = run(directory, api, "db", "delete", "orders", "--yes", "--wait")
    assert (result.exit_code, result.stdout) == (0, "db:1 orders: deleted\n")


def test_nothing_is_deleted_without_confirmation(directory: Path) -> None:
    with canned_api({"GET /v1/bdbs": (200, [DATABASE])}) as api:
        for command in (("db", "delete", "orders"), ("node", "remove", "3")):
            result = run(directory, api, *command)
            assert result.exit_code == 2
            assert "--yes" in result.stderr
        assert set(api.lines()) == {"GET /v1/bdbs"}


def test_a_refusal_shows_its_code_and_ends_with_1(directory: Path) -> None:
    body = {
        "error_code": "action_running",
        "description": "node:3 has a running action.",
        "reasons": [{"description": "remove runs"}],
    }
    with canned_api({"POST /v1/nodes/3/actions/maintenance_on": (409, body)}) as api:
        text = run(directory, api, "node", "maintenance", "on", "3")
        as_json = run(directory, api, "node", "maintenance", "on", "3", "--json")
    assert (text.exit_code, text.stdout) == (1, "")
    assert "node:3 has a running action.\n  - remove runs (action_running)" in text.stderr
    assert json.loads(as_json.stderr)["error_code"] == "action_running"


def test_a_wrong_password_ends_with_1(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong")
    with canned_api({}) as api:
        result = run(directory, api, "status", "--password-file", str(tmp_path / "wrong"))
    assert result.exit_code == 1
    assert "--password-file" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("node", "maintenance", "on", "three"),
        ("node", "maintenance", "off", "3", "--snapshot", "x", "--no-restore"),
        ("node", "step-down", "3", "--endpoints-only", "--shards-only"),
        ("node", "snapshots", "3", "--create", "../../x"),
        ("db", "create", "x", "--memory", "4g"),
        ("db", "create", "x", "--memory", "1gb", "--snapshot-policy", "daily"),
        ("db", "update", "orders"),
        ("action", "show", "7b"),
        ("action", "watch", "../x"),
        ("action", "watch", UID, "--timeout", "soon"),
        ("events", "--since", "yesterday"),
        ("node", "frobnicate"),
    ],
)
def test_wrong_usage_ends_with_2_and_changes_nothing(directory: Path, command: tuple[str, ...]) -> None:
    with canned_api({"GET /v1/bdbs": (200, [DATABASE])}) as api:
        result = run(directory, api, *command)
        assert result.exit_code == 2, result.output
        assert all(line.startswith("GET ") for line in api.lines())


def unused_url() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_an_unreachable_api_ends_with_3(directory: Path) -> None:
    result = run(directory, [unused_url()], "status")
    assert result.exit_code == 3
    assert "shardwright up" in result.stderr


def test_the_next_node_is_asked_if_one_does_not_answer(directory: Path) -> None:
    with canned_api({"GET /v1/nodes": (200, [])}) as second, canned_api({"GET /v1/nodes": (0, None)}) as dying:
        second.script["GET /v1/nodes/status"] = (200, {})
        result = run(directory, [unused_url(), dying.url, second.url], "node", "list")
        assert result.exit_code == 0, result.output
        assert second.lines() == ["GET /v1/nodes", "GET /v1/nodes/status"]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_next_node_is_asked_if_one_is_frozen(scheme: str) -> None:
    with socket.socket() as frozen, canned_api({"GET /v1/nodes": (200, [])}) as second:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen()  # The kernel accepts the connection, but no process answers.
        urls = (f"{scheme}://127.0.0.1:{frozen.getsockname()[1]}", second.url)
        with ApiClient(Access(urls, USER, PASSWORD), connect_timeout_s=0.3, read_timeout_s=0.3) as client:
            assert client.get("/v1/nodes") == []
            assert client.get("/v1/nodes") == []
        assert second.lines() == ["GET /v1/nodes"] * 2


def test_a_change_is_never_sent_twice(directory: Path) -> None:
    with canned_api({"POST /v1/nodes": (0, None)}) as dying, canned_api({}) as second:
        result = run(directory, [dying.url, second.url], "node", "add")
        assert result.exit_code == 3
        assert "may or may not" in result.stderr
        assert (dying.lines(), second.lines()) == (["POST /v1/nodes"], [])


def test_an_answer_that_is_not_json_ends_with_3(directory: Path) -> None:
    with canned_api({"GET /v1/nodes": (200, b"<html>")}) as api:
        assert run(directory, api, "node", "list").exit_code == 3


def test_the_four_tables(directory: Path) -> None:
    shard = {"uid": "9", "bdb_uid": 1, "node_uid": "1", "role": "master", "status": "active", "detailed_status": "ok"}
    script: Script = {
        "GET /v1/nodes": (200, [{"uid": 1, "status": "active", "addr": "127.0.0.1", "accept_servers": True}]),
        "GET /v1/nodes/status": (200, {"1": {"role": "master"}}),
        "GET /v1/bdbs": (200, [DATABASE]),
        "GET /v1/shards": (200, [shard]),
        "GET /v1/cluster/actions": (200, {"actions": []}),
        "GET /v1/cluster": (200, {"cluster_version": 2}),
    }
    with canned_api(script) as api:
        text = run(directory, api, "status").stdout
        as_json = json.loads(run(directory, api, "status", "--json").stdout)
    titles = [line for line in text.splitlines() if line.endswith(":")]
    assert titles == ["CLUSTER NODES:", "DATABASES:", "ENDPOINTS:", "SHARDS:"]
    assert {"leader", "primary"} <= set(text.split())
    assert "master" not in text
    assert as_json["shards"] == [shard]


def test_actions_are_found_by_their_first_characters(directory: Path) -> None:
    machine = {
        "action_uid": "7b0dffff",
        "name": "SMCreateBDB",
        "object_name": "bdb:1",
        "status": "completed",
        "progress": 100.0,
    }
    script: Script = {
        "GET /v1/actions": (200, {"actions": [action()], "state-machines": [machine]}),
        f"GET /v1/actions/{UID}": (200, action()),
    }
    with canned_api(script) as api:
        assert "bdb:1" in run(directory, api, "action", "list").stdout
        assert "bdb:1" not in run(directory, api, "action", "list", "--node", "3").stdout
        assert run(directory, api, "action", "show", "7b0d").exit_code == 2
        assert "maintenance_on node:3" in run(directory, api, "action", "show", "7b0d0").stdout


def test_an_action_shows_steps_moves_evidence_and_reasons(directory: Path) -> None:
    evidence = {
        "from_shard": "4",
        "to_shard": "5",
        "pause_ms": 4.2,
        "fenced_offset": 77,
        "promoted_offset": 77,
        "held_commands": 3,
    }
    times = {"started": "2026-11-23T10:00:00Z", "ended": "2026-11-23T10:00:05Z"}
    shown = action(
        steps=[{"name": "snapshot", "description": "maintenance_mode_x"} | times],
        moves=[
            MOVE | times | {"state": "done", "evidence": evidence},
            MOVE | {"reasons": [{"code": "busy", "description": "a Lua script"}]},
        ],
        reasons=[{"code": "soft", "description": "waits for memory", "remedy": "add a node"}],
    )
    with canned_api({f"GET /v1/actions/{UID}": (200, shown)}) as api:
        text = run(directory, api, "action", "show", UID).stdout
    for part in (
        "maintenance_mode_x",
        "  5s  ",
        "offset 77 fenced",
        "a Lua script (busy)",
        "waits for memory (soft); remedy: add a node",
    ):
        assert part in text


def test_cancelling_uses_the_word_of_the_path_and_never_deletes_a_result(directory: Path) -> None:
    remove = action(name="remove_node")
    script: dict[str, Any] = {
        f"GET /v1/actions/{UID}": (200, remove),
        "DELETE /v1/nodes/3/actions/remove": (200, remove | {"status": "cancelling"}),
    }
    with canned_api(script) as api:
        assert "cancelling" in run(directory, api, "action", "cancel", UID, "--yes").stdout
        api.script[f"GET /v1/actions/{UID}"] = (200, remove | {"status": "completed"})
        assert run(directory, api, "action", "cancel", UID, "--yes").exit_code == 1
        assert api.lines().count("DELETE /v1/nodes/3/actions/remove") == 1


def test_a_second_cancellation_succeeds_unless_it_asks_for_more(directory: Path) -> None:
    stopped = action("cancelled", moves=[{"what": "redis:1"}])
    with canned_api({f"GET /v1/actions/{UID}": (200, stopped)}) as api:
        assert "was already cancelled" in run(directory, api, "action", "cancel", UID, "--yes").stdout
        assert run(directory, api, "action", "cancel", UID, "--undo", "--yes").exit_code == 1
        api.script[f"GET /v1/actions/{UID}"] = (200, stopped | {"steps": [{"name": "undo"}]})
        assert run(directory, api, "action", "cancel", UID, "--undo", "--yes").exit_code == 0
        assert api.lines().count(f"GET /v1/actions/{UID}") == 3, "only reads"


def test_events_are_shown_the_newest_last(directory: Path) -> None:
    events = [
        {
            "time": "2026-11-23T10:00:02Z",
            "type": "second",
            "severity": "INFO",
            "node_uid": 3,
            "description": "b",
            "by": USER,
        },
        {"time": "2026-11-23T10:00:01Z", "type": "first", "severity": "INFO", "bdb_uid": "1", "description": "a"},
    ]
    with canned_api({"GET /v1/logs": (200, events)}) as api:
        lines = run(directory, api, "events", "--limit", "2", "--since", "1h").stdout.splitlines()
        assert "order=desc" in api.asked[0].query
        assert "stime=" in api.asked[0].query
    assert [line.split()[2:5] for line in lines[1:]] == [["first", "db:1", "cluster"], ["second", "node:3", USER]]


@pytest.fixture
def own_certificate(directory: Path) -> tuple[Path, Path]:
    (directory / "tls").mkdir(parents=True)
    return _make_certificate(directory / "tls")


def _make_certificate(where: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shardwright")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.77"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    where.mkdir(parents=True, exist_ok=True)
    (where / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (where / "key.pem").write_bytes(private)
    return where / "cert.pem", where / "key.pem"


def test_the_clusters_own_certificate_is_trusted_and_no_other(
    directory: Path, own_certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    script: Script = {"GET /v1/nodes": (200, []), "GET /v1/nodes/status": (200, {})}
    with canned_api(script, certificate=own_certificate) as api:
        assert run(directory, api, "node", "list").exit_code == 0
    with canned_api(script, certificate=_make_certificate(tmp_path / "impostor")) as impostor:
        result = run(directory, impostor, "node", "list")
        assert result.exit_code == 3
        assert "not trusted" in result.stderr
        assert impostor.lines() == []


def test_the_installed_command_runs(directory: Path) -> None:
    with canned_api({"GET /v1/nodes": (200, []), "GET /v1/nodes/status": (200, {})}) as api:
        directory.mkdir()
        (directory / "password").write_text(PASSWORD)
        command = [sys.executable, "-m", "shardwright.cli.main", "node", "list", "--json"]
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "HOME": str(directory),
            "SHARDWRIGHT_URL": api.url,
            "SHARDWRIGHT_USER": USER,
            "SHARDWRIGHT_PASSWORD_FILE": str(directory / "password"),
        }
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
