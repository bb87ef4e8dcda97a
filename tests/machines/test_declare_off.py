"""A database in default mode whose primary's machine is off, and whose endpoint processes have not all shown that they need
proofs: it continues when an administrator or a fencing hook says so.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import json
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.cluster import DemoFailed
from demo.machines.cluster import NODES, MachinesCluster
from demo.machines.losses import declare_off
from testkit.deadlines import until
from testkit.machines.commands import missing
from testkit.machines.machine import Machine
from tests.machines.takeovers import Writer, all_write_since, cut_off, end, have_written, said

pytestmark = [
    pytest.mark.proof,
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]
LEASE_S = 8.0
"""Until proofs are wanted, and every process that answers has shown that it needs them."""
FAILS_S = 5.0
"""Until proofs are given up because the replica does not answer. Its server is ended only after a longer time."""
AWAY_S = 30.0
"""Until the node is away: its lease ends, and perhaps another leader is found first."""
TAKEOVER_S = 20.0
FENCED_S = 45.0
"""The same, with the silence before it."""
BACK_S = 120.0
HOOK = """#!/bin/sh
# Ask the test to switch the machine off, and wait until it has done so.
echo "$@" > /etc/shardwright/fence-asked
for _ in $(seq 300); do
    [ -e /etc/shardwright/fence-done ] && exit 0
    sleep 0.1
done
exit 1
"""


def declared(cluster: MachinesCluster, node: int) -> Any:
    return cluster.call("GET", f"/v1/nodes/{node}")["declared_off"]


def database_of(cluster: MachinesCluster, name: str) -> dict[str, Any]:
    return cluster.create_database(
        name=name, memory_size=100_000_000, replication=True, strict=False, data_persistence="aof"
    )


def state(cluster: MachinesCluster) -> str:
    assert cluster.machines is not None
    events = [(e["type"], e["description"]) for e in cluster.call("GET", "/v1/logs?limit=20")]
    return f"{cluster.shards()}\n{json.dumps(events, indent=1)}\n{cluster.machines.logs()}"


def without_lease(cluster: MachinesCluster, database: int) -> Callable[[], None]:
    """The endpoint process of the third node, which has no copy, was told to serve without proofs while the replica was
    frozen, and is frozen when they are wanted again. Returns the function that ends that."""
    assert cluster.machines is not None
    cluster.call("PUT", "/v1/cluster/policy", {"stuck_server_timeout": 600})
    copies = [s for s in cluster.shards() if int(s["bdb_uid"]) == database]
    replica = next(s for s in copies if s["role"] == "slave")
    taken = {cluster.machine_of(int(s["node_uid"])).name for s in copies}
    third = cluster.machines[next(name for name in NODES if name not in taken)]
    server = cluster.machine_of(int(replica["node_uid"]))
    copy, process = _process(server, f"shard={replica['uid']}"), _process(third, "shardwright.endpoint.main")
    time.sleep(LEASE_S)
    server.signal(copy, signal.SIGSTOP)
    time.sleep(FAILS_S)
    third.signal(process, signal.SIGSTOP)
    server.signal(copy, signal.SIGCONT)
    time.sleep(LEASE_S)
    return lambda: third.signal(process, signal.SIGCONT)


def _process(machine: Machine, word: str) -> Any:
    return next(p for p in machine.processes() if any(word in argument for argument in p.arguments))


def write_some(cluster: MachinesCluster, port: int) -> list[Writer]:
    assert cluster.machines is not None
    writers = [Writer(cluster.machines[name].address, port) for name in NODES]
    for writer in writers:
        writer.start()
    until("all write", partial(have_written, writers, 100), seconds=30, state=lambda: said(writers))
    return writers


def is_away(cluster: MachinesCluster, node: int) -> bool:
    return bool(cluster.call("GET", f"/v1/nodes/{node}")["status"] == "down")


def leads_elsewhere(cluster: MachinesCluster, database: int, node: int) -> bool:
    return cluster.primary_node(database) != node


def is_back(cluster: MachinesCluster, database: int, node: int) -> None:
    """The machine is on: the word has ended, and both copies are in sync."""
    cluster.wait("the word ends", f"/v1/nodes/{node}", lambda n: n["declared_off"] is None, timeout_s=BACK_S)
    cluster.wait("both copies", f"/v1/bdbs/{database}", lambda b: not b["reasons"], timeout_s=BACK_S)


def test_a_database_goes_on_when_its_primarys_machine_is_declared_off(cluster: MachinesCluster) -> None:
    assert cluster.machines is not None
    made = database_of(cluster, "declared")
    uid, port = int(made["uid"]), int(made["endpoints"][0]["port"])
    node = cluster.primary_node(uid)
    machine = cluster.machine_of(node)
    with pytest.raises(DemoFailed, match="node_not_off"):
        cluster.call("POST", f"/v1/nodes/{node}/declare_off", {"address": machine.address})
    writers = write_some(cluster, port)
    go_on = without_lease(cluster, uid)
    try:
        cluster.ask_last(machine.address)
        machine.power_off()
        until("the node is away", partial(is_away, cluster, node), seconds=AWAY_S, state=lambda: state(cluster))
        time.sleep(5.0)
        assert cluster.primary_node(uid) == node, "silence promotes nothing"
        declare_off(cluster, node, machine.address)
        moved = partial(leads_elsewhere, cluster, uid, node)
        declared_at = time.monotonic()
        until("another copy leads", moved, seconds=TAKEOVER_S, state=lambda: state(cluster), poll_s=0.1)
        print(f"another copy leads {time.monotonic() - declared_at:.1f} s after the word")
        go_on()
        others = [w for w in writers if w.address != machine.address]
        wrote = partial(all_write_since, others, time.monotonic())
        until("the others write", wrote, seconds=30, state=lambda: said(writers))
        machine.reboot()
        is_back(cluster, uid, node)
    finally:
        end(writers)
        if not machine.is_on:
            machine.reboot()
    with redis.Redis(cluster.machines[NODES[0]].address, port) as client:
        lost = {writer.address: len(writer.lost(client)) for writer in writers}
    print(f"acknowledged, and not on the replica when the power failed: {lost}")
    assert sum(lost.values()) < 50, "milliseconds of replication, not seconds"


def test_a_fencing_hook_does_it_without_people(cluster: MachinesCluster) -> None:
    """The machine is cut off and serves its own clients, until it is switched off."""
    assert cluster.machines is not None
    made = database_of(cluster, "fenced")
    uid, port = int(made["uid"]), int(made["endpoints"][0]["port"])
    node = cluster.primary_node(uid)
    machine = cluster.machine_of(node)
    for name in NODES:
        put_hook(cluster.machines[name])
    writers = write_some(cluster, port)
    go_on = without_lease(cluster, uid)
    undo = cut_off(cluster, machine)
    try:
        cluster.ask_last(machine.address)
        others = [cluster.machines[name] for name in NODES if cluster.machines[name] is not machine]
        until("a hook is asked", lambda: bool(asked(others)), seconds=FENCED_S, state=lambda: state(cluster))
        assert asked(others) == f"off {node} {machine.address}"
        assert cluster.primary_node(uid) == node, "it may still serve"
        machine.power_off()
        for other in others:
            (other.configuration / "fence-done").touch()
        moved = partial(leads_elsewhere, cluster, uid, node)
        until("another copy leads", moved, seconds=TAKEOVER_S, state=lambda: state(cluster), poll_s=0.1)
        assert declared(cluster, node)["by"] == "the fencing hook test"
        go_on()
        far = [w for w in writers if w.address != machine.address]
        until("the others write", partial(all_write_since, far, time.monotonic()), seconds=30, state=lambda: said(writers))
    finally:
        end(writers)
        undo()
        if not machine.is_on:
            machine.reboot()
    is_back(cluster, uid, node)


def put_hook(machine: Machine) -> None:
    directory = machine.configuration / "fence.d"
    directory.mkdir(exist_ok=True)
    hook = directory / "test"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    for name in ("fence-asked", "fence-done"):
        (machine.configuration / name).unlink(missing_ok=True)


def asked(machines: list[Machine]) -> str:
    """What a hook was told on one of these machines; empty: none has run."""
    files: list[Path] = [machine.configuration / "fence-asked" for machine in machines]
    return next((file.read_text().strip() for file in files if file.exists()), "")
