"""Strict mode and the death of servers: every acknowledged write is stored afterwards, at whatever instant a server dies.

In default mode the last milliseconds of writes may be lost; that is not asserted, because usually nothing is lost.
"""

import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from demo.cluster import DemoFailed
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import is_running, send
from shardwright.model.database import Role
from shardwright.model.ids import EndpointUid
from shardwright.model.seen import EndpointState
from tests.e2e.e2e_harness import Facts, TestCluster, own_base
from tests.e2e.e2e_load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.proof]

KILLS = 6
"""Kills of servers per database; every third server is a replica, the others are primaries."""
STUCK_S = 3
"""The policy's ``stuck_server_timeout`` in these tests."""
PAUSE_S = 0.4
"""Maximum delay of a server's death after the first write that was confirmed after the previous death."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with TestCluster(own_base(3), tmp_path_factory.mktemp("strict")) as made:
        yield made


@pytest.mark.parametrize("persistence", ["disabled", "aof"])
def test_nothing_acknowledged_is_lost_whenever_a_server_is_killed(cluster: TestCluster, persistence: str) -> None:
    database: dict[str, Any] = cluster.database(
        f"strict-{persistence}", replication=True, strict=True, data_persistence=persistence
    )
    assert database["strict"] is True
    seed = random.SystemRandom().randrange(1_000_000)
    chance = random.Random(seed)
    began = time.monotonic()
    with Writers(database, writers=4, rate=400) as writers:
        for turn in range(KILLS):
            # A confirmed write means that there are two copies again. From now on any instant will do.
            writers.wait_for_progress(seconds=20)
            time.sleep(chance.uniform(0, PAUSE_S))
            facts = cluster.facts()
            victim = facts.replica(database["uid"]) if turn == 2 else facts.primary(database["uid"])
            assert send(facts.identities[victim.uid], signal.SIGKILL), f"seed {seed}, turn {turn}"
        writers.wait_for_progress(seconds=20)
        tally = writers.check()
    after: Facts = cluster.settled(seconds=30)
    took_s = time.monotonic() - began
    print(
        f"{persistence}, seed {seed}: {KILLS} deaths, {tally.acked} acknowledged, {len(tally.errors)} errors, {took_s:.1f} s"
    )
    unexpected = [text for text in tally.errors if "outcome unknown" not in text and "no primary" not in text]
    assert unexpected == [], f"seed {seed}"
    tally.assert_kept()
    roles = sorted((after.servers[s.uid].role for s in after.copies(after.group_of(database["uid"]))), key=str)
    assert roles == [Role.PRIMARY, Role.REPLICA]


@pytest.fixture(scope="module")
def database(cluster: TestCluster) -> dict[str, Any]:
    """Without files: data that its servers do not hold is lost."""
    return cluster.database("strict-more", replication=True, strict=True)


def _kept(cluster: TestCluster, writers: Writers) -> None:
    writers.wait_for_progress(seconds=30)
    tally = writers.check().assert_kept()
    print(f"{tally.acked} acknowledged, {len(tally.errors)} errors, slowest {tally.slowest_ms:.0f} ms")
    cluster.settled(seconds=30)


@pytest.mark.parametrize("is_primary", [True, False], ids=["primary", "replica"])
def test_a_frozen_server_loses_no_acknowledged_write(
    cluster: TestCluster, database: dict[str, Any], is_primary: bool
) -> None:
    cluster.call("PUT", "/v1/cluster/policy", {"stuck_server_timeout": STUCK_S})
    with Writers(database) as writers:
        facts = cluster.settled(seconds=30)
        victim = facts.primary(database["uid"]) if is_primary else facts.replica(database["uid"])
        frozen = facts.identities[victim.uid]
        assert send(frozen, signal.SIGSTOP)
        cluster.until("the frozen server's end", lambda: not is_running(frozen))
        _kept(cluster, writers)


def test_a_killed_endpoint_process_loses_no_acknowledged_write(cluster: TestCluster, database: dict[str, Any]) -> None:
    with Writers(database) as writers:
        for _ in range(3):
            node = next(e.nodes[0] for e in cluster.settled(seconds=30).endpoints if e.database_uid == database["uid"])
            process = read_identity(cluster.layout.endpoint(node))
            assert process is not None
            assert send(process, signal.SIGKILL)
            writers.wait_for_progress(seconds=20)
        _kept(cluster, writers)


@pytest.mark.parametrize(
    ("point", "order"),
    [
        ("handoff:hold:after", "kill"),
        ("handoff:promote:after", "kill"),
        ("handoff:hold:after", "freeze"),
        pytest.param("handoff:compare:after", "kill", marks=pytest.mark.slow),
        pytest.param("handoff:compare:after", "freeze", marks=pytest.mark.slow),
        pytest.param("handoff:promote:after", "freeze", marks=pytest.mark.slow),
    ],
)
def test_a_leader_that_fails_in_a_handoff_is_not_noticed(
    cluster: TestCluster, database: dict[str, Any], point: str, order: str
) -> None:
    leader = cluster.ready_to_die(others_min=3)
    with Writers(database) as writers:
        cluster.avoided = {leader.node_uid}
        before = cluster.settled(seconds=30).primary(database["uid"])
        reached = cluster.arm(point, order)
        action = cluster.start(before.node_uid, "enslave_node")
        cluster.until(f"{point} to be reached", reached.exists)
        cluster.until("another leader", lambda: cluster.successor_of(leader))
        cluster.completed(action)
        cluster.avoided = set()
        after = cluster.settled(seconds=30)
        assert after.primary(database["uid"]).uid != before.uid
        writers.wait_for_progress(seconds=20)
        writers.check().assert_unnoticed()


@pytest.mark.parametrize("point", ["handoff:hold:after", "handoff:compare:after"])
def test_a_primary_that_dies_in_its_own_handoff_loses_nothing(
    cluster: TestCluster, database: dict[str, Any], point: str
) -> None:
    """Together with the leader."""
    leader = cluster.ready_to_die(others_min=3)
    with Writers(database) as writers:
        cluster.avoided = {leader.node_uid}
        facts = cluster.settled(seconds=30)
        primary = facts.primary(database["uid"])
        reached = cluster.arm(point)
        action = cluster.start(primary.node_uid, "enslave_node")
        cluster.until(f"{point} to be reached", reached.exists)
        assert send(facts.identities[primary.uid], signal.SIGKILL)
        cluster.until("another leader", lambda: cluster.successor_of(leader))
        cluster.ended(action)
        cluster.avoided = set()
        _kept(cluster, writers)


def test_a_step_down_is_not_noticed_in_strict_mode(cluster: TestCluster) -> None:
    database = cluster.database("strict-handoff", replication=True, strict=True)
    with Writers(database) as writers:
        for _ in range(3):
            node = cluster.settled(seconds=30).primary(database["uid"]).node_uid
            action = cluster.call("POST", f"/v1/nodes/{node}/actions/enslave_node", {"shards_only": True})
            cluster.until("the step-down", partial(_is_completed, cluster, action["action_uid"]))
            writers.wait_for_progress()
        writers.check().assert_unnoticed()


def _is_completed(cluster: TestCluster, uid: str) -> bool:
    return bool(cluster.call("GET", f"/v1/actions/{uid}")["status"] == "completed")


def test_the_mode_changes_in_service(cluster: TestCluster, database: dict[str, Any]) -> None:
    """With the command line, under writers; a change has ended when the endpoint process is in the new mode."""

    def modes() -> set[bool]:
        seen = [p.endpoint(EndpointUid(f"{database['uid']}:1")) for p in cluster.facts().processes.values()]
        return {one.is_strict for one in seen if one.state is EndpointState.LISTENING}

    with Writers(database) as writers:
        assert modes() == {True}
        for option, is_strict in (("--no-strict", False), ("--strict", True)):
            cluster.command("db", "update", "strict-more", option, "--wait")
            assert modes() == {is_strict}
            shown = cluster.command("db", "show", "strict-more")
            assert ["strict", "enabled" if is_strict else "disabled"] in [line.split() for line in shown.splitlines()]
        with pytest.raises(DemoFailed, match="strict_needs_replication"):
            cluster.call("PUT", f"/v1/bdbs/{database['uid']}", {"replication": False})
        writers.wait_for_progress()
        writers.check().assert_unnoticed()
