"""A strict database on three machines loses the machine of its only replica: another copy is built, and writes go on.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import json
import time
from functools import partial

import pytest
import redis

from demo.machines.cluster import MachinesCluster
from testkit.deadlines import until
from testkit.machines.commands import missing
from tests.machines.takeovers import Writer, all_write_since, have_written, lead, said

pytestmark = [
    pytest.mark.proof,
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]
PAUSE_S = 4.0
AFTER_S = 8.0
"""Longer than a silence lasts after which a copy is built."""
UNCONFIRMED_MAX_S = 12.0
"""Five seconds of silence, the first of its signs before that, a start and a full sync: about seven on a quiet machine."""
BACK_S = 60.0


@pytest.fixture(scope="module")
def database(cluster: MachinesCluster) -> int:
    """Strict, with its primary on the leader's node."""
    made = cluster.create_database(name="orders", memory_size=100_000_000, replication=True, data_persistence="aof")
    assert made["strict"], "the default on several machines"
    lead(cluster, cluster.primary_node(made["uid"]))
    return int(made["uid"])


def replica_node(cluster: MachinesCluster, database: int) -> int:
    mine = (shard for shard in cluster.shards() if int(shard["bdb_uid"]) == database)
    return next(int(shard["node_uid"]) for shard in mine if shard["role"] == "slave")


def rebuilds(cluster: MachinesCluster) -> list[str]:
    events = cluster.call("GET", "/v1/logs?limit=100&order=desc")
    return [f"{e['time']} {e['description']}" for e in events if e["type"].startswith("replica_rebuild")]


def writer_of(cluster: MachinesCluster, database: int) -> Writer:
    """At the node of the primary, where nothing else is in the way."""
    address = cluster.machine_of(cluster.primary_node(database)).address
    return Writer(address, int(cluster.call("GET", f"/v1/bdbs/{database}")["endpoints"][0]["port"]))


def state(cluster: MachinesCluster, writer: Writer) -> str:
    assert cluster.machines is not None
    return f"{said([writer])}\n{rebuilds(cluster)}\n{json.dumps(cluster.shards(), indent=1)}\n{cluster.machines.logs()}"


def end(cluster: MachinesCluster, writer: Writer) -> None:
    writer.is_over = True
    writer.join(20)
    with redis.Redis(writer.address, writer.port) as client:
        assert writer.lost(client) == []


def test_a_short_pause_of_the_replicas_machine_starts_nothing(cluster: MachinesCluster, database: int) -> None:
    writer = writer_of(cluster, database)
    writer.start()
    try:
        until("it writes", partial(have_written, [writer], 100), seconds=30, state=lambda: state(cluster, writer))
        machine = cluster.machine_of(replica_node(cluster, database))
        cluster.ask_last(machine.address)
        began = time.monotonic()
        machine.freeze()
        try:
            time.sleep(PAUSE_S)  # What is tested is a pause of this length.
        finally:
            machine.thaw()
        until(
            "it writes again",
            partial(all_write_since, [writer], began + PAUSE_S),
            seconds=30,
            state=lambda: state(cluster, writer),
        )
        print(f"paused for {PAUSE_S:g} s: no write was acknowledged for {writer.longest_gap_s(began):.1f} s")
        time.sleep(max(0.0, began + AFTER_S - time.monotonic()))  # Nothing begins meanwhile.
        assert rebuilds(cluster) == []
    finally:
        end(cluster, writer)


def test_when_the_replicas_machine_loses_its_power_another_copy_is_built_soon(
    cluster: MachinesCluster, database: int
) -> None:
    assert cluster.machines is not None
    path = f"/v1/bdbs/{database}"
    cluster.wait("both copies", path, lambda b: not b["reasons"], timeout_s=BACK_S)
    node = replica_node(cluster, database)
    machine = cluster.machine_of(node)
    cluster.ask_last(machine.address)
    writer = writer_of(cluster, database)
    writer.start()
    try:
        until("it writes", partial(have_written, [writer], 100), seconds=30, state=lambda: state(cluster, writer))
        began = time.monotonic()
        machine.power_off()
        until(
            "it writes again",
            lambda: writer.acknowledged_at > began + 1.0,
            seconds=BACK_S,
            state=lambda: state(cluster, writer),
        )
        took_s = writer.longest_gap_s(began)
        print(f"without power: no write was acknowledged for {took_s:.1f} s; {writer.refused} refused; {rebuilds(cluster)}")
        assert took_s < UNCONFIRMED_MAX_S, state(cluster, writer)
        mine = {int(s["node_uid"]): s["role"] for s in cluster.shards() if int(s["bdb_uid"]) == database}
        assert node in mine, f"nothing is given up: {mine}"
    finally:
        end(cluster, writer)
    machine.boot()
    cluster.wait("all nodes", "/v1/nodes", lambda ns: all(n["status"] == "active" for n in ns), timeout_s=2 * BACK_S)
    until(
        "one copy on each of two nodes",
        lambda: len([s for s in cluster.shards() if int(s["bdb_uid"]) == database]) == 2,
        seconds=2 * BACK_S,
        state=lambda: state(cluster, writer),
    )
