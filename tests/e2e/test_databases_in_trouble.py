"""A trouble that keeps a database from serving is shown everywhere, once, with its remedy; the database recovers by itself.

A port that another process holds; a full disk: here a small file system is the directory of a shard's files.
"""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.e2e.rest_harness import Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e, pytest.mark.proof]
PORT = 12000
DISK_BYTES = 6_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    with RestCluster() as running:
        yield running


class Disk:
    """A small file system instead of a directory."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def mounted(self, *options: str) -> str:
        """Mount it, or change the mounted one. Returns why that failed; empty: it succeeded."""
        line = ["mount", "-t", "tmpfs", "-o", ",".join(("mode=0700", *options)), "tmpfs", str(self.place)]
        return subprocess.run(line, capture_output=True, text=True, check=False).stderr.strip()

    def grow(self) -> None:
        """Free disk space."""
        assert self.mounted("remount", f"size={8 * DISK_BYTES}") == ""


@contextmanager
def small_disk(place: Path) -> Iterator[Disk]:
    """Only the kernel can create a file system; without that permission there is no such test."""
    place.mkdir(parents=True, mode=0o700, exist_ok=True)
    disk = Disk(place)
    if failure := disk.mounted(f"size={DISK_BYTES}"):
        pytest.skip(f"a small file system cannot be mounted here: {failure}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def codes(told: list[Json]) -> list[str]:
    return [reason["code"] for reason in told]


def troubles(cluster: RestCluster, uid: int) -> list[Json]:
    return list(cluster.get(f"/v1/bdbs/{uid}")["reasons"])


def events(cluster: RestCluster, uid: int) -> list[tuple[str, str]]:
    """The events about a database's troubles, in order."""
    found = [e for e in cluster.get("/v1/logs") if e["type"].startswith("bdb_trouble") and e.get("bdb_uid") == str(uid)]
    return [(e["type"], e["code"]) for e in found]


def test_a_port_that_another_process_holds(cluster: RestCluster) -> None:
    named = f"process {os.getpid()} ("
    with socket.create_server((cluster.base, PORT)) as holder:
        options = ("--memory=50mb", f"--port={PORT}", "--wait", "--timeout=8s")
        waited = cluster.command("db", "create", "held", *options)
        assert waited.returncode == 4
        assert named in waited.stderr
        uid = cluster.get("/v1/bdbs")[0]["uid"]
        cluster.wait("the holder to be named", lambda: any(named in r["description"] for r in troubles(cluster, uid)))
        (reason,) = troubles(cluster, uid)
        assert reason["code"] == "endpoint_cannot_listen"
        assert f"{cluster.base}:{PORT}" in reason["description"]
        for path in (f"/v1/bdbs/{uid}/availability", f"/v1/local/bdbs/{uid}/endpoint/availability"):
            node = int(reason["node_uid"])
            said = cluster.refused("GET", path, 503, "bdb_unavailable_port_unbound", node=node)
            assert named in said
            assert str(PORT) in said
        assert cluster.get(f"/v1/bdbs/{uid}")["status"] == "pending"
        for command in (("db", "show", "held"), ("status",)):
            assert named in cluster.command(*command).stdout, command
        assert events(cluster, uid) == [("bdb_trouble_began", "endpoint_cannot_listen")]
        holder.close()
    cluster.settled(uid)
    cluster.wait("no trouble", lambda: troubles(cluster, uid) == [])
    assert cluster.ok("GET", f"/v1/bdbs/{uid}/availability")["status"] == "available"
    began = ("bdb_trouble_began", "endpoint_cannot_listen")
    assert events(cluster, uid) == [began, ("bdb_trouble_ended", "endpoint_cannot_listen")]
    assert "cannot listen" not in cluster.command("status").stdout
    cluster.delete(uid)


def refusals(cluster: RestCluster, database: Json) -> list[str]:
    """The errors of refused writes, after more writes than fit on the disk; empty: none was refused."""
    with cluster.client(database, socket_timeout=3) as client:
        for number in range(2 * DISK_BYTES // 8000):
            try:
                client.set(f"key:{number % 50}", os.urandom(8000))
            except redis.ResponseError as error:
                return [str(error)]
    return []


@contextmanager
def primary_on_a_small_disk(cluster: RestCluster, **settings: Any) -> Iterator[tuple[Json, Disk]]:
    """A database whose primary's files are on a small disk, and whose replica's files are not."""
    others = [2, 3]
    assert all(shard["node_uid"] != "1" for shard in cluster.get("/v1/shards"))
    with small_disk(cluster.directory / "nodes" / "1" / "shards") as disk:
        cluster.ok("PUT", "/v1/nodes/3", {"accept_servers": False})
        database = cluster.create("full", memory_size=100_000_000, replication=True, **settings)
        if cluster.primary(database["uid"]) != 1:
            cluster.done(others[0], "enslave_node")
            cluster.wait("the primary on node 1", lambda: cluster.primary(database["uid"]) == 1)
            database = cluster.settled(database["uid"])
        try:
            yield database, disk
        finally:
            disk.grow()
            cluster.delete(database["uid"])
            cluster.reopen()


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_full_disk(cluster: RestCluster, kind: str) -> None:
    """The primary refuses writes: its database is unavailable until the disk has free space again."""
    with primary_on_a_small_disk(cluster, server=kind, data_persistence="aof") as (database, disk):
        uid = database["uid"]
        cluster.wait("refused writes", lambda: [r for r in refusals(cluster, database) if r.startswith("MISCONF")])
        cluster.wait("a trouble", lambda: codes(troubles(cluster, uid)) == ["writes_refused"])
        (reason,) = troubles(cluster, uid)
        assert "aof_last_write_status" in reason["description"]
        assert reason["remedy"].startswith("step down node 1 (enslave_node): shard")
        said = cluster.refused("GET", f"/v1/bdbs/{uid}/availability", 503, "bdb_unavailable")
        assert "refuses writes" in said
        shard = next(s for s in cluster.shards(uid) if s["role"] == "master")
        assert (shard["detailed_status"], codes(shard["reasons"])) == ("unhealthy", ["writes_refused"])
        assert "refuses writes" in cluster.command("status").stdout
        assert events(cluster, uid) == [("bdb_trouble_began", "writes_refused")]
        disk.grow()
        cluster.settled(uid)
        cluster.wait("no trouble", lambda: troubles(cluster, uid) == [])
        assert refusals(cluster, database) == []
        assert cluster.ok("GET", f"/v1/bdbs/{uid}/availability")["status"] == "available"
        assert events(cluster, uid)[-1] == ("bdb_trouble_ended", "writes_refused")


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_step_down_helps_against_a_full_disk(cluster: RestCluster, kind: str) -> None:
    with primary_on_a_small_disk(cluster, server=kind, data_persistence="aof") as (database, disk):
        uid = database["uid"]
        cluster.wait("refused writes", lambda: refusals(cluster, database))
        cluster.wait("a trouble", lambda: codes(troubles(cluster, uid)) == ["writes_refused"])
        cluster.done(1, "enslave_node")
        assert refusals(cluster, database) == []
        assert cluster.ok("GET", f"/v1/bdbs/{uid}/availability")["status"] == "available"
        cluster.wait("only the replica has a trouble", lambda: "persistence_failed" in codes(troubles(cluster, uid)))
        disk.grow()
        cluster.settled(uid)
        cluster.wait("no trouble", lambda: troubles(cluster, uid) == [])
        kinds, told = ("bdb_trouble_began", "bdb_trouble_ended"), ("persistence_failed", "writes_refused")
        assert sorted(e for e in events(cluster, uid) if e[1] in told) == [
            (kind, code) for kind in kinds for code in told
        ]  # each of them once


def test_a_replica_whose_disk_is_full(cluster: RestCluster) -> None:
    """Its server ends. It cannot be started again, or it starts but never receives its data: the database serves and shows
    what is missing."""
    with primary_on_a_small_disk(cluster, data_persistence="aof") as (database, disk):
        uid = database["uid"]
        cluster.done(1, "enslave_node")
        database = cluster.settled(uid)
        assert refusals(cluster, database) == []
        ill = {"copy_not_running", "replica_not_following"}
        cluster.wait("a trouble", lambda: ill & set(codes(troubles(cluster, uid))), seconds=60)
        found = {reason["code"]: reason["description"] for reason in troubles(cluster, uid)}
        assert "No space left" in found.get("copy_not_running", "No space left"), found
        assert cluster.ok("GET", f"/v1/bdbs/{uid}/availability")["status"] == "available"
        disk.grow()
        cluster.settled(uid)
        cluster.wait("no trouble", lambda: troubles(cluster, uid) == [])
