"""Nodes that die: their copies are rebuilt on other nodes, and every action in progress ends well.

Here, a dead node is one whose processes were all killed while the supervisor is frozen.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import redis

from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import is_running, send
from shardwright.model.seen import ProcessIdentity
from tests.e2e.rest_harness import Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e, pytest.mark.proof]
GRACE_S = 3
KEYS = 500


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    with RestCluster(nodes=4) as running:
        running.ok("PUT", "/v1/cluster/policy", {"slave_ha_grace_period": GRACE_S})
        for name, persistence in (("memory", "disabled"), ("file", "aof")):
            database = running.create(name, replication=True, data_persistence=persistence)
            with running.client(database) as client:
                client.mset({f"key:{number}": name for number in range(KEYS)})
        yield running


@pytest.fixture(autouse=True)
def _all_is_well_afterwards(cluster: RestCluster) -> Iterator[None]:
    """Every test ends with all nodes running, every database intact, and no process in the wrong place."""
    yield
    # A node is active until its lease ends, even if its daemon was just killed.
    cluster.wait("all processes", lambda: all(runs(cluster, n) for n in cluster.nodes()))
    cluster.wait("all daemons", lambda: all(cluster.node(uid)["status"] == "active" for uid in cluster.nodes()))
    cluster.reopen()
    for uid in databases(cluster):
        cluster.settled(uid)
        assert cluster.wait(f"an answer of database {uid}", partial(keys_in, cluster, uid)) == KEYS
    wanted = len([shard for uid in databases(cluster) for shard in cluster.shards(uid)])
    cluster.wait("no server too many", lambda: sum(len(cluster.servers_on(n)) for n in cluster.nodes()) == wanted)


def databases(cluster: RestCluster) -> list[int]:
    return [int(database["uid"]) for database in cluster.get("/v1/bdbs")]


def keys_in(cluster: RestCluster, uid: int) -> int:
    """The number of keys; 0 while the endpoint does not serve."""
    with cluster.client(cluster.get(f"/v1/bdbs/{uid}")) as client:
        try:
            return int(client.dbsize())
        except redis.ConnectionError:
            return 0


def kill(cluster: RestCluster, node: int) -> None:
    """Kill all processes of a node at once."""
    for process in [*processes(cluster, node), *cluster.servers_on(node)]:
        send(process, signal.SIGKILL)
    cluster.reconnect()


def processes(cluster: RestCluster, node: int) -> list[ProcessIdentity]:
    """A node's daemon and endpoint process, if they were ever started. They may have ended."""
    found = [read_identity(cluster.directory / f"nodes/{node}/{name}.json") for name in ("daemon", "endpoint")]
    return [process for process in found if process is not None]


def runs(cluster: RestCluster, node: int) -> bool:
    found = processes(cluster, node)
    return len(found) == 2 and all(is_running(process) for process in found)


@contextmanager
def unsupervised(cluster: RestCluster) -> Iterator[None]:
    with cluster.frozen(cluster.identity_in("supervisor.json")):
        yield


def whole_without(cluster: RestCluster, uid: int, node: int) -> bool:
    """Whether two copies are in sync on other nodes. The lost copy's record stays until its agent can delete its files."""
    shards = [shard for shard in cluster.shards(uid) if int(shard["node_uid"]) != node]
    return len(shards) == 2 and all(s["detailed_status"] == "ok" and s["sync"]["status"] == "idle" for s in shards)


@pytest.mark.parametrize("role", ["replica", "primary"])
def test_lost_copies_are_rebuilt_and_a_returning_one_is_not_one_too_many(cluster: RestCluster, role: str) -> None:
    first = databases(cluster)[0]
    node = cluster.replica(first) if role == "replica" else cluster.primary(first)
    with unsupervised(cluster):
        kill(cluster, node)
        for uid in databases(cluster):
            cluster.wait(f"database {uid} whole", partial(whole_without, cluster, uid, node), seconds=GRACE_S + 30)
    kinds = [line["type"] for line in cluster.get("/v1/logs?limit=1000")]
    assert "replica_rebuild" in kinds


def test_the_endpoint_of_a_dead_node_is_served_by_another(cluster: RestCluster) -> None:
    uid = databases(cluster)[0]
    node = cluster.endpoint(uid)
    with unsupervised(cluster):
        kill(cluster, node)
        cluster.wait("another node", lambda: cluster.endpoint(uid) != node)
        assert cluster.wait("an answer", lambda: keys_in(cluster, uid)) == KEYS


def test_nothing_is_rebuilt_on_a_node_in_maintenance(cluster: RestCluster) -> None:
    uid = databases(cluster)[0]
    node, kept = cluster.replica(uid), cluster.primary(uid)
    closed = [n for n in cluster.nodes() if n not in (node, kept)]
    with cluster.maintenance(closed[0]), unsupervised(cluster):
        kill(cluster, node)
        cluster.wait("whole", lambda: whole_without(cluster, uid, node), seconds=GRACE_S + 30)
        held = {int(shard["node_uid"]) for shard in cluster.shards(uid)} - {node}
        assert held == {kept, closed[1]}, f"{cluster.shards(uid)}\n{cluster.picture()}"


@pytest.mark.parametrize("action", ["maintenance_on", "remove"])
def test_a_node_that_dies_during_its_own_action(cluster: RestCluster, action: str) -> None:
    node = cluster.primary(databases(cluster)[0])
    with unsupervised(cluster):
        uid = cluster.start(node, action)
        cluster.wait("a move", lambda: moves(cluster, node, uid))
        kill(cluster, node)
        record = cluster.ended(uid, seconds=90)
    assert record["status"] == "completed", f"{record}\n{cluster.picture()}"
    if action == "remove":
        cluster.add_node()


def test_a_dry_run_shows_what_the_action_would_wait_for(cluster: RestCluster) -> None:
    """Servers survive their daemon, and only a daemon ends them."""
    node = cluster.primary(databases(cluster)[0])
    with unsupervised(cluster):
        send(processes(cluster, node)[0], signal.SIGKILL)
        cluster.reconnect()
        cluster.wait("the daemon's lease to end", lambda: cluster.leader() and cluster.node(node)["status"] == "down")
        plan = cluster.ok("POST", f"/v1/nodes/{node}/actions/maintenance_on?dry_run=true", {})
        assert plan["status"] == "blocked"
        expected = {(r["code"], r["remedy"]) for r in plan["reasons"]}
        assert expected == {("stopping", f"start the daemon of node {node}")}
        assert "start the daemon" in cluster.command("node", "maintenance", "on", str(node), "--dry-run").stdout
        uid = cluster.start(node, "maintenance_on")

        def is_waiting() -> bool:
            record = cluster.get(f"/v1/actions/{uid}")
            assert record["status"] in ("queued", "starting", "running"), record
            return {(r["code"], r["remedy"]) for r in record["reasons"]} == expected

        cluster.wait("the same reasons", is_waiting)
    assert cluster.ended(uid)["status"] == "completed"


def test_a_target_that_dies_during_a_move(cluster: RestCluster) -> None:
    node = cluster.primary(databases(cluster)[1])
    with unsupervised(cluster):
        uid = cluster.start(node, "maintenance_on")
        relocations = lambda: [m for m in moves(cluster, node, uid) if m["kind"] == "relocate"]  # noqa: E731
        (move, *_) = cluster.wait("a relocation", relocations)
        target = int(str(move["to"]).rpartition(":")[2])
        kill(cluster, target)
        record = cluster.ended(uid, seconds=90)
        assert record["status"] == "completed", f"{record}\n{cluster.picture()}"


def moves(cluster: RestCluster, node: int, uid: str) -> list[Json]:
    actions = cluster.get(f"/v1/nodes/{node}/actions")["actions"]
    return next((a.get("moves", []) for a in actions if a["action_uid"] == uid), [])
