"""The product's own daemons, servers and endpoint process under ``up`` and ``down``: data survives both."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shardwright.local.up import DAEMON_MODULE
from testkit.deadlines import Stopwatch, until
from tests.integration.local_harness import LocalCluster, send

pytestmark = [pytest.mark.e2e, pytest.mark.proof]


@pytest.fixture
def cluster(tmp_path: Path, loopback_base: Callable[[], str]) -> Iterator[LocalCluster]:
    made = LocalCluster(tmp_path / "c", loopback_base(), module=DAEMON_MODULE, options=["--nodes", "2"])
    yield made
    made.clean_up()
    assert made.processes() == []


def client(cluster: LocalCluster, port: int) -> "redis.Redis":
    return redis.Redis(cluster.base, port, retry=Retry(NoBackoff(), 0), socket_timeout=5, decode_responses=True)


def until_answers(cluster: LocalCluster, port: int, *, seconds: float = 30) -> float:
    """The time until a new connection is served."""

    def answers() -> bool:
        with suppress(redis.RedisError), client(cluster, port) as fresh:
            return bool(fresh.ping())
        return False

    watch = Stopwatch()
    until("an answer of the endpoint", answers, seconds=seconds, state=cluster.log, poll_s=0.01)
    return watch.seconds


def test_a_database_survives_its_endpoint_process_its_daemons_and_the_night(cluster: LocalCluster) -> None:
    cluster.started()
    place = ("--dir", str(cluster.directory))
    options = ("--memory", "64mb", "--replication", "--persistence", "aof", "--wait", "--timeout", "60s")
    made = cluster.run("db", "create", "orders", *options, "--json", *place)
    assert made.returncode == 0, made.stderr
    listed = json.loads(cluster.run("db", "list", "--json", *place).stdout)
    port = listed[0]["endpoints"][0]["port"]
    until_answers(cluster, port)
    with client(cluster, port) as writer:
        for number in range(100):
            assert writer.set(f"key:{number}", number)
        servers = cluster.running().servers
        # Endpoints and servers do not need the daemons.
        for daemon in cluster.running().daemons:
            send(daemon, signal.SIGKILL)
        assert writer.incr("after the daemons died") == 1
        cluster.until(lambda: len(cluster.running().daemons) == 2)
        assert writer.incr("after the daemons died") == 2
    logs = [cluster.layout.daemon_log(uid) for uid in cluster.layout.node_uids()]
    cluster.until(lambda: all("adopted the endpoint process" in path.read_text() for path in logs))
    assert cluster.running().servers == servers, "servers are adopted, not started again"

    for endpoint in cluster.running().endpoints:
        send(endpoint, signal.SIGKILL)
    watch = Stopwatch()
    until_answers(cluster, port)
    print(f"endpoint processes were back after {watch}")
    # Less than a second on an idle machine.
    assert watch.is_within(5), watch

    done = cluster.down()
    assert done.returncode == 0, done.stderr
    assert cluster.processes() == []
    cluster.started()
    until_answers(cluster, port)
    with client(cluster, port) as reader:
        assert [reader.get(f"key:{n}") for n in range(100)] == [str(n) for n in range(100)]
        assert reader.get("after the daemons died") == "2"
