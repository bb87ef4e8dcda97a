"""Part 4: from the request of a node action to the first thing it does, on an otherwise idle cluster."""

import time

from bench.context import Context
from bench.figures import Figure, PartResult, at_most, spread
from bench.handoff import Run, step_down
from demo.cluster import DemoCluster

NAME = "reaction"
REQUESTS = 50
DATABASE_BYTES = 64 << 20
GOAL_P99_MS = 50.0
REST_S = 1.1
"""Longer than the leader takes to look at an idle server: each request finds the replica known to be in sync."""


def measure(context: Context) -> PartResult:
    """Run it. Raises DemoFailed, OSError."""
    count = 5 if context.is_quick else REQUESTS
    context.say(f"{count} requests to step down, no load")
    run = Run()
    with context.cluster() as cluster:
        database = cluster.create_database(name="bench", memory_size=2 * DATABASE_BYTES, replication=True)
        reads = _reads(cluster, count)
        for _ in range(count):
            step_down(cluster, int(database["uid"]), run)
            time.sleep(REST_S)
    return report(run, reads)


def report(run: Run, reads_ms: list[float]) -> PartResult:
    """Pure: the figures."""
    part = PartResult(NAME)
    found, floor = run.reactions(), spread(reads_ms)
    part.figures = [
        Figure("POST to hold, p50", "ms", found.p50, None, "", floor.p50, "a GET of the same API"),
        Figure(
            "POST to hold, p99",
            "ms",
            found.p99,
            None,
            "",
            floor.p99,
            "a GET of the same API",
            at_most(found.p99, GOAL_P99_MS, "ms"),
        ),
    ]
    part.details = {
        "post_to_hold_ms": found.as_json(),
        "get_ms": floor.as_json(),
        "action_s": spread(run.actions_s).as_json(),
        "unmeasured": run.unmeasured,
    }
    part.notes = [
        "from sending the POST until the endpoints are told to hold (evidence began_at, one clock); by then the servers "
        "were asked and the handoff was proven and committed, so the first command on a server is earlier: an upper bound",
        f"{sum(w.had_to_wait for w in run.windows)} requests left out: they had to wait for the replica first",
    ]
    return part


def _reads(cluster: DemoCluster, count: int) -> list[float]:
    """Milliseconds of the cheapest request: what HTTP, TLS and the login cost by themselves."""
    found = []
    cluster.call("GET", "/v1/cluster")  # the first login takes long on purpose
    for _ in range(count):
        start = time.perf_counter()
        cluster.call("GET", "/v1/cluster")
        found.append((time.perf_counter() - start) * 1000)
    return found
