"""A strict database on three machines whose primary's machine is cut off or freezes: another copy takes over, and nothing
that was acknowledged is lost.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo.machines import NODES, MachinesCluster
from testkit.deadlines import until
from testkit.etcd import require_etcd
from testkit.machines.commands import missing
from testkit.machines.machine import Machine

pytestmark = [
    pytest.mark.proof,
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]
TAKEOVER_S = 25.0
"""Three seconds of silence; before them, another leader of the cluster and of its store may have to be found."""
BACK_S = 120.0
"""Until the old primary, or a new copy, is in sync."""
BEHIND_S = 5.0
"""The clients of the machine that is cut off go on for so long after the takeover."""


@dataclass
class Writer(threading.Thread):
    """A client of one machine that appends numbers to a list of its own and repeats nothing."""

    address: str
    port: int
    acknowledged: list[int] = field(default_factory=list)
    acknowledged_at: float = 0.0
    refused: int = 0
    last_error: str = ""
    is_over: bool = False

    def __post_init__(self) -> None:
        super().__init__(name=f"writer of {self.address}", daemon=True)

    def __hash__(self) -> int:
        return id(self)

    @property
    def key(self) -> str:
        return f"list of {self.address}"

    def run(self) -> None:
        options: dict[str, Any] = {"socket_timeout": 4, "socket_connect_timeout": 1, "retry": Retry(NoBackoff(), 0)}
        client = redis.Redis(self.address, self.port, **options)
        number = 0
        while not self.is_over:
            number += 1
            try:
                client.rpush(self.key, number)
                self.acknowledged.append(number)
                self.acknowledged_at = time.monotonic()
            except redis.RedisError as e:
                self.refused += 1
                self.last_error = f"{type(e).__name__}: {e}"
                time.sleep(0.05)
            time.sleep(0.005)
        client.close()

    def lost(self, client: "redis.Redis") -> list[int]:
        stored = {int(number) for number in client.lrange(self.key, 0, -1)}
        return [number for number in self.acknowledged if number not in stored]


@pytest.fixture(scope="module")
def cluster() -> Iterator[MachinesCluster]:
    require_etcd()
    with MachinesCluster(print) as made:
        yield made


def shards(cluster: MachinesCluster) -> list[dict[str, Any]]:
    return [dict(shard) for shard in cluster.call("GET", "/v1/shards")]


def primary_node(cluster: MachinesCluster, database: int) -> int:
    mine = (shard for shard in shards(cluster) if int(shard["bdb_uid"]) == database)
    return next(int(shard["node_uid"]) for shard in mine if shard["role"] == "master")


def machine_of(cluster: MachinesCluster, node: int) -> Machine:
    assert cluster.machines is not None
    address = cluster.call("GET", f"/v1/nodes/{node}")["addr"]
    return next(cluster.machines[name] for name in NODES if cluster.machines[name].address == address)


def said(writers: list[Writer]) -> str:
    return "\n".join(
        f"{w.address}: {len(w.acknowledged)} acknowledged, {w.refused} refused: {w.last_error}" for w in writers
    )


def have_written(writers: list[Writer], count: int) -> bool:
    return all(len(writer.acknowledged) >= count for writer in writers)


def all_write_since(writers: list[Writer], at: float) -> bool:
    return all(writer.acknowledged_at > at for writer in writers)


def cut_off(cluster: MachinesCluster, machine: Machine) -> Callable[[], None]:
    """From the other nodes, not from the clients."""
    assert cluster.machines is not None
    switch = cluster.machines.switch
    switch.cut(machine.name, *(name for name in NODES if name != machine.name))
    return switch.heal


def frozen(cluster: MachinesCluster, machine: Machine) -> Callable[[], None]:
    machine.freeze()
    return machine.thaw


@pytest.mark.parametrize("strike", [cut_off, frozen])
def test_a_strict_database_loses_nothing_when_its_primarys_machine_is_cut_off(
    cluster: MachinesCluster, strike: Callable[[MachinesCluster, Machine], Callable[[], None]]
) -> None:
    assert cluster.machines is not None
    name = f"db-{strike.__name__}".replace("_", "-")
    made = cluster.create_database(name=name, memory_size=100_000_000, replication=True, data_persistence="aof")
    cluster.call("PUT", f"/v1/bdbs/{made['uid']}", {"strict": True})
    path, port = f"/v1/bdbs/{made['uid']}", int(made["endpoints"][0]["port"])
    cluster.wait("strict mode", path, lambda b: b["status"] == "active" and b["strict"])
    node = primary_node(cluster, made["uid"])
    writers = [Writer(cluster.machines[each].address, port) for each in NODES]
    for writer in writers:
        writer.start()
    try:
        wrote = partial(have_written, writers, 200)
        until("all write", wrote, seconds=30, state=lambda: said(writers))
        machine = machine_of(cluster, node)
        struck_at = time.monotonic()
        undo = strike(cluster, machine)
        try:
            cluster.ask_last(machine.address)
            until(
                "another copy leads",
                lambda: primary_node(cluster, made["uid"]) != node,
                seconds=TAKEOVER_S,
                state=lambda: f"{shards(cluster)}\n{cluster.machines and cluster.machines.logs()}",
                poll_s=0.1,
            )
            print(f"{strike.__name__}: another copy leads after {time.monotonic() - struck_at:.1f} s")
            time.sleep(BEHIND_S)  # The old primary goes on, or sleeps, while the other one serves.
        finally:
            undo()
        cluster.wait("both copies", path, lambda b: not b["reasons"], timeout_s=BACK_S)
        healed_at = time.monotonic()
        is_back = partial(all_write_since, writers, healed_at)
        until("all write again", is_back, seconds=BACK_S, state=lambda: said(writers))
    finally:
        for writer in writers:
            writer.is_over = True
        for writer in writers:
            writer.join(20)
    with redis.Redis(cluster.machines[NODES[0]].address, port) as client:
        assert {writer.key: writer.lost(client) for writer in writers} == {writer.key: [] for writer in writers}
    print({writer.key: (len(writer.acknowledged), writer.refused) for writer in writers})
