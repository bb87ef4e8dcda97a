"""The command line with the real API on a real store: the API understands its commands, and it prints the answers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shardwright.cli.main import build
from shardwright.model.action import ActionStatus
from tests.integration.api_harness import PASSWORD, RunningApi


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    with RunningApi() as running:
        yield running


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text(PASSWORD)
    return path


class Operator:
    """A user at a terminal, with this role."""

    def __init__(self, api: RunningApi, password_file: Path, role: str) -> None:
        self._environment = {
            "SHARDWRIGHT_URL": api.url,
            "SHARDWRIGHT_USER": f"{role}@example.com",
            "SHARDWRIGHT_PASSWORD_FILE": str(password_file),
            "SHARDWRIGHT_CERTIFICATE": str(api.certificate),
            "SHARDWRIGHT_DIR": str(password_file.parent),
        }

    def run(self, *command: str) -> Result:
        return CliRunner().invoke(build(), command, env=self._environment)

    def text(self, *command: str) -> str:
        result = self.run(*command)
        assert result.exit_code == 0, result.output
        return result.stdout

    def answer(self, *command: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.text(*command, "--json"))
        return found


@pytest.fixture
def admin(api: RunningApi, password_file: Path) -> Operator:
    return Operator(api, password_file, "admin")


def test_status_shows_the_cluster(admin: Operator) -> None:
    text = admin.text("status")
    for part in (
        "CLUSTER NODES:",
        "node:1  leader",
        "node:3",
        "DATABASES:",
        "orders",
        "cache",
        "ENDPOINTS:",
        "SHARDS:",
        "primary",
    ):
        assert part in text, text
    assert "slave" not in text
    shown = {"nodes", "nodes_status", "bdbs", "shards", "cluster_actions", "cluster"}
    assert set(admin.answer("status")) == shown


@pytest.mark.parametrize(
    "command",
    [
        ("db", "list"),
        ("db", "show", "orders"),
        ("db", "show", "db:2"),
        ("node", "list"),
        ("node", "show", "1"),
        ("node", "snapshots", "1"),
        ("action", "list"),
        ("cluster", "members"),
        ("events",),
        ("events", "--since", "1h", "--limit", "5"),
    ],
)
def test_every_resource_can_be_shown(admin: Operator, command: tuple[str, ...]) -> None:
    assert "Traceback" not in admin.text(*command)
    json.loads(admin.text(*command, "--json"))


def test_a_database_from_creation_to_deletion(admin: Operator) -> None:
    assert "being created: db:3 made at " in admin.text(
        "db", "create", "made", "--memory", "64mb", "--replication", "--persistence", "aof"
    )
    assert "bdb_create_request" in admin.text("events")
    assert "pending" in admin.text("db", "show", "made")
    assert admin.run("db", "create", "made", "--memory", "64mb").exit_code == 1
    assert "deleted" in admin.text("db", "delete", "made", "--yes")


def test_an_action_from_the_command_to_its_end(api: RunningApi, admin: Operator) -> None:
    uid = admin.answer("node", "maintenance", "on", "3", "--evict-db", "orders", "--max-moves", "2", "--yield-leadership")[
        "action_uid"
    ]
    assert uid in admin.text("action", "list", "--node", "3")
    assert "queued" in admin.text("action", "show", uid[:8])
    refused = admin.run("node", "step-down", "3")
    assert refused.exit_code == 1
    assert "(node_action_in_progress)" in refused.stderr
    assert admin.run("action", "watch", uid, "--timeout", "0.1s").exit_code == 4
    api.set_action(uid, ActionStatus.STARTING)
    assert "cancelling" in admin.text("action", "cancel", uid[:8], "--yes")
    api.set_action(uid, ActionStatus.CANCELLED)
    assert admin.run("action", "watch", uid).exit_code == 1
    assert "maintenance_on node:3: cancelled" in admin.text("action", "show", uid)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("node", "maintenance", "off", "2", "--no-restore"), "maintenance_off"),
        (("node", "step-down", "2", "--shards-only", "--retry-timeout", "5"), "enslave_node"),
        (("node", "remove", "2", "--wait-for-persistence", "--yes"), "remove_node"),
    ],
)
def test_each_action_is_accepted_and_waited_for(
    api: RunningApi, admin: Operator, command: tuple[str, ...], name: str
) -> None:
    uid = admin.answer(*command)["action_uid"]
    api.set_action(uid, ActionStatus.COMPLETED)
    assert admin.text("action", "watch", uid).splitlines()[-1] == f"{name} node:2: completed"


def test_a_node_is_added_and_reopened(api: RunningApi, admin: Operator) -> None:
    assert "added node:4" in admin.text("node", "add", "--memory", "2gb", "--rack", "")
    assert api.view().nodes[next(uid for uid in api.view().nodes if uid == 4)].memory_bytes == 2 << 30
    assert "accepts new shards" in admin.text("node", "reopen", "2")


def test_a_leader_is_chosen(admin: Operator) -> None:
    assert "node:1 leads the cluster" in admin.text("cluster", "change-leader", "1", "--wait")
    assert admin.answer("cluster", "change-leader", "node:2")["status"] == "queued"
    assert admin.run("cluster", "change-leader", "77").exit_code == 1


def test_snapshots_are_taken_listed_and_deleted(admin: Operator) -> None:
    admin.text("node", "snapshots", "1", "--create", "before-patch")
    assert "before-patch" in admin.text("node", "snapshots", "1")
    admin.text("node", "snapshots", "1", "--delete", "before-patch")
    assert "before-patch" not in admin.text("node", "snapshots", "1")


def test_a_viewer_may_read_but_not_change(api: RunningApi, password_file: Path) -> None:
    viewer = Operator(api, password_file, "db_viewer")
    viewer.text("status")
    refused = viewer.run("node", "maintenance", "on", "1")
    assert refused.exit_code == 1
    assert "(forbidden)" in refused.stderr


def test_missing_objects_are_refused(admin: Operator) -> None:
    for command in (("node", "show", "99"), ("db", "show", "nothing"), ("action", "show", "0" * 36)):
        result = admin.run(*command)
        assert result.exit_code == 1, result.output
        assert result.stderr.startswith("error: ")
