"""Runs parts of the simulation in a process of its own: the order of sets of texts must be the same in each run."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, timeout_s: float = 300.0, niceness: int = 0) -> subprocess.CompletedProcess[str]:
    """``python -m shardwright.testing.sim …``; a niceness above 0 lets other work go first."""
    return subprocess.run(
        ["nice", "-n", str(niceness), sys.executable, "-m", "shardwright.testing.sim", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "0"},
        check=False,
    )
