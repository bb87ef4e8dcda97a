"""``python -m bench.failovers --count N``: prints p50, p99 and the longest time without an acknowledgement of each way, in
both modes and beside Sentinel's. Exit status 1 if a promise failed (``record.is_broken``); 77: machines cannot be made here.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.failovers.record import Failover, Side, Way, failover_of, gaps_of, is_broken, line_of
from bench.failovers.run import run
from bench.figures import spread
from demo.__main__ import interrupted
from demo.cluster import DemoFailed
from demo.machines.__main__ import EXIT_IMPOSSIBLE
from shardwright.server.binaries import find_server
from testkit import guard
from testkit.machines.commands import MachinesFailed, missing


def show(failovers: Sequence[Failover], console: Console) -> None:
    """Print the table, and what each side has lost."""
    table = Table(title="Seconds without an acknowledgement after the loss of the primary's machine", title_justify="left")
    for column in ("way", "side", "failovers", "p50", "p99", "max"):
        table.add_column(column, justify="left" if column in ("way", "side") else "right")
    for way in [*Way, None]:
        for side in Side:
            found = spread(gaps_of(failovers, side, way))
            times = (f"{found.p50:.1f}", f"{found.p99:.1f}", f"{found.max:.1f}")
            table.add_row(way or "all", side, str(found.count), *times)
    console.print(table)
    for side in Side:
        mine = [each for each in failovers if each.side is side]
        sums = {name: sum(getattr(each, name) for each in mine) for name in ("acknowledged", "lost", "behind", "errors")}
        before = [each.beside_until_s for each in mine if each.beside_until_s is not None]
        closest = f", the last one on a lost machine {min(before):.1f} s before the new primary's first" if before else ""
        console.print(
            f"{side}: {len(mine)} failovers, {sums['acknowledged']} acknowledged; lost {sums['lost']}, of these behind the "
            f"promotion {sums['behind']}{closest}; errors seen by the client that asks: {sums['errors']}"
        )


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="bench.failovers", description="Failovers of machines beside Sentinel's.")
    parser.add_argument("--count", type=int, default=8, help="losses of a machine; 0: only show the file")
    parser.add_argument("--file", type=Path, help="add each failover to this file, and show all that are in it")
    options = parser.parse_args()
    if why := missing():
        print(f"Machines cannot be made here: {why}.", file=sys.stderr)
        return EXIT_IMPOSSIBLE
    signal.signal(signal.SIGTERM, interrupted)
    guard.begin()
    console = Console(width=140 if not sys.stdout.isatty() else None)
    began = time.monotonic()
    failovers: list[Failover] = []

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {text}", highlight=False)

    def keep(failover: Failover) -> None:
        failovers.append(failover)
        if options.file is not None:
            with options.file.open("a") as file:
                file.write(line_of(failover) + "\n")

    status = 0
    try:
        if options.count > 0:
            run(options.count, Path(find_server().path), say, keep)
    except (DemoFailed, MachinesFailed) as e:
        console.print(f"The failovers could not be measured to their end: {e}", markup=False)
        status = 1
    except KeyboardInterrupt:
        return 130
    if options.file is not None:
        failovers = [failover_of(line) for line in options.file.read_text().splitlines()]
    show(failovers, console)
    return 1 if is_broken(failovers) else status


if __name__ == "__main__":
    sys.exit(main())
