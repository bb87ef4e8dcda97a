"""The program of a node: what it imports for which command."""

import subprocess
import sys

HEAVY = (
    "shardwright.agent",
    "shardwright.api",
    "shardwright.endpoint",
    "shardwright.node.daemon",
    "shardwright.node.drain",
    "fastapi",
)


def test_the_next_leader_does_not_wait_for_imports_that_the_end_of_a_daemon_does_not_need() -> None:
    program = "import sys, shardwright.node.main, shardwright.log, shardwright.node.ended; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = ran.stdout.split()
    assert "shardwright.store.open" in imported
    assert [name for name in imported if name.startswith(HEAVY)] == []
