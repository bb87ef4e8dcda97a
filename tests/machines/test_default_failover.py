"""A database in default mode on three machines whose primary's machine is cut off, freezes or loses its power: another copy
takes over, and nothing is acknowledged by the old primary after that. A replica that dies is not noticed by clients.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import signal
import time
from collections.abc import Callable
from functools import partial

import pytest
import redis

from demo.machines.cluster import NODES, MachinesCluster
from testkit.deadlines import until
from testkit.machines.commands import missing
from testkit.machines.machine import Machine
from tests.machines.takeovers import Writer, all_write_since, cut_off, end, frozen, have_written, said, without_power

pytestmark = [
    pytest.mark.proof,
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]
TAKEOVER_S = 30.0
"""Three seconds of silence and four of waiting; before them, another leader of the cluster and of its store may have to be
found."""
BACK_S = 120.0
"""Until the old primary, or a new copy, is in sync."""
BEHIND_S = 5.0
"""The clients of the machine that is cut off go on for so long after the takeover."""
LEASE_S = 30.0
"""Until every endpoint process has shown that it needs proofs: they are asked once a second."""
PAUSE_MAX_S = 2.0
"""When a replica dies."""


def started_writers(cluster: MachinesCluster, name: str) -> tuple[int, list[Writer], int]:
    """A new database, a client at each node, all of which write, and its port. The lease is in force."""
    assert cluster.machines is not None
    made = cluster.create_database(
        name=name, memory_size=100_000_000, replication=True, data_persistence="aof", strict=False
    )
    assert not made["strict"]
    port = int(made["endpoints"][0]["port"])
    writers = [Writer(cluster.machines[each].address, port) for each in NODES]
    for writer in writers:
        writer.start()
    until("all write", partial(have_written, writers, 200), seconds=30, state=lambda: said(writers))
    path = f"/v1/bdbs/{made['uid']}"
    cluster.wait("a copy can take over", path, lambda b: b["machine_loss"]["outcome"] == "latest_lost", timeout_s=LEASE_S)
    return int(made["uid"]), writers, port


@pytest.mark.parametrize("strike", [cut_off, frozen, without_power])
def test_nothing_is_acknowledged_behind_the_promotion(
    cluster: MachinesCluster, strike: Callable[[MachinesCluster, Machine], Callable[[], None]]
) -> None:
    assert cluster.machines is not None
    database, writers, port = started_writers(cluster, f"default-{strike.__name__}".replace("_", "-"))
    node = cluster.primary_node(database)
    machine = cluster.machine_of(node)
    beside = next(writer for writer in writers if writer.address == machine.address)
    others = [writer for writer in writers if writer is not beside]
    try:
        cluster.ask_last(machine.address)
        struck_at = time.monotonic()
        undo = strike(cluster, machine)
        try:
            until(
                "another copy leads",
                lambda: cluster.primary_node(database) != node,
                seconds=TAKEOVER_S,
                state=lambda: f"{cluster.shards()}\n{cluster.machines and cluster.machines.logs()}",
                poll_s=0.1,
            )
            promoted_at = time.monotonic()
            print(f"{strike.__name__}: another copy leads after {promoted_at - struck_at:.1f} s")
            settled = partial(all_write_since, others, promoted_at)
            until("the other clients write", settled, seconds=TAKEOVER_S, state=lambda: said(writers))
            time.sleep(BEHIND_S)  # The old primary goes on, or sleeps, while the other one serves.
        finally:
            woken_at = time.monotonic()
            undo()
        cluster.wait("both copies", f"/v1/bdbs/{database}", lambda b: not b["reasons"], timeout_s=BACK_S)
        is_back = partial(all_write_since, writers, time.monotonic())
        until("all write again", is_back, seconds=BACK_S, state=lambda: said(writers))
    finally:
        end(writers)
    first = min(
        one.at for writer in others for one in writer.acknowledged if one.at > promoted_at - 2 and one.at > struck_at + 3
    )
    last = max((one.at for one in beside.acknowledged if one.at < woken_at), default=0.0)
    gaps = [writer.longest_gap_s(struck_at) for writer in others]
    print(f"  the last acknowledgement beside the old primary {last - struck_at:+.1f} s from the loss")
    print(f"  the first one of the new primary after {first - struck_at:.1f} s, the longest wait {max(gaps):.1f} s")
    assert last < first, "acknowledged behind the promotion"
    with redis.Redis(cluster.machines[NODES[0]].address, port) as client:
        lost = {writer.key: writer.lost(client) for writer in writers}
    print(f"  lost: { {key: len(found) for key, found in lost.items()} }")
    assert all(one.at < promoted_at for found in lost.values() for one in found), "what a copy acknowledged is lost"
    assert not any(one.at < struck_at - 1 for found in lost.values() for one in found), "it was replicated long before"


def test_clients_do_not_notice_the_death_of_a_replica(cluster: MachinesCluster) -> None:
    database, writers, _ = started_writers(cluster, "replica-dies")
    try:
        replica = next(s for s in cluster.shards() if int(s["bdb_uid"]) == database and s["role"] == "slave")
        machine = cluster.machine_of(int(replica["node_uid"]))
        mark = f"shard={replica['uid']}"
        process = next(p for p in machine.processes() if any(mark in word for word in p.arguments))
        refused = [writer.refused for writer in writers]
        killed_at = time.monotonic()
        machine.signal(process, signal.SIGKILL)
        time.sleep(10)
        assert [writer.refused for writer in writers] == refused, said(writers)
    finally:
        end(writers)
    gaps = [writer.longest_gap_s(killed_at) for writer in writers]
    print(f"a replica died: the longest waits were {[f'{gap:.2f}' for gap in gaps]} s")
    assert max(gaps) < PAUSE_MAX_S


def test_clients_wait_shortly_when_a_replicas_machine_freezes(cluster: MachinesCluster) -> None:
    """Nothing says that it has ended; only the proofs fail."""
    database, writers, _ = started_writers(cluster, "replica-freezes")
    try:
        replica = next(s for s in cluster.shards() if int(s["bdb_uid"]) == database and s["role"] == "slave")
        machine = cluster.machine_of(int(replica["node_uid"]))
        mine = [writer for writer in writers if writer.address != machine.address]
        refused = [writer.refused for writer in mine]
        cluster.ask_last(machine.address)
        mark = f"shard={replica['uid']}"
        process = next(p for p in machine.processes() if any(mark in word for word in p.arguments))
        frozen_at = time.monotonic()
        machine.signal(process, signal.SIGSTOP)
        try:
            time.sleep(8)
        finally:
            machine.signal(process, signal.SIGCONT)
        time.sleep(3)
        assert [writer.refused for writer in mine] == refused, said(writers)
    finally:
        end(writers)
    gaps = [writer.longest_gap_s(frozen_at) for writer in mine]
    print(f"a replica froze: the longest waits were {[f'{gap:.2f}' for gap in gaps]} s")
    assert max(gaps) < PAUSE_MAX_S
