"""``cluster backup``, ``backups``, ``restore`` and ``node follow-restore`` as commands: wrong usage changes nothing."""

import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from shardwright.backup_files import write_backup
from shardwright.cli.failure import Exit
from shardwright.cli.main import build
from shardwright.model.cluster import Cluster
from shardwright.model.ids import NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.node.founding import Place, members_store, settings_of
from shardwright.node.settings import Directories, NodeSettings
from shardwright.node.settings_file import write_settings
from shardwright.store import keys, records
from shardwright.store.backup import backup_of
from shardwright.store.protocol import KeyValue

NOW = datetime(2026, 11, 29, 19, tzinfo=UTC)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="node-") as made:
        yield Path(made)


def node_in(folder: Path) -> NodeSettings:
    """A machine with a node's settings, and nothing that runs."""
    directories = Directories(*(folder / name for name in ("etc", "state", "run", "log")))
    directories.configuration.mkdir()
    place = Place((ip_address("127.0.0.1"),), directories=directories)
    settings = settings_of(NodeUid(1), place, members_store(place, ("https://127.0.0.1:2379",)))
    write_settings(directories.configuration / "node.toml", settings)
    return settings


def run(folder: Path, *words: str) -> Result:
    return CliRunner().invoke(build(), [*words, "--config", str(folder / "etc/node.toml")])


def file_in(settings: NodeSettings) -> Path:
    cluster = Cluster("prod", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION)
    items = [KeyValue(keys.CLUSTER, records.encode(cluster), 2, 2)]
    return write_backup(settings.directories.backups, backup_of(items, revision=2, node_uid=NodeUid(1), at=NOW))


@pytest.mark.parametrize(
    "words",
    [
        ("cluster", "backup"),
        ("cluster", "backups"),
        ("cluster", "restore", "FILE"),
        ("node", "follow-restore", "10.0.0.1"),
    ],
)
def test_a_local_cluster_is_told_what_to_do_instead(folder: Path, words: tuple[str, ...]) -> None:
    result = run(folder, *words)
    assert result.exit_code == Exit.FAILED
    assert "(backup_not_supported)" in result.stderr
    assert "copy its directory" in result.stderr
    assert json.loads(run(folder, *words, "--json").stderr)["error_code"] == "backup_not_supported"


def test_the_backups_are_listed_with_their_state(folder: Path) -> None:
    settings = node_in(folder)
    assert "no backup" in run(folder, "cluster", "backups").stdout
    good = file_in(settings)
    (good.parent / "cluster-a.backup").write_bytes(good.read_bytes()[:-4])
    (good.parent / "cluster-b.backup").write_bytes(b"nonsense")
    lines = run(folder, "cluster", "backups").stdout.splitlines()
    assert lines[0].split() == ["FILE", "TIME", "CLUSTER", "RECORDS", "SIZE", "STATE"]
    assert [line.split()[-1] for line in lines[1:]] == ["OK", "backup_damaged", "backup_foreign"]
    assert "2026-11-29 19:00:00 UTC  prod     1" in lines[1]
    found = json.loads(run(folder, "cluster", "backups", "--json").stdout)
    assert [one["state"] for one in found] == ["ok", "backup_damaged", "backup_foreign"]
    assert (found[0]["cluster"], found[0]["records"], found[0]["file"]) == ("prod", 1, str(good))


def test_a_file_that_is_no_backup_is_refused_before_anything_else(folder: Path) -> None:
    settings = node_in(folder)
    before = (settings.directories.configuration / "node.toml").read_bytes()
    (folder / "bad").write_bytes(b"nonsense")
    for name, code in (("bad", "backup_foreign"), ("absent", "backup_unreadable")):
        result = run(folder, "cluster", "restore", str(folder / name), "--yes")
        assert (result.exit_code, code in result.stderr) == (Exit.FAILED, True), result.stderr
    assert [path.name for path in settings.directories.configuration.iterdir()] == ["node.toml"]
    assert (settings.directories.configuration / "node.toml").read_bytes() == before


def test_a_machine_to_follow_is_an_address(folder: Path) -> None:
    node_in(folder)
    result = run(folder, "node", "follow-restore", "somewhere")
    assert (result.exit_code, "'somewhere' is not an IP address" in result.stderr) == (Exit.USAGE, True)


def test_the_help_names_what_each_is_for() -> None:
    commands = (("cluster", "restore"), ("node", "follow-restore"))
    said = {words: CliRunner().invoke(build(), [*words, "--help"]).stdout for words in commands}
    assert all("Examples:" in text for text in said.values())
    assert "lost its quorum for good" in said["cluster", "restore"]
