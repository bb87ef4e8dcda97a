"""``python -m bench [part …]``: runs the parts, prints ratios, writes ``bench/results/<date>.json``.

Exit status 0, also when a figure misses its goal; 1 when something was lost, errors appeared or a part could not run; 130
when interrupted. Whatever happens, nothing is left running.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console

from bench import endpoint, evacuation, handoff, machine, passing, planner, reaction, report, store, strict
from bench.bare import BareFailed
from bench.clients import ClientFailed
from bench.context import HANDOFFS, Context
from bench.figures import PartResult
from bench.wire import ServerError
from demo.cluster import DemoFailed
from shardwright.errors import Rejected
from shardwright.model.database import ServerKind
from shardwright.server.binaries import ServerBinary, find_server
from testkit import guard

PARTS: dict[str, Callable[[Context], PartResult]] = {
    handoff.NAME: handoff.measure,
    evacuation.NAME: evacuation.measure,
    endpoint.NAME: endpoint.measure,
    reaction.NAME: reaction.measure,
    passing.NAME: passing.measure,
    strict.NAME: strict.measure,
    store.NAME: store.measure,
    planner.NAME: planner.measure,
}
DEFAULT_PARTS = tuple(name for name in PARTS if name not in (planner.NAME, store.NAME))
"""The planner's largest clusters alone take minutes to make, and the store's part needs etcd: name them to measure them."""
RESULTS = Path(__file__).parent / "results"
EXPECTED = (DemoFailed, BareFailed, ClientFailed, ServerError, OSError, EOFError)
"""How a part says that it cannot go on."""


def _interrupted(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """See the module's text."""
    options = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell may have had the first one ignored
        signal.signal(number, _interrupted)
    guard.begin()
    console = Console(width=150 if not sys.stdout.isatty() else None)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {text}", highlight=False)

    try:
        binary = _binary(options.server)
    except Rejected as e:
        console.print(f"{e.text}; {e.remedy}", markup=False)
        return 1
    context = Context(binary, say, options.quick, handoffs=options.handoffs, exact=options.exact)
    about = machine.describe()
    parts: list[PartResult] = []
    try:
        for name in options.parts or DEFAULT_PARTS:
            say(f"[bold]{name}[/bold]")
            parts.append(_run(name, context))
            report.show(parts[-1], console)
    except KeyboardInterrupt:
        print(json.dumps({"bench": "interrupted"}))
        return 130
    about["load_after"] = machine.describe()["load"]
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")
    server = f"{binary.kind} {binary.version}"
    found = report.results(parts, date=date, server=server, machine=about, quick=options.quick)
    print(report.summary(found, str(_write(found, date))))
    return 0 if report.is_good(parts) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="What the product costs, beside its peers and floors.")
    parts = f"of {', '.join(PARTS)}; without any: all but planner and store"
    parser.add_argument("parts", nargs="*", metavar="part", help=parts, type=_part)
    parser.add_argument("--quick", action="store_true", help="small and short: shows that everything runs, no more")
    parser.add_argument("--handoffs", type=int, default=HANDOFFS, help="how many (default %(default)s)")
    parser.add_argument("--exact", type=int, default=0, metavar="N", help="planner: N small clusters beside an exact solver")
    parser.add_argument("--server", default="auto", help="valkey, redis, auto, or the path of a server binary")
    return parser


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"there is no part {text!r}, only {', '.join(PARTS)}")
    return text


def _binary(wish: str) -> ServerBinary:
    if wish == "auto":
        return find_server()
    if wish in (ServerKind.VALKEY.value, ServerKind.REDIS.value):
        return find_server(ServerKind(wish))
    return find_server(configured=wish)


def _run(name: str, context: Context) -> PartResult:
    """One part. What stops it becomes its trouble: the other parts still run."""
    began = time.monotonic()
    try:
        result = PARTS[name](context)
    except EXPECTED as e:
        result = PartResult(name, troubles=[f"could not run: {type(e).__name__}: {e}"])
    result.seconds = time.monotonic() - began
    return result


def _write(found: dict[str, object], date: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{date}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
