"""A run of tests that is interrupted: started by name in the test of what remains. Starts processes of all kinds."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from shardwright.model.database import ServerKind
from tests.conftest import found_servers
from tests.integration.local_harness import LocalCluster
from tests.integration.server_harness import running

LASTS_S = 60


def test_that_is_in_progress(tmp_path: Path, loopback_base: Callable[[], str]) -> None:
    cluster = LocalCluster(tmp_path / "c", loopback_base())
    simulation = [sys.executable, "-m", "sim", "many", "-n", "100000", "--jobs", "2"]
    with ExitStack() as stack:
        for kind in found_servers():
            stack.enter_context(running(ServerKind(kind), tmp_path / kind))
        cluster.started()
        subprocess.run(simulation, check=False, timeout=LASTS_S)
