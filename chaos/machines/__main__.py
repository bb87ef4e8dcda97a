"""``python -m chaos.machines --seed N --for SECONDS``: exit status 0 if nothing was lost, doubled or torn and everything
came to rest; otherwise 1. 77: machines cannot be made here, and the last line says why."""

import argparse
import json
import signal
import sys
import time

from chaos.machines.plan import strikes
from chaos.machines.run import MachinesResult, run
from demo.__main__ import interrupted
from demo.cluster import DemoFailed
from demo.machines.__main__ import EXIT_IMPOSSIBLE
from testkit import guard
from testkit.machines.commands import MachinesFailed, missing


def show(result: MachinesResult) -> str:
    """The readable part."""
    found = result.found
    counts = ", ".join(f"{name} {count}" for name, count in sorted(result.faults.items()))
    pauses = {name: d["longest_pause_s"] for name, d in found.get("databases", {}).items()}
    healthy = sorted(result.healthy_s) or [0.0]
    at_rest = "NOT in time" if result.converged_s is None else f"after {result.converged_s:.1f} s"
    lines = [
        f"seed {result.seed}, {result.seconds:.0f} s",
        f"acknowledged writes: {found.get('acked')}; in doubt: {found.get('in_doubt')}; reads: {found.get('looks')}",
        f"faults: {sum(result.faults.values())}: {counts}; failovers: {result.failovers}",
        f"requests: {sum(result.requests.values())}",
        f"lost: {found.get('lost')}; doubled: {found.get('doubled')}; torn: {found.get('torn')}",
        f"lost as the default mode allows: {found.get('lost_allowed')}",
        f"longest pause, seconds: {pauses}",
        f"copies in sync again after a fault, seconds: median {healthy[len(healthy) // 2]}, longest {healthy[-1]}",
        f"at rest {at_rest}",
        *(f"  {line}" for line in (*result.complaints[:20], *found.get("examples", []))),
    ]
    return "\n".join(lines)


def main() -> int:
    """Run once."""
    parser = argparse.ArgumentParser(prog="chaos.machines", description="Machines of namespaces, disturbed by a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--for", dest="seconds", type=float, default=300.0, help="duration of the disturbance, in seconds")
    parser.add_argument("--server", default="auto", help="valkey, redis, auto, or the path of a server binary")
    parser.add_argument("--plan", action="store_true", help="only print the first faults")
    options = parser.parse_args()
    if options.plan:
        print("\n".join(f"{s.after_s:5.1f} s later: {s}" for s in strikes(options.seed, 20)))
        return 0
    if why := missing():
        print(f"Chaos on machines is not possible here: {why}.", file=sys.stderr)
        return EXIT_IMPOSSIBLE
    signal.signal(signal.SIGTERM, interrupted)
    guard.begin()

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    try:
        result = run(options.seed, options.seconds, say, server=options.server)
    except (DemoFailed, MachinesFailed) as e:
        print(f"the run could not be made: {e}")
        print(json.dumps({"chaos_machines": {"ok": False, "reason": str(e)[:500]}}))
        return 1
    except KeyboardInterrupt:
        print(json.dumps({"chaos_machines": {"ok": False, "reason": "interrupted"}}))
        return 130
    print(show(result))
    print(result.summary())
    return 0 if result.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
