"""Clusters made up from a seed, as records in memory: what the planner is measured and checked on.

Every cluster obeys all rules; how full its nodes are is a matter of their memory, which is set last. Used by ``planner`` and
by tests of the planner.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shardwright.model.cluster import Cluster, DaemonPresence, Node
from shardwright.model.database import Database, DatabaseStatus, Endpoint, GroupPhase, Role, ServerKind, Shard, SlotGroup
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.seen import Health, NodeSeen, ProcessSeen, ProcessState, ServerSeen
from shardwright.model.view import ClusterView

AT = datetime(2026, 1, 1, tzinfo=UTC)
MIB = 1024 * 1024
SIZES_MIB = (256, 512, 512, 1024, 1024, 1024, 2048, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cluster is like."""

    nodes: int
    shards: int
    racks: int
    """0: no racks."""
    fill_min: float = 0.60
    fill_max: float = 0.95
    sizes_mib: Sequence[int] = SIZES_MIB
    replicated: float = 0.8
    """Part of the databases with a replica."""
    groups_max: int = 8
    """Slot groups of a database, at most."""
    shards_spare: int | None = None
    """A node takes at most so many shards more than it has; None: the limit is far."""


def make_cluster(shape: Shape, seed: int) -> ClusterView:
    """The same cluster for the same seed."""
    chance = random.Random(seed)
    maker = _Maker(shape, chance)
    while maker.shards_count < shape.shards:
        maker.add_database()
    return maker.view()


class _Maker:
    def __init__(self, shape: Shape, chance: random.Random) -> None:
        self.shape = shape
        self.chance = chance
        self.racks = {n: f"rack-{n % shape.racks}" if shape.racks else "" for n in range(1, shape.nodes + 1)}
        self.held = dict.fromkeys(self.racks, 0)
        self.counts = dict.fromkeys(self.racks, 0)
        self.databases: dict[DatabaseUid, Database] = {}
        self.groups: dict[GroupUid, SlotGroup] = {}
        self.shards: dict[ShardUid, Shard] = {}
        self.endpoints: dict[EndpointUid, Endpoint] = {}
        self.processes: dict[ShardUid, ProcessSeen] = {}
        self.servers: dict[ShardUid, ServerSeen] = {}

    @property
    def shards_count(self) -> int:
        return len(self.shards)

    def add_database(self) -> None:
        shape, chance = self.shape, self.chance
        uid = DatabaseUid(len(self.databases) + 1)
        left = shape.shards - self.shards_count
        copies = 2 if left > 1 and chance.random() < shape.replicated else 1
        groups = min(chance.randint(1, shape.groups_max), max(1, left // copies))
        size = chance.choice(shape.sizes_mib) * MIB
        used = int(size * chance.uniform(0.3, 0.9))
        is_rack_aware = copies > 1 and shape.racks > 1 and chance.random() < 0.7
        self.databases[uid] = Database(
            uid,
            f"db{uid}",
            10_000 + uid % 50_000,
            size * copies * groups,
            AT,
            AT,
            ServerKind.VALKEY,
            "9.1.2",
            status=DatabaseStatus.ACTIVE,
            has_replica=copies > 1,
            shards_count=groups,
            is_rack_aware=is_rack_aware,
        )
        first = 0
        for number in range(1, groups + 1):
            nodes = self._nodes(copies, is_rack_aware)
            first = first or nodes[0]
            self._add_group(uid, number, nodes, size=size, used=used)
        endpoint = EndpointUid(f"{uid}:1")
        self.endpoints[endpoint] = Endpoint(endpoint, uid, "127.0.0.1", 10_000 + uid % 50_000, (NodeUid(first),))

    def _nodes(self, copies: int, is_rack_aware: bool) -> list[int]:
        found = [self.chance.randint(1, self.shape.nodes)]
        while len(found) < copies:
            other = self.chance.randint(1, self.shape.nodes)
            if other != found[0] and not (is_rack_aware and self.racks[other] == self.racks[found[0]]):
                found.append(other)
        return found

    def _add_group(self, database: DatabaseUid, number: int, nodes: list[int], *, size: int, used: int) -> None:
        uid = GroupUid(f"{database}:{number}")
        first = ShardUid(self.shards_count + 1)
        self.groups[uid] = SlotGroup(uid, database, number, phase=GroupPhase.SERVING, primary=first, generation=1)
        for offset, node in enumerate(nodes):
            shard = ShardUid(first + offset)
            self.shards[shard] = Shard(shard, database, uid, NodeUid(node), 20_000, AT, in_sync_generation=1)
            self.processes[shard] = ProcessSeen(shard, 1, ProcessState.RUNNING)
            role = Role.REPLICA if offset else Role.PRIMARY
            self.servers[shard] = ServerSeen(
                shard, 1, AT, Health.OK, role=role, replication_id=uid, is_link_up=offset > 0, used_memory_bytes=used
            )
            self.held[node] += size
            self.counts[node] += 1

    def view(self) -> ClusterView:
        nodes, daemons, node_seen = {}, {}, {}
        for number, rack in self.racks.items():
            uid = NodeUid(number)
            fill = self.chance.uniform(self.shape.fill_min, self.shape.fill_max)
            memory = int(self.held[number] / fill) or 1024 * MIB
            spare = self.shape.shards_spare
            shards_max = 1_000_000 if spare is None else self.counts[number] + self.chance.randint(0, spare)
            nodes[uid] = Node(
                uid, f"10.0.{number // 250}.{number % 250}", AT, rack, memory, shards_max=shards_max, endpoints_max=1_000_000
            )
            daemons[uid] = DaemonPresence(uid, 1, 1, "boot", number, "0", "", AT)
            node_seen[uid] = NodeSeen(uid, AT)
        return ClusterView(
            cluster=Cluster("bench.local", AT, "127.0.0.1", 9443),
            nodes=nodes,
            databases=self.databases,
            groups=self.groups,
            shards=self.shards,
            endpoints=self.endpoints,
            daemons=daemons,
            node_seen=node_seen,
            processes=self.processes,
            servers=self.servers,
        )
