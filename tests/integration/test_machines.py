"""Three machines: real ``shardwright-node`` processes, each with pids of its own, over TLS, on a real etcd."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography import x509

from shardwright.agent.renewal import CertificateFiles
from shardwright.learned_file import LearnedFile
from shardwright.machine.files import write_private
from shardwright.model.database import Shard, ShardWanted
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.node.daemon_settings import founding_file
from shardwright.node.exits import EXIT_SETTINGS
from shardwright.node.founding_file import write_founding
from shardwright.node.places import trust_files
from shardwright.trust.certificates import LIFETIME, serial_text
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
        assert busy.uid not in await nodes_with_shards(cluster), cluster.report()
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


def test_a_certificate_that_is_about_to_end_is_renewed_by_the_node_with_the_authoritys_key(
    tmp_path: Path, loopback_base: Callable[[], str]
) -> None:
    async def scenario(cluster: MachineCluster) -> None:
        first, second = cluster.machines
        files = trust_files(second.settings.directories)
        soon = datetime.now(UTC) - LIFETIME + timedelta(minutes=10)
        old = {serial_text(one.serial_number) for one in await asyncio.to_thread(cluster.certify, second.settings, at=soon)}
        await started(cluster)
        # It shows them in the API, at both ports for other machines, and to the store, without a restart.
        await cluster.until("the API shows a new certificate", lambda: shown(second, files.authority) not in old)
        held = await asyncio.to_thread(CertificateFiles(NodeUid(2), files).held)
        found = {role: serial_text(credentials.certificate.serial_number) for role, credentials in held.items()}
        assert found.keys() == set(CertificateRole)
        assert not old & set(found.values())
        issued = [record for record in await cluster.stored("issued_certificates/") if isinstance(record, IssuedCertificate)]
        assert set(found.values()) <= {one.serial for one in issued if one.node_uid == 2}
        lines = (await cluster.ask(first, "GET", "/v1/logs")).json()
        assert [line["type"] for line in lines].count("certificate_renewed") == len(CertificateRole)
        # The leader on the other machine reaches it with what both show now.
        await database(cluster, first)
        write(second, "1", "one")
        for machine in cluster.machines:
            assert machine.end() == 0, cluster.report()

    run(tmp_path, loopback_base(), scenario, count=2)


def shown(machine: Machine, authority: Path) -> str:
    """Serial of the certificate that a machine's API shows; empty: it does not answer."""
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with (
            socket.create_connection((machine.address, machine.settings.ports.api), 5) as plain,
            context.wrap_socket(plain, server_hostname=machine.address) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
    except OSError:
        return ""
    assert certificate is not None
    return serial_text(x509.load_der_x509_certificate(certificate).serial_number)


def test_a_machine_is_emptied_before_it_shuts_down_if_the_policy_says_so(
    tmp_path: Path, loopback_base: Callable[[], str]
) -> None:
    async def scenario(cluster: MachineCluster) -> None:
        await started(cluster)
        await database(cluster, cluster.machines[0])
        busy = await one_with_a_shard(cluster)
        other = cluster.machines[busy.uid % 3]
        nothing = await asyncio.to_thread(busy.run, "--drain")
        assert (nothing.returncode, "policy" in nothing.stdout) == (0, True), nothing
        assert (await cluster.ask(other, "PUT", "/v1/cluster/policy", {"drain_at_shutdown": True})).status_code == 200
        emptied = await asyncio.to_thread(busy.run, "--drain")
        assert emptied.returncode == 0, f"{emptied}\n{cluster.report()}"
        assert "completed" in emptied.stdout
        assert busy.uid not in await nodes_with_shards(cluster)
        again = await asyncio.to_thread(busy.run, "--drain")
        assert (again.returncode, "in maintenance already" in again.stdout) == (0, True), again
        write(other, "1", "one")

    run(tmp_path, loopback_base(), scenario)


def test_a_removed_machine_serves_nothing_and_waits_for_its_operator(
    tmp_path: Path, loopback_base: Callable[[], str]
) -> None:
    async def scenario(cluster: MachineCluster) -> None:
        first, _, third = cluster.machines
        await started(cluster)
        uid = await database(cluster, first)
        write(third, "1", "one")
        process = await asyncio.to_thread(third.endpoint_process)
        await done(cluster, first, third, "remove")
        await cluster.until("it waits", lambda: "the cluster has no record of node 3" in third.report())
        # It has waited before too, until it was recorded: only the end of the process shows that it waits again.
        await cluster.until("its endpoint process ends", lambda: not is_there(process))
        await cluster.reached(first, f"/v1/bdbs/{uid}", lambda found: sorted(serving(found)) == [1, 2])
        assert read(first, "1") == "one"
        assert third.end() == 0, cluster.report()

    run(tmp_path, loopback_base(), scenario)


def test_a_cluster_is_founded_once_and_another_one_is_refused(tmp_path: Path, loopback_base: Callable[[], str]) -> None:
    async def scenario(cluster: MachineCluster) -> None:
        (first,) = cluster.machines
        path = founding_file(first.settings.directories)
        kept = await asyncio.to_thread(path.read_bytes)
        first.start()
        await cluster.reached(first, "/v1/nodes", lambda found: len(found) == 1)
        kept_store = LearnedFile(first.settings.directories.store_endpoints)
        await cluster.until("it remembers where the store is", lambda: is_at(kept_store.path))
        learned = kept_store.read()
        assert learned is not None
        assert learned.endpoints == (cluster.etcd.members[0].client_url,)
        assert first.end() == 0, cluster.report()
        # The daemon had died before it could delete the file.
        write_private(path, kept)
        first.start()
        await cluster.reached(first, "/v1/nodes", lambda found: len(found) == 1)
        assert "had been founded" in first.report()
        assert not is_at(path)
        assert first.end() == 0, cluster.report()
        # Another cluster is founded on this machine, but its store has one.
        write_founding(path, cluster.first_records(), cluster.sealing)
        first.start()
        assert first.daemon is not None
        assert await asyncio.to_thread(first.daemon.wait, 60) == EXIT_SETTINGS
        assert "not the one that was founded here" in first.report()
        assert is_at(path)

    run(tmp_path, loopback_base(), scenario, count=1)


def is_at(path: Path) -> bool:
    return path.exists()


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


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
    def is_so(found: Any) -> bool:
        return len(found) == len(cluster.machines) and all(node["status"] == "active" for node in found)

    await cluster.reached(asked, "/v1/nodes", is_so, seconds=90)


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
    await cluster.reached(machine, f"/v1/bdbs/{uid}", lambda found: len(serving(found)) == len(cluster.machines), seconds=60)
    return uid


def serving(found: Any) -> list[int]:
    return [int(node) for endpoint in found["endpoints"] for node in endpoint["node_uids"]]


async def nodes_with_shards(cluster: MachineCluster) -> set[int]:
    """Those on which a server should run. A record stays after an action until the files of its shard are deleted."""
    shards = [shard for shard in await cluster.stored("shards/") if isinstance(shard, Shard)]
    return {shard.node_uid for shard in shards if shard.wanted is ShardWanted.RUNNING}


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
