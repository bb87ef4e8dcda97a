"""A short run of real chaos; ``make chaos`` makes long ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.deadlines import LATENESS_MAX

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
@pytest.mark.proof
@pytest.mark.server
@pytest.mark.parametrize("options", [pytest.param([], id="faults"), pytest.param(["--unnoticed"], id="unnoticed")])
def test_a_short_run_loses_nothing_and_comes_to_rest(tmp_path: Path, options: list[str]) -> None:
    command = [sys.executable, "-m", "chaos", "--seed", "5", "--for", "20", "--keep", str(tmp_path)]
    command += options
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=280 * LATENESS_MAX,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    found = json.loads(done.stdout.splitlines()[-1])["chaos"]
    assert found["ok"] is True
    assert found["found"]["acked"] > 1000
    assert sum(found["faults"].values()) >= 4
    assert found["requests"]
    assert sum(sum(client["outcomes"].values()) for client in found["crowd"].values()) > 100
