"""Maintenance and step-down, end to end: every rule that an operator relies on, on a cluster of three nodes with data."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.rest_harness import Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e]
REPLICATED = ("orders", "sessions", "carts", "stock")
ALONE = ("cache", "queue")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    """Four databases with a replica and two without one, each with a little data."""
    with RestCluster() as running:
        for name in REPLICATED:
            running.create(name, replication=True, data_persistence="aof" if name == "orders" else "disabled")
        for name in ALONE:
            running.create(name)
        for database in running.get("/v1/bdbs"):
            with running.client(database) as client:
                client.set("who", database["name"])
        yield running


@pytest.fixture(autouse=True)
def _as_before(cluster: RestCluster) -> Iterator[None]:
    """Every test ends with open nodes, intact databases and all data."""
    yield
    cluster.reopen()
    assert all(node["accept_servers"] for node in cluster.get("/v1/nodes"))
    for database in cluster.get("/v1/bdbs"):
        cluster.settled(database["uid"])
        if database["name"] in (*REPLICATED, *ALONE):
            with cluster.client(database) as client:
                assert client.get("who") == database["name"]


def uids(cluster: RestCluster, names: tuple[str, ...] = (*REPLICATED, *ALONE)) -> list[int]:
    return [database["uid"] for database in cluster.get("/v1/bdbs") if database["name"] in names]


def rich_node(cluster: RestCluster) -> int:
    """A node with at least two primaries that have replicas."""
    homes = [cluster.primary(uid) for uid in uids(cluster, REPLICATED)]
    return max(sorted(cluster.nodes()), key=homes.count)


@contextmanager
def waiting(cluster: RestCluster, node: int) -> Iterator[tuple[int, list[int]]]:
    """One replica of a primary on the node is frozen, so that an action that needs it waits. Yields its database, and the
    other databases with their primary on the node."""
    concerned = [uid for uid in uids(cluster, REPLICATED) if cluster.primary(uid) == node]
    assert len(concerned) >= 2, cluster.picture()
    blocked, *others = concerned
    replica = next(shard for shard in cluster.shards(blocked) if shard["role"] == "slave")
    # Otherwise it would be ended after ten seconds, and nothing would wait.
    patience = cluster.ok("GET", "/v1/cluster/policy")["stuck_server_timeout"]
    cluster.ok("PUT", "/v1/cluster/policy", {"stuck_server_timeout": 3600})
    try:
        with cluster.frozen(cluster.server_of(replica)):
            yield blocked, others
    finally:
        cluster.ok("PUT", "/v1/cluster/policy", {"stuck_server_timeout": patience})


def cancelled(cluster: RestCluster, node: int, action: str, uid: str) -> Json:
    """Cancel a running action. Returns its final record."""
    shown = cluster.ok("DELETE", f"/v1/nodes/{node}/actions/{action}")
    assert shown["status"] in ("cancelling", "cancelled")
    record = cluster.ended(uid)
    assert record["status"] == "cancelled", record
    return record


# -- maintenance ---------------------------------------------------------------------------------------------------------


def test_maintenance_empties_the_node_and_restores_everything(cluster: RestCluster) -> None:
    everything = uids(cluster)
    before = cluster.layout(*everything)
    for node in cluster.nodes():
        record = cluster.done(node, "maintenance_on")
        assert cluster.servers_on(node) == []
        assert record["progress"] == "100"
        assert cluster.in_maintenance(node)
        cluster.wait("an empty node", lambda: cluster.is_empty(node))  # noqa: B023
        handoffs = [m for m in record["moves"] if m["kind"] == "handoff"]
        assert all(m["evidence"]["promoted_offset"] >= m["evidence"]["fenced_offset"] for m in handoffs)
        cluster.done(node, "maintenance_off")
        assert cluster.snapshots(node) == []
        assert cluster.layout(*everything) == before


def test_a_second_maintenance_keeps_the_snapshot(cluster: RestCluster) -> None:
    node = rich_node(cluster)
    before = cluster.layout(*uids(cluster))
    for _ in range(3):
        cluster.done(node, "maintenance_on")
        assert len(cluster.snapshots(node)) == 1
    cluster.done(node, "maintenance_off")
    assert cluster.layout(*uids(cluster)) == before
    assert cluster.node(node)["accept_servers"] is True


def test_an_overwritten_snapshot_restores_the_later_state(cluster: RestCluster) -> None:
    node = rich_node(cluster)
    before = cluster.layout(*uids(cluster))
    cluster.ok("POST", f"/v1/nodes/{node}/snapshots/before", {})
    cluster.done(node, "maintenance_on")
    (first,) = (name for name in cluster.snapshots(node) if name != "before")
    empty = cluster.layout(*uids(cluster))
    cluster.wait(
        "another second",
        lambda: (
            cluster.ended(cluster.start(node, "maintenance_on", overwrite_snapshot=True))
            and first not in cluster.snapshots(node)
        ),
    )
    cluster.done(node, "maintenance_off")
    assert cluster.layout(*uids(cluster)) == empty, "the newer snapshot shows an empty node"
    cluster.done(node, "maintenance_off", snapshot_name="before")
    assert cluster.layout(*uids(cluster)) == before
    assert cluster.snapshots(node) == ["before"], "a user's snapshot is kept"
    cluster.ok("DELETE", f"/v1/nodes/{node}/snapshots/before")


@pytest.mark.parametrize(
    "parameters", [{"evict_ha_replica": False}, {"keep_slave_shards": True}], ids=lambda p: next(iter(p))
)
def test_replicas_may_stay(cluster: RestCluster, parameters: Json) -> None:
    node = rich_node(cluster)
    before = cluster.layout(*uids(cluster))
    had = {uid for uid in uids(cluster, REPLICATED) if str(node) in [home for home, _ in before[uid][0]]}
    cluster.done(node, "maintenance_on", **parameters)
    after = cluster.layout(*uids(cluster))
    assert {uid for uid, (copies, _) in after.items() if (str(node), "slave") in copies} == had
    assert not any((str(node), "master") in copies or endpoint == node for copies, endpoint in after.values())
    cluster.done(node, "maintenance_off")
    assert cluster.layout(*uids(cluster)) == before


def test_evict_dbs_names_databases_that_leave_entirely(cluster: RestCluster) -> None:
    node = rich_node(cluster)
    before = cluster.layout(*uids(cluster))
    listed, *others = (uid for uid in uids(cluster, REPLICATED) if cluster.primary(uid) == node)
    replicas = [uid for uid in uids(cluster, REPLICATED) if cluster.replica(uid) == node]
    assert others, cluster.picture()
    cluster.done(node, "maintenance_on", evict_dbs=[str(listed)], evict_ha_replica=True)
    after = cluster.layout(*uids(cluster))
    stay = {uid for uid, (copies, _) in after.items() if str(node) in [home for home, _ in copies]}
    assert stay == {*others, *replicas}
    assert not any((str(node), "master") in copies or endpoint == node for copies, endpoint in after.values())
    cluster.done(node, "maintenance_on", evict_dbs=[])
    assert cluster.layout(*uids(cluster)) == after, "an empty list names no database"
    cluster.done(node, "maintenance_off")
    assert cluster.layout(*uids(cluster)) == before
    cluster.refused("POST", f"/v1/nodes/{node}/actions/maintenance_on", 400, "invalid_parameter", {"evict_dbs": ["777"]})


def test_maintenance_of_the_leader_may_yield(cluster: RestCluster) -> None:
    leader = cluster.leader()
    cluster.done(leader, "maintenance_on")
    assert cluster.leader() == leader, "not requested"
    cluster.done(leader, "maintenance_on", demote_node=True, max_concurrent_actions=1)
    cluster.wait("another leader", lambda: cluster.leader() not in (0, leader))
    assert cluster.in_maintenance(leader)
    cluster.done(leader, "maintenance_off", max_concurrent_actions=0)


def test_a_second_node_would_cost_the_quorum(cluster: RestCluster) -> None:
    with cluster.maintenance(1):
        before = cluster.layout(*uids(cluster))
        record = cluster.failed(2, "maintenance_on", "no_quorum")
        assert "node 1" in record["error_message"] or "node:1" in record["error_message"], record
        assert record["moves"] == []
        assert cluster.snapshots(2) == []
        assert cluster.node(2)["accept_servers"] is True
        assert cluster.layout(*uids(cluster)) == before


def test_maintenance_off_without_a_snapshot(cluster: RestCluster) -> None:
    for parameters in ({}, {"snapshot_name": "nobody-made-it"}):
        record = cluster.failed(3, "maintenance_off", "snapshot_not_found", **parameters)
        assert record["moves"] == []
        assert cluster.node(3)["accept_servers"] is True, "open if it was open"
    cluster.done(3, "maintenance_off", skip_shards_restore=True)
    with cluster.maintenance(3):
        cluster.failed(3, "maintenance_off", "snapshot_not_found", snapshot_name="nobody-made-it")
        assert cluster.in_maintenance(3), "in maintenance if it was in maintenance"


def test_maintenance_off_names_what_no_longer_exists(cluster: RestCluster) -> None:
    extra = cluster.create("extra")
    node = cluster.primary(extra["uid"])
    cluster.done(node, "maintenance_on")
    cluster.settled(extra["uid"])
    cluster.delete(extra["uid"])
    record = cluster.done(node, "maintenance_off")
    assert any(reason.get("bdb_uid") == extra["uid"] for reason in record["reasons"]), record["reasons"]


def test_with_too_little_room_everything_that_fits_moves(cluster: RestCluster) -> None:
    heavy = [cluster.create(f"heavy{number}", memory_size=3 * 2**30)["uid"] for number in range(3)]
    try:
        node = rich_node(cluster)
        before = cluster.layout(*uids(cluster), *heavy)
        (stays,) = (uid for uid in heavy if cluster.primary(uid) == node)
        (shard,) = cluster.shards(stays)
        record = cluster.failed(node, "maintenance_on", "insufficient_resources")
        assert f"shard {shard['uid']}" in record["error_message"]
        assert {reason["shard_uid"] for reason in record["reasons"]} >= {shard["uid"]}
        assert cluster.in_maintenance(node)
        layout = cluster.layout(*uids(cluster), *heavy)
        assert {uid for uid, (copies, _) in layout.items() if str(node) in [home for home, _ in copies]} == {stays}
        cluster.done(node, "maintenance_off")
        assert cluster.layout(*uids(cluster), *heavy) == before

        refusal = cluster.failed(node, "remove", "insufficient_resources")
        assert refusal["moves"] == []
        assert f"shard {shard['uid']}" in refusal["error_message"]
        assert cluster.node(node)["accept_servers"] is False
        assert cluster.node(node)["status"] == "active"
        assert cluster.ok("PUT", f"/v1/nodes/{node}", {"accept_servers": True})["accept_servers"] is True
        assert cluster.layout(*uids(cluster), *heavy) == before
    finally:
        for uid in heavy:
            cluster.delete(uid)


# -- step-down -----------------------------------------------------------------------------------------------------------


def test_step_down_needs_replicas(cluster: RestCluster) -> None:
    (alone, _) = uids(cluster, ALONE)
    node = cluster.primary(alone)
    (shard,) = cluster.shards(alone)
    before = cluster.layout(*uids(cluster))
    record = cluster.failed(node, "enslave_node", "no_replica")
    assert f"shard {shard['uid']} of database {alone}" in record["error_message"]
    assert record["moves"] == []
    assert cluster.layout(*uids(cluster)) == before


def test_step_down_hands_over_and_no_shard_leaves(cluster: RestCluster) -> None:
    homes = {cluster.primary(uid) for uid in uids(cluster, ALONE)}
    node = next(uid for uid in cluster.nodes() if uid not in homes)
    before = cluster.layout(*uids(cluster))
    assert any(cluster.primary(uid) == node for uid in uids(cluster, REPLICATED)), cluster.picture()
    copies = {uid: {home for home, _ in cluster.layout(uid)[uid][0]} for uid in before}
    cluster.done(node, "enslave_node", demote_node=cluster.leader() == node)
    after = cluster.layout(*uids(cluster))
    assert not any((str(node), "master") in shards or endpoint == node for shards, endpoint in after.values())
    assert {uid: {home for home, _ in shards} for uid, (shards, _) in after.items()} == copies
    assert cluster.node(node)["accept_servers"] is True


def test_step_down_of_endpoints_or_shards_only(cluster: RestCluster) -> None:
    (alone, _) = uids(cluster, ALONE)
    node = cluster.primary(alone)
    cluster.wait("an endpoint", lambda: cluster.endpoint(alone))
    before = cluster.layout(*uids(cluster))
    cluster.done(node, "enslave_node", endpoints_only=True)
    after = cluster.layout(*uids(cluster))
    assert {uid: shards for uid, (shards, _) in after.items()} == {uid: shards for uid, (shards, _) in before.items()}
    assert node not in [endpoint for _, endpoint in after.values()]

    other = next(uid for uid in cluster.nodes() if uid not in {cluster.primary(uid) for uid in uids(cluster, ALONE)})
    before = cluster.layout(*uids(cluster))
    cluster.done(other, "enslave_node", shards_only=True)
    after = cluster.layout(*uids(cluster))
    assert [endpoint for _, endpoint in after.values()] == [endpoint for _, endpoint in before.values()]
    assert not any((str(other), "master") in shards for shards, _ in after.values())


def test_step_down_of_the_leader_yields(cluster: RestCluster) -> None:
    leader = cluster.leader()
    cluster.done(leader, "enslave_node", endpoints_only=True, demote_node=True)
    assert cluster.wait("another leader", cluster.leader) != leader


# -- cancelling ----------------------------------------------------------------------------------------------------------


def gather(cluster: RestCluster) -> int:
    """Two primaries with replicas on one node, whatever state the earlier tests left."""
    node = cluster.primary(uids(cluster, ALONE)[0])
    for uid in uids(cluster, REPLICATED):
        if sum(cluster.primary(other) == node for other in uids(cluster, REPLICATED)) >= 2:
            break
        if cluster.replica(uid) == node:
            cluster.done(cluster.primary(uid), "enslave_node", shards_only=True)
    return rich_node(cluster)


def test_a_cancelled_maintenance_keeps_the_completed_moves(cluster: RestCluster) -> None:
    node = rich_node(cluster)
    before = cluster.layout(*uids(cluster))
    with waiting(cluster, node) as (blocked, others):
        uid = cluster.start(node, "maintenance_on")
        cluster.wait("the others have left", lambda: all(cluster.primary(other) != node for other in others))
        record = cancelled(cluster, node, "maintenance_on", uid)
    assert cluster.primary(blocked) == node
    assert all(cluster.primary(other) != node for other in others), "what moved stays"
    assert cluster.in_maintenance(node), "marks stay"
    assert record["progress"] != "100"
    cluster.done(node, "maintenance_off")
    assert cluster.layout(*uids(cluster)) == before


def test_a_cancelled_maintenance_off_can_be_requested_again(cluster: RestCluster) -> None:
    node = rich_node(cluster)
    before = cluster.layout(*uids(cluster))
    blocked, *_ = (uid for uid in uids(cluster, REPLICATED) if cluster.primary(uid) == node)
    cluster.done(node, "maintenance_on")
    (snapshot,) = cluster.snapshots(node)
    cluster.settled(blocked)
    with cluster.frozen(*(cluster.server_of(shard) for shard in cluster.shards(blocked))):
        uid = cluster.start(node, "maintenance_off")
        others = [other for other in before if other != blocked and before[other][1] == node]
        cluster.wait("the others have returned", lambda: all(cluster.endpoint(other) == node for other in others))
        cancelled(cluster, node, "maintenance_off", uid)
    assert cluster.snapshots(node) == [snapshot]
    cluster.done(node, "maintenance_off")
    assert cluster.layout(*uids(cluster)) == before


def test_a_cancelled_step_down_can_be_requested_again(cluster: RestCluster) -> None:
    node = rich_node(cluster)
    homes = {cluster.primary(uid) for uid in uids(cluster, ALONE)}
    for uid in uids(cluster, ALONE):  # a primary without a replica would be refused at once
        if cluster.primary(uid) == node:
            cluster.update(uid, replication=True)
    with waiting(cluster, node) as (blocked, others):
        action = cluster.start(node, "enslave_node")
        cluster.wait("the others have stepped down", lambda: all(cluster.primary(other) != node for other in others))
        cancelled(cluster, node, "enslave_node", action)
    assert cluster.primary(blocked) == node
    cluster.done(node, "enslave_node")
    assert cluster.primary(blocked) != node
    for uid in uids(cluster, ALONE):
        cluster.update(uid, replication=False)
    assert homes


def test_a_cancelled_removal_leaves_the_node_closed(cluster: RestCluster) -> None:
    node = gather(cluster)
    with waiting(cluster, node) as (blocked, others):
        uid = cluster.start(node, "remove")
        cluster.wait("the others have left", lambda: all(cluster.primary(other) != node for other in others))
        assert cluster.node(node)["status"] == "decommissioning"
        elsewhere = next(one for one in cluster.nodes() if one != node)
        cluster.refused("POST", f"/v1/nodes/{elsewhere}/actions/remove", 409, "remove_in_progress", {})
        assert cluster.node(elsewhere)["accept_servers"] is True
        cancelled(cluster, node, "remove", uid)
    assert cluster.primary(blocked) == node
    shown = cluster.node(node)
    assert (shown["accept_servers"], shown["status"]) == (False, "active")
    cluster.ok("PUT", f"/v1/nodes/{node}", {"accept_servers": True})


def test_a_result_is_deleted_once(cluster: RestCluster) -> None:
    cluster.failed(2, "maintenance_off", "snapshot_not_found")
    assert cluster.ok("DELETE", "/v1/nodes/2/actions/maintenance_off")["status"] == "failed"
    cluster.refused("DELETE", "/v1/nodes/2/actions/maintenance_off", 404, "action_not_found")
