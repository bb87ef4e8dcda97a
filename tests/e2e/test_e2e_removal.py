"""Removing nodes, end to end: persistence, the leader's node, dead nodes, previews, and nodes that are added again."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shardwright.machine.processes import is_running, send
from tests.e2e.rest_harness import Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e]
DATABASES: dict[str, Json] = {
    "journal": {"data_persistence": "aof", "replication": True},
    "diary": {"data_persistence": "snapshot", "snapshot_policy": [{"secs": 3600, "writes": 1}]},
    "cache": {},
    "sessions": {"replication": True},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    """Four nodes at first; databases with each kind of persistence, with and without a replica."""
    with RestCluster(nodes=4) as running:
        for name, settings in DATABASES.items():
            with running.client(running.create(name, **settings)) as client:
                client.mset({f"key:{number}": name for number in range(500)})
        yield running


@pytest.fixture(autouse=True)
def _data_stays(cluster: RestCluster) -> Iterator[None]:
    yield
    for database in cluster.get("/v1/bdbs"):
        with cluster.client(cluster.settled(database["uid"])) as client:
            assert client.dbsize() == 500
            assert client.get("key:499") == database["name"]
    while len(cluster.nodes()) < 3:
        cluster.add_node()


def uid_of(cluster: RestCluster, name: str) -> int:
    return next(int(database["uid"]) for database in cluster.get("/v1/bdbs") if database["name"] == name)


def is_removed(cluster: RestCluster, node: int, record: Json) -> None:
    """The state after every removal: the result is readable, the node is not, and none of its processes runs."""
    cluster.refused("GET", f"/v1/nodes/{node}", 404, "node_not_found")
    assert str(node) not in cluster.get("/v1/nodes/status")
    assert node not in {int(shard["node_uid"]) for shard in cluster.get("/v1/shards")}
    for path in (f"/v1/nodes/{node}/actions/remove", f"/v1/actions/{record['action_uid']}"):
        shown = cluster.get(path)
        assert (shown["status"], shown["name"], shown["node_uid"]) == ("completed", "remove_node", str(node))
    assert record["action_uid"] in [action["action_uid"] for action in cluster.get("/v1/nodes/actions")["actions"]]
    cluster.refused("POST", f"/v1/nodes/{node}/actions/maintenance_on", 404, "node_not_found", {})
    cluster.wait("none of its processes", lambda: not cluster.servers_on(node))


def holding(cluster: RestCluster, *names: str) -> int:
    """A node with a copy of each of these databases; a copy is moved there if necessary."""
    wanted = [uid_of(cluster, name) for name in names]
    homes = [{int(shard["node_uid"]) for shard in cluster.shards(uid)} for uid in wanted]
    common = set.intersection(*homes)
    return min(common) if common else min(homes[0])


def test_a_preview_changes_nothing(cluster: RestCluster) -> None:
    node = holding(cluster, "journal")
    with cluster.unchanged():
        preview = cluster.ok("POST", f"/v1/nodes/{node}/actions/remove?dry_run=true", {})
        assert preview["dry_run"] is True
        assert preview["status"] == "possible"
        assert preview["moves"]
        assert all(move["from"] == f"node:{node}" for move in preview["moves"])
        cluster.ok("POST", f"/v1/nodes/{node}/actions/maintenance_on?dry_run=true", {})
    cluster.call("GET", f"/v1/nodes/{node}/actions/remove")


@pytest.mark.parametrize("name", ["journal", "diary", "cache"])
def test_removal_that_waits_for_persistence(cluster: RestCluster, name: str) -> None:
    node = holding(cluster, name)
    here = [shard for shard in cluster.get("/v1/shards") if shard["node_uid"] == str(node)]
    files = {"journal": "appendonlydir/*.rdb", "diary": "dump.rdb"}
    record = cluster.done(node, "remove", wait_for_persistence=True)
    is_removed(cluster, node, record)
    assert len([move for move in record["moves"] if move["kind"] == "relocate"]) >= len(here)
    if name in files:
        for shard in cluster.shards(uid_of(cluster, name)):
            place = cluster.directory / "nodes" / shard["node_uid"] / "shards" / shard["uid"]
            found = [path for path in place.glob("**/*") if path.suffix in (".rdb", ".aof")]
            assert any(path.stat().st_size > 500 for path in found), (shard["uid"], list(place.glob("**/*")))


def test_a_new_node_gets_a_new_uid_and_is_usable(cluster: RestCluster) -> None:
    before = cluster.nodes()
    gone = holding(cluster, "sessions")
    is_removed(cluster, gone, cluster.done(gone, "remove"))
    uid = cluster.add_node()
    assert uid > max(*before, gone)
    assert cluster.nodes() == sorted({*before, uid} - {gone})
    other = next(node for node in cluster.nodes() if node != uid and not cluster.is_empty(node))
    shards = {shard["uid"] for shard in cluster.get("/v1/shards") if shard["node_uid"] == str(other)}
    assert shards
    with cluster.maintenance(other):
        cluster.wait("something on the new node", lambda: not cluster.is_empty(uid))
        assert cluster.call("GET", "/v1/cluster", node=_number(cluster, uid)).status_code == 200


def _number(cluster: RestCluster, uid: int) -> int:
    """The number of a node's address after the first one."""
    return int(cluster.node(uid)["addr"].rsplit(".", 1)[1]) - int(cluster.base.rsplit(".", 1)[1]) + 1


def test_the_leaders_node_yields_before_its_removal(cluster: RestCluster) -> None:
    cluster.add_node()
    leader = cluster.leader()
    record = cluster.done(leader, "remove")
    is_removed(cluster, leader, record)
    steps = [step["name"] for step in record["steps"]]
    assert steps.index("yield_leadership") < steps.index("evacuate") < steps.index("take_out"), steps
    assert cluster.leader() not in (0, leader)


@contextmanager
def dead(cluster: RestCluster, node: int) -> Iterator[None]:
    """All processes of a node are ended, and stay ended, because the supervisor is frozen."""
    supervisor = cluster.identity_in("supervisor.json")
    with cluster.frozen(supervisor):
        servers = cluster.servers_on(node)
        daemon = cluster.identity_in(f"nodes/{node}/daemon.json")
        endpoint = cluster.identity_in(f"nodes/{node}/endpoint.json")
        victims = [daemon, endpoint, *servers]
        for process in victims:
            send(process, signal.SIGKILL)
        cluster.reconnect()
        yield
        assert not any(is_running(process) for process in (endpoint, *servers))


@pytest.mark.proof
def test_a_dead_node_with_live_copies_elsewhere(cluster: RestCluster) -> None:
    for name in ("cache", "diary"):
        cluster.update(uid_of(cluster, name), replication=True)
    cluster.add_node()
    node = holding(cluster, "journal", "sessions")
    with dead(cluster, node):
        record = cluster.ended(cluster.start(node, "remove"), seconds=60)
        assert record["status"] == "completed", f"{record}\n{cluster.picture()}"
        is_removed(cluster, node, record)
        for name in DATABASES:
            cluster.settled(uid_of(cluster, name))
    cluster.wait("a leader", cluster.leader)


@pytest.mark.proof
def test_a_dead_node_with_the_only_copy(cluster: RestCluster) -> None:
    cluster.update(uid_of(cluster, "cache"), replication=False)
    cluster.add_node()
    node = cluster.primary(uid_of(cluster, "cache"))
    (shard,) = cluster.shards(uid_of(cluster, "cache"))
    with dead(cluster, node):
        record = cluster.ended(cluster.start(node, "remove"), seconds=60)
        assert (record["status"], record["error_code"]) == ("failed", "no_live_copy"), f"{record}\n{cluster.picture()}"
        assert cluster.node(node)["accept_servers"] is False
        cluster.wait("the end is observed", lambda: cluster.node(node)["status"] == "down")
        record = cluster.ended(cluster.start(node, "remove"))
        assert (record["status"], record["error_code"]) == ("failed", "no_live_copy"), f"{record}\n{cluster.picture()}"
        gone = uid_of(cluster, "cache")
        # The node may also have had a replica of another database, which is replaced.
        assert [move for move in record["moves"] if move["bdb_uid"] == gone] == []
        assert f"shard {shard['uid']}" in record["error_message"]
        cluster.ok("DELETE", f"/v1/bdbs/{gone}")  # ends with the node, because no other process could delete the files
        record = cluster.ended(cluster.start(node, "remove"), seconds=60)
        assert record["status"] == "completed", f"{record}\n{cluster.picture()}"
        is_removed(cluster, node, record)
        cluster.wait("the database is gone", lambda: cluster.call("GET", f"/v1/bdbs/{gone}").status_code == 404)
