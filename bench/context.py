"""What every part of the benchmark is given: how thorough to be, which server, and addresses of its own."""

import random
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from demo.cluster import DemoCluster
from shardwright.server.binaries import ServerBinary

API_PORT = 9443
NODES = 3
HANDOFFS = 50


@dataclass(frozen=True, slots=True)
class Context:
    """``quick`` gives figures in seconds that only show that everything runs."""

    binary: ServerBinary
    say: Callable[[str], None]
    is_quick: bool = False
    handoffs: int = HANDOFFS
    exact: int = 0
    """Small clusters that the planner is compared on with an exact solver; 0: none."""
    writers: int = 8
    writes_per_s: float = 180.0
    """Of each writer: together as much as the demonstration asks of a database."""

    def cluster(self) -> DemoCluster:
        """A cluster of three nodes on free loopback addresses, not yet started."""
        base = free_address()
        return DemoCluster(server=self.binary.path, nodes=NODES, node_memory="8gb", address_base=base, api_port=API_PORT)


def free_address() -> str:
    """A loopback address that, like those behind it, no other program is likely to use. Raises OSError if there is none."""
    chance = random.SystemRandom()
    for _ in range(20):
        address = f"127.{chance.randrange(64, 250)}.{chance.randrange(1, 250)}.1"
        with socket.socket() as probe:
            try:
                probe.bind((address, API_PORT))
            except OSError:
                continue
            return address
    raise OSError("no loopback address of its own could be found")


def primary_node(cluster: DemoCluster, database: int) -> int:
    """The node with the database's primary."""
    shards: list[dict[str, Any]] = cluster.call("GET", "/v1/shards")
    return next(int(s["node_uid"]) for s in shards if s["bdb_uid"] == database and s["role"] == "master")
