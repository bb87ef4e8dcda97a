"""A short run of chaos on machines; ``make chaos-machines`` makes long ones.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testkit.deadlines import LATENESS_MAX
from testkit.etcd import require_etcd
from testkit.machines.commands import missing

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.proof,
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]


def test_a_short_run_loses_nothing_and_comes_to_rest() -> None:
    require_etcd()
    done = subprocess.run(
        [sys.executable, "-m", "chaos.machines", "--seed", "3", "--for", "60"],
        capture_output=True,
        text=True,
        timeout=600 * LATENESS_MAX,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    found = json.loads(done.stdout.splitlines()[-1])["chaos_machines"]
    assert found["ok"] is True
    assert found["found"]["acked"] > 1000
    assert sum(found["faults"].values()) >= 2
    assert found["requests"]
