"""Unplanned events: servers, endpoint processes and the supervisor die or freeze.

Times are printed; the limits here are those of the guarantees, with reserve for a busy machine.
"""

import signal
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import identity_of, is_running, send
from shardwright.model.database import Role
from shardwright.model.seen import ProcessIdentity
from testkit.deadlines import Stopwatch, until
from tests.e2e.e2e_harness import LEASE_S, Facts, TestCluster, own_base
from tests.e2e.e2e_load import Writers, client_of

pytestmark = [pytest.mark.e2e, pytest.mark.proof]

KEYS = 500
STUCK_S = 3
"""The policy's ``stuck_server_timeout`` in these tests."""
FAILOVER_S = 5.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with TestCluster(own_base(3), tmp_path_factory.mktemp("faults")) as made:
        made.call("PUT", "/v1/cluster/policy", {"stuck_server_timeout": STUCK_S})
        yield made


@pytest.fixture(scope="module")
def memory_pair(cluster: TestCluster) -> dict[str, Any]:
    """With a replica, without persistence."""
    return cluster.database("memory-pair", replication=True)


@pytest.fixture(scope="module")
def file_pair(cluster: TestCluster) -> dict[str, Any]:
    """With a replica and an append-only file."""
    return cluster.database("file-pair", replication=True, data_persistence="aof")


@pytest.fixture(scope="module")
def single(cluster: TestCluster) -> dict[str, Any]:
    """With neither a replica nor a file."""
    return cluster.database("single")


def _fill(cluster: TestCluster, database: dict[str, Any]) -> Facts:
    """Some keys that every copy has."""
    client = client_of(database)
    pipe = client.pipeline(transaction=False)
    pipe.flushall()
    for n in range(KEYS):
        pipe.set(f"key:{n}", n)
    pipe.execute()
    client.close()

    def is_everywhere() -> Facts | None:
        facts = cluster.facts()
        copies = facts.copies(facts.group_of(database["uid"]))
        return facts if all(facts.servers[s.uid].keys == KEYS for s in copies) and not facts.complaints() else None

    found: Facts = cluster.until("every copy to have the keys", is_everywhere)
    return found


def _missing(database: dict[str, Any]) -> int:
    client = client_of(database)
    values = client.mget([f"key:{n}" for n in range(KEYS)])
    client.close()
    return sum(value != str(n) for n, value in enumerate(values))


def _answers(database: dict[str, Any], command: str, *arguments: str) -> Any:
    """The answer to a new client; None: an error."""
    client = client_of(database)
    try:
        return client.execute_command(command, *arguments)
    except redis.RedisError:
        return None
    finally:
        client.close()


def _writable_after(database: dict[str, Any], began: Stopwatch, *, seconds: float = 20) -> float:
    """Wait until a write is accepted. Returns the seconds since ``began``."""
    until("a write to be accepted", lambda: _answers(database, "SET", "probe", "1"), seconds=seconds)
    return began.seconds


def _kill(identity: ProcessIdentity) -> Stopwatch:
    assert send(identity, signal.SIGKILL)
    return Stopwatch()


def _keys_of_copies(facts: Facts, database: dict[str, Any]) -> list[int]:
    return [facts.servers[s.uid].keys for s in facts.copies(facts.group_of(database["uid"]))]


@pytest.mark.parametrize(
    ("kind", "is_leader_killed"),
    [
        pytest.param("memory_pair", False, id="alone-memory_pair"),
        pytest.param("file_pair", False, id="alone-file_pair"),
        pytest.param("memory_pair", True, id="with the leader-memory_pair"),
        pytest.param("file_pair", True, id="with the leader-file_pair"),
    ],
)
def test_primary_killed(cluster: TestCluster, request: pytest.FixtureRequest, kind: str, is_leader_killed: bool) -> None:
    database: dict[str, Any] = request.getfixturevalue(kind)
    leader = identity_of(cluster.ready_to_die().pid)
    assert leader is not None
    facts = _fill(cluster, database)
    heir = facts.replica(database["uid"])
    if is_leader_killed:
        _kill(leader)
    began = _kill(facts.identities[facts.primary(database["uid"]).uid])
    writable_s = _writable_after(database, began)
    assert _missing(database) == 0
    after = cluster.settled(seconds=30)
    whole_s = began.seconds
    assert after.primary(database["uid"]).uid == heir.uid
    assert _keys_of_copies(after, database) == [KEYS + 1] * 2, cluster.state()
    print(f"{kind}: writable {writable_s:.2f} s after the primary's death, two copies after {whole_s:.2f} s")
    assert began.is_within(FAILOVER_S, took_s=writable_s), began


def test_replica_killed(cluster: TestCluster, memory_pair: dict[str, Any]) -> None:
    facts = _fill(cluster, memory_pair)
    replica = facts.replica(memory_pair["uid"])
    with Writers(memory_pair) as writers:
        began = _kill(facts.identities[replica.uid])
        after = cluster.until("a new replica", lambda: _is_new(cluster, replica.uid, replica.incarnation))
        after = cluster.settled(seconds=30)
        print(f"the replica is back in sync {began.seconds:.2f} s after its death")
        assert after.primary(memory_pair["uid"]).uid == facts.primary(memory_pair["uid"]).uid
        writers.wait_for_progress()
        writers.check().assert_unnoticed()
    assert _missing(memory_pair) == 0


def _is_new(cluster: TestCluster, uid: Any, incarnation: int) -> Facts | None:
    facts = cluster.facts()
    return facts if facts.shards[uid].incarnation > incarnation else None


def test_all_copies_killed_with_files(cluster: TestCluster, file_pair: dict[str, Any]) -> None:
    facts = _fill(cluster, file_pair)
    for shard in facts.copies(facts.group_of(file_pair["uid"])):
        began = _kill(facts.identities[shard.uid])
    writable_s = _writable_after(file_pair, began)
    assert _missing(file_pair) == 0
    after = cluster.settled(seconds=30)
    assert _keys_of_copies(after, file_pair) == [KEYS + 1] * 2
    print(f"writable {writable_s:.2f} s after the death of all copies")
    assert began.is_within(10, took_s=writable_s), began


def test_all_copies_killed_without_files(cluster: TestCluster, memory_pair: dict[str, Any]) -> None:
    facts = _fill(cluster, memory_pair)
    for shard in facts.copies(facts.group_of(memory_pair["uid"])):
        began = _kill(facts.identities[shard.uid])
    writable_s = _writable_after(memory_pair, began)
    assert set(_keys_of_copies(cluster.settled(seconds=30), memory_pair)) == {1}
    print(f"empty and writable {writable_s:.2f} s after the death of all copies")
    assert began.is_within(10, took_s=writable_s), began


def test_only_copy_killed_without_file(cluster: TestCluster, single: dict[str, Any]) -> None:
    facts = _fill(cluster, single)
    began = _kill(facts.identities[facts.primary(single["uid"]).uid])
    until("an answer", lambda: _answers(single, "DBSIZE") == 0, seconds=20)
    print(f"empty and writable {_writable_after(single, began):.2f} s after the death of the only copy")
    cluster.settled(seconds=20)


def test_hanging_primary_is_ended_and_replaced(cluster: TestCluster, memory_pair: dict[str, Any]) -> None:
    facts = _fill(cluster, memory_pair)
    primary = facts.primary(memory_pair["uid"])
    hanging = facts.identities[primary.uid]
    assert send(hanging, signal.SIGSTOP)
    began = Stopwatch()
    cluster.until("the hanging server's end", lambda: not is_running(hanging), seconds=STUCK_S + 15)
    ended_s = began.seconds
    writable_s = _writable_after(memory_pair, began)
    assert _missing(memory_pair) == 0
    after = cluster.settled(seconds=30)
    assert after.primary(memory_pair["uid"]).uid != primary.uid
    print(f"the hanging server was ended after {ended_s:.2f} s, writable after {writable_s:.2f} s")
    assert ended_s >= STUCK_S
    assert began.is_within(STUCK_S + 8, clock_s=STUCK_S, took_s=ended_s), began


def test_hanging_replica_is_ended_and_returns(cluster: TestCluster, memory_pair: dict[str, Any]) -> None:
    facts = _fill(cluster, memory_pair)
    replica = facts.replica(memory_pair["uid"])
    with Writers(memory_pair) as writers:
        assert send(facts.identities[replica.uid], signal.SIGSTOP)
        began = Stopwatch()
        cluster.until("a new replica", lambda: _is_new(cluster, replica.uid, replica.incarnation))
        cluster.settled(seconds=30)
        print(f"the hanging replica is replaced and in sync after {began.seconds:.2f} s")
        writers.check().assert_unnoticed()


def test_endpoint_process_killed(cluster: TestCluster, memory_pair: dict[str, Any]) -> None:
    _fill(cluster, memory_pair)
    times = []
    for _ in range(2):
        (endpoint,) = (e for e in cluster.settled(seconds=20).endpoints if e.database_uid == memory_pair["uid"])
        (node,) = endpoint.nodes
        process = read_identity(cluster.layout.endpoint(node))
        assert process is not None
        client = client_of(memory_pair)
        client.ping()
        began = _kill(process)
        with pytest.raises(redis.ConnectionError):
            client.ping()
        client.close()
        times.append(_writable_after(memory_pair, began))
    assert _missing(memory_pair) == 0
    cluster.settled(seconds=20)
    print(f"clients are served again after {', '.join(f'{t:.2f}' for t in times)} s")
    assert began.is_within(1.0, took_s=min(times)), began


def test_supervisor_killed_and_up_adopts(cluster: TestCluster, memory_pair: dict[str, Any]) -> None:
    before = cluster.settled(seconds=20)
    cluster.until("all daemons", lambda: set(cluster.present()) == set(before.nodes))
    daemons = {n: p.pid for n, p in cluster.present().items()}
    with Writers(memory_pair) as writers:
        took_s = cluster.replace_supervisor()
        after = cluster.settled(seconds=20)
        assert {n: p.pid for n, p in after.daemons.items()} == daemons
        assert after.identities == before.identities
        assert {n: p.pid for n, p in after.processes.items()} == {n: p.pid for n, p in before.processes.items()}
        writers.wait_for_progress()
        writers.check().assert_unnoticed()
    leader = cluster.leader()
    identity = identity_of(leader.pid)
    assert identity is not None
    _kill(identity)
    cluster.until("the daemon to be started again", lambda: set(cluster.present()) == set(before.nodes))
    print(f"the cluster had a supervisor again after {took_s:.2f} s")


def test_up_ends_a_daemon_that_is_frozen_with_the_stores_lock(cluster: TestCluster, memory_pair: dict[str, Any]) -> None:
    """No supervisor runs then, and no other process can write to the store."""
    before = cluster.settled(seconds=20)
    cluster.until("all daemons", lambda: set(cluster.present()) == set(before.nodes))
    frozen = identity_of(cluster.leader().pid)
    supervisor = cluster.supervisor()
    assert frozen is not None
    send(supervisor, signal.SIGKILL)
    cluster.until("the supervisor to end", lambda: not is_running(supervisor))
    send(frozen, signal.SIGSTOP)
    with Writers(memory_pair) as writers:
        lock = threading.Thread(target=_hold_lock_like, args=(cluster, frozen))
        lock.start()
        cluster.command("up", "--detach")
        lock.join()
        assert not is_running(frozen)
        cluster.until("all daemons", lambda: set(cluster.present()) == set(before.nodes))
        writers.wait_for_progress()
        writers.check().assert_unnoticed()


def _hold_lock_like(cluster: TestCluster, frozen: ProcessIdentity) -> None:
    """Hold the store's write lock until the frozen daemon has ended, as that daemon would do in its own transaction."""
    connection = sqlite3.connect(cluster.layout.store, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        until("the frozen daemon to end", lambda: not is_running(frozen), seconds=60)
    finally:
        connection.close()


def test_a_returning_primary_never_serves_first(cluster: TestCluster, memory_pair: dict[str, Any]) -> None:
    """Its node's daemon does not run when it dies: the replica still takes over, and the returning server follows it."""
    leader = cluster.ready_to_die(others_min=3)
    facts = _fill(cluster, memory_pair)
    primary = facts.primary(memory_pair["uid"])
    daemon = identity_of(cluster.present()[primary.node_uid].pid)
    assert daemon is not None
    _kill(daemon)
    began = _kill(facts.identities[primary.uid])
    writable_s = _writable_after(memory_pair, began)
    assert _missing(memory_pair) == 0
    after = cluster.settled(seconds=40)
    assert after.servers[primary.uid].role is Role.REPLICA
    assert _keys_of_copies(after, memory_pair) == [KEYS + 1] * 2
    was = "the leader's" if leader.node_uid == primary.node_uid else "another"
    print(f"{was} daemon died with its primary: writable after {writable_s:.2f} s")
    assert began.is_within(FAILOVER_S, clock_s=LEASE_S, took_s=writable_s), began
