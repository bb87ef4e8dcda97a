"""``python -m chaos --seed N --for SECONDS``: exit status 0 if nothing was lost, doubled or torn and
everything came to rest; otherwise 1 (130: interrupted)."""

import argparse
import json
import logging
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import structlog

from chaos import report
from chaos.run import RunOptions, run
from chaos.schedule import EVERY_FAULT, UNNOTICED, schedule
from demo.cluster import DemoFailed
from testkit import guard


def _interrupted(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run once."""
    parser = argparse.ArgumentParser(prog="chaos", description="A real cluster, disturbed by a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--for", dest="seconds", type=float, default=300.0, help="duration of the disturbance, in seconds")
    parser.add_argument("--server", default="auto", help="valkey, redis, auto, or the path of a server binary")
    parser.add_argument("--keep", type=Path, help="directory for logs and records of a failed run")
    parser.add_argument("--plan", action="store_true", help="only print the schedule")
    unnoticed = "only requests and frozen endpoint processes: no ordinary client may notice anything"
    parser.add_argument("--unnoticed", action="store_true", help=unnoticed)
    options = parser.parse_args()
    if options.plan:
        faults = UNNOTICED if options.unnoticed else EVERY_FAULT
        print("\n".join(str(item) for item in schedule(options.seed, seconds=options.seconds, faults=faults)))
        return 0
    signal.signal(signal.SIGTERM, _interrupted)
    guard.begin()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    try:
        result = run(RunOptions(options.seed, options.seconds, options.server, options.keep, options.unnoticed), say)
    except (DemoFailed, OSError) as e:
        print(f"the run could not be made: {e}")
        print(json.dumps({"chaos": {"ok": False, "reason": str(e)[:500]}}))
        return 1
    except KeyboardInterrupt:
        print(json.dumps({"chaos": {"ok": False, "reason": "interrupted"}}))
        return 130
    print(report.show(result))
    print(report.summary(result))
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
