"""What the tests of a machine's loss have in common: clients that write, and the losses."""

from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo.machines.cluster import NODES, MachinesCluster
from testkit.list_writer import ListWriter
from testkit.machines.machine import Machine


class Writer(ListWriter):
    """A client of one machine that repeats nothing."""

    def __init__(self, address: str, port: int) -> None:
        options: dict[str, Any] = {"socket_timeout": 4, "socket_connect_timeout": 1, "retry": Retry(NoBackoff(), 0)}
        super().__init__(address, lambda: redis.Redis(address, port, **options))
        self.address, self.port = address, port


def said(writers: list[Writer]) -> str:
    return "\n".join(
        f"{w.address}: {len(w.acknowledged)} acknowledged, {w.refused} refused: {w.last_error}" for w in writers
    )


def have_written(writers: list[Writer], count: int) -> bool:
    return all(len(writer.acknowledged) >= count for writer in writers)


def all_write_since(writers: list[Writer], at: float) -> bool:
    return all(writer.acknowledged_at > at for writer in writers)


def end(writers: list[Writer]) -> None:
    for writer in writers:
        writer.is_over = True
    for writer in writers:
        writer.join(30)


def cut_off(cluster: MachinesCluster, machine: Machine) -> Callable[[], None]:
    """From the other nodes, not from the clients."""
    assert cluster.machines is not None
    switch = cluster.machines.switch
    switch.cut(machine.name, *(name for name in NODES if name != machine.name))
    return switch.heal


def frozen(cluster: MachinesCluster, machine: Machine) -> Callable[[], None]:
    machine.freeze()
    return machine.thaw


def without_power(cluster: MachinesCluster, machine: Machine) -> Callable[[], None]:
    machine.power_off()
    return machine.reboot


def lead(cluster: MachinesCluster, node: int) -> None:
    """Let this node lead."""
    path = "/v1/cluster/actions/change_master"
    cluster.call("POST", path, {"node_uid": str(node)})
    cluster.wait("it leads", path, lambda a: a["status"] == "completed", timeout_s=30)


def lead_elsewhere(cluster: MachinesCluster, node: int) -> None:
    """Let another node lead: what is measured is not the election."""
    lead(cluster, next(int(n["uid"]) for n in cluster.call("GET", "/v1/nodes") if int(n["uid"]) != node))
