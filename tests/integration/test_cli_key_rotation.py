"""``shardwright cluster rotate-key``, with a real HTTP server and canned answers."""

import json
from pathlib import Path
from typing import Any

from tests.integration.canned_api import canned_api
from tests.integration.test_cli import run
from tests.unit.cli.test_cli_rotate_key import ANSWER, REASON

PATH = "/v1/cluster/actions/rotate_key"
WAITING: dict[str, Any] = ANSWER | {"phase": "dropping", "reasons": [REASON]}
DONE: dict[str, Any] = ANSWER | {"status": "completed", "phase": "done"}


def script() -> dict[str, Any]:
    return {f"POST {PATH}": (200, ANSWER), f"GET {PATH}": [(200, ANSWER), (200, WAITING), (200, DONE)]}


def test_it_is_requested_and_goes_on_by_itself(tmp_path: Path) -> None:
    with canned_api(script()) as api:
        result = run(tmp_path, api, "cluster", "rotate-key")
        assert (result.exit_code, api.lines(), api.body_of(f"POST {PATH}")) == (0, [f"POST {PATH}"], {})
    assert "30 of 40 secrets" in result.stdout
    assert "--wait" in result.stdout


def test_the_progress_is_shown_until_the_end(tmp_path: Path) -> None:
    with canned_api(script()) as api:
        result = run(tmp_path, api, "cluster", "rotate-key", "--wait")
    lines = result.stdout.splitlines()
    for part, line in zip(("30 of 40", "every secret", "node 3 is away"), lines, strict=False):
        assert part in line
    assert "0000 opens nothing" in lines[-2]
    assert "Keep a copy" in lines[-1]


def test_with_json_only_the_answer_is_printed(tmp_path: Path) -> None:
    with canned_api(script()) as api:
        result = run(tmp_path, api, "cluster", "rotate-key", "--wait", "--json")
    assert json.loads(result.stdout) == DONE


def test_a_refusal_and_a_wait_that_is_too_long_have_their_exit_codes(tmp_path: Path) -> None:
    refusal = (406, {"error_code": "cluster_key_absent", "description": "This cluster has no key. Make one."})
    with canned_api(script() | {f"POST {PATH}": refusal}) as api:
        result = run(tmp_path, api, "cluster", "rotate-key", "--wait")
        assert (result.exit_code, "cluster_key_absent" in result.stderr) == (1, True)
    with canned_api(script() | {f"GET {PATH}": (200, WAITING)}) as api:
        result = run(tmp_path, api, "cluster", "rotate-key", "--wait", "--timeout", "1s")
        assert result.exit_code == 4, result.stderr
        assert "node 3 is away" in result.stdout
