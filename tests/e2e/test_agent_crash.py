"""A daemon killed or frozen in the middle of each node action, under load: the leader's, and that of the node concerned.

Whichever: the action ends completed, no acknowledged write is lost or doubled, and no client notices. A frozen daemon is
left to its supervisor, which ends it after five seconds.
"""

import signal
import time
from collections.abc import Iterator

import pytest
from e2e_harness import TestCluster, Writers, own_base

from shardwright.agent.processes import identity_of, send
from shardwright.model.cluster import DaemonPresence
from shardwright.model.ids import NodeUid

pytestmark = pytest.mark.e2e

ACTIONS = ("maintenance_on", "maintenance_off", "enslave_node", "remove")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with TestCluster(own_base(2), tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture(scope="module")
def loads(cluster: TestCluster) -> Iterator[list[Writers]]:
    """A database with a replica and a file, and one with neither: its only copy must be carried."""
    kept = cluster.database("kept", replication=True, data_persistence="aof")
    single = cluster.database("single")
    with Writers(kept) as first, Writers(single, writers=1) as second:
        yield [first, second]


@pytest.mark.parametrize("order", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
@pytest.mark.parametrize("who", ["leader", "agent"])
@pytest.mark.parametrize("action", ACTIONS)
def test_daemon_dies_during(
    cluster: TestCluster, loads: list[Writers], action: str, who: str, order: signal.Signals
) -> None:
    _heal(cluster)
    leader = cluster.ready_to_die(others_min=3)
    node = _node_for(cluster, loads, action, leader, is_agent=who == "agent")
    victim = leader if who == "leader" else cluster.present()[node]
    cluster.avoided = {victim.node_uid}
    if action == "maintenance_off":
        cluster.completed(cluster.start(node, "maintenance_on"))
    uid = cluster.start(node, action)
    cluster.until("the action to begin", lambda: _has_begun(cluster, uid))
    _hit(cluster, victim, order)
    hit_at = time.monotonic()
    record = cluster.completed(uid, seconds=60)
    ended_s = time.monotonic() - hit_at
    cluster.settled(seconds=20)
    cluster.avoided = set()
    slowest_ms = 0.0
    for load in loads:
        load.write_on()
        slowest_ms = max(slowest_ms, load.check().must_be_clean().slowest_ms)
    states = [f"{m['kind']} {m['state']}" for m in record["moves"]]
    print(f"{action}, {who} {order.name}: completed {ended_s:.2f} s later; slowest {slowest_ms:.0f} ms; {states}")


def _node_for(cluster: TestCluster, loads: list[Writers], action: str, leader: DaemonPresence, *, is_agent: bool) -> NodeUid:
    """A node with something to do; not the leader's when it is its agent that dies. A step-down needs every primary of its
    node to have a replica."""
    facts = cluster.settled(seconds=20)
    kept, single = (facts.primary(load.database["uid"]).node_uid for load in loads)
    if action == "enslave_node":
        if kept == single:
            cluster.completed(cluster.start(kept, "maintenance_on"))
            cluster.completed(cluster.start(kept, "maintenance_off", skip_shards_restore=True))
            return _node_for(cluster, loads, action, leader, is_agent=is_agent)
        if is_agent and kept == leader.node_uid:
            cluster.completed(cluster.start(kept, "enslave_node"))
            return _node_for(cluster, loads, action, leader, is_agent=is_agent)
        return kept
    fitting = [n for n in (single, kept, *facts.nodes) if not (is_agent and n == leader.node_uid)]
    return fitting[0]


def _has_begun(cluster: TestCluster, uid: str) -> bool:
    found = cluster.action(uid)
    return bool(found.get("moves")) or found["status"] == "completed"


def _hit(cluster: TestCluster, victim: DaemonPresence, order: signal.Signals) -> None:
    identity = identity_of(victim.pid)
    assert identity is not None
    assert send(identity, order)


def _heal(cluster: TestCluster) -> None:
    """Three open nodes, whatever the last test left."""
    cluster.avoided = set()
    for node in cluster.settled(seconds=20).nodes.values():
        if not node.accepts_placement:
            cluster.completed(cluster.start(node.uid, "maintenance_off", skip_shards_restore=True), seconds=60)
    if len(cluster.facts().nodes) < 3:
        cluster.command("node", "add", "--wait")
