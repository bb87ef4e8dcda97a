"""Failovers one after the other: the machine of both primaries is lost in one of four ways, and comes back.

Both sides are lost at the same instant, so they are compared under the same noise. Before each loss, both are whole, and
both primaries are on the same machine.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from bench.failovers.sentinel import Peer
from demo.cluster import DemoFailed
from demo.machines.cluster import DISCOVERY_PORT, NODES, MachinesCluster
from testkit.list_writer import ListWriter

OURS, PEER = "shardwright", "sentinel"
WITHIN_S = 90.0
"""For both sides to acknowledge again, and to be whole again."""
LASTS_S = 10.0
"""At least, from the loss to its end: longer than both failovers usually take."""
SETTLED_S = 0.5
"""An acknowledgement this long after the loss is not one that was under way."""


class Way(StrEnum):
    """How a machine is lost."""

    CUT = "cut"
    """Nothing passes to or from it."""
    KILL = "kill"
    """Its power fails."""
    FREEZE = "freeze and wake"
    CUT_AND_FREEZE = "cut, freeze and wake"


@dataclass(slots=True)
class FailoversResult:
    """What was measured."""

    gaps_s: dict[str, dict[Way, list[float]]] = field(
        default_factory=lambda: {OURS: defaultdict(list), PEER: defaultdict(list)}
    )
    """The longest time without an acknowledgement, per loss."""
    acked: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)


def run(count: int, binary: Path, say: Callable[[str], None]) -> FailoversResult:
    """``count`` failovers, the ways in turn. Raises DemoFailed, MachinesFailed."""
    result = FailoversResult()
    with MachinesCluster(say) as cluster:
        assert cluster.machines is not None
        made = cluster.create_database(name="orders", memory_size=512 << 20, replication=True, data_persistence="aof")
        peer = Peer([cluster.machines[name] for name in NODES], binary)
        peer.start()
        writers = {OURS: ListWriter(OURS, lambda: _client(cluster)), PEER: ListWriter(PEER, peer.client)}
        for writer in writers.values():
            writer.start()
        try:
            for number in range(count):
                way = list(Way)[number % len(Way)]
                _make_whole(cluster, peer, int(made["uid"]))
                _lose(cluster, peer, way, int(made["uid"]), writers, result)
                shown = ", ".join(f"{name} {result.gaps_s[name][way][-1]:.1f} s" for name in writers)
                say(f"{number + 1} of {count}, {way}: {shown}")
            _make_whole(cluster, peer, int(made["uid"]))
        finally:
            for writer in writers.values():
                writer.is_over = True
            for writer in writers.values():
                writer.join(30)
        _check(cluster, peer, writers, result)
    return result


def _lose(
    cluster: MachinesCluster, peer: Peer, way: Way, database: int, writers: dict[str, ListWriter], result: FailoversResult
) -> None:
    assert cluster.machines is not None
    machine = cluster.machine_of(cluster.primary_node(database))
    cluster.ask_last(machine.address)
    others = [name for name in cluster.machines.all if name != machine.name]
    lost_at = time.monotonic()
    try:
        if way in (Way.CUT, Way.CUT_AND_FREEZE):
            cluster.machines.switch.cut(machine.name, *others)
        if way in (Way.FREEZE, Way.CUT_AND_FREEZE):
            machine.freeze()
        if way is Way.KILL:
            machine.power_off()
        _wait_writing(writers, lost_at + SETTLED_S)
        time.sleep(max(0.0, lost_at + LASTS_S - time.monotonic()))
    finally:
        if way in (Way.FREEZE, Way.CUT_AND_FREEZE):
            machine.thaw()
        cluster.machines.switch.heal()
        if not machine.is_on:
            machine.reboot()
            peer.start_on(machine)
    for name, writer in writers.items():
        result.gaps_s[name][way].append(writer.longest_gap_s(lost_at))


def _make_whole(cluster: MachinesCluster, peer: Peer, database: int) -> None:
    """Both sides have all copies and both primaries are on one machine. Raises DemoFailed."""
    cluster.wait("all nodes", "/v1/nodes", lambda nodes: all(n["status"] == "active" for n in nodes), timeout_s=WITHIN_S)
    cluster.wait("both copies", f"/v1/bdbs/{database}", lambda b: not b["reasons"], timeout_s=WITHIN_S)
    cluster.wait_for_votes(NODES)
    peer.wait_whole()
    peer.move_to(cluster.machine_of(cluster.primary_node(database)).address)


def _client(cluster: MachinesCluster) -> Any:
    """A client that asks the nodes for its database, with the timeouts of the documents, and repeats nothing."""
    assert cluster.machines is not None
    once: dict[str, Any] = {"socket_connect_timeout": 1, "retry": Retry(NoBackoff(), 0)}
    places = [(cluster.machines[name].address, DISCOVERY_PORT) for name in NODES]
    sentinel = Sentinel(places, sentinel_kwargs={**once, "socket_timeout": 1})
    return sentinel.master_for("orders", socket_timeout=6, **once)


def _wait_writing(writers: dict[str, ListWriter], since: float) -> None:
    deadline = time.monotonic() + WITHIN_S
    while late := [w for w in writers.values() if w.acknowledged_at <= since]:
        if time.monotonic() > deadline:
            raise DemoFailed("; ".join(f"{w.name} does not acknowledge again: {w.last_error}" for w in late))
        time.sleep(0.05)


def _check(cluster: MachinesCluster, peer: Peer, writers: dict[str, ListWriter], result: FailoversResult) -> None:
    for name, client in ((OURS, _client(cluster)), (PEER, peer.client())):
        writer = writers[name]
        result.acked[name] = len(writer.acknowledged)
        result.lost[name] = len(writer.lost(client))
        result.errors[name] = writer.refused
        client.close()
