"""Which processes count as those of a local cluster, on real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from shardwright.local.layout import Layout
from shardwright.local.stop import find_running
from shardwright.machine.processes import find_processes
from shardwright.model.ids import NodeUid
from testkit.deadlines import until

MODULE = "two_like_one"
PROGRAM = "import os, time\nos.fork()\nprint('ready', flush=True)\ntime.sleep(60)\n"


def test_a_process_that_a_daemon_is_starting_is_no_second_daemon(tmp_path: Path) -> None:
    """Between its fork and the execution of its program it looks like the daemon."""
    directory = tmp_path / "c"
    (tmp_path / f"{MODULE}.py").write_text(PROGRAM)
    command = [sys.executable, "-m", MODULE, "--dir", str(directory), "--node", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True) as daemon:
        try:

            def both() -> int:
                return len(find_processes(lambda p: p.directory == str(tmp_path)))

            until("both run", lambda: both() == 2, state=lambda: str(both()))
            found = find_running(Layout(directory), nodes=[NodeUid(1)])
            assert [process.pid for process in found.daemons] == [daemon.pid]
        finally:
            os.killpg(daemon.pid, signal.SIGKILL)
