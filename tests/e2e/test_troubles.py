"""What keeps a database from serving is said everywhere, once, with what helps; and it recovers by itself.

A port that another process holds; a disk that is full: the place of a shard's files is a small file system of its own here.
"""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from rest_harness import Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e]
PORT = 12000
DISK_BYTES = 6_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    with RestCluster() as running:
        yield running


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of a few MB. Only the kernel can make one; without the right to ask it for it there is no such test."""
    place.mkdir(parents=True, mode=0o700, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def codes(told: list[Json]) -> list[str]:
    return [reason["code"] for reason in told]


def troubles(cluster: RestCluster, uid: int) -> list[Json]:
    return list(cluster.get(f"/v1/bdbs/{uid}")["reasons"])


def events(cluster: RestCluster, uid: int) -> list[tuple[str, str]]:
    """What the log says of a database's troubles, in its order."""
    found = [e for e in cluster.get("/v1/logs") if e["type"].startswith("bdb_trouble") and e.get("bdb_uid") == str(uid)]
    return [(e["type"], e["code"]) for e in found]


def test_a_port_that_another_process_holds(cluster: RestCluster) -> None:
    with socket.create_server((cluster.base, PORT)) as holder:
        made = cluster.ok("POST", "/v1/bdbs", {"name": "held", "memory_size": 50_000_000, "port": PORT})
        uid = made["uid"]
        named = f"process {os.getpid()} ("
        cluster.wait("the holder named", lambda: any(named in r["description"] for r in troubles(cluster, uid)))
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


def fill(cluster: RestCluster, database: Json) -> list[str]:
    """Write until writes are refused; what the refusals say."""
    refused: list[str] = []
    with cluster.client(database, socket_timeout=3) as client:
        for number in range(4000):
            try:
                client.set(f"key:{number % 50}", os.urandom(8000))
            except redis.ResponseError as error:
                refused.append(str(error))
                if len(refused) > 3:
                    break
    return refused


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_full_disk(cluster: RestCluster, kind: str) -> None:
    """The primary refuses writes: its database is not available, and its healthy replica takes over when it is asked to."""
    database = cluster.create("full", replication=True, server=kind, data_persistence="aof", memory_size=100_000_000)
    uid = database["uid"]
    primary = next(s for s in cluster.shards(uid) if s["role"] == "master")
    place = cluster.directory / "nodes" / primary["node_uid"] / "shards" / primary["uid"]
    cluster.delete(uid)
    assert not place.exists() or threading.active_count()
