"""``shardwright node declare-off``, with a real HTTP server and canned answers."""

from pathlib import Path

from typer.testing import Result

from shardwright.cli.declaration import described
from tests.integration.canned_api import Script, canned_api
from tests.integration.test_cli import run

NODE = {"uid": 3, "addr": "10.0.0.3", "status": "down", "declared_off": None}
WORD = {"at": "2026-01-02T03:04:05Z", "by": "admin@example.com"}
STATUS = {"hostname": "db3", "master_shards": [1, 4], "slave_shards": [2]}
SCRIPT: Script = {
    "GET /v1/nodes/3": (200, NODE),
    "GET /v1/nodes/3/status": (200, STATUS),
    "POST /v1/nodes/3/declare_off": (200, NODE | {"declared_off": WORD}),
    "DELETE /v1/nodes/3/declare_off": (200, NODE),
}


def declare(directory: Path, *options: str) -> tuple[Result, list[str]]:
    with canned_api(SCRIPT) as api:
        result = run(directory, api, "node", "declare-off", "3", *options)
        return result, api.lines()


def test_the_address_confirms_it(tmp_path: Path) -> None:
    result, asked = declare(tmp_path, "--confirm", "10.0.0.3")
    assert (result.exit_code, asked) == (0, ["POST /v1/nodes/3/declare_off"])
    assert "node:3 at 10.0.0.3 is declared off" in result.stdout


def test_without_a_terminal_nothing_is_done_but_the_consequences_are_shown(tmp_path: Path) -> None:
    result, asked = declare(tmp_path)
    assert result.exit_code == 2
    assert "POST /v1/nodes/3/declare_off" not in asked
    assert "holds 2 primaries" in result.stdout
    assert "make sure that it has no power" in result.stdout
    assert "--confirm 10.0.0.3" in result.stderr


def test_it_can_be_withdrawn(tmp_path: Path) -> None:
    result, asked = declare(tmp_path, "--withdraw")
    assert (result.exit_code, asked) == (0, ["DELETE /v1/nodes/3/declare_off"])
    both, asked = declare(tmp_path, "--withdraw", "--confirm", "10.0.0.3")
    assert (both.exit_code, asked) == (2, [])


def test_the_word_is_shown() -> None:
    assert described(WORD) == "since 2026-01-02T03:04:05Z, by admin@example.com"
    assert described(None) == "no"
