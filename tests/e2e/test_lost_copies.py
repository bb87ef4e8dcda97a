"""Copies that cannot serve after a loss: what the database shows then, and what an operator can decide."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import redis

from shardwright.local.layout import layout_of
from shardwright.machine.lock import try_lock
from shardwright.machine.processes import is_running, send
from shardwright.model.ids import NodeUid
from shardwright.model.seen import ProcessIdentity
from testkit.processes import processes_of
from tests.e2e.rest_harness import SOURCES, Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e, pytest.mark.proof]
KEYS = 300
WAIT_MS = 30_000


@pytest.fixture(scope="module", params=["valkey", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(kind: str) -> Iterator[RestCluster]:
    with RestCluster(nodes=3) as running:
        yield running


def filled(cluster: RestCluster, kind: str, name: str, **settings: object) -> Json:
    """A database with an append-only file, on two nodes, with keys that the file of every copy has. A replica rewrites its
    file after a full sync; until then, the file lacks what the replica has confirmed."""
    made = cluster.create(
        name, server=kind, replication=True, data_persistence="aof", aof_policy="appendfsync-always", **settings
    )
    with cluster.client(made) as client:
        client.mset({f"key:{number}": number for number in range(KEYS)})
        # A replica confirms after it has written to its append-only file.
        assert client.wait(1, WAIT_MS) == 1, cluster.picture()
    cluster.wait("the replica's file to be recorded as complete", lambda: is_file_whole(cluster, made["uid"]))
    return made


def keys_in(cluster: RestCluster, database: Json) -> int:
    """The number of keys; -1 while the database does not serve."""
    with cluster.client(database) as client:
        try:
            return int(client.dbsize())
        except redis.RedisError:
            return -1


@contextmanager
def power_cut(cluster: RestCluster, *, stays_off: int) -> Iterator[None]:
    """Everything ends at once and is started again, except for one node, which stays off meanwhile."""
    # All stop first: a leader that outlives a replica by milliseconds records that the replica is no longer in sync.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in processes_of(cluster.directory):
            send(process, number)
    cluster.wait("the end of all processes", lambda: not processes_of(cluster.directory))
    cluster.reconnect()
    # An ending process has no command line for a moment in which its files are still open.
    path = layout_of(cluster.directory).daemon_lock(NodeUid(stays_off))
    lock = cluster.wait("the lock of the node's daemon", lambda: try_lock(path))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SHARDWRIGHT_")}
    line = [sys.executable, "-m", "shardwright.cli.main", "up", "--detach", "--dir", str(cluster.directory)]
    # `up` waits for all nodes, and one is missing.
    up = subprocess.Popen(
        line, env={**kept, "PYTHONPATH": str(SOURCES)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        cluster.wait("a leader", lambda: is_up(cluster, stays_off) and cluster.leader() not in (0, stays_off), seconds=60)
        yield
    finally:
        os.close(lock)
        up.wait(timeout=120)


def is_up(cluster: RestCluster, stays_off: int) -> bool:
    try:
        nodes = cluster.get("/v1/nodes")
    except AssertionError:
        return False
    return all(node["status"] == "active" for node in nodes if node["uid"] != stays_off)


def waiting(cluster: RestCluster, uid: int) -> Json | None:
    """The reasons for which a database waits."""
    found = cluster.get(f"/v1/bdbs/{uid}").get("waiting")
    return dict(found[0]) if found else None


def with_way_out(cluster: RestCluster, uid: int) -> Json | None:
    """The reasons for which a database waits, as soon as another copy is loaded."""
    found = waiting(cluster, uid)
    return found if found is not None and "--from-copy" in found["reasons"][0]["remedy"] else None


def events(cluster: RestCluster, uid: int) -> list[str]:
    return [line["type"] for line in cluster.get("/v1/logs?limit=1000") if line.get("bdb_uid") in (uid, str(uid))]


def test_a_database_that_waits_for_a_dead_node_names_it_and_continues_with_another_copy(
    cluster: RestCluster, kind: str
) -> None:
    database = filled(cluster, kind, "orders")
    uid, node = database["uid"], cluster.primary(database["uid"])
    (other,) = [shard for shard in cluster.shards(uid) if int(shard["node_uid"]) != node]
    with power_cut(cluster, stays_off=node):
        found = cluster.wait("the reason and the way out", lambda: with_way_out(cluster, uid), seconds=30)
        assert [(r["code"], r["node_uid"]) for r in found["reasons"]] == [("copy_out_of_reach", str(node))]
        assert f"start the daemon of node {node}" in found["reasons"][0]["remedy"]
        assert f"--from-copy {other['uid']}" in found["reasons"][0]["remedy"]
        states = {copy["node_uid"]: copy["state"] for copy in found["copies"]}
        assert states == {str(node): "out_of_reach", other["node_uid"]: "loaded"}, found
        assert all(copy["served_at"] is not None for copy in found["copies"]), found
        said = cluster.refused("GET", f"/v1/bdbs/{uid}/availability", 503, "bdb_unavailable")
        assert f"node {node}" in said
        shown = cluster.command("status")
        assert "waiting" in shown.stdout
        assert f"start the daemon of node {node}" in shown.stdout, shown.stdout + shown.stderr

        preview = cluster.command("node", "remove", str(node), "--dry-run")
        assert f"--from-copy {other['uid']}" in preview.stdout, preview.stdout + preview.stderr
        action = cluster.start(node, "remove")
        shown = cluster.wait("what the removal waits for", lambda: cluster.get(f"/v1/actions/{action}").get("reasons"))
        assert any(f"--from-copy {other['uid']}" in reason["remedy"] for reason in shown), shown

        plan = cluster.command("db", "start", "orders", "--dry-run")
        assert f"redis:{other['uid']}" in plan.stdout, plan.stdout + plan.stderr
        assert cluster.command("db", "start", "orders", "--from-copy", other["uid"]).returncode == 2, "no operator was asked"
        done = cluster.command("db", "start", "orders", "--from-copy", other["uid"], "--yes", "--wait")
        assert done.returncode == 0, done.stdout + done.stderr
        assert cluster.wait("its keys", lambda: keys_in(cluster, database) == KEYS)
        assert waiting(cluster, uid) is None
        assert {"group_waits", "bdb_start_from_copy_request", "group_started_from_copy"} <= set(events(cluster, uid))
        assert cluster.ended(action, seconds=60)["status"] == "completed", cluster.picture()
    cluster.settled(uid)
    assert keys_in(cluster, database) == KEYS
    cluster.delete(uid)


def test_in_strict_mode_the_only_replica_serves_by_itself(cluster: RestCluster, kind: str) -> None:
    if len(cluster.nodes()) < 3:
        cluster.add_node()
    database = filled(cluster, kind, "strict", strict=True)
    uid, node = database["uid"], cluster.primary(database["uid"])
    with power_cut(cluster, stays_off=node):
        assert cluster.wait("its keys", lambda: keys_in(cluster, database) == KEYS, seconds=40)
        assert waiting(cluster, uid) is None
        assert cluster.primary(uid) != node
    cluster.wait("the node", lambda: cluster.node(node)["status"] == "active", seconds=60)
    cluster.settled(uid)
    assert keys_in(cluster, database) == KEYS
    cluster.delete(uid)


def is_file_whole(cluster: RestCluster, uid: int) -> bool:
    """Whether the leader has recorded that the replica's file contains all data of the primary."""
    found = (json.loads(value) for key, value in cluster.wishes().items() if key.startswith("shards/"))
    return any(shard["database_uid"] == uid and shard["file_generation"] > 0 for shard in found)


ZEROS = bytes(4096)
"""The end of a file after a power cut that kept its size but not its content."""


def place_of(cluster: RestCluster, shard: Json) -> Path:
    return cluster.directory.joinpath("nodes", shard["node_uid"], "shards", shard["uid"])


def last_part_of(cluster: RestCluster, shard: Json) -> Path:
    """The part of a shard's append-only file to which its server appends."""
    return sorted(place_of(cluster, shard).glob("appendonlydir/*.incr.aof"))[-1]


def has_ended(server: ProcessIdentity) -> bool:
    return not is_running(server)


def kill_and_damage(cluster: RestCluster, *shards: Json) -> None:
    """End servers and damage their files before they are started again."""
    nodes = {shard["node_uid"] for shard in shards}
    with cluster.frozen(*(cluster.identity_in(f"nodes/{node}/daemon.json") for node in nodes)):
        for shard in shards:
            server = cluster.server_of(shard)
            send(server, signal.SIGKILL)
            cluster.wait("its end", partial(has_ended, server))
            with last_part_of(cluster, shard).open("ab") as file:
                file.write(ZEROS)


def events_of_kind(cluster: RestCluster, uid: int, kind: str) -> list[str]:
    lines = [line for line in cluster.get("/v1/logs?limit=1000") if line["type"] == kind]
    return [str(line) for line in lines if line.get("bdb_uid") in (uid, str(uid))]


def test_an_old_primary_with_a_damaged_file_returns_empty_and_its_file_is_kept(cluster: RestCluster, kind: str) -> None:
    database = filled(cluster, kind, "damaged")
    uid, node = database["uid"], cluster.primary(database["uid"])
    (old,) = [shard for shard in cluster.shards(uid) if int(shard["node_uid"]) == node]
    kill_and_damage(cluster, old)
    cluster.wait("a failover", lambda: cluster.primary(uid) != node)
    cluster.settled(uid)
    assert keys_in(cluster, database) == KEYS
    cluster.wait("an event", lambda: events_of_kind(cluster, uid, "shard_files_put_aside"))
    (kept,) = place_of(cluster, old).glob("damaged-*/appendonlydir/*.incr.aof")
    assert kept.read_bytes().endswith(ZEROS)
    # It has all data again, so its node can hand the role over and take it back.
    assert cluster.done(cluster.primary(uid), "enslave_node")["status"] == "completed"
    cluster.settled(uid)
    assert (cluster.primary(uid), keys_in(cluster, database)) == (node, KEYS)
    cluster.delete(uid)


def test_when_all_files_are_damaged_the_database_names_them_and_the_damaged_end_can_be_cut(
    cluster: RestCluster, kind: str
) -> None:
    database = filled(cluster, kind, "ruined")
    uid, shards = database["uid"], cluster.shards(database["uid"])
    (first,) = [shard for shard in shards if shard["role"] == "master"]
    kill_and_damage(cluster, *shards)

    def shown() -> Json | None:
        found = waiting(cluster, uid)
        return found if found is not None and len(found["reasons"]) == 2 else None

    found = cluster.wait("the reasons", shown)
    assert {r["code"] for r in found["reasons"]} == {"shard_files_damaged"}, found
    assert all("--cut-damaged-tail" in r["remedy"] and "check-aof" not in str(r) for r in found["reasons"]), found
    assert all(f"{len(ZEROS)} of its" in r["description"] for r in found["reasons"]), found
    assert {c["state"] for c in found["copies"]} == {"damaged"}, found
    said = cluster.refused("GET", f"/v1/bdbs/{uid}/availability", 503, "bdb_unavailable")
    assert "append-only file is damaged" in said
    start = f"/v1/bdbs/{uid}/actions/start"
    cluster.refused("POST", start, 409, "copy_not_loaded", {"from_copy": int(first["uid"])})
    before = last_part_of(cluster, first).read_bytes()

    line = (
        "db",
        "start",
        "ruined",
        "--from-copy",
        first["uid"],
        "--cut-damaged-tail",
        "--yes",
        "--wait",
        "--timeout",
        "60s",
    )
    done = cluster.command(*line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.wait("its keys", lambda: keys_in(cluster, database) == KEYS)
    cluster.settled(uid)
    (kept,) = place_of(cluster, first).glob("damaged-*/*.incr.aof")
    assert kept.read_bytes() == before
    (event,) = events_of_kind(cluster, uid, "group_started_from_copy")
    assert f"{len(ZEROS)} bytes" in event
    assert f"offset {len(before) - len(ZEROS)}" in event
    cluster.delete(uid)
