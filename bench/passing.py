"""Part 6: how long one busy client waits while its endpoint moves to another node, beside thousands of idle connections."""

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from bench.context import Context
from bench.figures import Figure, PartResult, at_most, spread
from demo.cluster import DemoCluster

NAME = "passing"
IDLE = 8_000
MOVES = 10
DATABASE_BYTES = 64 << 20
GOAL_P50_MS = 50.0
FILES_MORE = 2_000
"""Of this process and of each endpoint process, beside two for each connection."""


def measure(context: Context) -> PartResult:
    """Run it. Raises DemoFailed, OSError."""
    idle, moves = (200, 2) if context.is_quick else (_idle_possible(), MOVES)
    context.say(f"{moves} moves of an endpoint with {idle} idle connections")
    waits: list[float] = []
    calm: list[float] = []
    took: list[float] = []
    with context.cluster() as cluster, ExitStack() as stack:
        database = cluster.create_database(name="bench", memory_size=2 * DATABASE_BYTES, replication=True)
        address = database["endpoints"][0]["addr"][0], int(database["endpoints"][0]["port"])
        for _ in range(idle):
            stack.enter_context(socket.create_connection(address, timeout=10)).sendall(b"PING\r\n")
        for _ in range(moves):
            with busy_client(address) as calls:
                time.sleep(0.5)
            calm.append(max(calls, default=0.0))
            node = _serving(cluster, int(database["uid"]))
            with busy_client(address) as calls:
                began = time.monotonic()
                cluster.finish(cluster.start(node, "enslave_node", endpoints_only=True))
                took.append(time.monotonic() - began)
            waits.append(max(calls, default=0.0))
    return report(waits, calm, took, idle=idle)


def report(waits_ms: list[float], calm_ms: list[float], took_s: list[float], *, idle: int) -> PartResult:
    """Pure: the figures."""
    part = PartResult(NAME)
    found, floor = spread(waits_ms), spread(calm_ms)
    goal = at_most(found.p50, GOAL_P50_MS, "ms")
    name = "longest wait of the busy client"
    without = "half a second without a move"
    part.figures = [
        Figure(f"{name}, p50 of the moves", "ms", found.p50, None, "", floor.p50, without, goal),
        Figure(f"{name}, max", "ms", found.max, None, "", floor.max, without),
        Figure("the move takes, p50", "s", spread(took_s).p50),
    ]
    part.details = {"idle": idle, "wait_ms": found.as_json(), "calm_ms": floor.as_json(), "took_s": spread(took_s).as_json()}
    part.notes = [f"{idle} idle connections and one that writes without rest; endpoints_only step-downs"]
    return part


def _idle_possible() -> int:
    """As many as the limit of open files allows an endpoint process, two for each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return min(IDLE, (most - FILES_MORE) // 2)


def _serving(cluster: DemoCluster, uid: int) -> int:
    database: dict[str, Any] = cluster.call("GET", f"/v1/bdbs/{uid}")
    return int(database["endpoints"][0]["node_uids"][0])


@contextmanager
def busy_client(address: tuple[str, int]) -> Iterator[list[float]]:
    """Milliseconds of each call of one client that writes without rest."""
    calls: list[float] = []
    over = threading.Event()

    def work() -> None:
        with socket.create_connection(address, timeout=30) as client:
            while not over.is_set():
                began = time.perf_counter()
                client.sendall(b"INCR n\r\n")
                while not client.recv(100).endswith(b"\r\n"):
                    pass
                calls.append((time.perf_counter() - began) * 1000)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield calls
    finally:
        over.set()
        worker.join(60)
