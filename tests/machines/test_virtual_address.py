"""A client that knows only a virtual address, while the machine that has it is emptied, cut off and switched off: it sees no
error, and nothing that was acknowledged is lost.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis

from demo.machines.cluster import DAEMON, NODES, MachinesCluster
from testkit.deadlines import until
from testkit.etcd import require_etcd
from testkit.list_writer import ListWriter
from testkit.machines.commands import missing
from testkit.machines.group import NETWORK
from testkit.machines.machine import Machine
from testkit.machines.spec import INTERFACE, PREFIX_BITS, ROOT
from tests.machines.takeovers import lead, lead_elsewhere

pytestmark = [
    pytest.mark.proof,
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]
VIRTUAL = str(NETWORK[100])
PATH = "/v1/cluster/virtual_addresses"
MOVED_S = 30.0
"""Three seconds of silence; before them, another leader of the cluster and of its store may have to be found."""
BACK_S = 120.0
BEHIND_S = 15.0
"""So long a machine stays cut off: longer than its agent believes in an address without the store's word."""
CAPABILITIES = 1 << 12 | 1 << 13
"""CAP_NET_ADMIN and CAP_NET_RAW."""
DROP_IN = (ROOT / "packaging" / "examples" / "virtual-address.conf").read_text()


def client_of(port: int, number: int) -> ListWriter:
    """It knows the virtual address alone, and repeats as redis-py does by default."""
    return ListWriter(f"client {number}", partial(redis.Redis, VIRTUAL, port))


@pytest.fixture(scope="module")
def cluster() -> Iterator[MachinesCluster]:
    require_etcd()
    with MachinesCluster(print, drop_ins={DAEMON: DROP_IN}) as made:
        yield made


@pytest.fixture(scope="module")
def port(cluster: MachinesCluster) -> int:
    """Of a strict database; every node serves it, also at the virtual address."""
    made = cluster.create_database(name="orders", memory_size=100_000_000, replication=True, data_persistence="aof")
    assert made["strict"], "the default on several machines"
    assert cluster.machines is not None
    vip = ["shardwright", "cluster", "vip", "add", f"{VIRTUAL}/{PREFIX_BITS}", "--interface", INTERFACE, "--wait", "--json"]
    added = json.loads(cluster.machines[NODES[0]].check(*vip))
    assert (added["status"], added["able_nodes"]) == ("active", [1, 2, 3])
    return int(made["endpoints"][0]["port"])


def is_active(answer: dict[str, Any]) -> bool:
    return bool(answer["status"] == "active")


def is_elsewhere(node: int, answer: dict[str, Any]) -> bool:
    return is_active(answer) and answer["node_uid"] != node


def holder(cluster: MachinesCluster) -> int:
    return int(cluster.call("GET", f"{PATH}/{VIRTUAL}")["node_uid"])


def has_it(machine: Machine) -> bool:
    return VIRTUAL in machine.check("ip", "-brief", "address", "show", "dev", INTERFACE)


def holders(cluster: MachinesCluster) -> list[str]:
    assert cluster.machines is not None
    return [name for name in NODES if cluster.machines[name].is_on and has_it(cluster.machines[name])]


def state(cluster: MachinesCluster, clients: list[ListWriter]) -> str:
    assert cluster.machines is not None
    events = [(e["time"], e["type"], e["description"]) for e in cluster.call("GET", "/v1/logs?limit=30&order=desc")]
    said = [(c.name, len(c.acknowledged), c.refused, c.last_error) for c in clients]
    found = cluster.call("GET", PATH)
    return f"{said}\n{found}\n{cluster.shards()}\n{json.dumps(events, indent=1)}\n{cluster.machines.logs()}"


def write_some(cluster: MachinesCluster, port: int, name: int) -> list[ListWriter]:
    clients = [client_of(port, 10 * name + number) for number in range(3)]
    for client in clients:
        client.start()
    until("all write", partial(have_written, clients, 100), seconds=30, state=lambda: state(cluster, clients))
    return clients


def have_written(clients: list[ListWriter], count: int) -> bool:
    return all(len(client.acknowledged) >= count for client in clients)


def write_since(clients: list[ListWriter], at: float) -> bool:
    return all(client.acknowledged_at > at for client in clients)


def end(cluster: MachinesCluster, port: int, clients: list[ListWriter]) -> None:
    """No client saw an error, and nothing is lost."""
    for client in clients:
        client.is_over = True
    for client in clients:
        client.join(60)
    assert [(client.refused, client.last_error) for client in clients] == [(0, "")] * len(clients)
    with redis.Redis(VIRTUAL, port) as reader:
        assert [client.lost(reader) for client in clients] == [[] for _ in clients]


def whole(cluster: MachinesCluster) -> None:
    cluster.wait("both copies", "/v1/bdbs/1", lambda b: not b["reasons"], timeout_s=BACK_S)
    cluster.wait("all nodes", "/v1/nodes", lambda nodes: all(n["status"] == "active" for n in nodes), timeout_s=BACK_S)


def told(what: str, clients: list[ListWriter], began: float) -> None:
    gaps = ", ".join(f"{client.longest_gap_s(began):.2f}" for client in clients)
    print(f"{what}: longest waits of the clients {gaps} s, {sum(len(c.acknowledged) for c in clients)} acknowledged")


def test_only_the_daemons_have_the_capabilities(cluster: MachinesCluster, port: int) -> None:
    """Servers and endpoint processes are started by them, and have none."""
    assert cluster.machines is not None
    for machine in (cluster.machines[name] for name in NODES):
        found: dict[str, set[int]] = {}
        for process in machine.processes():
            words = " ".join(process.arguments)
            kinds = ("shardwright-node", "shardwright.endpoint.main", "valkey-server", "redis-server")
            kind = next((kind for kind in kinds if kind in words), "")
            status = machine.run("cat", f"/proc/{process.pid}/status").output if kind else ""
            lines = (line.split() for line in status.splitlines() if line.startswith(("CapEff", "CapPrm", "CapAmb")))
            found.setdefault(kind, set()).update(int(line[1], 16) for line in lines)
        assert found["shardwright-node"] == {0, CAPABILITIES}, "those for virtual addresses, and none for its children"
        assert found["shardwright.endpoint.main"] == {0}
        assert found.get("valkey-server", {0}) | found.get("redis-server", {0}) == {0}


def test_a_maintenance_of_its_node_moves_it(cluster: MachinesCluster, port: int) -> None:
    whole(cluster)
    clients = write_some(cluster, port, 1)
    node, began = holder(cluster), time.monotonic()
    cluster.finish(cluster.start(node, "maintenance_on"))
    assert holder(cluster) != node
    until("all write", partial(write_since, clients, time.monotonic()), seconds=30, state=lambda: state(cluster, clients))
    until("one machine has it", lambda: len(holders(cluster)) == 1, seconds=10, state=lambda: holders(cluster))
    assert holders(cluster) == [cluster.machine_of(holder(cluster)).name]
    told("maintenance", clients, began)
    now = holder(cluster)
    cluster.finish(cluster.start(node, "maintenance_off"))
    assert holder(cluster) == now, "it does not go back by itself"
    end(cluster, port, clients)


def test_a_machine_that_is_cut_off_loses_it_and_does_not_take_it_back(cluster: MachinesCluster, port: int) -> None:
    assert cluster.machines is not None
    whole(cluster)
    clients = write_some(cluster, port, 2)
    node = holder(cluster)
    lead_elsewhere(cluster, node)
    machine = cluster.machine_of(node)
    cluster.ask_last(machine.address)
    began = time.monotonic()
    cluster.machines.switch.isolate(machine.name)
    try:
        cluster.wait("another has it", f"{PATH}/{VIRTUAL}", partial(is_elsewhere, node), timeout_s=MOVED_S)
        print(f"cut off: another node has it after {time.monotonic() - began:.1f} s")
        until(
            "all write", partial(write_since, clients, time.monotonic()), seconds=60, state=lambda: state(cluster, clients)
        )
        until("its agent gives it up", lambda: not has_it(machine), seconds=BEHIND_S, state=machine.logs)
    finally:
        cluster.machines.switch.isolate(machine.name, is_alone=False)
    whole(cluster)
    assert holders(cluster) == [cluster.machine_of(holder(cluster)).name]
    told("cut off", clients, began)
    end(cluster, port, clients)


@pytest.mark.slow
def test_a_short_cut_ends_with_one_machine_that_has_it(cluster: MachinesCluster, port: int) -> None:
    """Its agent has not given the address up when the cut heals."""
    assert cluster.machines is not None
    whole(cluster)
    clients = write_some(cluster, port, 3)
    node = holder(cluster)
    lead_elsewhere(cluster, node)
    machine = cluster.machine_of(node)
    cluster.ask_last(machine.address)
    began = time.monotonic()
    cluster.machines.switch.isolate(machine.name)
    time.sleep(6.0)
    cluster.machines.switch.isolate(machine.name, is_alone=False)
    whole(cluster)
    until("one machine has it", lambda: len(holders(cluster)) == 1, seconds=20, state=lambda: state(cluster, clients))
    cluster.wait("it settles", f"{PATH}/{VIRTUAL}", is_active, timeout_s=MOVED_S)
    assert holders(cluster) == [cluster.machine_of(holder(cluster)).name]
    until("all write", partial(write_since, clients, time.monotonic()), seconds=60, state=lambda: state(cluster, clients))
    told("short cut", clients, began)
    end(cluster, port, clients)


def test_a_restart_of_its_nodes_daemon_moves_nothing(cluster: MachinesCluster, port: int) -> None:
    whole(cluster)
    clients = write_some(cluster, port, 4)
    before = cluster.call("GET", f"{PATH}/{VIRTUAL}")
    machine = cluster.machine_of(before["node_uid"])
    began = time.monotonic()
    machine.stop(DAEMON)
    time.sleep(8.0)
    assert has_it(machine)
    machine.start(DAEMON)
    whole(cluster)
    after = cluster.call("GET", f"{PATH}/{VIRTUAL}")
    assert (after["node_uid"], after["generation"]) == (before["node_uid"], before["generation"])
    told("daemon restarted", clients, began)
    end(cluster, port, clients)


def test_a_machine_without_power_loses_it(cluster: MachinesCluster, port: int) -> None:
    whole(cluster)
    clients = write_some(cluster, port, 5)
    node = holder(cluster)
    lead_elsewhere(cluster, node)
    machine = cluster.machine_of(node)
    cluster.ask_last(machine.address)
    began = time.monotonic()
    machine.power_off()
    try:
        cluster.wait("another has it", f"{PATH}/{VIRTUAL}", partial(is_elsewhere, node), timeout_s=MOVED_S)
        print(f"without power: another node has it after {time.monotonic() - began:.1f} s")
        until(
            "all write", partial(write_since, clients, time.monotonic()), seconds=90, state=lambda: state(cluster, clients)
        )
    finally:
        machine.reboot()
    told("without power", clients, began)
    whole(cluster)
    assert holders(cluster) == [cluster.machine_of(holder(cluster)).name]
    end(cluster, port, clients)


@pytest.mark.slow
def test_a_machine_with_the_leader_that_is_without_power_loses_it(cluster: MachinesCluster, port: int) -> None:
    """Another leader is found first. If the machine held the only replica, its link is over by then, and each client may be
    told once that the outcome of its write is unknown."""
    whole(cluster)
    clients = write_some(cluster, port, 6)
    node = holder(cluster)
    lead(cluster, node)
    machine = cluster.machine_of(node)
    cluster.ask_last(machine.address)
    began = time.monotonic()
    machine.power_off()
    try:
        cluster.wait("another has it", f"{PATH}/{VIRTUAL}", partial(is_elsewhere, node), timeout_s=MOVED_S)
        print(f"without power, with the leader: another node has it after {time.monotonic() - began:.1f} s")
        until(
            "all write", partial(write_since, clients, time.monotonic()), seconds=90, state=lambda: state(cluster, clients)
        )
    finally:
        machine.reboot()
    told("without power, with the leader", clients, began)
    whole(cluster)
    for client in clients:
        assert client.refused <= 1
        assert client.refused == 0 or "outcome unknown" in client.last_error
        client.refused, client.last_error = 0, ""
    end(cluster, port, clients)


def test_it_can_be_removed(cluster: MachinesCluster, port: int) -> None:
    whole(cluster)
    cluster.call("DELETE", f"{PATH}/{VIRTUAL}")
    cluster.wait("it is gone", PATH, lambda found: found == [], timeout_s=30)
    until("no machine has it", lambda: holders(cluster) == [], seconds=10, state=lambda: holders(cluster))
