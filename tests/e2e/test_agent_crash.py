"""A daemon is killed or frozen in the middle of each node action, under load: the leader's, and that of the node of the
action.

In both cases the action completes, no acknowledged write is lost or doubled, and no client notices. The supervisor ends a
frozen daemon after five seconds.
"""

import signal
from collections.abc import Iterator

import pytest

from shardwright.machine.processes import identity_of, send
from shardwright.model.cluster import DaemonPresence
from shardwright.model.ids import NodeUid
from testkit.deadlines import Stopwatch
from tests.e2e.e2e_harness import TestCluster, own_base
from tests.e2e.e2e_load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.proof]

ACTIONS = ("enslave_node", "maintenance_on", "maintenance_off", "remove")
"""The step-downs come first: they would be refused while the only copy of a database is on the node."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with TestCluster(own_base(2), tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture(scope="module")
def kept(cluster: TestCluster) -> Iterator[Writers]:
    """On a database with a replica and a file."""
    with Writers(cluster.database("kept", replication=True, data_persistence="aof")) as load:
        yield load


@pytest.fixture(scope="module")
def single(cluster: TestCluster) -> Iterator[Writers]:
    """On a database with neither: its only copy must be relocated."""
    with Writers(cluster.database("single"), writers=1) as load:
        yield load


@pytest.fixture
def loads(request: pytest.FixtureRequest, kept: Writers, action: str) -> list[Writers]:
    return [kept] if action == "enslave_node" else [kept, request.getfixturevalue("single")]


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
    watch = Stopwatch()
    record = cluster.ended(uid, seconds=60)
    assert record["status"] == "completed", f"{record}\n{cluster.state()}"
    ended_s = watch.seconds
    cluster.settled(seconds=20)
    cluster.avoided = set()
    slowest_ms = 0.0
    for load in loads:
        load.wait_for_progress()
        slowest_ms = max(slowest_ms, load.check().assert_unnoticed().slowest_ms)
    states = [f"{m['kind']} {m['state']}" for m in record["moves"]]
    print(f"{action}, {who} {order.name}: completed {ended_s:.2f} s later; slowest {slowest_ms:.0f} ms; {states}")


def _node_for(cluster: TestCluster, loads: list[Writers], action: str, leader: DaemonPresence, *, is_agent: bool) -> NodeUid:
    """A node with work to do; not the leader's if its agent is to die."""
    facts = cluster.settled(seconds=20)
    primary, replica = facts.primary(loads[0].database["uid"]).node_uid, facts.replica(loads[0].database["uid"]).node_uid
    if action == "enslave_node":
        if is_agent and primary == leader.node_uid:
            cluster.completed(cluster.start(primary, "enslave_node"))
            return replica
        return primary
    only = facts.primary(loads[1].database["uid"]).node_uid
    return next(n for n in (only, primary, replica) if not (is_agent and n == leader.node_uid))


def _has_begun(cluster: TestCluster, uid: str) -> bool:
    found = cluster.action(uid)
    return bool(found.get("moves")) or found["status"] == "completed"


def _hit(cluster: TestCluster, victim: DaemonPresence, order: signal.Signals) -> None:
    identity = identity_of(victim.pid)
    assert identity is not None
    assert send(identity, order)


def _heal(cluster: TestCluster) -> None:
    """Three open nodes with daemons, whatever state the last test left."""
    cluster.avoided = set()
    if set(cluster.present()) != set(cluster.facts().nodes):
        cluster.replace_supervisor()
    for node in cluster.settled(seconds=20).nodes.values():
        if not node.accepts_placement:
            cluster.completed(cluster.start(node.uid, "maintenance_off", skip_shards_restore=True), seconds=60)
    if len(cluster.facts().nodes) < 3:
        cluster.command("node", "add", "--wait")
