"""One run: starts cluster, writers and checker, executes the schedule, heals everything, and waits until it comes to
rest."""

import json
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos import crowd, facts, rules
from chaos.cluster import ChaosCluster
from chaos.facts import Records
from chaos.faults import NOTHING, Faults
from chaos.load import Place, Work
from chaos.operator import MB, Operator
from chaos.operator import NOTHING as NOT_ASKED
from chaos.report import Result
from chaos.rules import Promise
from chaos.schedule import EVERY_FAULT, UNNOTICED, schedule
from shardwright.errors import ShardwrightError
from shardwright.model.move import GroupMove, MoveState
from shardwright.reconcile.repair import is_rebuild
from testkit.deadlines import Stopwatch

NODES = 4
WRITERS = 3
WRITES_PER_S = 50.0
CONVERGE_S = 120.0
ACTION_MAX_S = 60.0
"""Time limit for an undisturbed action on a machine that is not busy, whatever clients do."""
CHECKED_WITHIN_S = 900.0
"""Time limit for the checker's last results: on an overloaded machine it reads minutes behind the writers."""
GRACE_S = 10
"""The policy's ``slave_ha_grace_period`` in chaos runs: a server that is killed repeatedly is rebuilt on another node."""
DATABASES: dict[str, tuple[Promise, dict[str, Any]]] = {
    "pair": (Promise.REPLICAS_MAY_DIE, {"replication": True}),
    "journal": (Promise.REPLICAS_MAY_DIE, {"replication": True, "data_persistence": "aof"}),
    "single": (Promise.ONLY_COPY_MAY_DIE, {"data_persistence": "aof", "aof_policy": "appendfsync-always"}),
    "mortal": (Promise.PRIMARY_MAY_DIE, {"replication": True, "data_persistence": "aof"}),
    crowd.DATABASE: (Promise.REPLICAS_MAY_DIE, {"replication": True, "memory_size": 512 * MB}),
}
PROMISES = {name: promise for name, (promise, _) in DATABASES.items()}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run. ``kept``: directory for logs and records of a failed run; None: a new directory.
    ``is_unnoticed``: do nothing that an ordinary client may notice; then no client must notice anything."""

    seed: int
    seconds: float
    server: str = "auto"
    kept: Path | None = None
    is_unnoticed: bool = False


class _Helper:
    """A process of the run that works until its input ends."""

    def __init__(self, module: str, directory: Path, *arguments: str) -> None:
        self._errors = (directory / f"{module}.err").open("w")
        command = [sys.executable, "-m", f"chaos.{module}", str(directory), *arguments]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True
        )

    def finish(self, *, timeout_s: float) -> str:
        """End its input; returns its output."""
        try:
            return self._process.communicate("", timeout=timeout_s)[0]
        finally:
            self.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()


def run(options: RunOptions, say: Say) -> Result:
    """Run. Raises DemoFailed if the cluster cannot be created."""
    result = Result(options.seed, options.seconds, options.server, options.is_unnoticed)
    with ChaosCluster(nodes=NODES, server=options.server) as cluster:
        cluster.call("PUT", "/v1/cluster/policy", {"slave_ha_grace_period": GRACE_S})
        place = Place(cluster.directory / "chaos")
        place.directory.mkdir()
        place.write_works([_work(cluster, name) for name in DATABASES])
        checker = _Helper("checker", place.directory)
        writers = _Helper("writers", place.directory)
        others = _Helper("crowd", place.directory, str(options.seed))
        try:
            _disturb(cluster, place, options, result, say)
            result.reconnects = int(writers.finish(timeout_s=60) or "-1")
            result.crowd = json.loads(others.finish(timeout_s=180) or "{}")
            result.defects += [] if result.crowd else ["the crowd's process failed"]
            result.found = json.loads(checker.finish(timeout_s=CHECKED_WITHIN_S) or "{}")
        finally:
            for helper in (others, writers, checker):
                helper.close()
        result.defects += _defects(cluster)
        if not result.is_good:
            kept = options.kept or Path(tempfile.mkdtemp(prefix="shardwright-chaos-"))
            _keep(cluster, kept)
            say(f"logs and records are kept in {kept}")
    return result


def _work(cluster: ChaosCluster, name: str) -> Work:
    promise, settings = DATABASES[name]
    made = cluster.create_database(name=name, **{"memory_size": 64 * MB, **settings})
    endpoint = made["endpoints"][0]
    may_lose_tail = promise is Promise.PRIMARY_MAY_DIE
    return Work(name, endpoint["addr"][0], int(endpoint["port"]), WRITERS, WRITES_PER_S, may_lose_tail)


def _disturb(cluster: ChaosCluster, place: Place, options: RunOptions, result: Result, say: Say) -> None:
    faults = Faults(cluster, place, PROMISES)
    operator = Operator(cluster, nodes=NODES, changeable=frozenset({"pair"}))
    items = schedule(options.seed, seconds=options.seconds, faults=UNNOTICED if options.is_unnoticed else EVERY_FAULT)
    began = time.monotonic()
    watch = Stopwatch()
    asked: Counter[str] = Counter()

    def ask() -> None:
        for item in (i for i in items if not i.kind.is_fault):
            _wait_until(began + item.at_s)
            answer = operator.do(item)
            asked[item.kind] += not answer.startswith(NOT_ASKED)
            say(f"{item}: {answer}")

    asking = threading.Thread(target=ask, name="operator", daemon=True)
    asking.start()
    hit: Counter[str] = Counter()
    for item in (i for i in items if i.kind.is_fault):
        _wait_until(began + item.at_s)
        target = faults.do(item)
        hit[item.kind] += not target.startswith(NOTHING)
        say(f"{item}: {target}")
    _wait_until(began + options.seconds)
    asking.join()
    ended = Stopwatch()
    faults.heal()
    result.defects = list(faults.failures)
    say("healed; waiting for rest")
    result.faults, result.requests = dict(+hit), dict(+asked)
    _come_to_rest(cluster, operator, result, since=ended)
    _count(cluster, result)
    result.too_long = rules.too_long(cluster.records(), ACTION_MAX_S * watch.lateness)


def _wait_until(moment: float) -> None:
    """Wait by the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))


def _come_to_rest(cluster: ChaosCluster, operator: Operator, result: Result, *, since: Stopwatch) -> None:
    """Reopen nodes as soon as possible, as an operator does after a disturbance. ``since``: the end of the last fault."""
    while since.is_within(CONVERGE_S):
        try:
            now = cluster.records()
            is_tidy = not any(n.is_quorum_only or n.is_closed for n in now.nodes.values())
            if not is_tidy and not now.live_actions():
                operator.tidy(now)
            result.complaints = facts.complaints(cluster.layout)
            if is_tidy and not result.complaints:
                result.converged_s = round(since.seconds, 1)
                return
        except (sqlite3.Error, ShardwrightError, KeyError) as e:
            result.complaints = [f"cannot be checked: {e!r}"]
        time.sleep(0.5)


def _count(cluster: ChaosCluster, result: Result) -> None:
    now: Records = cluster.records()
    outcomes: Counter[str] = Counter()
    for action in now.actions:
        outcomes[" ".join(filter(None, (action.name, action.status, action.error_code)))] += 1
    result.actions = dict(outcomes)
    result.handoffs = sum(isinstance(m, GroupMove) and m.evidence is not None for m in now.moves)
    result.rebuilds = sum(is_rebuild(m) and m.state is MoveState.DONE for m in now.moves)


def _defects(cluster: ChaosCluster) -> list[str]:
    """Lines that daemons and endpoint processes must never log."""
    defects = []
    for path in sorted(cluster.layout.nodes.glob("*/*.log*")) + sorted(cluster.layout.nodes.glob("*/*.out*")):
        lines = path.read_text(errors="replace").splitlines()
        defects += [f"{path.parent.name}/{path.name}: {line}" for line in lines if "defect" in line or "Traceback" in line]
    return defects


def _keep(cluster: ChaosCluster, kept: Path) -> None:
    """Copy what explains a failure: logs, journals, the store's file and the key that opens it."""
    paths = [*cluster.layout.nodes.glob("*/*.log*"), *cluster.layout.nodes.glob("*/*.out*")]
    paths += cluster.layout.store.parent.glob(f"{cluster.layout.store.name}*")
    paths += [*cluster.layout.nodes.glob("*/shards/*/server.log*"), cluster.layout.supervisor_log]
    paths += [cluster.layout.cluster_key, *(cluster.directory / "chaos").glob("*")]
    for path in paths:
        target = kept / path.relative_to(cluster.layout.directory)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
