"""``python -m demo.machines``: the demonstration on machines of namespaces. Exit status as of ``demo``; 77: machines
cannot be made here, and the last line says why.
"""

import argparse
import json
import signal
import sys
import time

from rich.console import Console

from demo import report
from demo.__main__ import interrupted
from demo.cluster import DemoFailed
from demo.machines import losses_report
from demo.machines.cluster import MachinesCluster
from demo.machines.losses import run_losses
from demo.scenario import run
from testkit import guard
from testkit.machines.calls import CallRefused
from testkit.machines.commands import MachinesFailed, missing

EXIT_IMPOSSIBLE = 77


def main() -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(
        prog="demo.machines", description="Every node action on machines of namespaces; then machines are lost."
    )
    parser.add_argument("--server", default="auto", help="valkey, redis, auto, or the path of a server binary")
    options = parser.parse_args()
    if why := missing():
        print(f"The demonstration on machines is not possible here: {why}.", file=sys.stderr)
        return EXIT_IMPOSSIBLE
    signal.signal(signal.SIGTERM, interrupted)
    guard.begin()
    console = Console(width=140 if not sys.stdout.isatty() else None)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {text}", highlight=False)

    try:
        with MachinesCluster(say, server=options.server) as cluster:
            result = run(cluster, say)
            report.show(result, console)
            losses = run_losses(cluster, say)
            say("turning the machines off")
    except (DemoFailed, MachinesFailed, CallRefused, EOFError) as e:
        console.print(f"The demonstration failed: {e}", markup=False)
        print(json.dumps({"demo": "failed", "reason": str(e)[:500]}))
        return 1
    except KeyboardInterrupt:
        print(json.dumps({"demo": "interrupted"}))
        return 130
    losses_report.show(losses, console)
    say("done")
    is_good = report.is_good(result) and losses.is_good
    summary = report.summary(result) | {"demo": "ok" if is_good else "failed", "losses": losses_report.summary(losses)}
    print(json.dumps(summary))
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
