"""Planned actions beside clients that are slow, rude or large, and with a frozen endpoint process.

Whatever the clients do: the action ends, ordinary clients notice nothing, and no acknowledged write is lost.
"""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.crowd import CLIENTS, HALVES_BYTES, Client, Crowd, Halves, Script, pattern
from chaos.load import Work
from chaos.raw_connection import EndedBadly, RawConnection, head_of_set
from chaos.verdict import TurnOutcome
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import send
from shardwright.model.database import Endpoint
from testkit.deadlines import until
from tests.e2e.e2e_harness import TestCluster, own_base
from tests.e2e.e2e_load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.proof]

SEED = 1
MEMORY_BYTES = 512 << 20
NEVER = Retry(NoBackoff(), 0)
SMALL = tuple(client for client in CLIENTS if client is not Halves)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    with TestCluster(own_base(4), tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture(scope="module")
def database(cluster: TestCluster) -> dict[str, Any]:
    """With memory for large values."""
    made = cluster.create_database(name="crowd", memory_size=MEMORY_BYTES, replication=True)
    cluster.settled()
    return made


def work_of(database: dict[str, Any]) -> Work:
    endpoint = database["endpoints"][0]
    return Work(database["name"], endpoint["addr"][0], int(endpoint["port"]), 1, 50.0, may_lose_tail=False)


def endpoint_of(cluster: TestCluster, database: dict[str, Any]) -> Endpoint:
    return next(e for e in cluster.settled().endpoints if e.database_uid == database["uid"])


@contextmanager
def crowd_of(database: dict[str, Any], *kinds: type[Client]) -> Iterator[None]:
    """Clients that may observe only what is allowed for their kind."""
    crowd = Crowd(work_of(database), SEED, kinds)
    try:
        yield
    finally:
        tallies = crowd.finish()
    for tally in tallies:
        print(f"{tally.kind}: {dict(tally.outcomes)}, {tally.acked} of {tally.sent} acknowledged, {tally.stored} stored")
    damage = [t for t in tallies if t.lost or t.doubled or t.wrong or t.noticed]
    assert damage == []


@contextmanager
def frozen_endpoint(cluster: TestCluster, database: dict[str, Any], seconds: float) -> Iterator[None]:
    """The database's endpoint process is frozen for this time."""
    process = read_identity(cluster.layout.endpoint(endpoint_of(cluster, database).nodes[0]))
    assert process is not None
    thaw = threading.Timer(seconds, send, (process, signal.SIGCONT))
    assert send(process, signal.SIGSTOP)
    thaw.start()
    try:
        yield
    finally:
        thaw.join()


@pytest.mark.parametrize(
    "seconds", [pytest.param(0.3, marks=pytest.mark.proof), 1.0, pytest.param(2.5, marks=pytest.mark.proof)]
)
def test_a_frozen_endpoint_process_in_a_handoff_is_not_noticed(
    cluster: TestCluster, database: dict[str, Any], seconds: float
) -> None:
    """The handoff waits for it, or the attempt is undone, because its clients' writes are in transit to the fenced
    server."""
    with Writers(database) as writers, crowd_of(database, Script):
        before = cluster.settled().primary(database["uid"])
        with frozen_endpoint(cluster, database, seconds):
            uid = cluster.call("POST", f"/v1/nodes/{before.node_uid}/actions/enslave_node", {"shards_only": True})
        cluster.completed(uid["action_uid"])
        assert cluster.settled().primary(database["uid"]).uid != before.uid
        writers.wait_for_progress()
        writers.check().assert_unnoticed()


def test_a_crowd_is_served_while_everything_moves(cluster: TestCluster, database: dict[str, Any]) -> None:
    with Writers(database) as writers, crowd_of(database, *SMALL):
        for _ in range(2):
            node = endpoint_of(cluster, database).nodes[0]
            for action in ("maintenance_on", "maintenance_off", "enslave_node"):
                cluster.completed(cluster.start(node, action))
                time.sleep(1.0)  # The crowd works between two actions.
        writers.wait_for_progress()
        writers.check().assert_unnoticed()


def sent_on(connection: RawConnection, value: memoryview) -> TurnOutcome:
    """The reply to a SET whose second half is sent now."""
    try:
        connection.send(value)
        connection.send(b"\r\n")
        reply = connection.reply()
        print(f"the SET was answered {reply!r}")
        return TurnOutcome.DONE if reply == b"OK" else TurnOutcome.REFUSED
    except EndedBadly as e:
        return e.outcome


@pytest.mark.parametrize("sent_mib", [6, 10])
def test_a_large_half_sent_command_delays_no_action(cluster: TestCluster, database: dict[str, Any], sent_mib: int) -> None:
    """The endpoint leaves its node; the client sends the rest later, or is closed by a FIN."""
    value = memoryview(pattern(HALVES_BYTES))
    with Writers(database) as writers, closing(RawConnection(work_of(database))) as connection:
        connection.send(head_of_set("half", HALVES_BYTES))
        connection.send(value[: sent_mib << 20])
        node = endpoint_of(cluster, database).nodes[0]
        cluster.completed(cluster.start(node, "enslave_node"), seconds=20)
        assert endpoint_of(cluster, database).nodes[0] != node
        assert sent_on(connection, value[sent_mib << 20 :]) in (TurnOutcome.DONE, TurnOutcome.CLOSED)
        writers.wait_for_progress()
        writers.check().assert_unnoticed()


def is_killed(address: str, port: int) -> bool:
    """A new client requests it. A server reports that it is busy only after five seconds."""
    try:
        with redis.Redis(host=address, port=port, socket_timeout=10, retry=NEVER) as client:
            client.script_kill()
            return True
    except redis.RedisError:
        return False


def executes_it(address: str, port: int) -> bool:
    """The server answers nothing: the script is running."""
    try:
        with redis.Redis(host=address, port=port, socket_timeout=0.3, retry=NEVER) as client:
            client.ping()
            return False
    except redis.TimeoutError:
        return True


@contextmanager
def nightly_job(database: dict[str, Any]) -> Iterator[threading.Thread]:
    """A script that runs until it is killed."""
    address, port = database["endpoints"][0]["addr"][0], database["endpoints"][0]["port"]
    failures: list[redis.RedisError] = []

    def run() -> None:
        with redis.Redis(host=address, port=port, client_name="nightly-job", socket_timeout=120, retry=NEVER) as client:
            try:
                client.eval("while true do end", 0)
            except redis.RedisError as killed:
                failures.append(killed)

    job = threading.Thread(target=run, daemon=True)
    job.start()
    try:
        yield job
    finally:
        until("the script to be killed", lambda: is_killed(address, port), seconds=20)
        job.join(20)
    assert "killed" in str(failures[0])


def test_a_long_script_is_named_a_cancel_does_not_wait_for_it_and_a_new_client_ends_it(
    cluster: TestCluster, database: dict[str, Any]
) -> None:
    node = cluster.settled().primary(database["uid"]).node_uid
    endpoint = database["endpoints"][0]
    with nightly_job(database) as job:
        until("the script to run", lambda: executes_it(endpoint["addr"][0], endpoint["port"]), seconds=10)
        body = {"shards_only": True}  # the endpoint stays in place, with the connection of the job
        uid = cluster.call("POST", f"/v1/nodes/{node}/actions/enslave_node", body)["action_uid"]

        def named() -> bool:
            reasons = cluster.action(uid)["reasons"]
            return any("EVAL of" in r["description"] and "nightly-job" in r["description"] for r in reasons)

        cluster.until("the script named as what blocks the step-down", named, seconds=6)
        cluster.call("DELETE", f"/v1/nodes/{node}/actions/enslave_node")
        ended = cluster.ended(uid, seconds=5)
        assert ended["status"] == "cancelled"
        assert job.is_alive()
    cluster.settled()


@pytest.mark.parametrize("delay_s", [0.016, *(pytest.param(s, marks=pytest.mark.proof) for s in (0.0, 0.008, 0.024, 0.032))])
def test_a_long_script_that_begins_with_a_handoff_delays_no_cancel(
    cluster: TestCluster, database: dict[str, Any], delay_s: float
) -> None:
    """It begins between the proof and the hold: the server executes it before any further command."""
    node = cluster.settled().primary(database["uid"]).node_uid
    path = f"/v1/nodes/{node}/actions/enslave_node"
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(cluster.call, "POST", path, {"shards_only": True})
        time.sleep(delay_s)  # From before the proof until after the handoff, on a machine that is not busy.
        with nightly_job(database) as job:
            uid = started.result()["action_uid"]
            time.sleep(1.0)
            if cluster.action(uid)["status"] != "completed":
                cluster.call("DELETE", path)
                assert cluster.ended(uid, seconds=5)["status"] in ("cancelled", "completed")
            assert job.is_alive()
    cluster.settled()


@pytest.mark.proof
def test_a_cluster_with_a_script_that_does_not_end_is_brought_down(tmp_path: Path) -> None:
    with TestCluster(own_base(6), tmp_path) as own:
        database = own.create_database(name="busy", memory_size=MEMORY_BYTES)
        own.settled()
        endpoint = database["endpoints"][0]
        with (
            redis.Redis(host=endpoint["addr"][0], port=endpoint["port"], retry=NEVER) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            script = pool.submit(client.eval, "while true do end", 0)
            until("the script to run", lambda: executes_it(endpoint["addr"][0], endpoint["port"]), seconds=10)
            said = own.command("down", "--yes")
            assert "shard 1 of busy was executing a script, which was ended" in said
            assert isinstance(script.exception(), redis.RedisError)
