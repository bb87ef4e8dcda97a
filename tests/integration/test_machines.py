"""Three machines: real ``shardwright-node`` processes, each with pids of its own, over TLS, on a real etcd."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from shardwright.model.database import Shard
from tests.integration.node_harness import Json, Machine, MachineCluster, node_record

pytestmark = [pytest.mark.proof, pytest.mark.server]

PORT = 12000


def run(directory: Path, base: str, scenario: Callable[[MachineCluster], Awaitable[None]], *, count: int = 3) -> None:
    async def whole() -> None:
        async with asyncio.timeout(500), MachineCluster(directory, base, count) as cluster:
            await scenario(cluster)

    asyncio.run(whole())


def test_three_machines_serve_a_database_through_maintenance_and_the_death_of_the_leader(
    tmp_path: Path, loopback_base: Callable[[], str]
) -> None:
    async def scenario(cluster: MachineCluster) -> None:
        first, second, third = cluster.machines
        await started(cluster)
        uid = await database(cluster, first)
        write(first, "1", "one")
        for machine in cluster.machines:
            assert read(machine, "1") == "one", "every machine serves the endpoint"
        # A node is emptied, and gets back what it had.
        busy = await one_with_a_shard(cluster)
        asked = cluster.machines[busy.uid % 3]
        await done(cluster, asked, busy, "maintenance_on")
        assert busy.uid not in await nodes_with_shards(cluster)
        write(asked, "2", "two")
        await done(cluster, asked, busy, "maintenance_off")
        assert busy.uid in await nodes_with_shards(cluster)
        # The leader's daemon dies; its lease is revoked from outside, as its unit does.
        leader = await cluster.leader()
        assert leader is not None
        assert leader.end(kills=True) != 0
        ended = await asyncio.to_thread(leader.run, "--ended")
        assert ended.returncode == 0, ended.stderr
        assert "revoked the lease" in ended.stderr
        others = [machine for machine in cluster.machines if machine is not leader]
        await cluster.until_led_by_another(leader)
        for machine in others:
            assert read(machine, "1") == "one"
        assert read(leader, "2") == "two", "its endpoint process and its servers live on"
        write(leader, "3", "three")
        leader.start()
        await all_present(cluster, others[0])
        await cluster.reached(others[0], f"/v1/bdbs/{uid}", lambda found: found["status"] == "active")
        assert read(others[1], "3") == "three"
        for machine in (first, second, third):
            assert machine.end() == 0, cluster.report()

    run(tmp_path, loopback_base(), scenario)


async def started(cluster: MachineCluster) -> None:
    """The first machine founds the cluster; the others are recorded by hand."""
    first, *others = cluster.machines
    founding = first.settings.directories.configuration / "founding.json"
    for machine in others:
        machine.start()
    first.start()
    await cluster.reached(first, "/v1/nodes", lambda found: len(found) == 1)
    assert not founding.exists()
    await cluster.put(*(node_record(machine) for machine in others))
    await all_present(cluster, first)


async def all_present(cluster: MachineCluster, asked: Machine) -> None:
    await cluster.reached(
        asked, "/v1/nodes", lambda found: len(found) == 3 and all(n["status"] == "active" for n in found), seconds=90
    )


async def database(cluster: MachineCluster, machine: Machine) -> int:
    body: Json = {
        "name": "orders",
        "memory_size": 50_000_000,
        "port": PORT,
        "replication": True,
        "proxy_policy": "all-nodes",
    }
    made = await cluster.ask(machine, "POST", "/v1/bdbs", body)
    assert made.status_code == 200, made.text
    uid = int(made.json()["uid"])
    await cluster.reached(machine, f"/v1/bdbs/{uid}", lambda found: found["status"] == "active", seconds=90)
    await cluster.reached(machine, f"/v1/bdbs/{uid}", lambda found: len(serving(found)) == 3, seconds=60)
    return uid


def serving(found: Any) -> list[int]:
    return [int(node) for endpoint in found["endpoints"] for node in endpoint["node_uids"]]


async def nodes_with_shards(cluster: MachineCluster) -> set[int]:
    return {shard.node_uid for shard in await cluster.stored("shards/") if isinstance(shard, Shard)}


async def one_with_a_shard(cluster: MachineCluster) -> Machine:
    found = await nodes_with_shards(cluster)
    return next(machine for machine in cluster.machines if machine.uid in found)


async def done(cluster: MachineCluster, asked: Machine, node: Machine, action: str) -> None:
    path = f"/v1/nodes/{node.uid}/actions/{action}"
    started = await cluster.ask(asked, "POST", path, {})
    assert started.status_code == 200, started.text
    ended = await cluster.reached(asked, path, lambda a: a["status"] in ("completed", "failed", "cancelled"), seconds=120)
    assert ended["status"] == "completed", f"{ended}\n{cluster.report()}"


def client(machine: Machine) -> Any:
    return redis.Redis(machine.address, PORT, socket_timeout=20, decode_responses=True)


def write(machine: Machine, key: str, value: str) -> None:
    with client(machine) as connection:
        assert connection.set(key, value)


def read(machine: Machine, key: str) -> str:
    with client(machine) as connection:
        return str(connection.get(key))
