"""``python -m demo``: exit status 0 when nothing was lost and no client noticed, else 1 (130: interrupted)."""

import argparse
import json
import signal
import sys
import time
from types import FrameType

from rich.console import Console

from demo import report
from demo.cluster import ADDRESS_BASE, DemoCluster, DemoFailed
from demo.scenario import run
from testkit import guard


def interrupted(signal_number: int, frame: FrameType | None) -> None:
    """A handler of SIGTERM: the clean end of an interruption."""
    raise KeyboardInterrupt


def main() -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="demo", description="Every node action on a real cluster under live writes.")
    parser.add_argument("--server", default="auto", help="valkey, redis, auto, or the path of a server binary")
    parser.add_argument("--address-base", default=ADDRESS_BASE, help="first of the consecutive loopback addresses to use")
    parser.add_argument("--api-port", type=int, default=9443)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupted)
    guard.begin()
    console = Console(width=140 if not sys.stdout.isatty() else None)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {text}", highlight=False)

    say("starting a cluster of three nodes")
    try:
        with DemoCluster(server=options.server, address_base=options.address_base, api_port=options.api_port) as cluster:
            result = run(cluster, say)
            say("stopping the cluster")
    except (DemoFailed, EOFError) as e:
        console.print(f"The demonstration failed: {e}", markup=False)
        print(json.dumps({"demo": "failed", "reason": str(e)[:500]}))
        return 1
    except KeyboardInterrupt:
        print(json.dumps({"demo": "interrupted"}))
        return 130
    report.show(result, console)
    say("done")
    print(json.dumps(report.summary(result)))
    return 0 if report.is_good(result) else 1


if __name__ == "__main__":
    sys.exit(main())
