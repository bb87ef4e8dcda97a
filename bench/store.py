"""Part 8: step-downs of two clusters in turn, one with its records in a file and one with its records in etcd.

The etcd has three members on this machine, with TLS, like the one that the nodes of a cluster of machines run.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.context import Context
from bench.figures import Figure, PartResult, at_most
from bench.handoff import DATABASE_BYTES, REST_S, Run, step_down, troubles_of, warm_up
from bench.reaction import REST_S as IDLE_REST_S
from demo.cluster import DemoCluster, DemoFailed
from demo.load import Load, Work
from shardwright.store.settings import EtcdSettings
from testkit.etcd import PROGRAMS, EtcdCluster

NAME = "store"
PAUSE_RATIO_GOAL = 1.2
REACTION_GOAL_P99_MS = 100.0
MORE_UNDER_LOAD = 3
"""Times as many handoffs under load as without. Of one cluster, half of the pauses lie between 5 and 9 ms: the medians of 50
differ by up to a fifth by chance alone (nine of ten resamplings), which is the whole goal; those of 150 by a tenth."""
FILE, ETCD = "in a file", "in etcd"


@dataclass(slots=True)
class Side:
    """One of the two clusters."""

    cluster: DemoCluster
    database: int
    work: Work
    idle: Run = field(default_factory=Run)
    loaded: Run = field(default_factory=Run)


def measure(context: Context) -> PartResult:
    """Run it. Raises DemoFailed, OSError."""
    if missing := [package for program, package in PROGRAMS.items() if shutil.which(program) is None]:
        raise DemoFailed(f"etcd was not found (apt-get install {' '.join(missing)})")
    count = 4 if context.is_quick else context.handoffs
    with ExitStack() as stack:
        etcd = stack.enter_context(_etcd())
        sides = {kind: _side(context, stack, store) for kind, store in ((FILE, None), (ETCD, etcd))}
        context.say(f"{count} requests to step down to each cluster in turn, no load")
        for _ in range(count):
            for side in sides.values():
                step_down(side.cluster, side.database, side.idle)
            time.sleep(IDLE_REST_S)
        loaded = count if context.is_quick else MORE_UNDER_LOAD * count
        context.say(f"{loaded} handoffs of each cluster in turn, {context.writers} writers")
        _hand_over(sides, loaded)
    return report(sides[FILE].idle, sides[FILE].loaded, sides[ETCD].idle, sides[ETCD].loaded)


def report(file_idle: Run, file_loaded: Run, etcd_idle: Run, etcd_loaded: Run) -> PartResult:
    """Pure: the figures. The file is the floor."""
    part = PartResult(NAME)
    ours, floor = etcd_loaded.pauses(), file_loaded.pauses()
    reaction, local = etcd_idle.reactions(), file_idle.reactions()
    ratio = at_most(ours.p50, PAUSE_RATIO_GOAL * floor.p50, "ms")
    part.figures = [
        Figure("pause p50", "ms", ours.p50, None, "", floor.p50, FILE, ratio),
        Figure("pause p99", "ms", ours.p99, None, "", floor.p99, FILE),
        Figure("POST to hold, p50", "ms", reaction.p50, None, "", local.p50, FILE),
        Figure(
            "POST to hold, p99",
            "ms",
            reaction.p99,
            None,
            "",
            local.p99,
            FILE,
            at_most(reaction.p99, REACTION_GOAL_P99_MS, "ms"),
        ),
    ]
    part.details = {
        name: {"pause_ms": loaded.pauses().as_json(), "post_to_hold_ms": idle.reactions().as_json()}
        for name, idle, loaded in (("file", file_idle, file_loaded), ("etcd", etcd_idle, etcd_loaded))
    }
    part.notes = [
        f"goal of the pause: at most {PAUSE_RATIO_GOAL} times that {FILE}",
        f"acknowledged writes: {file_loaded.outcome.acked} {FILE}, {etcd_loaded.outcome.acked} {ETCD}",
        "the two clusters are handed over in turn, and the writers of both run all the time",
    ]
    part.troubles = [*troubles_of(file_loaded.outcome), *troubles_of(etcd_loaded.outcome)]
    return part


@contextmanager
def _etcd() -> Iterator[EtcdSettings]:
    with tempfile.TemporaryDirectory(prefix="shardwright-bench-etcd-") as directory:
        etcd = EtcdCluster(Path(directory), count=3, tls=True)
        try:
            asyncio.run(etcd.start(*etcd.members))
            yield etcd.settings()
        finally:
            asyncio.run(etcd.stop(*etcd.members))


def _side(context: Context, stack: ExitStack, store: EtcdSettings | None) -> Side:
    """A cluster with a database. ``store`` None: its records stay in its file."""
    cluster = stack.enter_context(context.cluster())
    if store is not None:
        cluster.down()
        cluster.move(store)
        cluster.up()
    database = cluster.create_database(name="bench", memory_size=2 * DATABASE_BYTES, replication=True)
    endpoint = database["endpoints"][0]
    work = Work("bench", str(endpoint["addr"][0]), endpoint["port"], context.writers // 2, 0, context.writes_per_s)
    return Side(cluster, int(database["uid"]), work)


def _hand_over(sides: Mapping[str, Side], count: int) -> None:
    loads = {kind: Load([side.work]) for kind, side in sides.items()}
    try:
        for load in loads.values():
            warm_up(load)
        for _ in range(count):
            for side in sides.values():
                step_down(side.cluster, side.database, side.loaded)
                time.sleep(REST_S)
        for kind, side in sides.items():
            side.loaded.outcome = loads[kind].finish()
    finally:
        for load in loads.values():
            load.kill()
