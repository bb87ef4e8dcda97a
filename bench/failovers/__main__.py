"""``python -m bench.failovers --count N``: prints p50, p99 and the longest time without an acknowledgement of each way,
beside Sentinel's. Exit status 1 if an acknowledged write of the strict database was lost; 77: machines cannot be made here.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.failovers.run import OURS, PEER, FailoversResult, Way, run
from bench.figures import spread
from demo.__main__ import interrupted
from demo.cluster import DemoFailed
from demo.machines.__main__ import EXIT_IMPOSSIBLE
from shardwright.server.binaries import find_server
from testkit import guard
from testkit.machines.commands import MachinesFailed, missing


def show(result: FailoversResult, console: Console) -> None:
    """Print the table."""
    table = Table(title="Seconds without an acknowledgement after the loss of the primary's machine", title_justify="left")
    for column in ("way", "side", "failovers", "p50", "p99", "max"):
        table.add_column(column, justify="left" if column in ("way", "side") else "right")
    for way in [*Way, None]:
        for side in (OURS, PEER):
            gaps = result.gaps_s[side]
            found = spread(gaps[way] if way else [gap for each in gaps.values() for gap in each])
            times = (f"{found.p50:.1f}", f"{found.p99:.1f}", f"{found.max:.1f}")
            table.add_row(way or "all", side, str(found.count), *times)
    console.print(table)
    for side in (OURS, PEER):
        acked, lost, errors = result.acked[side], result.lost[side], result.errors[side]
        console.print(f"{side}: acknowledged {acked}, of which lost {lost}; errors seen by its client: {errors}")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="bench.failovers", description="Failovers of machines beside Sentinel's.")
    parser.add_argument("--count", type=int, default=8)
    options = parser.parse_args()
    if why := missing():
        print(f"Machines cannot be made here: {why}.", file=sys.stderr)
        return EXIT_IMPOSSIBLE
    signal.signal(signal.SIGTERM, interrupted)
    guard.begin()
    console = Console(width=140 if not sys.stdout.isatty() else None)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {text}", highlight=False)

    try:
        result = run(options.count, Path(find_server().path), say)
    except (DemoFailed, MachinesFailed) as e:
        console.print(f"The failovers could not be measured: {e}", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    show(result, console)
    gaps = {side: {str(way): found for way, found in ways.items()} for side, ways in result.gaps_s.items()}
    print(json.dumps({"failovers": {"gaps_s": gaps, "acked": result.acked, "lost": result.lost, "errors": result.errors}}))
    return 1 if result.lost[OURS] else 0


if __name__ == "__main__":
    sys.exit(main())
