"""The leader's process is killed, or frozen and thawed, at every named point of a handoff, under load.

At every point: the action completes, one writable primary is left, nothing stays fenced or held, no acknowledged write is
lost or doubled, and no client notices.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardwright.endpoint.protocol import SELF_RELEASE_S
from shardwright.faults import arm
from shardwright.machine.processes import identity_of, is_running, send
from shardwright.model.cluster import DaemonPresence
from shardwright.model.database import Shard
from shardwright.model.seen import ProcessIdentity
from testkit.deadlines import Stopwatch
from tests.e2e.e2e_harness import BACK_S, ENDED, LEASE_S, TestCluster, own_base
from tests.e2e.e2e_load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.proof]

STEPS = (
    *("intend", "hold", "fence", "compare", "promote", "release"),
    *("end_clients", "demote", "end_pause", "unfence", "verify", "commit"),
)
FORWARD_POINTS = [f"handoff:{step}:{side}" for step in STEPS for side in ("before", "after")]
UNDO_POINTS = [
    f"handoff:{step}:{side}" for step in ("undo_fence", "undo_release", "undo_commit") for side in ("before", "after")
]
DECISIVE = {
    *("handoff:fence:after", "handoff:promote:before", "handoff:promote:after", "handoff:release:before"),
    *("handoff:demote:before", "handoff:demote:after", "handoff:commit:before"),
}
"""The points at which a frozen leader could do the most harm when it wakes."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    faults: Path = tmp_path_factory.mktemp("faults")
    with TestCluster(own_base(1), faults) as made:
        yield made


@pytest.fixture(scope="module")
def writers(cluster: TestCluster) -> Iterator[Writers]:
    database = cluster.database("crashes", replication=True)
    with Writers(database) as load:
        yield load


PAUSE_S = 1.5
"""How long a write takes that is in flight: the hold fails, and the server was asked nothing yet."""
LATE_S = SELF_RELEASE_S + 0.2
"""How long the leader stands still behind the hold: the fence comes too late, and is lifted."""
ATTEMPTS_MAX = 5


def _step_down(cluster: TestCluster, database: dict[str, Any], point: str, order: str) -> tuple[str, Shard]:
    """A step-down that has reached the point, and the primary before it. On a busy machine the pause may have ended before
    the drain began: then nothing was undone, and another step-down is requested."""
    for _ in range(ATTEMPTS_MAX):
        before = cluster.settled().primary(database["uid"])
        reached = cluster.arm(point, order)
        if ":undo_fence:" in point:
            arm(cluster.faults, "handoff:hold:after", f"sleep {LATE_S}")
        elif point in UNDO_POINTS:
            cluster.pause_writes(database["uid"], PAUSE_S)
        uid = cluster.start(before.node_uid, "enslave_node")

        def is_over(uid: str = uid, reached: Path = reached) -> bool:
            return reached.exists() or (point in UNDO_POINTS and cluster.action(uid)["status"] in ENDED)

        cluster.until(f"{point} to be reached", is_over, seconds=15)
        if reached.exists():
            return uid, before
    raise AssertionError(f"{point} was not reached\n{cluster.state()}")


@pytest.mark.parametrize("point", [*FORWARD_POINTS, *UNDO_POINTS])
def test_leader_killed(cluster: TestCluster, writers: Writers, point: str) -> None:
    leader = cluster.ready_to_die()
    cluster.avoided = {leader.node_uid}
    uid, before = _step_down(cluster, writers.database, point, "kill")
    died = Stopwatch()
    cluster.until("another leader", lambda: cluster.successor_of(leader), seconds=BACK_S, clock_s=LEASE_S)
    took_over_s = died.seconds
    cluster.completed(uid)
    facts = cluster.settled()
    settled_s = died.seconds
    cluster.avoided = set()
    assert facts.primary(writers.database["uid"]).uid != before.uid
    writers.wait_for_progress()
    tally = writers.check().assert_unnoticed()
    print(f"{point}: new leader after {took_over_s:.2f} s, done after {settled_s:.2f} s; slowest {tally.slowest_ms:.0f} ms")


@pytest.mark.parametrize(
    "point", [pytest.param(p, marks=() if p in DECISIVE else pytest.mark.slow) for p in (*FORWARD_POINTS, *UNDO_POINTS)]
)
def test_leader_frozen_and_thawed(cluster: TestCluster, writers: Writers, point: str) -> None:
    leader = cluster.ready_to_die()
    frozen = _identity(leader)
    cluster.avoided = {leader.node_uid}
    with cluster.unsupervised():
        uid, _ = _step_down(cluster, writers.database, point, "freeze")
        froze = Stopwatch()
        is_replaced = _is_replaced(cluster, leader)
        if is_replaced:
            cluster.completed(uid)
            done = cluster.settled()
            settled_s = froze.seconds
            successor = cluster.leader()
            assert send(frozen, signal.SIGCONT)
            _wait_until_it_follows(cluster, leader, successor)
    if not is_replaced:
        # It froze during a write to the store, which stays locked until the supervisor ends it.
        cluster.until("the frozen daemon to be ended", lambda: not is_running(frozen), seconds=15)
        cluster.completed(uid)
        done = cluster.settled()
        settled_s = froze.seconds
    cluster.avoided = set()
    writers.wait_for_progress()
    later = cluster.settled()
    assert [(g.primary, g.generation) for g in later.groups] == [(g.primary, g.generation) for g in done.groups]
    tally = writers.check().assert_kept()
    if is_replaced:
        assert is_running(frozen)
        tally.assert_unnoticed()
    how = "thawed" if is_replaced else "ended with the store's lock"
    print(f"{point}: {how}, done {settled_s:.2f} s after the freeze; slowest {tally.slowest_ms:.0f} ms")


def _is_replaced(cluster: TestCluster, leader: DaemonPresence) -> bool:
    """Whether another daemon became the leader after the lease had expired."""
    watch = Stopwatch()
    while watch.is_within(6, clock_s=LEASE_S):
        if cluster.successor_of(leader) is not None:
            return True
    return False


def _identity(presence: DaemonPresence) -> ProcessIdentity:
    found = identity_of(presence.pid)
    assert found is not None
    return found


def _wait_until_it_follows(cluster: TestCluster, thawed: DaemonPresence, successor: DaemonPresence) -> None:
    """The thawed daemon answers, reports another leader, and holds a lease again: it has done what it was about to do."""

    def follows() -> bool:
        others = {n for n in cluster.facts().nodes if n != thawed.node_uid}
        cluster.avoided = set(others)
        told = cluster.call("GET", "/v1/cluster")["leader"]
        there = cluster.present().get(thawed.node_uid)
        return told is not None and told["pid"] == successor.pid and there is not None and there.pid == thawed.pid

    cluster.until("the thawed daemon to follow", follows, seconds=10)


def test_primary_dies_with_the_leader_after_the_comparison(cluster: TestCluster, writers: Writers) -> None:
    """The old primary's process has ended when the successor observes: it goes forward, and may itself die before it
    promotes."""
    leader = cluster.ready_to_die(others_min=3)
    cluster.avoided = {leader.node_uid}
    frozen = _identity(leader)
    # A killed leader has a successor within milliseconds: this leader is frozen until the primary is dead too.
    cluster.arm("handoff:compare:after", "freeze")
    second = cluster.faults / "recovery:promote:before"
    second.write_text("kill")
    facts = cluster.settled()
    primary = facts.primary(writers.database["uid"])
    uid = cluster.start(primary.node_uid, "enslave_node")
    cluster.until("the comparison", (cluster.faults / "handoff:compare:after.reached").exists, seconds=15)
    assert send(facts.identities[primary.uid], signal.SIGKILL)
    send(frozen, signal.SIGKILL)
    cluster.avoided = set()
    cluster.until("the successor's death", (cluster.faults / "recovery:promote:before.reached").exists, seconds=15)
    cluster.completed(uid)
    assert cluster.settled(seconds=20).primary(writers.database["uid"]).uid != primary.uid
    writers.wait_for_progress()
    writers.check().assert_kept()
