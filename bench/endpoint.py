"""Part 3: what the endpoint costs, against a direct connection to a bare server with the same settings.

Throughput, and processor time per million commands of the endpoint process and of the server. The two sides take turns.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.bare import BareServers
from bench.clients import client_name, drive
from bench.context import Context, free_address, primary_node
from bench.figures import Figure, PartResult, median, tidy
from bench.machine import cpu_seconds
from bench.wire import Connection
from demo.cluster import DemoCluster

NAME = "endpoint"
MEMORY_BYTES = 256 << 20
CONNECTIONS = 50
PIPELINES = (1, 16)
ROUNDS = 2
SECONDS = 3.0
MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One run on one side. Processor seconds per million commands; ``endpoint_cpu`` None if there is none."""

    per_second: float
    server_cpu: float
    endpoint_cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """Where the client connects, and whose processor time counts."""

    address: str
    port: int
    server_pid: int
    endpoint_pid: int | None = None

    def sample(self, pipeline: int, seconds: float) -> Sample:
        """One run. Raises ClientFailed."""
        drive(self.address, self.port, connections=CONNECTIONS, pipeline=pipeline, seconds=seconds / 10)  # warm
        # The probing of redis-benchmark counts too, so commands are counted by the server.
        commands = self._commands()
        server, endpoint = cpu_seconds(self.server_pid), self._endpoint_cpu()
        found = drive(self.address, self.port, connections=CONNECTIONS, pipeline=pipeline, seconds=seconds)
        millions = (self._commands() - commands) / MILLION
        server = (cpu_seconds(self.server_pid) - server) / millions
        used = None if endpoint is None else ((self._endpoint_cpu() or 0.0) - endpoint) / millions
        return Sample(found.per_second, server, used)

    def _endpoint_cpu(self) -> float | None:
        return None if self.endpoint_pid is None else cpu_seconds(self.endpoint_pid)

    def _commands(self) -> int:
        with Connection(self.address, self.port) as connection:
            return int(connection.info("stats")["total_commands_processed"])


def measure(context: Context) -> PartResult:
    """Run it. Raises DemoFailed, BareFailed, ClientFailed, OSError."""
    seconds = 0.5 if context.is_quick else SECONDS
    rounds = 1 if context.is_quick else ROUNDS
    ours: dict[int, list[Sample]] = {p: [] for p in PIPELINES}
    direct: dict[int, list[Sample]] = {p: [] for p in PIPELINES}
    with context.cluster() as cluster, BareServers(context.binary, address=free_address()) as servers:
        product = _product(cluster)
        server = servers.start(memory_bytes=MEMORY_BYTES)
        bare = Side(server.address, server.port, server.pid)
        for pipeline in PIPELINES:
            for number in range(1, rounds + 1):
                context.say(f"{CONNECTIONS} connections, pipeline {pipeline}, round {number} of {rounds}")
                ours[pipeline].append(product.sample(pipeline, seconds))
                direct[pipeline].append(bare.sample(pipeline, seconds))
    return report(ours, direct, client=client_name())


def report(ours: dict[int, list[Sample]], direct: dict[int, list[Sample]], *, client: str) -> PartResult:
    """Pure: the figures for each length of the pipeline."""
    part = PartResult(NAME)
    for pipeline in ours:
        a, b = ours[pipeline], direct[pipeline]
        mine, theirs = _median(a, "per_second"), _median(b, "per_second")
        cpu, bare_cpu = _median(a, "server_cpu"), _median(b, "server_cpu")
        own = _median(a, "endpoint_cpu")
        label = f"pipeline {pipeline}"
        part.figures += [
            Figure(f"{label}: throughput", "/s", mine, None, "", theirs, "direct"),
            Figure(f"{label}: CPU of the server per million commands", "s", cpu, None, "", bare_cpu, "direct"),
            Figure(
                f"{label}: CPU of endpoint and server per million commands", "s", own + cpu, None, "", bare_cpu, "direct"
            ),
        ]
        part.details[f"pipeline_{pipeline}"] = {
            "per_second": [tidy(s.per_second) for s in a],
            "direct_per_second": [tidy(s.per_second) for s in b],
            "endpoint_cpu_s_per_million": tidy(own),
            "server_cpu_s_per_million": tidy(cpu),
            "direct_server_cpu_s_per_million": tidy(bare_cpu),
        }
    part.details["client"] = client
    part.notes = [
        f"client: {client}, {CONNECTIONS} connections, values of 100 bytes, half SET and half GET; it shares the cores"
    ]
    return part


def _median(samples: Sequence[Sample], name: str) -> float:
    return median([v for s in samples if (v := getattr(s, name)) is not None])


def _product(cluster: DemoCluster) -> Side:
    database: dict[str, Any] = cluster.create_database(name="bench", memory_size=MEMORY_BYTES)
    endpoint = database["endpoints"][0]
    address, port = str(endpoint["addr"][0]), int(endpoint["port"])
    with Connection(address, port) as connection:
        server_pid = int(connection.info("server")["process_id"])
    # Without a replica the endpoint is served by the node that has the only shard.
    node = primary_node(cluster, int(database["uid"]))
    kept = json.loads((cluster.directory / "nodes" / str(node) / "endpoint.json").read_text())
    return Side(address, port, server_pid, int(kept["pid"]))
