"""``shardwright cluster move-store``: its help and its refusals. The move itself is tested with a real etcd."""

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from shardwright.cli.failure import Exit
from shardwright.cli.main import build


def run(*command: str) -> Result:
    return CliRunner().invoke(build(), ["cluster", "move-store", *command], env={"SHARDWRIGHT_DIR": ""})


def test_the_help_shows_an_example_and_what_becomes_of_the_file() -> None:
    said = run("--help").output
    assert "shardwright cluster move-store --endpoint https://" in said
    assert "store.db.moved" in said


def test_wrong_options_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    done = run("--endpoint", "https://127.0.0.1:1", "--dir", str(tmp_path), "--json")
    assert done.exit_code == Exit.USAGE
    refused = json.loads(done.stderr)
    assert refused["error_code"] == "invalid_option"
    assert "certificate" in refused["description"]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_a_cluster_is_refused(tmp_path: Path) -> None:
    done = run("--endpoint", "http://127.0.0.1:1", "--dir", str(tmp_path))
    assert done.exit_code == Exit.FAILED
    assert "no cluster" in done.stderr
    assert list(tmp_path.iterdir()) == []
