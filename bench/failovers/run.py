"""Failovers one after the other: the machine of the primaries is lost in one of four ways, and comes back.

The primaries of two databases, strict and default, and Sentinel's are lost at the same instant, so they are compared under
the same noise. Before each loss, all are whole, and all primaries are on the machine that is lost.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from bench.failovers.record import Failover, Side, Way
from bench.failovers.sentinel import Peer
from demo.cluster import DemoFailed
from demo.machines.cluster import DISCOVERY_PORT, NODES, MachinesCluster
from testkit.list_writer import ListWriter
from testkit.machines.machine import Machine

MODES = (Side.STRICT, Side.DEFAULT)
WITHIN_S = 90.0
"""For every side to acknowledge again, and to be whole again."""
LASTS_S = 10.0
"""At least, from the loss to its end: longer than most failovers take."""
BEFORE_S = 2.0
"""All write for so long before the loss."""
SETTLED_S = 0.5
"""An acknowledgement this long after the loss is not one that was under way."""
_ONCE: dict[str, Any] = {"socket_connect_timeout": 1, "retry": Retry(NoBackoff(), 0)}
Say = Callable[[str], None]
Keep = Callable[[Failover], None]


@dataclass(frozen=True, slots=True)
class _Database:
    uid: int
    name: str
    port: int


@dataclass(slots=True)
class _Clients:
    """Of one side, for one loss. ``beside``: on the lost machine, at its own address; None for the peer."""

    asking: ListWriter
    beside: ListWriter | None
    check: Any
    """A client that reads the lists afterwards."""

    @property
    def writers(self) -> list[ListWriter]:
        return [self.asking] if self.beside is None else [self.asking, self.beside]


def run(count: int, binary: Path, say: Say, keep: Keep) -> None:
    """``count`` losses, the ways in turn; ``keep`` gets each failover as soon as it is checked. Raises DemoFailed,
    MachinesFailed."""
    with MachinesCluster(say) as cluster:
        assert cluster.machines is not None
        databases = {mode: _create(cluster, mode) for mode in MODES}
        peer = Peer([cluster.machines[name] for name in NODES], binary)
        peer.start()
        for number, way in zip(range(count), itertools.cycle(Way), strict=False):
            machine = _make_whole(cluster, peer, databases)
            found = _Round(cluster, peer, machine, databases, way).run()
            for failover in found:
                keep(failover)
            shown = ", ".join(f"{each.side} {each.gap_s:.1f} s" for each in found)
            say(f"{number + 1} of {count}, {way}: {shown}")


def _create(cluster: MachinesCluster, mode: Side) -> _Database:
    settings = {"memory_size": 512 << 20, "replication": True, "data_persistence": "aof", "strict": mode is Side.STRICT}
    made = cluster.create_database(name=str(mode), **settings)
    return _Database(int(made["uid"]), str(mode), int(made["endpoints"][0]["port"]))


def _make_whole(cluster: MachinesCluster, peer: Peer, databases: Mapping[Side, _Database]) -> Machine:
    """Wait until every side has all copies and can fail over, with its primary on the machine that is returned. Raises
    DemoFailed."""
    cluster.wait("all nodes", "/v1/nodes", lambda nodes: all(n["status"] == "active" for n in nodes), timeout_s=WITHIN_S)
    _wait_whole(cluster, databases)
    cluster.wait_for_votes(NODES)
    _gather(cluster, databases)
    _wait_whole(cluster, databases)
    machine = cluster.machine_of(cluster.primary_node(databases[Side.STRICT].uid))
    peer.wait_whole()
    peer.move_to(machine.address)
    return machine


def _wait_whole(cluster: MachinesCluster, databases: Mapping[Side, _Database]) -> None:
    for database in databases.values():
        path = f"/v1/bdbs/{database.uid}"
        cluster.wait(f"another copy of {database.name} would take over", path, _survives, timeout_s=WITHIN_S)


def _gather(cluster: MachinesCluster, databases: Mapping[Side, _Database]) -> None:
    """Move the primaries to one node. Of three nodes, two databases with two copies have one in common."""
    copies: dict[int, dict[int, str]] = {database.uid: {} for database in databases.values()}
    for shard in cluster.shards():
        copies[int(shard["bdb_uid"])][int(shard["node_uid"])] = shard["role"]
    leads = {uid: next(node for node, role in roles.items() if role == "master") for uid, roles in copies.items()}
    if len(set(leads.values())) == 1:
        return
    common = min(set.intersection(*(set(roles) for roles in copies.values())))
    for node in {node for node in leads.values() if node != common}:
        cluster.finish(cluster.start(node, "enslave_node"))


def _survives(database: Mapping[str, Any]) -> bool:
    """Whether another copy would take over."""
    return not database["reasons"] and database["machine_loss"]["outcome"] != "waits"


class _Round:
    """One loss of a machine, with its clients."""

    def __init__(
        self, cluster: MachinesCluster, peer: Peer, machine: Machine, lost: Mapping[Side, _Database], way: Way
    ) -> None:
        self._cluster, self._peer, self._machine, self._way = cluster, peer, machine, way
        self._databases = dict(lost)
        self._clients = {side: self._made(database, machine) for side, database in lost.items()}
        self._clients[Side.SENTINEL] = _Clients(ListWriter("sentinel", peer.client), None, peer.client())

    def _made(self, database: _Database, machine: Machine) -> _Clients:
        here: dict[str, Any] = {"socket_timeout": 4, **_ONCE}
        beside = ListWriter(f"{database.name}, beside", lambda: redis.Redis(machine.address, database.port, **here))
        asking = ListWriter(database.name, lambda: self._asking(database))
        return _Clients(asking, beside, self._asking(database))

    def _asking(self, database: _Database) -> Any:
        """A client that asks the nodes for its database, with the timeouts of the documents, and repeats nothing."""
        assert self._cluster.machines is not None
        places = [(self._cluster.machines[name].address, DISCOVERY_PORT) for name in NODES]
        return Sentinel(places, sentinel_kwargs={**_ONCE, "socket_timeout": 1}).master_for(
            database.name, socket_timeout=6, **_ONCE
        )

    def run(self) -> list[Failover]:
        """Lose the machine, get it back, and check. Raises DemoFailed."""
        self._cluster.ask_last(self._machine.address)
        for clients in self._clients.values():
            clients.asking.start()
            if clients.beside is not None:
                with self._machine.network():
                    clients.beside.start()
        try:
            self._wait(time.monotonic(), beside=True)
            time.sleep(BEFORE_S)
            lost_at = time.monotonic()
            self._lose(lost_at)
            self._wait(time.monotonic(), beside=False)
        finally:
            self._end()
        for database in self._databases.values():
            path = f"/v1/bdbs/{database.uid}"
            self._cluster.wait("both copies", path, lambda b: not b["reasons"], timeout_s=WITHIN_S)
        return [self._checked(side, lost_at) for side in self._clients]

    def _lose(self, lost_at: float) -> None:
        machines, machine, way = self._cluster.machines, self._machine, self._way
        assert machines is not None
        others = [name for name in machines.all if name != machine.name]
        try:
            if way in (Way.CUT, Way.CUT_AND_FREEZE):
                machines.switch.cut(machine.name, *others)
            if way in (Way.FREEZE, Way.CUT_AND_FREEZE):
                machine.freeze()
            if way is Way.KILL:
                machine.power_off()
            self._wait(lost_at + SETTLED_S, beside=False)
            time.sleep(max(0.0, lost_at + LASTS_S - time.monotonic()))
        finally:
            if way in (Way.FREEZE, Way.CUT_AND_FREEZE):
                machine.thaw()
            if way is Way.CUT_AND_FREEZE:
                time.sleep(SETTLED_S)  # What was queued is executed behind the cut.
            machines.switch.heal()
            if not machine.is_on:
                machine.reboot()
                self._peer.start_on(machine)

    def _wait(self, since: float, *, beside: bool) -> None:
        """Until the clients have an acknowledgement after ``since``."""
        deadline = time.monotonic() + WITHIN_S
        writers = [w for c in self._clients.values() for w in (c.writers if beside else [c.asking])]
        while late := [w for w in writers if w.acknowledged_at <= since]:
            if time.monotonic() > deadline:
                text = "; ".join(f"{w.name} does not acknowledge: {w.last_error}" for w in late)
                raise DemoFailed(f"{self._way} of {self._machine.name}: {text}")
            time.sleep(0.05)

    def _end(self) -> None:
        writers = [writer for clients in self._clients.values() for writer in clients.writers]
        for writer in writers:
            writer.is_over = True
        for writer in writers:
            if writer.is_alive():
                writer.join(30)

    def _write_first(self, client: Any) -> None:
        """In strict mode, an endpoint whose machine was cut off may show old data for a moment after the network has healed.
        It acknowledges no write until it has the present primary, so a connection that has written reads what is there."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            try:
                client.incr("checks")
                return
            except redis.RedisError as e:
                if time.monotonic() > deadline:
                    raise DemoFailed(f"{self._way} of {self._machine.name}: the check cannot write: {e}") from e
                time.sleep(0.2)

    def _checked(self, side: Side, lost_at: float) -> Failover:
        clients = self._clients[side]
        began, ended = clients.asking.longest_gap(lost_at)
        self._write_first(clients.check)
        lost = {writer.name: writer.lost(clients.check) for writer in clients.writers}
        beside = [one.at for one in lost[clients.beside.name]] if clients.beside is not None else []
        found = Failover(
            side=side,
            way=self._way,
            gap_s=ended - began,
            acknowledged=sum(len(writer.acknowledged) for writer in clients.writers),
            lost=sum(map(len, lost.values())),
            behind=sum(one.at >= ended for each in lost.values() for one in each),
            errors=clients.asking.refused,
            beside_until_s=ended - max(beside) if beside else None,
        )
        for writer in clients.writers:
            clients.check.delete(writer.key)
        clients.check.close()
        return found
