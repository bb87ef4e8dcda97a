"""A strict database on three machines whose primary's machine is cut off or freezes: another copy takes over, and nothing
that was acknowledged is lost.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import time
from collections.abc import Callable
from functools import partial

import pytest
import redis

from demo.machines.cluster import NODES, MachinesCluster
from testkit.deadlines import until
from testkit.machines.commands import missing
from testkit.machines.machine import Machine
from tests.machines.takeovers import Writer, all_write_since, cut_off, end, frozen, have_written, said

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


@pytest.mark.parametrize("strike", [cut_off, frozen])
def test_a_strict_database_loses_nothing_when_its_primarys_machine_is_cut_off(
    cluster: MachinesCluster, strike: Callable[[MachinesCluster, Machine], Callable[[], None]]
) -> None:
    assert cluster.machines is not None
    name = f"db-{strike.__name__}".replace("_", "-")
    made = cluster.create_database(name=name, memory_size=100_000_000, replication=True, data_persistence="aof")
    assert made["strict"], "the default on several machines"
    path, port = f"/v1/bdbs/{made['uid']}", int(made["endpoints"][0]["port"])
    node = cluster.primary_node(made["uid"])
    writers = [Writer(cluster.machines[each].address, port) for each in NODES]
    for writer in writers:
        writer.start()
    try:
        wrote = partial(have_written, writers, 200)
        until("all write", wrote, seconds=30, state=lambda: said(writers))
        machine = cluster.machine_of(node)
        struck_at = time.monotonic()
        undo = strike(cluster, machine)
        try:
            cluster.ask_last(machine.address)
            until(
                "another copy leads",
                lambda: cluster.primary_node(made["uid"]) != node,
                seconds=TAKEOVER_S,
                state=lambda: f"{cluster.shards()}\n{cluster.machines and cluster.machines.logs()}",
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
        end(writers)
    with redis.Redis(cluster.machines[NODES[0]].address, port) as client:
        assert {writer.key: writer.lost(client) for writer in writers} == {writer.key: [] for writer in writers}
    print({writer.key: (len(writer.acknowledged), writer.refused) for writer in writers})
