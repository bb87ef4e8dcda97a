"""A local cluster whose nodes all serve one endpoint: handoffs and a maintenance, with writers at two nodes."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shardwright.local.up import DAEMON_MODULE
from testkit.deadlines import until
from tests.integration.local_harness import LocalCluster

pytestmark = [pytest.mark.e2e, pytest.mark.proof]

NODES = 3
DRAIN_S = 2


@pytest.fixture
def cluster(tmp_path: Path, loopback_base: Callable[[], str]) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path / "c", loopback_base(), module=DAEMON_MODULE, options=["--nodes", str(NODES)])
    yield made
    made.clean_up()
    assert made.processes() == []


class Writer(threading.Thread):
    """Counts up through one address. ``retries``: reconnects after a lost connection and repeats the command."""

    def __init__(self, address: str, port: int, *, key: str, retries: int = 0) -> None:
        super().__init__(daemon=True)
        self.client = redis.Redis(
            address, port, retry=Retry(NoBackoff(), retries), socket_timeout=8, single_connection_client=True
        )
        self.key, self.count, self.is_over = key, 0, False
        self.errors: list[Exception] = []

    def run(self) -> None:
        while not self.is_over:
            try:
                self.client.set(self.key, self.count + 1)
                self.count += 1
            except (redis.RedisError, OSError) as error:
                self.errors.append(error)
                return
            time.sleep(0.002)

    def end(self) -> None:
        self.is_over = True
        self.join(20)
        self.client.close()


def have_passed(writers: list[Writer], before: list[int]) -> bool:
    """Whether each writer has written since, or can write no more."""
    return all(bool(one.errors) or one.count > was for one, was in zip(writers, before, strict=True))


def command(cluster: LocalCluster, *arguments: str) -> str:
    done = cluster.run(*arguments, "--dir", str(cluster.directory))
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def set_policy(cluster: LocalCluster, **changes: int) -> None:
    admin = json.loads((cluster.directory / "admin.json").read_text())
    trusted = ssl.create_default_context(cafile=str(cluster.layout.certificate))
    with httpx.Client(auth=(admin["username"], admin["password"]), verify=trusted, timeout=10) as http:
        answer = http.put(f"{admin['url']}/v1/cluster/policy", json=changes)
    assert answer.status_code == 200, answer.text


def endpoint_of(cluster: LocalCluster) -> dict[str, Any]:
    listed = json.loads(command(cluster, "db", "list", "--json"))
    found: dict[str, Any] = listed[0]["endpoints"][0]
    return found


def primary_node(cluster: LocalCluster) -> int:
    shards = json.loads(command(cluster, "status", "--json"))["shards"]
    return next(int(shard["node_uid"]) for shard in shards if shard["role"] == "master")


def create(cluster: LocalCluster) -> dict[str, Any]:
    cluster.started()
    options = ("--memory", "64mb", "--replication", "--proxy-policy", "all-nodes", "--wait", "--timeout", "60s")
    command(cluster, "db", "create", "orders", *options)
    until(
        "every node serves",
        lambda: len(endpoint_of(cluster)["node_uids"]) == NODES,
        seconds=30,
        state=lambda: endpoint_of(cluster),
    )
    return endpoint_of(cluster)


def test_writers_at_two_nodes_notice_no_handoff(cluster: LocalCluster) -> None:
    endpoint = create(cluster)
    assert endpoint["proxy_policy"] == "all-nodes"
    assert len(set(endpoint["addr"])) == NODES
    writers = [Writer(address, endpoint["port"], key=address) for address in endpoint["addr"][:2]]
    for writer in writers:
        writer.start()
    for _ in range(4):
        before = [writer.count for writer in writers]
        command(cluster, "node", "step-down", str(primary_node(cluster)), "--wait", "--timeout", "60s")
        until(
            "both write on",
            partial(have_passed, writers, before),
            seconds=20,
            state=lambda: [(w.count, w.errors) for w in writers],
        )
    for writer in writers:
        writer.end()
    assert [writer.errors for writer in writers] == [[], []]
    with redis.Redis(endpoint["addr"][2], endpoint["port"]) as reader:
        assert [int(reader.get(writer.key) or 0) for writer in writers] == [writer.count for writer in writers]
    assert endpoint_of(cluster)["node_uids"] == [1, 2, 3], "a step-down leaves the clients where they are"


def test_a_node_in_maintenance_drains_and_comes_back(cluster: LocalCluster) -> None:
    endpoint = create(cluster)
    set_policy(cluster, drain_clients=DRAIN_S)
    address = endpoint["addr"][2]
    staying = Writer(endpoint["addr"][0], endpoint["port"], key="staying")
    leaving = Writer(address, endpoint["port"], key="leaving")
    for writer in (staying, leaving):
        writer.start()
    until("both write", lambda: staying.count > 10 and leaving.count > 10, seconds=20, state=cluster.log)
    began = time.monotonic()
    action = json.loads(command(cluster, "node", "maintenance", "on", "3", "--wait", "--timeout", "90s", "--json"))
    assert time.monotonic() - began >= DRAIN_S
    assert action["status"] == "completed", action
    assert "drain_clients" in [step["name"] for step in action["steps"]]
    leaving.join(10)
    assert len(leaving.errors) == 1, "its connection was closed"
    after = endpoint_of(cluster)
    assert (after["node_uids"], address in after["addr"]) == ([1, 2], False)
    with pytest.raises(redis.ConnectionError):
        redis.Redis(address, endpoint["port"], retry=Retry(NoBackoff(), 0)).ping()
    with redis.Redis(endpoint["addr"][0], endpoint["port"]) as reader:
        assert int(reader.get("leaving") or 0) == leaving.count, "the last command ran, and its client got no reply"
    command(cluster, "node", "maintenance", "off", "3", "--wait", "--timeout", "90s")
    assert address in endpoint_of(cluster)["addr"]
    with redis.Redis(address, endpoint["port"], retry=Retry(NoBackoff(), 0)) as back:
        assert back.ping()
    staying.end()
    leaving.client.close()
    assert staying.errors == []
