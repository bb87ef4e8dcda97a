"""A machine is dead, and a new one takes the place of its node in one step: rack, member of the store, copies.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import time
from functools import partial

import pytest
import redis

from demo.machines.cluster import NODES, SPARE, MachinesCluster
from demo.machines.losses import HEALTHY_S, declare_off
from testkit.deadlines import until
from testkit.machines.commands import missing
from tests.machines.takeovers import Writer, all_write_since, end, have_written, said

pytestmark = [
    pytest.mark.proof,
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]
BACK_S = 30.0
"""For the dead machine to boot and to find that it is no node any more."""


def test_a_new_machine_takes_the_place_of_a_dead_one(cluster: MachinesCluster) -> None:
    assert cluster.machines is not None
    for name in NODES:
        cluster.call("PUT", f"/v1/nodes/{cluster.node_of(name)}", {"rack_id": f"rack of {name}"})
    made = cluster.create_database(name="orders", memory_size=100_000_000, replication=True, data_persistence="aof")
    uid, port = int(made["uid"]), int(made["endpoints"][0]["port"])
    if cluster.primary_node(uid) == cluster.node_of(NODES[0]):
        # Only the first machine has the authority's key, without which no machine joins.
        cluster.finish(cluster.start(cluster.node_of(NODES[0]), "enslave_node"))
    node = cluster.primary_node(uid)
    machine = cluster.machine_of(node)
    staying = [name for name in NODES if cluster.machines[name] is not machine]
    alive = cluster.machines[SPARE].run(*join_line(cluster, node))
    assert (alive.status, "replaced_node_needed" in alive.errors) == (1, True), f"a node that runs is replaced: {alive}"
    writers = [Writer(cluster.machines[name].address, port) for name in staying]
    for writer in writers:
        writer.start()
    try:
        until("all write", partial(have_written, writers, 100), seconds=30, state=lambda: said(writers))
        machine.power_off()
        cluster.ask_last(machine.address)
        declare_off(cluster, node, machine.address)
        cluster.join(SPARE, "--replace", str(node))
        is_gone = partial(has_left, cluster, node)
        until("the dead node is removed", is_gone, seconds=HEALTHY_S, state=lambda: f"{cluster.shards()}\n{said(writers)}")
        cluster.wait("both copies", f"/v1/bdbs/{uid}", lambda b: not b["reasons"], timeout_s=HEALTHY_S)
        since = time.monotonic()
        until("all write again", partial(all_write_since, writers, since), seconds=30, state=lambda: said(writers))
    finally:
        end(writers)
    cluster.wait_for_votes([*staying, SPARE])
    new = cluster.call("GET", f"/v1/nodes/{cluster.node_of(SPARE)}")
    assert (new["uid"], new["rack_id"]) == (4, f"rack of {machine.name}"), "a number of its own, and the rack of the old one"
    with redis.Redis(cluster.machines[staying[0]].address, port) as client:
        assert {writer.key: writer.lost(client) for writer in writers} == {writer.key: [] for writer in writers}
    machine.reboot()
    time.sleep(BACK_S)
    assert not [p for p in machine.processes() if p.arguments and "-server" in p.arguments[0]], (
        "it starts nothing of the cluster"
    )
    assert has_left(cluster, node)


def join_line(cluster: MachinesCluster, replaced: int) -> list[str]:
    token = cluster.call("POST", "/v1/nodes/tokens")
    words = ["--token", token["token"], "--ca-hash", token["ca_hash"], "--memory", "4gb", "--replace", str(replaced)]
    return ["shardwright", "join", token["address"], *words]


def has_left(cluster: MachinesCluster, node: int) -> bool:
    return node not in [int(found["uid"]) for found in cluster.call("GET", "/v1/nodes")]
