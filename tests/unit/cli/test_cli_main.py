import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from shardwright.cli.main import build

HEAVY = ("asyncio", "pydantic", "structlog", "cryptography", "shardwright.local.daemon")
"""What a command that only asks the API must not import: each costs its user a tenth of a second or more."""


def names_in(app: typer.Typer) -> set[str]:
    groups = {str(group.name) for group in app.registered_groups}
    return groups | {str(command.name) for command in app.registered_commands}


def test_without_words_the_command_line_is_complete() -> None:
    everything = names_in(build())
    assert everything == {
        *("up", "down", "daemon", "supervise", "cluster", "init", "join", "status", "db", "node", "action", "events")
    }


@pytest.mark.parametrize("command", sorted(names_in(build())))
def test_each_command_is_found_by_its_word(command: str) -> None:
    part = build(["--help", command] if command == "status" else [command, "--help"])
    assert command in names_in(part)
    shown = CliRunner().invoke(part, [command, "--help"])
    assert shown.exit_code == 0
    assert shown.output == CliRunner().invoke(build(), [command, "--help"]).output


@pytest.mark.parametrize("words", [["--help"], ["statsu"], ["--version", "statsu"], []])
def test_other_words_get_the_complete_command_line(words: list[str]) -> None:
    assert names_in(build(words)) == names_in(build())


@pytest.mark.parametrize("module", ["status", "database", "node", "action"])
def test_a_command_that_asks_the_api_imports_little(module: str) -> None:
    script = f"import sys, shardwright.cli.{module}; print(*(m for m in {HEAVY} if m in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
