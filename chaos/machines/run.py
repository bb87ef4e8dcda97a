"""One run on machines: starts them, writers and checker, strikes, heals, and waits until everything is at rest."""

import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chaos.load import Place, Work
from chaos.machines.faults import MachineFaults
from chaos.machines.plan import Request, Strike, Wish, strikes, wishes
from demo.cluster import DemoFailed
from demo.machines.cluster import NODES, MachinesCluster

MB = 1 << 20
WRITERS = 3
WRITES_PER_S = 40.0
HEALTHY_S = 120.0
"""From the end of a fault until every database has its copies in sync again."""
REST_S = 180.0
CHECKED_WITHIN_S = 600.0
PLANNED = 10_000
"""More faults and requests than any run has."""
DATABASES: dict[str, dict[str, Any]] = {
    "strict": {"replication": True, "data_persistence": "aof"},
    "fleeting": {"replication": True},
    "default": {"replication": True, "strict": False, "data_persistence": "aof"},
}
ENDED = ("completed", "failed", "cancelled")
LOSING = frozenset({"default"})

Say = Callable[[str], None]


@dataclass(slots=True)
class MachinesResult:
    """The result of a run."""

    seed: int
    seconds: float
    found: dict[str, Any] = field(default_factory=dict)
    """The checker's findings."""
    faults: dict[str, int] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    failovers: int = 0
    healthy_s: list[float] = field(default_factory=list)
    """From the end of each fault until all copies were in sync again."""
    converged_s: float | None = None
    """None: not in time."""
    complaints: list[str] = field(default_factory=list)
    """What was not at rest, and steps that failed."""

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost, doubled or torn, and everything came to rest."""
        damage = sum(int(self.found.get(name, 1)) for name in ("lost", "doubled", "torn"))
        return damage == 0 and self.converged_s is not None and not self.complaints

    def summary(self) -> str:
        """One JSON object on one line."""
        return json.dumps({"chaos_machines": {"ok": self.is_good, **asdict(self)}})


def run(seed: int, seconds: float, say: Say, *, server: str = "auto") -> MachinesResult:
    """Run. Raises DemoFailed if the cluster cannot be made."""
    result = MachinesResult(seed, seconds)
    with MachinesCluster(say, server=server) as cluster, tempfile.TemporaryDirectory(prefix="shardwright-chaos-") as path:
        place = Place(Path(path))
        place.write_works([_work(cluster, name) for name in DATABASES])
        helpers = {name: _started(name, place) for name in ("checker", "writers")}
        try:
            _disturb(cluster, place, result, say)
            result.failovers = _count_failovers(cluster)
            helpers["writers"].communicate("", timeout=60)
            result.found = json.loads(helpers["checker"].communicate("", timeout=CHECKED_WITHIN_S)[0] or "{}")
        finally:
            for helper in helpers.values():
                helper.kill()
        if not result.is_good and cluster.machines is not None:
            cluster.machines.keep_logs()
    return result


def _work(cluster: MachinesCluster, name: str) -> Work:
    assert cluster.machines is not None
    made = cluster.create_database(name=name, memory_size=128 * MB, **DATABASES[name])
    first, *others = (cluster.machines[machine].address for machine in NODES)
    port = int(made["endpoints"][0]["port"])
    return Work(name, first, port, WRITERS, WRITES_PER_S, name in LOSING, tuple(others))


def _started(module: str, place: Place) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"chaos.{module}", str(place.directory)]
    errors = (place.directory / f"{module}.err").open("w")
    with errors:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)


def _disturb(cluster: MachinesCluster, place: Place, result: MachinesResult, say: Say) -> None:
    faults = MachineFaults(cluster, place, losing=LOSING)
    until = time.monotonic() + result.seconds
    stop = threading.Event()
    asked: Counter[str] = Counter()
    operator = threading.Thread(target=_ask, args=(cluster, result.seed, stop, asked, say), name="operator", daemon=True)
    operator.start()
    hit: Counter[str] = Counter()
    for strike in strikes(result.seed, PLANNED):
        if time.monotonic() + strike.after_s >= until:
            break
        time.sleep(strike.after_s)
        say(f"{strike} on {faults.name_of(strike)}")
        faults.do(strike)
        hit[strike.fault] += 1
        if not _note_health(cluster, strike, result, say):
            break
    stop.set()
    operator.join(60)
    result.faults, result.requests = dict(hit), dict(asked)
    _come_to_rest(cluster, result)


def _note_health(cluster: MachinesCluster, strike: Strike, result: MachinesResult, say: Say) -> bool:
    """Wait until every database has its copies again. False: not in time, which ends the run."""
    began = time.monotonic()
    while (left := _unhealthy(cluster)) and time.monotonic() - began < HEALTHY_S:
        time.sleep(0.5)
    took_s = round(time.monotonic() - began, 1)
    result.healthy_s.append(took_s)
    if left:
        result.complaints.append(f"not healthy {HEALTHY_S:.0f} s after {strike}: {'; '.join(left)}")
    say(f"healthy after {took_s} s" if not left else result.complaints[-1])
    return not left


def _unhealthy(cluster: MachinesCluster) -> list[str]:
    """What keeps the databases from standing another fault."""
    found = []
    try:
        for database in cluster.call("GET", "/v1/bdbs"):
            if database["status"] not in ("active", "active-change-pending") or database["reasons"]:
                found.append(f"{database['name']}: {database['status']} {database['reasons']}")
            try:
                cluster.call("GET", f"/v1/bdbs/{database['uid']}/availability?extend_check=lag")
            except DemoFailed as e:
                found.append(str(e))
        found += [f"node {n['uid']} is {n['status']}" for n in cluster.call("GET", "/v1/nodes") if n["status"] != "active"]
    except DemoFailed as e:
        found.append(str(e))
    return found


def _ask(cluster: MachinesCluster, seed: int, stop: threading.Event, asked: Counter[str], say: Say) -> None:
    """Send the requests of the seed, each when the last action has ended. What is refused is no failure."""
    assert cluster.machines is not None
    with cluster.machines["client"].network():
        for wish in wishes(seed, PLANNED):
            if stop.wait(wish.after_s):
                return
            try:
                say(f"{_send(cluster, wish)}")
                asked[wish.request] += 1
            except DemoFailed as e:
                say(f"{wish.request}: {str(e)[:160]}")


def _send(cluster: MachinesCluster, wish: Wish) -> str:
    nodes = cluster.call("GET", "/v1/nodes")
    resting = [n for n in nodes if n["in_maintenance"]]
    node = resting[0] if resting else nodes[wish.pick % len(nodes)]
    action = "enslave_node"
    if wish.request is Request.MAINTENANCE:
        action = "maintenance_off" if resting else "maintenance_on"
    uid = cluster.start(int(node["uid"]), action)
    return f"{action} of node {node['uid']}: {uid}"


def _come_to_rest(cluster: MachinesCluster, result: MachinesResult) -> None:
    """End all maintenance, and wait until nothing runs and every database has its copies."""
    began = time.monotonic()
    left = ["not looked yet"]
    for _ in itertools.count():
        try:
            live = [a for a in cluster.call("GET", "/v1/nodes/actions")["actions"] if a["status"] not in ENDED]
            resting = [n for n in cluster.call("GET", "/v1/nodes") if n["in_maintenance"]]
            if resting and not live:
                cluster.start(int(resting[0]["uid"]), "maintenance_off")
            left = _unhealthy(cluster) + [f"{a['name']} of node {a['node_uid']} is {a['status']}" for a in live]
            left += [f"node {n['uid']} is in maintenance" for n in resting]
        except DemoFailed as e:
            left = [str(e)]
        if not left:
            result.converged_s = round(time.monotonic() - began, 1)
            return
        if time.monotonic() - began > REST_S:
            result.complaints += left
            return
        time.sleep(1.0)


def _count_failovers(cluster: MachinesCluster) -> int:
    return sum(event["type"] == "failover" for event in cluster.call("GET", "/v1/logs?limit=10000"))
