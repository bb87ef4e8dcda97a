"""Serving databases: settings that change under open connections, and sessions that do not notice actions."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from redis.sentinel import Sentinel

from tests.e2e.rest_harness import Json, RestCluster, connects_of

pytestmark = [pytest.mark.server, pytest.mark.e2e]
BIG = 3_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    with RestCluster() as running:
        yield running


@pytest.fixture
def database(cluster: RestCluster, request: pytest.FixtureRequest) -> Iterator[Json]:
    """A test's own database, replicated unless the test requests otherwise."""
    settings = {"replication": True, **getattr(request, "param", {})}
    name = "".join(c for c in request.node.name.replace("_", "-") if c.isalnum() or c == "-")[:60].strip("-")
    made = cluster.create(name, **settings)
    yield made
    cluster.reopen()
    cluster.settled(made["uid"])
    cluster.delete(made["uid"])
    cluster.wait("no server is left", lambda: not any(cluster.servers_on(node) for node in cluster.nodes()))


# -- changes -------------------------------------------------------------------------------------------------------------


def test_replication_off_and_on(cluster: RestCluster, database: Json) -> None:
    uid = database["uid"]
    with cluster.client(database) as client:
        client.set("before", "1")
        home = cluster.primary(uid)
        cluster.update(uid, replication=False)
        assert cluster.primary(uid) == home
        assert client.get("before") == "1"
        cluster.update(uid, replication=True)
        assert cluster.replica(uid) != home
        cluster.done(home, "maintenance_on")
        assert client.get("before") == "1"
        assert connects_of(client) == 1


def test_persistence_and_eviction(cluster: RestCluster, database: Json) -> None:
    uid = database["uid"]
    rules = [{"secs": 3600, "writes": 1}]
    with cluster.client(database) as client:
        client.set("before", "1")
        for settings in (
            {"data_persistence": "aof", "aof_policy": "appendfsync-always"},
            {"data_persistence": "snapshot", "snapshot_policy": rules},
            {"data_persistence": "disabled"},
            {"data_persistence": "aof", "eviction_policy": "allkeys-lfu"},
        ):
            shown = cluster.update(uid, **settings)
            assert {key: shown[key] for key in settings} == settings
            assert client.get("before") == "1"
        cluster.done(cluster.primary(uid), "maintenance_on")
        assert client.get("before") == "1"


@pytest.mark.parametrize("database", [{"server": "valkey"}, {"server": "redis"}], ids=["valkey", "redis"], indirect=True)
def test_keyspace_notifications_can_be_changed_and_survive_actions(cluster: RestCluster, database: Json) -> None:
    uid = database["uid"]
    assert database["notify_keyspace_events"] == ""
    assert cluster.update(uid, notify_keyspace_events="E$x")["notify_keyspace_events"] == "E$x"
    assert events_of(cluster, database) == ["set", "expired"]
    cluster.done(cluster.primary(uid), "enslave_node")
    assert events_of(cluster, database) == ["set", "expired"]
    cluster.done(cluster.primary(uid), "maintenance_on")  # a copy is created on another node
    assert events_of(cluster, database) == ["set", "expired"]
    assert cluster.refused("PUT", f"/v1/bdbs/{uid}", 400, "invalid_parameter", {"notify_keyspace_events": "E"})
    cluster.update(uid, notify_keyspace_events="Eg")
    assert events_of(cluster, database) == ["del"]
    cluster.update(uid, notify_keyspace_events="")
    assert events_of(cluster, database) == []


def events_of(cluster: RestCluster, database: Json) -> list[str]:
    """The messages that a subscriber receives when a key is written, another expires and a third is deleted."""
    with cluster.client(database) as client, cluster.client(database) as other, other.pubsub() as subscriber:
        subscriber.psubscribe("__keyevent@*__:*")
        subscriber.subscribe("end")
        assert [subscriber.get_message(timeout=10)["type"] for _ in range(2)] == ["psubscribe", "subscribe"]
        client.set("a", "1")
        client.psetex("b", 1, "1")
        cluster.wait("b has expired", lambda: client.get("b") is None)
        client.delete("a")
        client.publish("end", "1")
        heard: list[str] = []
        while (message := subscriber.get_message(timeout=10)) and message["channel"] != "end":
            heard.append(message["channel"].rpartition(":")[2])
        assert message, heard
        return [event for event in dict.fromkeys(heard) if event != "expire"]


def test_a_changed_password_breaks_no_connection(cluster: RestCluster, database: Json) -> None:
    uid = database["uid"]
    with cluster.client(database) as early:
        early.set("before", "1")
        cluster.update(uid, authentication_redis_pass="first-secret")
        assert early.get("before") == "1"
        with cluster.client(database, password="first-secret") as client:
            assert client.get("before") == "1"
            cluster.update(uid, authentication_redis_pass="second-secret")
            assert client.get("before") == "1"
            with cluster.client(database, password="first-secret") as stale, pytest.raises(redis.AuthenticationError):
                stale.ping()
            with cluster.client(database) as anonymous, pytest.raises(redis.AuthenticationError):
                anonymous.ping()
            with cluster.client(database, password="second-secret", protocol=3) as later:
                assert later.get("before") == "1"
            cluster.done(cluster.primary(uid), "maintenance_on")
            assert (client.get("before"), early.get("before")) == ("1", "1")
            assert (connects_of(client), connects_of(early)) == (1, 1)
    cluster.update(uid, authentication_redis_pass="")
    with cluster.client(database) as client:
        assert client.get("before") == "1"


@pytest.mark.parametrize("database", [{"memory_size": 10_000_000, "eviction_policy": "noeviction"}], indirect=True)
def test_memory_size_changes_live(cluster: RestCluster, database: Json) -> None:
    uid = database["uid"]
    with cluster.client(database) as client:

        def fill() -> None:
            for number in range(20):
                client.set(f"key:{number}", "x" * 1_000_000)

        with pytest.raises(redis.exceptions.OutOfMemoryError):
            fill()
        held = client.dbsize()
        cluster.update(uid, memory_size=100_000_000)
        fill()
        assert client.dbsize() == 20 > held


def test_a_moving_database_is_busy(cluster: RestCluster, database: Json) -> None:
    uid = database["uid"]
    node = cluster.primary(uid)
    spare = next(one for one in cluster.nodes() if one not in (node, cluster.replica(uid)))
    if cluster.leader() == spare:
        cluster.done(spare, "enslave_node", endpoints_only=True, demote_node=True)
        cluster.wait("another leader", lambda: cluster.leader() not in (0, spare))
    # The new copy's node has no daemon for a moment: the move begins and waits for it.
    with cluster.frozen(cluster.identity_in(f"nodes/{spare}/daemon.json"), cluster.identity_in("supervisor.json")):
        action = cluster.start(node, "maintenance_on")

        def moving() -> bool:
            answer = cluster.call("GET", f"/v1/nodes/{node}/actions/maintenance_on", node=node)
            moves = answer.json()["moves"]
            return any(m["kind"] == "relocate" and m["state"] in ("planned", "starting") for m in moves)

        cluster.wait("a move", moving)
        for method, body in (("PUT", {"memory_size": 60_000_000}), ("DELETE", None)):
            cluster.refused(method, f"/v1/bdbs/{uid}", 409, "db_busy", body, node=node)
    assert cluster.ended(action)["status"] == "completed"
    cluster.update(uid, memory_size=60_000_000)


def test_names_and_deletion(cluster: RestCluster, database: Json) -> None:
    uid = database["uid"]
    assert cluster.update(uid, name="Renamed")["name"] == "Renamed"
    cluster.refused("POST", "/v1/bdbs", 409, "name_violation", {"name": "renamed", "memory_size": 5_000_000})
    with cluster.client(database) as client:
        client.set("a", "1")
        other = cluster.create(database["name"], port=15_000)
        with cluster.client(other) as second:
            assert second.get("a") is None
        cluster.delete(other["uid"])
        assert client.get("a") == "1"
    again = cluster.create("again", port=15_000)
    assert again["uid"] > other["uid"], "uids are not used again"
    cluster.delete(again["uid"])


# -- sessions ------------------------------------------------------------------------------------------------------------


class Session(threading.Thread):
    """A client that repeats a conversation until it is stopped; counts turns and keeps its first error."""

    def __init__(self, client: Any, converse: Callable[[Any, int], None], stop: threading.Event) -> None:
        super().__init__(name=converse.__name__, daemon=True)
        self.client, self.converse, self.stop = client, converse, stop
        self.turns = 0
        self.error = ""

    def run(self) -> None:
        try:
            for turn in itertools.count(1):
                if self.stop.is_set():
                    break
                self.converse(self.client, turn)
                self.turns = turn
            assert connects_of(self.client) == 1, "disconnected"
        except (redis.RedisError, AssertionError) as e:
            self.error = f"{self.name}, turn {self.turns + 1}: {type(e).__name__}: {e}"
        finally:
            self.client.close()


def pipelines(client: Any, turn: int) -> None:
    with client.pipeline(transaction=False) as pipe:
        for _ in range(50):
            pipe.incr("piped")
        assert pipe.execute() == list(range((turn - 1) * 50 + 1, turn * 50 + 1))


def transactions(client: Any, turn: int) -> None:
    with client.pipeline(transaction=True) as pipe:
        pipe.incr("left").incr("right").lpush("log", turn)
        assert pipe.execute() == [turn, turn, turn]


def slow_transactions(client: Any, turn: int) -> None:
    """MULTI, its commands and EXEC in separate packets: a handoff may happen between any two."""
    connection = client.connection_pool.get_connection()
    try:
        for words, answer in ((("MULTI",), "OK"), (("INCR", "slow"), "QUEUED"), (("GET", "slow"), "QUEUED")):
            connection.send_command(*words)
            assert connection.read_response() == answer
        connection.send_command("EXEC")
        assert connection.read_response() == [turn, str(turn)]
    finally:
        client.connection_pool.release(connection)


def big_values(client: Any, turn: int) -> None:
    value = chr(97 + turn % 26) * BIG
    assert client.set("big", value)
    assert client.get("big") == value


def hashes(client: Any, turn: int) -> None:
    client.hset("hash", mapping={"turn": turn, "half": turn / 2})
    assert client.hgetall("hash") == {"turn": str(turn), "half": str(turn / 2)}


def selected(client: Any, turn: int) -> None:
    """A client in another logical database, in which it stays after a handoff."""
    client.set("where", turn)
    assert client.get("where") == str(turn)
    assert client.get("left") is None


@pytest.mark.parametrize(
    "database", [{"data_persistence": "aof"}, {"replication": False}], ids=["replicated", "alone"], indirect=True
)
@pytest.mark.parametrize("protocol", [2, 3])
def test_sessions_notice_nothing(cluster: RestCluster, database: Json, protocol: int) -> None:
    uid = database["uid"]
    stop = threading.Event()
    sessions = [
        Session(cluster.client(database, protocol=protocol, **options), converse, stop)
        for converse, options in (
            *((pipelines, {}), (transactions, {}), (slow_transactions, {}), (big_values, {}), (hashes, {})),
            (selected, {"db": 3}),
        )
    ]
    for session in sessions:
        session.start()
    try:
        cluster.wait("all converse", lambda: all(session.turns > 2 or session.error for session in sessions))
        for action in ("maintenance_on", "maintenance_off"):
            cluster.done(_home(cluster, uid, action), action)
        if database["replication"]:
            cluster.done(cluster.primary(uid), "enslave_node")
        seen = [session.turns for session in sessions]
        cluster.wait("all continue", lambda: all(s.turns > n + 2 or s.error for s, n in zip(sessions, seen, strict=True)))
    finally:
        stop.set()
        for session in sessions:
            session.join(timeout=20)
    assert [session.error for session in sessions if session.error] == []
    with cluster.client(database) as client:
        turns = {session.name: session.turns for session in sessions}
        assert int(client.get("piped")) == 50 * turns["pipelines"]
        assert client.llen("log") == int(client.get("left")) == turns["transactions"]
        assert int(client.get("slow")) == turns["slow_transactions"]


def _home(cluster: RestCluster, uid: int, action: str) -> int:
    """The node of the primary; for the way back, the node in maintenance."""
    if action == "maintenance_on":
        return cluster.primary(uid)
    return next(node for node in cluster.nodes() if cluster.in_maintenance(node))


# -- discovery -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database", [{"proxy_policy": "all-nodes"}], indirect=True)
def test_a_sentinel_client_goes_to_the_node_it_asks_until_that_one_is_emptied(cluster: RestCluster, database: Json) -> None:
    address = urlsplit(cluster.url(1)).hostname
    cluster.ok("PUT", "/v1/cluster/policy", {"drain_clients": 1})
    sentinel = Sentinel([(address, 8001)], socket_timeout=5)
    place = (address, database["endpoints"][0]["port"])
    cluster.wait("its node serves it", lambda: sentinel.discover_master(database["name"]) == place)
    with contextlib.closing(sentinel.master_for(database["name"])) as client:
        assert client.set("before", "1")
        cluster.done(1, "maintenance_on")
        cluster.wait("another node is named", lambda: sentinel.discover_master(database["name"])[0] != address)
        assert client.get("before") == b"1", "it connects to the node that is named"
        cluster.done(1, "maintenance_off")
    cluster.wait("its node is named again", lambda: sentinel.discover_master(database["name"]) == place)
