"""What the demonstration does, step by step, and what it measures of each."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import redis

from demo.cluster import Cluster, DemoFailed
from demo.load import Load, Outcome, Work, client_of, longest_overlapping

FILL_BYTES = 220_000_000
FILL_VALUE_BYTES = 10_000
FILL_BATCH = 100
BREATH_S = 3.0
"""Between actions, so that each is seen on its own and the writers write for longer than the actions last."""


@dataclass(slots=True)
class Handoff:
    """One handoff with its evidence and what the clients measured of it."""

    database: str
    pause_ms: float
    """The longest single write call, as its client saw it, that overlaps the handoff."""
    evidence: dict[str, Any]


@dataclass(slots=True)
class ActionReport:
    """One action as the API tells it, and the load meanwhile."""

    title: str
    seconds: float
    acked_per_s: float
    record: dict[str, Any]
    handoffs: list[Handoff] = field(default_factory=list)


@dataclass(slots=True)
class DemoResult:
    """Everything the report needs."""

    server: str
    actions: list[ActionReport]
    outcome: Outcome
    recovery_s: float
    """From the kill of the leader's daemon until another daemon led."""
    may_reconnect: bool = False
    """Whether a client whose node was emptied had to go to another address. It must not have seen an error."""
    store_recovery_s: float | None = None
    """From the kill of the store's leading member until another one led; None: the store has no members."""


def run(cluster: Cluster, say: Any) -> DemoResult:
    """The whole demonstration on a started cluster. Raises DemoFailed."""
    databases = _create(cluster, say)
    works = _works(databases)
    say("filling database sessions")
    _fill(next(w for w in works if w.name == "sessions"))
    load = Load(works)
    try:
        _wait_for_load(load)
        reports, recovery_s, store_recovery_s = _actions(cluster, databases, load, say)
        say("stopping the writers and reading back every acknowledged write")
        outcome = load.finish()
    finally:
        load.kill()
    for report in reports:
        report.handoffs = _handoffs(report, outcome, databases)
    server = cluster.call("GET", "/v1/bdbs")[0]
    name = f"{server.get('server', '')} {server.get('version', '')}".strip()
    return DemoResult(name, reports, outcome, recovery_s, cluster.may_reconnect, store_recovery_s)


def _create(cluster: Cluster, say: Any) -> dict[str, dict[str, Any]]:
    say("creating databases orders, cache and sessions")
    return {
        "orders": cluster.create_database(name="orders", memory_size=512 << 20, replication=True, data_persistence="aof"),
        "cache": cluster.create_database(name="cache", memory_size=256 << 20),
        "sessions": cluster.create_database(name="sessions", memory_size=1 << 30, replication=True, strict=False),
    }


def _works(databases: dict[str, dict[str, Any]]) -> list[Work]:
    plan = {"orders": (4, 2, 180.0), "cache": (2, 1, 180.0), "sessions": (3, 1, 180.0)}
    works = []
    for name, (writers, readers, rate) in plan.items():
        endpoint = databases[name]["endpoints"][0]
        address, *others = endpoint["addr"]
        works.append(Work(name, address, endpoint["port"], writers, readers, rate, 100, tuple(others)))
    return works


def _fill(work: Work) -> None:
    client = client_of(work)
    value = os.urandom(FILL_VALUE_BYTES // 2).hex()
    pipe = client.pipeline(transaction=False)
    for n in range(FILL_BYTES // FILL_VALUE_BYTES):
        pipe.set(f"session:{n}", value)
        if n % FILL_BATCH == FILL_BATCH - 1:
            pipe.execute()
    pipe.execute()
    client.close()


def _wait_for_load(load: Load) -> None:
    deadline = time.monotonic() + 20
    while load.acked() < 1000:
        if time.monotonic() > deadline:
            raise DemoFailed("the writers did not get going")
        time.sleep(0.1)


def _actions(
    cluster: Cluster, databases: dict[str, dict[str, Any]], load: Load, say: Any
) -> tuple[list[ActionReport], float, float | None]:
    reports: list[ActionReport] = []

    def act(title: str, node: int, action: str) -> None:
        say(title)
        time.sleep(BREATH_S)
        began, acked = time.monotonic(), load.acked()
        record = cluster.finish(cluster.start(node, action))
        seconds = time.monotonic() - began
        reports.append(ActionReport(title, seconds, (load.acked() - acked) / seconds, record))

    first = _node_of(cluster, databases["cache"]["uid"])
    act(f"maintenance on node {first}", first, "maintenance_on")
    act(f"maintenance off node {first}", first, "maintenance_off")
    stepping = _node_to_step_down(cluster, databases["cache"]["uid"])
    act(f"step-down of node {stepping}", stepping, "enslave_node")
    busiest = _node_of(cluster, databases["sessions"]["uid"])
    title = f"maintenance on node {busiest}, the leader's daemon killed meanwhile"
    killed, recovery_s = _with_fault(cluster, busiest, load, say, title=title, fault=lambda: _kill_leader(cluster))
    reports.append(killed)
    act(f"maintenance off node {busiest}", busiest, "maintenance_off")
    store_recovery_s = None
    if cluster.has_store_members:
        busiest = _node_of(cluster, databases["sessions"]["uid"])
        title = f"maintenance on node {busiest}, the store's leader killed meanwhile"
        killed, store_recovery_s = _with_fault(cluster, busiest, load, say, title=title, fault=cluster.kill_store_leader)
        reports.append(killed)
        act(f"maintenance off node {busiest}", busiest, "maintenance_off")
    act("removal of node 2", 2, "remove")
    return reports, recovery_s, store_recovery_s


def _with_fault(
    cluster: Cluster, node: int, load: Load, say: Any, *, title: str, fault: Callable[[], float]
) -> tuple[ActionReport, float]:
    """Maintenance on a node, and a fault while it moves; ``fault`` returns the seconds until its effect was over."""
    say(title)
    time.sleep(BREATH_S)
    began, acked = time.monotonic(), load.acked()
    uid = cluster.start(node, "maintenance_on")
    path = f"/v1/nodes/{node}/actions/maintenance_on"
    cluster.wait("moves", path, lambda a: any(m["state"] in ("starting", "syncing") for m in a.get("moves", [])))
    recovery_s = fault()
    record = cluster.finish(uid)
    seconds = time.monotonic() - began
    return ActionReport(title, seconds, (load.acked() - acked) / seconds, record), recovery_s


def _kill_leader(cluster: Cluster) -> float:
    leader = cluster.call("GET", "/v1/cluster")["leader"]
    killed_at = time.monotonic()
    cluster.kill_leader(leader)
    cluster.wait("a new leader", "/v1/cluster", lambda c: (c.get("leader") or leader)["term"] > leader["term"])
    return time.monotonic() - killed_at


def _shards(cluster: Cluster) -> list[dict[str, Any]]:
    return list(cluster.call("GET", "/v1/shards"))


def _node_of(cluster: Cluster, database: int) -> int:
    """The node with the database's primary."""
    return next(int(s["node_uid"]) for s in _shards(cluster) if s["bdb_uid"] == database and s["role"] == "master")


def _node_to_step_down(cluster: Cluster, unreplicated: int) -> int:
    """A node with primaries, all of which have a replica; made to have one if there is none."""
    shards = _shards(cluster)
    blocked = {int(s["node_uid"]) for s in shards if s["bdb_uid"] == unreplicated}
    with_primaries = sorted({int(s["node_uid"]) for s in shards if s["role"] == "master"} - blocked)
    if not with_primaries:
        raise DemoFailed("every node with a primary also has one without a replica")
    return with_primaries[0]


def _handoffs(report: ActionReport, outcome: Outcome, databases: dict[str, dict[str, Any]]) -> list[Handoff]:
    names = {d["uid"]: name for name, d in databases.items()}
    found = []
    for move in report.record.get("moves", []):
        evidence = move.get("evidence")
        if not evidence:
            continue
        name = names[int(move["bdb_uid"])]
        began, ended = evidence.get("began_at"), evidence.get("released_at")
        pause_s = longest_overlapping(outcome.calls[name], _stamp(began), _stamp(ended)) if began and ended else 0.0
        found.append(Handoff(name, pause_s * 1000 if pause_s == pause_s else 0.0, evidence))
    return found


def _stamp(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def is_alive(work: Work) -> bool:
    """Whether a database answers."""
    client = client_of(work)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
