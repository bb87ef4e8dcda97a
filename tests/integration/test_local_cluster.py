"""``up``, ``down`` and the supervisor with real processes: a user's commands and their effects."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from shardwright.agent.launch import check_port
from shardwright.local.config import read_nodes
from shardwright.model.cluster import Cluster, DaemonPresence, Node
from shardwright.model.codes import Code
from shardwright.model.database import Persistence, SnapshotRule
from shardwright.model.ids import DatabaseUid, NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.server.binaries import all_servers
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.protocol import DeleteKey, Operation, PutKey, Transaction
from shardwright.store.sqlite import SqliteStore
from testkit.stored import stored
from tests.integration.agent_harness import SECRETS, database, free_port, group, shard
from tests.integration.local_harness import LocalCluster, is_running, send

pytestmark = pytest.mark.server


@pytest.fixture
def cluster(tmp_path: Path, loopback_base: Callable[[], str]) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path / "c", loopback_base(), options=["--nodes", "2"])
    yield made
    made.clean_up()
    assert made.processes() == []


def write(cluster: LocalCluster, *operations: Operation) -> None:
    async def work() -> None:
        store = await SqliteStore.open(cluster.layout.store)
        assert (await store.transact(Transaction((), operations))).succeeded
        await store.close()

    asyncio.run(work())


def put(cluster: LocalCluster, *written: StoredRecord) -> None:
    write(cluster, *(PutKey(keys.key_of(r), records.encode(r)) for r in written))


def recorded_nodes(cluster: LocalCluster) -> list[Node]:
    async def work() -> list[Node]:
        store = await SqliteStore.open(cluster.layout.store)
        try:
            return await read_nodes(store)
        finally:
            await store.close()

    return asyncio.run(work())


def presence_pid(cluster: LocalCluster, uid: int) -> int:
    """The pid in the daemon's presence; 0: no presence."""

    async def work() -> int:
        store = await SqliteStore.open(cluster.layout.store)
        try:
            found = await store.get(f"{keys.DAEMONS}{uid:08d}")
            record = records.decode(found.key, found.value) if found is not None else None
            return record.pid if isinstance(record, DaemonPresence) else 0
        finally:
            await store.close()

    return asyncio.run(work())


def test_from_creation_to_purge(cluster: LocalCluster) -> None:
    said = cluster.started("--rack", "a,b", "--node-memory", "1gb")
    assert said["created"]
    assert said["urls"] == [f"https://{n.address}:9443" for n in recorded_nodes(cluster)]
    admin = json.loads(cluster.layout.admin.read_text())
    assert admin == {k: said[k] for k in ("url", "urls", "username", "password")}
    assert [(n.rack, n.memory_bytes) for n in recorded_nodes(cluster)] == [("a", 1 << 30), ("b", 1 << 30)]
    layout = cluster.layout
    for private in (layout.admin, layout.store, layout.key, layout.tls / "ca-key.pem", layout.cluster_key):
        assert oct(private.stat().st_mode)[-3:] == "600", private
    assert oct(cluster.directory.stat().st_mode)[-3:] == "700"

    again = cluster.up("--nodes", "7")
    assert again.returncode == 0
    assert "is already running" in again.stdout
    assert len(recorded_nodes(cluster)) == 2

    assert cluster.down().returncode == 0
    assert cluster.processes() == []
    assert cluster.down().returncode == 0, "it may be repeated"
    later = cluster.started("--nodes", "7")
    assert not later["created"]
    assert "password" not in later
    assert len(recorded_nodes(cluster)) == 2

    (cluster.directory / "notes.txt").write_text("not ours")
    (cluster.directory / "nodes" / "1" / "notes.txt").write_text("not ours")
    done = cluster.down("--purge")
    assert done.returncode == 0
    assert "notes.txt" in done.stdout or "nodes" in done.stdout
    left = sorted(str(p.relative_to(cluster.directory)) for p in cluster.directory.rglob("*"))
    assert left == ["nodes", "nodes/1", "nodes/1/notes.txt", "notes.txt"]


def daemon_alone(cluster: LocalCluster) -> "subprocess.CompletedProcess[str]":
    """The product's daemon of the first node, started without a supervisor."""
    command = [sys.executable, "-m", "shardwright.local.daemon", "--dir", str(cluster.directory), "--node", "1"]
    return subprocess.run(command, env=cluster.environment(), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.proof
def test_a_store_of_a_newer_version_is_refused(cluster: LocalCluster) -> None:
    cluster.started()
    assert cluster.down().returncode == 0
    found = stored(cluster.directory)
    record = records.decode(keys.CLUSTER, found[keys.CLUSTER])
    assert isinstance(record, Cluster)
    assert record.cluster_version == CLUSTER_VERSION
    put(cluster, replace(record, cluster_version=CLUSTER_VERSION + 1))
    for done in (cluster.up(), daemon_alone(cluster)):
        assert done.returncode == 1
        assert f"version {CLUSTER_VERSION + 1}" in done.stderr
        assert Code.STORE_SCHEMA_TOO_NEW.remedy in done.stderr
    assert cluster.processes() == []
    put(cluster, record)
    assert cluster.up().returncode == 0


@pytest.mark.proof
def test_secrets_are_sealed_and_a_lost_key_stops_only_the_start(cluster: LocalCluster) -> None:
    cluster.started()
    assert cluster.down().returncode == 0
    raw = b"".join(path.read_bytes() for path in cluster.directory.glob("store.db*"))
    assert b"$argon2id$" not in raw
    assert b"$argon2id$" in stored(cluster.directory)["users/00000001"]
    key = cluster.layout.cluster_key.read_text()
    cluster.layout.cluster_key.unlink()
    for done in (cluster.up(), daemon_alone(cluster)):
        assert done.returncode == 1
        assert "users/00000001" in done.stderr
        assert "cluster.key" in done.stderr
        assert "argon2id" not in done.stderr
    assert cluster.down().returncode == 0
    cluster.layout.cluster_key.write_text(key)
    cluster.layout.cluster_key.chmod(0o600)
    assert cluster.up().returncode == 0
    everything = b"".join(path.read_bytes() for path in cluster.directory.rglob("*") if path.suffix in (".log", ".out"))
    assert key.split()[-1].encode() not in everything


@pytest.mark.proof
def test_a_purge_deletes_the_directory_and_frees_the_ports(cluster: LocalCluster) -> None:
    cluster.started()
    assert cluster.down("--purge").returncode == 0
    assert not cluster.directory.exists()
    assert cluster.processes() == []
    check_port(cluster.base, 9443)
    gone = cluster.down()
    assert gone.returncode == 0
    assert "no cluster" in gone.stdout


@pytest.mark.proof
def test_daemons_that_die_or_freeze_are_replaced_and_their_leases_revoked(cluster: LocalCluster) -> None:
    cluster.started()
    dead, frozen = cluster.daemon(1), cluster.daemon(2)
    endpoints = set(cluster.running().endpoints)
    send(dead, signal.SIGKILL)
    send(frozen, signal.SIGSTOP)
    # The stand-in's lease lasts 20 s: only a revocation ends it this early.
    cluster.until(lambda: presence_pid(cluster, 1) not in (0, dead.pid), seconds=10)
    cluster.until(lambda: not is_running(frozen), seconds=15)
    cluster.until(lambda: presence_pid(cluster, 2) not in (0, frozen.pid), seconds=10)
    assert "does not answer" in cluster.log()
    assert cluster.log().count("revoked the lease") == 2
    assert set(cluster.running().endpoints) == endpoints, "endpoint processes outlive daemons"


def test_a_killed_supervisor_is_harmless_and_the_next_one_adopts(cluster: LocalCluster) -> None:
    cluster.started()
    before = cluster.running()
    send(cluster.supervisor(), signal.SIGKILL)
    cluster.until(lambda: not is_running(cluster.supervisor()))
    assert cluster.running() == before
    cluster.started()
    assert cluster.running() == before
    send(cluster.daemon(1), signal.SIGKILL)
    cluster.until(lambda: presence_pid(cluster, 1) not in (0, before.daemons[0].pid, before.daemons[1].pid))


def test_two_at_once_exclude_each_other(cluster: LocalCluster) -> None:
    both = [cluster.begin(*cluster.up_arguments("--detach")) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    for process, (out, error) in zip(both, said, strict=True):
        assert process.returncode == 0 or "is running on" in error or "in use" in error, (out, error)
    assert sum("Created" in out for out, _ in said) == 1
    assert sum(process.returncode == 0 for process in both) >= 1
    cluster.until(lambda: len(cluster.running().daemons) == 2)
    supervisors = [p for p in cluster.processes() if p.directory == str(cluster.layout.directory)]
    assert len(supervisors) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--node-memory", "much"], "no size"), (["--rack", "a,b,c"], "--rack"), (["--server", "postgres"], "--server")],
)
def test_a_refusal_has_a_cause_and_leaves_nothing_behind(cluster: LocalCluster, options: list[str], said: str) -> None:
    done = cluster.up(*options)
    assert done.returncode == 2
    assert said in done.stderr
    assert not cluster.directory.exists()


def test_ports_in_use_are_refused_before_any_change(cluster: LocalCluster) -> None:
    with socket.socket() as taken:
        taken.bind((cluster.base, 9443))
        taken.listen()
        done = cluster.up()
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert "--api-port" in done.stderr
    assert not cluster.directory.exists()


@pytest.mark.parametrize("held_s", [1.0, pytest.param(20.0, marks=pytest.mark.proof)])
def test_a_recorded_nodes_port_may_be_in_use_for_a_moment(cluster: LocalCluster, held_s: float) -> None:
    """Like the port of a daemon that was just killed, on a busy machine."""
    cluster.up()
    cluster.down()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((cluster.base, 9443))
        taken.listen()
        release = threading.Timer(held_s, taken.close)
        release.start()
        done = cluster.up()
        release.cancel()
    assert (done.returncode, "in use" in done.stderr) == ((0, False) if held_s < 2 else (1, True))


def test_a_directory_that_others_can_write_is_refused(cluster: LocalCluster) -> None:
    cluster.directory.mkdir()
    cluster.directory.chmod(0o777)
    done = cluster.up()
    assert done.returncode == 2
    assert "other users can write" in done.stderr
    assert list(cluster.directory.iterdir()) == []


def test_a_given_password_is_kept_and_no_child_receives_it(cluster: LocalCluster) -> None:
    done = cluster.up(SHARDWRIGHT_ADMIN_PASSWORD="quite secret")
    assert done.returncode == 0, done.stderr
    assert "quite secret" not in done.stdout + done.stderr
    assert json.loads(cluster.layout.admin.read_text())["password"] == "quite secret"
    found = cluster.processes()
    assert len(found) >= 5
    for process in found:
        assert b"quite secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"quite secret" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    for path in cluster.directory.rglob("*"):
        if path.is_file() and path != cluster.layout.admin:
            assert b"quite secret" not in path.read_bytes(), path


def test_a_long_path_has_its_sockets_elsewhere(cluster: LocalCluster) -> None:
    cluster.directory = cluster.directory / ("long" * 20) / ("longer" * 15)
    cluster.started()
    run = cluster.layout.run_directory()
    assert not run.is_relative_to(cluster.directory)
    assert oct(run.stat().st_mode)[-3:] == "700"
    sockets = [p for p in run.iterdir() if p.is_socket()]
    assert len(sockets) == 2
    assert all(len(os.fsencode(p)) < 108 for p in sockets)
    assert cluster.down("--purge").returncode == 0
    assert not run.exists()
    assert not cluster.directory.exists()


def test_ctrl_c_stops_everything(cluster: LocalCluster) -> None:
    process = cluster.begin(*cluster.up_arguments())
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "Ctrl-C" in line:
            break
    assert len(cluster.running().daemons) == 2, said
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Everything is stopped" in out
    assert error == ""
    assert cluster.processes() == []


def test_a_supervisor_that_is_terminated_stops_everything(cluster: LocalCluster) -> None:
    cluster.started()
    send(cluster.supervisor(), signal.SIGTERM)
    cluster.until(lambda: cluster.processes() == [])


@pytest.mark.proof
def test_down_works_when_parts_are_frozen_or_dead(cluster: LocalCluster) -> None:
    cluster.started()
    send(cluster.supervisor(), signal.SIGSTOP)
    send(cluster.daemon(1), signal.SIGKILL)
    send(cluster.daemon(2), signal.SIGSTOP)
    cluster.layout.daemon(NodeUid(2)).unlink()
    done = cluster.down("--purge")
    assert done.returncode == 0, done.stderr
    assert cluster.processes() == []
    assert not cluster.directory.exists()


def test_a_node_record_starts_a_daemon_and_its_removal_ends_it(cluster: LocalCluster) -> None:
    cluster.started()
    first = recorded_nodes(cluster)[0]
    address = f"{cluster.base.rpartition('.')[0]}.9"
    added = replace(first, uid=NodeUid(9), address=address, created_at=datetime.now(UTC))
    put(cluster, added)
    cluster.until(lambda: presence_pid(cluster, 9) != 0)
    url = f"https://{address}:9443"
    assert url in json.loads(cluster.layout.admin.read_text())["urls"]
    answer = subprocess.run(
        ["curl", "-sS", "--cacert", str(cluster.layout.certificate), url], capture_output=True, text=True, check=False
    )
    assert answer.stdout == "{}", answer.stderr
    daemon = cluster.daemon(9)
    write(cluster, DeleteKey(keys.key_of(added)))
    cluster.until(lambda: not cluster.layout.node(NodeUid(9)).exists())
    assert not is_running(daemon)
    assert len(cluster.running().daemons) == len(cluster.running().endpoints) == 2
    cluster.until(lambda: url not in json.loads(cluster.layout.admin.read_text())["urls"])


@pytest.mark.proof
def test_down_saves_first_and_asks_about_data_that_cannot_be_saved(cluster: LocalCluster) -> None:
    cluster.started()
    binary = all_servers()[0]
    address = recorded_nodes(cluster)[0].address
    kept = database(binary, name="keeper", persistence=Persistence.SNAPSHOT, snapshot_rules=(SnapshotRule(3600, 1),))
    lost = database(binary, uid=2, name="volatile")
    lost_shard = shard(free_port(address), 2, database_uid=2, group_uid="2:1")
    secrets = (SECRETS, replace(SECRETS, database_uid=DatabaseUid(2)))
    put(cluster, kept, lost, *secrets, group(), shard(free_port(address)), lost_shard)
    cluster.until(lambda: len(cluster.running().servers) == 2)

    refused = cluster.down()
    assert refused.returncode != 0
    assert "volatile" in refused.stderr
    assert "keeper" not in refused.stderr
    assert len(cluster.running().servers) == 2
    assert is_running(cluster.supervisor()), "a refusal changes nothing"

    done = cluster.down("--yes")
    assert done.returncode == 0, done.stderr
    assert "volatile" in done.stdout
    assert cluster.processes() == []
    directory = cluster.layout.shards(NodeUid(1))
    assert (directory / "1" / "dump.rdb").exists()
    assert not (directory / "2" / "dump.rdb").exists()
    assert cluster.down().returncode == 0, "stopped servers have nothing to lose"
