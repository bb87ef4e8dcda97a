"""An endpoint process that is late in a handoff, because it is frozen or busy: nothing is lost, and no client notices.

``ROUNDS=50 make test ARGS="tests/e2e/test_late_endpoints.py"`` repeats each test many times.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chaos.raw_connection import command
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import send
from tests.conftest import found_servers
from tests.e2e.e2e_harness import TestCluster, own_base

pytestmark = [pytest.mark.e2e, pytest.mark.proof]

ROUNDS = int(os.environ.get("ROUNDS", "2"))
SCRIPTS = 20_000
HIDES_A_REFUSAL = "for i = 1, 60 do redis.call('EXISTS', KEYS[1]) end redis.pcall('INCR', KEYS[1]) return 'OK'"
VALUES = 400_000
VALUE_BYTES = 500


@pytest.fixture(scope="module", params=["valkey", "redis"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestCluster]:
    if request.param not in found_servers():
        pytest.skip(f"{request.param}-server was not found")
    with TestCluster(own_base(5), tmp_path_factory.mktemp("faults"), server=request.param) as made:
        made.create_database(name="late", memory_size=2 << 30, replication=True)
        made.settled()
        yield made


def place(cluster: TestCluster) -> tuple[str, int]:
    (endpoint,) = cluster.settled().endpoints
    return endpoint.address, endpoint.port


@contextmanager
def frozen_for(cluster: TestCluster, seconds: float) -> Iterator[None]:
    """The endpoint process of the database is frozen for this time."""
    (endpoint,) = cluster.settled().endpoints
    process = read_identity(cluster.layout.endpoint(endpoint.nodes[0]))
    assert process is not None
    assert send(process, signal.SIGSTOP)
    thaw = threading.Timer(seconds, send, (process, signal.SIGCONT))
    thaw.start()
    try:
        yield
    finally:
        thaw.join()


def step_down(cluster: TestCluster) -> str:
    (group,) = cluster.settled().groups
    node = cluster.settled().primary(group.database_uid).node_uid
    answer: dict[str, Any] = cluster.call("POST", f"/v1/nodes/{node}/actions/enslave_node", {"shards_only": True})
    return str(answer["action_uid"])


def connect(cluster: TestCluster) -> socket.socket:
    return socket.create_connection(place(cluster), timeout=60)


def replies(client: socket.socket, expected: bytes) -> bytes:
    """This many bytes of the client's replies."""
    found = bytearray()
    while len(found) < len(expected) and (data := client.recv(1 << 20)):
        found += data
    return bytes(found)


def test_scripts_that_hide_a_refusal_lose_nothing_while_the_endpoint_process_is_frozen(cluster: TestCluster) -> None:
    rng = random.Random(1)
    one = b"$2\r\nOK\r\n"
    for number in range(ROUNDS):
        key = f"n:{number}"
        with connect(cluster) as client, connect(cluster) as reader:
            pipeline = command("EVAL", HIDES_A_REFUSAL, "1", key) * SCRIPTS
            sender = threading.Thread(target=client.sendall, args=(pipeline,), daemon=True)
            sender.start()
            time.sleep(0.15)
            with frozen_for(cluster, rng.uniform(0.0, 3.0)):
                action = step_down(cluster)
            answered = replies(client, one * SCRIPTS)
            sender.join(60)
            acknowledged = answered.count(one)
            reader.sendall(command("GET", key))
            stored = reader.recv(100).split(b"\r\n")[1]
        assert (acknowledged, len(answered), int(stored)) == (SCRIPTS, len(one) * SCRIPTS, SCRIPTS), f"round {number}"
        cluster.completed(action, seconds=60)


def test_a_mass_insertion_is_not_disturbed_on_a_loaded_machine(cluster: TestCluster, tmp_path: Path) -> None:
    """Like ``redis-cli --pipe``, on a machine with four times as much work as it can do."""
    values = b"".join(command("SET", f"key:{n}", b"x" * VALUE_BYTES) for n in range(VALUES))
    with busy_loops(4 * (os.cpu_count() or 1)):
        for number in range(ROUNDS):
            with connect(cluster) as client:
                sender = threading.Thread(target=client.sendall, args=(values,), daemon=True)
                sender.start()
                time.sleep(0.2 + 0.3 * (number % 4))
                action = step_down(cluster)
                answered = replies(client, b"+OK\r\n" * VALUES)
                sender.join(60)
            errors = sorted({line for line in answered.split(b"\r\n") if line not in (b"+OK", b"")})
            assert (errors[:3], answered.count(b"+OK\r\n")) == ([], VALUES), f"round {number}"
            cluster.completed(action, seconds=60)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes that use all available CPU time."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait(10)
