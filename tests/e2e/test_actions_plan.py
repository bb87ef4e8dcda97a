"""Plan first, execute exactly that plan, and undo: on a real cluster."""

import signal
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from shardwright.machine.processes import send
from tests.e2e.rest_harness import TERMINAL, Json, RestCluster

pytestmark = [pytest.mark.server, pytest.mark.e2e]

VALUE = "x" * 1_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[RestCluster]:
    with RestCluster(nodes=3) as found:
        made = found.create("pair", replication=True, memory_size=400_000_000)
        fill(found, made, megabytes=40)
        found.create("alone", memory_size=100_000_000)
        yield found


def fill(cluster: RestCluster, database: Json, *, megabytes: int) -> None:
    with cluster.client(database) as client:
        for number in range(megabytes):
            client.set(f"filler:{number}", VALUE)


def undo(cluster: RestCluster, node: int, action: str) -> Json:
    return dict(cluster.ok("DELETE", f"/v1/nodes/{node}/actions/{action}?mode=undo"))


def test_a_plan_is_executed_exactly_and_an_outdated_one_is_refused(cluster: RestCluster) -> None:
    node = cluster.primary(1)
    path = f"/v1/nodes/{node}/actions/maintenance_on"
    with cluster.unchanged():
        plan = cluster.ok("POST", f"{path}?dry_run=true", {})
        explained = cluster.get(f"/v1/nodes/{node}/explain?action=maintenance_on")
    assert (plan["status"], explained["verdict"], explained["plan_id"]) == ("possible", "yes", plan["plan_id"])
    record = cluster.ended(cluster.ok("POST", f"{path}?plan_id={plan['plan_id']}", {})["action_uid"])
    assert record["status"] == "completed", cluster.picture()
    planned = {(m["kind"], m["what"], m["to"]) for m in plan["moves"]}
    assert {(m["kind"], m["what"], m["to"]) for m in record["moves"]} == planned
    cluster.done(node, "maintenance_off")
    with cluster.unchanged():
        cluster.refused("POST", f"{path}?plan_id={'0' * 32}", 409, "plan_outdated", {})


@pytest.mark.parametrize("action", ["maintenance_on", "remove"])
def test_an_undo_in_the_middle_restores_everything(cluster: RestCluster, action: str) -> None:
    node = cluster.primary(1)
    before = cluster.layout(1, 2)
    uid = cluster.start(node, action)
    cluster.wait("something has moved", lambda: any(m["state"] == "done" for m in moves(cluster, uid)) or over(cluster, uid))
    shown = undo(cluster, node, action)
    assert shown["status"] == "cancelling", shown
    record = cluster.ended(uid)
    assert record["status"] == "cancelled", f"{record}\n{cluster.picture()}"
    assert cluster.layout(1, 2) == before
    assert cluster.node(node)["accept_servers"] is True
    assert cluster.snapshots(node) == []
    cluster.refused("DELETE", f"/v1/nodes/{node}/actions/{action}?mode=undo", 409, "action_ended")


@pytest.mark.proof
def test_an_undo_survives_the_leaders_death(cluster: RestCluster) -> None:
    node = cluster.primary(1)
    before = cluster.layout(1, 2)
    uid = cluster.start(node, "maintenance_on")
    cluster.wait("something has moved", lambda: any(m["state"] == "done" for m in moves(cluster, uid)) or over(cluster, uid))
    undo(cluster, node, "maintenance_on")
    leader = cluster.leader()
    send(cluster.identity_in(f"nodes/{leader}/daemon.json"), signal.SIGKILL)
    cluster.reconnect()
    record = cluster.ended(uid)
    assert record["status"] == "cancelled", f"{record}\n{cluster.picture()}"
    assert cluster.layout(1, 2) == before


def moves(cluster: RestCluster, uid: str) -> list[Json]:
    return list(cluster.get(f"/v1/actions/{uid}")["moves"])


def over(cluster: RestCluster, uid: str) -> bool:
    return cluster.get(f"/v1/actions/{uid}")["status"] in TERMINAL


@pytest.mark.slow
def test_the_expected_end_is_accurate_after_the_first_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    """Median error of repeated maintenance of four databases of 100 MB; printed as a figure."""
    errors: list[float] = []
    of_rest: list[float] = []
    with RestCluster(nodes=3) as cluster:
        node, *others = cluster.nodes()
        for other in others:
            cluster.ok("PUT", f"/v1/nodes/{other}", {"accept_servers": False})
        for number in range(4):
            made = cluster.create(f"heavy{number}", memory_size=300_000_000)
            fill(cluster, made, megabytes=100)
        cluster.reopen()
        for run in range(6):
            for action in ("maintenance_on", "maintenance_off"):
                samples, took = watched(cluster, cluster.start(node, action))
                late = [(at, eta) for at, eta in samples if eta is not None and took / 10 <= at]
                if run == 0:
                    continue  # no rate was measured yet
                errors += [abs(at + eta - took) / took for at, eta in late]
                of_rest += [abs(at + eta - took) / (took - at) for at, eta in late if took - at > 0.3]
    with capsys.disabled():
        print(
            f"\neta: median error {statistics.median(errors):.1%} of the run, {statistics.median(of_rest):.1%} of the rest"
        )
    assert statistics.median(errors) < 0.15


def watched(cluster: RestCluster, uid: str) -> tuple[list[tuple[float, float | None]], float]:
    """Elapsed seconds with the expected remaining time at that moment, and the total duration. Progress never falls."""
    began = time.monotonic()
    samples: list[tuple[float, float | None]] = []
    progress: list[float] = []
    while True:
        found = cluster.get(f"/v1/actions/{uid}")
        at = time.monotonic() - began
        progress.append(float(found["progress"]))
        if found["status"] in TERMINAL:
            assert found["status"] == "completed", f"{found}\n{cluster.picture()}"
            assert all(a <= b for a, b in pairwise(progress)), progress
            return samples, at
        samples.append((at, found["eta_seconds"]))
        time.sleep(0.1)
