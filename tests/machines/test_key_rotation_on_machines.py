"""The cluster key is changed on three machines while clients write: daemons die in the middle, and one that is away gets the
key when it returns. Afterwards every secret opens with the new key, and the old one opens nothing.

Needs root, iproute2, util-linux and etcd, and is skipped by name without them.
"""

import json
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
import redis

from demo.machines.cluster import DAEMON, NODES, MachinesCluster
from shardwright.errors import Permanent
from shardwright.faults import VARIABLE
from shardwright.key_file import KeyFile
from shardwright.store.seal import SEALED, ClusterKey, Sealing
from testkit.deadlines import until
from testkit.etcd import require_etcd
from testkit.machines.commands import missing
from testkit.machines.machine import Machine
from tests.machines.takeovers import Writer, all_write_since, end, have_written, said

pytestmark = [
    pytest.mark.proof,
    pytest.mark.server,
    pytest.mark.skipif(bool(missing()), reason=missing() or "machines can be made"),
]
PATH = "/v1/cluster/actions/rotate_key"
FAULTS = "/run/shardwright-faults"
END_S = 60.0


@pytest.fixture
def cluster() -> Iterator[MachinesCluster]:
    require_etcd()
    drop_ins = {DAEMON: f"[Service]\nEnvironment={VARIABLE}={FAULTS}\n"}
    with MachinesCluster(print, drop_ins=drop_ins) as made:
        yield made


def keys_of(machine: Machine) -> tuple[ClusterKey, ...]:
    return KeyFile(machine.configuration / "cluster.key").read()


def stored(cluster: MachinesCluster, machine: Machine) -> dict[str, bytes]:
    """The sealed records, as etcd has them."""
    files = machine.configuration
    context = ssl.create_default_context(cafile=str(files / "ca.pem"))
    context.load_cert_chain(files / "store.pem", files / "node-key.pem")
    found: dict[str, bytes] = {}
    with httpx.Client(verify=context, timeout=5, trust_env=False) as client:
        for prefix in SEALED:
            first = f"shardwright/{prefix}".encode()
            last = first[:-1] + bytes([first[-1] + 1])
            asked = {"key": b64encode(first).decode(), "range_end": b64encode(last).decode()}
            answer = client.post(f"https://{machine.address}:2379/v3/kv/range", json=asked).json()
            for item in answer.get("kvs", []):
                found[b64decode(item["key"]).decode().removeprefix("shardwright/")] = b64decode(item["value"])
    return found


def opened(key: ClusterKey, values: dict[str, bytes]) -> list[str]:
    """The values that a key alone opens."""
    sealing = Sealing((key,), bytes)
    found = []
    for place, value in values.items():
        try:
            sealing.open(place, value)
        except Permanent:
            continue
        found.append(place)
    return found


def action(cluster: MachinesCluster) -> dict[str, Any]:
    return dict(cluster.call("GET", PATH))


def is_in(cluster: MachinesCluster, *phases: str) -> bool:
    return action(cluster)["phase"] in phases


def arm(machine: Machine, point: str) -> Callable[[], bool]:
    """Let the daemon of this machine die at a point. Returns whether it has."""
    machine.check("sh", "-c", f"mkdir -p {FAULTS} && chmod 777 {FAULTS} && echo kill > {FAULTS}/{point}")
    return lambda: machine.run("test", "-e", f"{FAULTS}/{point}.reached").status == 0


def leading(cluster: MachinesCluster) -> Machine:
    statuses = cluster.call("GET", "/v1/nodes/status")
    return cluster.machine_of(next(int(uid) for uid, found in statuses.items() if found["role"] == "master"))


def test_the_cluster_key_is_changed_under_load(cluster: MachinesCluster) -> None:
    assert cluster.machines is not None
    machines = [cluster.machines[name] for name in NODES]
    (old,) = keys_of(machines[0])
    strict = cluster.create_database(name="orders", memory_size=100_000_000, replication=True, data_persistence="aof")
    plain = cluster.create_database(name="cache", memory_size=100_000_000, replication=True, strict=False)
    ports = [int(made["endpoints"][0]["port"]) for made in (strict, plain)]
    by_port = {port: [Writer(machine.address, port) for machine in machines] for port in ports}
    writers = [writer for found in by_port.values() for writer in found]
    for writer in writers:
        writer.start()
    try:
        until("all write", partial(have_written, writers, 100), seconds=30, state=lambda: said(writers))
        # The leader dies after a batch was sealed, another daemon before it has written the new key.
        leader = leading(cluster)
        follower = next(machine for machine in machines if machine is not leader)
        deaths = [arm(leader, "rotate:batch:after"), arm(follower, "keys:spreading:before")]
        first = rotate(machines[0])
        assert all(died() for died in deaths), "both have died"
        assert first["former_key_id"] == old.uid
        new = check_end(cluster, machines, old)
        # Again, while one daemon is away: it fetches the key when it returns.
        away = next(machine for machine in machines if machine is not leading(cluster))
        away.stop(DAEMON)
        until("the node is away", partial(is_away, cluster, away), seconds=30, state=lambda: state(cluster))
        cluster.call("POST", PATH)
        until("the rest is done", partial(is_in, cluster, "dropping"), seconds=END_S, state=lambda: state(cluster))
        until("it is said", lambda: bool(action(cluster)["reasons"]), seconds=30, state=lambda: state(cluster))
        reasons = action(cluster)["reasons"]
        assert [reason["code"] for reason in reasons] == ["cluster_key_kept"], reasons
        print(machines[0].check("shardwright", "status"))
        assert keys_of(away) == (new,)
        assert opened(new, stored(cluster, machines[0])) == []
        away.start(DAEMON)
        until("all is done", partial(is_in, cluster, "done"), seconds=END_S, state=lambda: state(cluster))
        check_end(cluster, machines, new)
        since = time.monotonic()
        until("all write", partial(all_write_since, writers, since), seconds=30, state=lambda: said(writers))
        assert [writer.refused for writer in writers] == [0] * len(writers), said(writers)
        # What is sealed with it is usable: a new secret, and a handoff that logs in to the servers.
        cluster.create_database(name="later", memory_size=100_000_000, replication=True)
        node = cluster.primary_node(strict["uid"])
        cluster.finish(cluster.start(node, "enslave_node", shards_only=True))
        assert [writer.refused for writer in writers] == [0] * len(writers), said(writers)
    finally:
        end(writers)
    for port, found in by_port.items():
        with redis.Redis(machines[0].address, port) as client:
            assert [writer.lost(client) for writer in found] == [[] for _ in found], port
    print(said(writers))
    kinds = [event["type"] for event in cluster.call("GET", "/v1/logs?limit=500")]
    assert [kinds.count(f"key_rotation_{kind}") for kind in ("request", "sealed", "completed")] == [2, 2, 2]


def rotate(machine: Machine) -> dict[str, Any]:
    """By the command line, to the end."""
    ran = machine.run("shardwright", "cluster", "rotate-key", "--wait", "--timeout", "2m", "--json", timeout_s=150)
    print(f"{machine.name}# shardwright cluster rotate-key --wait\n{ran.output}{ran.errors}")
    assert ran.status == 0, f"{ran.output}{ran.errors}{machine.logs()}"
    return dict(json.loads(ran.output))


def check_end(cluster: MachinesCluster, machines: list[Machine], old: ClusterKey) -> ClusterKey:
    """Every machine has one key, the same, which opens all that the store has sealed; the old one opens nothing. Returns
    the key."""
    held = {machine.name: keys_of(machine) for machine in machines}
    assert len(set(held.values())) == 1, {name: [key.uid for key in found] for name, found in held.items()}
    (new,) = held[machines[0].name]
    assert new != old
    values = stored(cluster, machines[0])
    assert {place.partition("/")[0] for place in values} >= {"secrets", "databases", "users"}
    assert opened(new, values) == list(values)
    assert opened(old, values) == []
    return new


def is_away(cluster: MachinesCluster, machine: Machine) -> bool:
    nodes = cluster.call("GET", "/v1/nodes")
    return [node["status"] for node in nodes if node["addr"] == machine.address] == ["down"]


def state(cluster: MachinesCluster) -> str:
    assert cluster.machines is not None
    return f"{action(cluster)}\n{cluster.machines.logs()}"
