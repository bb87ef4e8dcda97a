"""The second part of the demonstration on machines: one machine is cut off and healed, then one loses its power for ever and
is replaced. Clients go on writing all the time.

``orders`` is strict and must lose nothing. ``sessions`` is in default mode: it may lose what its replica had not received
when the power failed, and nothing that was acknowledged later.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from demo.cluster import POLL_S, DemoFailed
from demo.load import Work, client_of
from demo.machines.cluster import DISCOVERY_PORT, NODES, SPARE, MachinesCluster
from testkit.list_writer import ListWriter

DATABASES = ("orders", "sessions")
BY_ADDRESS = "addresses of all nodes, repeats nothing"
BY_DISCOVERY = "discovery, repeats as documented"
CUT_S = 20.0
TAKEOVER_S = 60.0
HEALTHY_S = 180.0
WRITING_S = 60.0
"""For all clients to write again."""
BREATH_S = 3.0
ARRIVAL_S = 1.0
"""A reply that was under way when the power failed arrives, and is noted, within this time."""


@dataclass(slots=True)
class Seen:
    """What the clients of one kind saw of one loss, per database."""

    database: str
    kind: str
    errors: int
    longest_gap_s: float


@dataclass(slots=True)
class Loss:
    """One machine that was lost. Times are from the loss; ``takeover_s`` has an entry for each database whose primary was on
    it and moved."""

    title: str
    takeover_s: dict[str, float] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    healthy_s: float = 0.0
    """Until every database had its copies in sync again."""


@dataclass(slots=True)
class LossesResult:
    """Everything the report needs."""

    losses: list[Loss] = field(default_factory=list)
    acked: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    """Acknowledged writes that are not stored, per database."""
    lost_late: dict[str, int] = field(default_factory=dict)
    """Those of them that were acknowledged when the machine had no power any more: by a promoted copy."""

    @property
    def is_good(self) -> bool:
        """Whether each database kept what its mode promises."""
        return not self.lost["orders"] and not self.lost_late["sessions"]


@dataclass(slots=True)
class _Writers:
    """The clients of both databases, by database and kind."""

    all: dict[tuple[str, str], list[ListWriter]]

    def marks(self) -> dict[tuple[str, str], int]:
        return {key: sum(w.refused for w in group) for key, group in self.all.items()}

    def each(self) -> list[ListWriter]:
        return [writer for group in self.all.values() for writer in group]


def run_losses(cluster: MachinesCluster, say: Callable[[str], None]) -> LossesResult:
    """Both losses, on a cluster after the planned actions. Raises DemoFailed."""
    _three_again(cluster, say)
    databases = {b["name"]: b for b in cluster.call("GET", "/v1/bdbs")}
    # Its only copy would be lost with its machine, which no one promises to survive.
    cluster.call("DELETE", f"/v1/bdbs/{databases['cache']['uid']}")
    writers = _start_writers(cluster, databases)
    result = LossesResult()
    try:
        _wait_writing(writers, time.monotonic())
        result.losses.append(_cut(cluster, databases, writers, say))
        dead, off_at = _death(cluster, databases, writers, say)
        result.losses.append(dead)
    finally:
        for writer in writers.each():
            writer.is_over = True
        for writer in writers.each():
            writer.join(30)
    say("reading back every acknowledged write")
    _check(cluster, databases, writers, off_at + ARRIVAL_S, result)
    return result


def _three_again(cluster: MachinesCluster, say: Callable[[str], None]) -> None:
    assert cluster.machines is not None
    members = {n["addr"] for n in cluster.call("GET", "/v1/nodes")}
    for name in NODES:
        if cluster.machines[name].address not in members:
            say(f"the machine that was taken out, {name}, comes back: shardwright node leave, then join")
            cluster.leave(name)
            cluster.join(name)
    cluster.wait_for_votes(NODES)


# -- losses ------------------------------------------------------------------------------------------------------------


def _cut(cluster: MachinesCluster, databases: dict[str, Any], writers: _Writers, say: Callable[[str], None]) -> Loss:
    assert cluster.machines is not None
    node = cluster.primary_node(databases["orders"]["uid"])
    machine = cluster.machine_of(node)
    loss, before = Loss(f"the network of {machine.name} is cut for {CUT_S:.0f} s"), writers.marks()
    say(f"{loss.title}: it has the primary of orders")
    time.sleep(BREATH_S)
    began = time.monotonic()
    cluster.machines.switch.cut(machine.name, *(name for name in cluster.machines.all if name != machine.name))
    try:
        cluster.ask_last(machine.address)
        _note_takeover(cluster, databases, "orders", node, began, loss)
        time.sleep(max(0.0, began + CUT_S - time.monotonic()))
    finally:
        cluster.machines.switch.heal()
    _settle(cluster, databases, writers, loss, began, before)
    return loss


def _death(
    cluster: MachinesCluster, databases: dict[str, Any], writers: _Writers, say: Callable[[str], None]
) -> tuple[Loss, float]:
    """Returns also when the power was off (``time.monotonic``)."""
    assert cluster.machines is not None
    node = _victim(cluster, databases)
    machine = cluster.machine_of(node)
    here = [name for name in DATABASES if cluster.primary_node(databases[name]["uid"]) == node]
    loss, before = Loss(f"{machine.name} loses its power for ever, {SPARE} takes its place"), writers.marks()
    say(f"{loss.title}: it has the primary of {' and '.join(here)}")
    time.sleep(BREATH_S)
    began = time.monotonic()
    machine.power_off()
    off_at = time.monotonic()
    cluster.ask_last(machine.address)
    if "orders" in here:
        _note_takeover(cluster, databases, "orders", node, began, loss)
    say(f"shardwright node declare-off {node}")
    declare_off(cluster, node, machine.address)
    if "sessions" in here:
        _note_takeover(cluster, databases, "sessions", node, began, loss)
    say(f"shardwright join --replace {node} on {SPARE}")
    cluster.join(SPARE, "--replace", str(node))
    cluster.wait(
        "the removal of the dead node", "/v1/nodes", lambda ns: node not in [n["uid"] for n in ns], timeout_s=HEALTHY_S
    )
    _settle(cluster, databases, writers, loss, began, before)
    cluster.wait_for_votes([name for name in (*NODES, SPARE) if name != machine.name])
    return loss, off_at


def _victim(cluster: MachinesCluster, databases: dict[str, Any]) -> int:
    """The node with the primary of sessions. Not the first machine: only that one has the authority's key, which the new
    machine needs."""
    first = cluster.node_of(NODES[0])
    if cluster.primary_node(databases["sessions"]["uid"]) == first:
        cluster.finish(cluster.start(first, "enslave_node"))
    return cluster.primary_node(databases["sessions"]["uid"])


def declare_off(cluster: MachinesCluster, node: int, address: str) -> None:
    """As an administrator does, as soon as the cluster accepts it: it is refused while something of the node is seen. Raises
    DemoFailed."""
    deadline = time.monotonic() + TAKEOVER_S
    while True:
        try:
            cluster.call("POST", f"/v1/nodes/{node}/declare_off", {"address": address})
            return
        except DemoFailed:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _note_takeover(
    cluster: MachinesCluster, databases: dict[str, Any], name: str, node: int, began: float, loss: Loss
) -> None:
    uid, deadline = databases[name]["uid"], time.monotonic() + TAKEOVER_S
    while cluster.primary_node(uid) == node:
        if time.monotonic() > deadline:
            raise DemoFailed(f"no other copy of {name} leads {TAKEOVER_S:.0f} s after the loss of its machine")
        time.sleep(POLL_S)
    loss.takeover_s[name] = time.monotonic() - began


def _settle(
    cluster: MachinesCluster,
    databases: dict[str, Any],
    writers: _Writers,
    loss: Loss,
    began: float,
    before: dict[tuple[str, str], int],
) -> None:
    """Wait until both databases have their copies and every client writes, and note what the clients saw."""
    healed = time.monotonic()
    for name in DATABASES:
        path = f"/v1/bdbs/{databases[name]['uid']}"
        cluster.wait(f"the copies of {name}", path, lambda b: not b["reasons"], timeout_s=HEALTHY_S)
    loss.healthy_s = time.monotonic() - began
    _wait_writing(writers, healed)
    for key, errors in writers.marks().items():
        gap_s = max(w.longest_gap_s(began) for w in writers.all[key])
        loss.seen.append(Seen(*key, errors - before[key], gap_s))


# -- clients -----------------------------------------------------------------------------------------------------------


def _start_writers(cluster: MachinesCluster, databases: dict[str, Any]) -> _Writers:
    assert cluster.machines is not None
    addresses = [cluster.machines[name].address for name in (*NODES, SPARE)]
    writers: dict[tuple[str, str], list[ListWriter]] = {}
    for name in DATABASES:
        port = int(databases[name]["endpoints"][0]["port"])
        work = Work(name, addresses[0], port, 0, 0, 0, others=tuple(addresses[1:]))
        connects = [partial(client_of, work, number) for number in range(len(NODES))]
        writers[name, BY_ADDRESS] = [ListWriter(f"{name} {n}", connect) for n, connect in enumerate(connects)]
        repeats = Retry(ExponentialBackoff(cap=2.0, base=0.1), 10)
        writers[name, BY_DISCOVERY] = [ListWriter(f"{name} found", partial(_found, addresses, name), repeats=repeats)]
    made = _Writers(writers)
    for writer in made.each():
        writer.start()
    return made


def _found(addresses: list[str], name: str) -> "redis.Redis":
    """A client that asks the nodes for its database, as the documents say."""
    asking: dict[str, Any] = {"socket_connect_timeout": 1, "socket_timeout": 1, "retry": Retry(NoBackoff(), 0)}
    sentinel = Sentinel([(address, DISCOVERY_PORT) for address in addresses], sentinel_kwargs=asking)
    client: redis.Redis = sentinel.master_for(name, socket_connect_timeout=1, socket_timeout=6)
    return client


def _wait_writing(writers: _Writers, since: float) -> None:
    deadline = time.monotonic() + WRITING_S
    while late := [w for w in writers.each() if w.acknowledged_at <= since]:
        if time.monotonic() > deadline:
            texts = "; ".join(f"{w.name}: {w.last_error}" for w in late)
            raise DemoFailed(f"clients do not write again after {WRITING_S:.0f} s: {texts}")
        time.sleep(POLL_S)


def _check(
    cluster: MachinesCluster, databases: dict[str, Any], writers: _Writers, late_from: float, result: LossesResult
) -> None:
    addresses = [n["addr"] for n in cluster.call("GET", "/v1/nodes")]
    for name in DATABASES:
        mine = [writer for (database, _), group in writers.all.items() if database == name for writer in group]
        client = redis.Redis(addresses[0], int(databases[name]["endpoints"][0]["port"]), socket_timeout=10)
        lost = [one for writer in mine for one in writer.lost(client)]
        client.close()
        result.acked[name] = sum(len(writer.acknowledged) for writer in mine)
        result.lost[name] = len(lost)
        result.lost_late[name] = sum(one.at > late_from for one in lost)
