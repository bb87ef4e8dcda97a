"""What the tests of a machine's loss have in common: clients that write, and where a database's primary is."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo.machines import NODES, MachinesCluster
from testkit.machines.machine import Machine


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
