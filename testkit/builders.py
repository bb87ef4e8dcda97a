"""Builders of cluster views for tests: ``cluster(nodes=3).with_database("orders").view``.

By default everything is healthy: daemons live, processes run, replicas are in sync, and all of it was observed at ``NOW``. A
builder is a value: each ``with_…`` returns a new one, so that tests can branch. Used by unit and property tests of the pure
core; the product does not import it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from shardwright.model.action import (
    Action,
    ActionName,
    ActionParameters,
    ActionStatus,
    MaintenanceOffParameters,
    MaintenanceOnParameters,
    RemoveParameters,
    StepDownParameters,
)
from shardwright.model.cluster import Cluster, Counters, DaemonPresence, Leadership, Node, Policy, Snapshot
from shardwright.model.database import (
    Database,
    DatabaseStatus,
    Endpoint,
    GroupPhase,
    Role,
    ServerKind,
    Shard,
    SlotGroup,
)
from shardwright.model.ids import ActionUid, DatabaseUid, NodeUid, ShardUid, uid_of_endpoint, uid_of_group
from shardwright.model.move import Move
from shardwright.model.seen import (
    EndpointProcessSeen,
    EndpointSeen,
    EndpointState,
    Health,
    NodeFigures,
    NodeSeen,
    ProcessIdentity,
    ProcessSeen,
    ProcessState,
    ServerSeen,
    Sighting,
)
from shardwright.model.view import ClusterView, Put, Record, Write

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
MB = 1024 * 1024
GB = 1024 * MB

_DEFAULT_PARAMETERS: dict[ActionName, ActionParameters] = {
    ActionName.REMOVE: RemoveParameters(),
    ActionName.MAINTENANCE_ON: MaintenanceOnParameters(),
    ActionName.MAINTENANCE_OFF: MaintenanceOffParameters(),
    ActionName.STEP_DOWN: StepDownParameters(),
}


@dataclass(frozen=True, slots=True)
class ClusterBuilder:
    """A view under construction. ``view`` is the result so far."""

    view: ClusterView

    def with_node(self, **changes: Any) -> "ClusterBuilder":
        """Add a node. ``changes`` are ``Node`` fields."""
        uid = self.view.counters.next_node
        counters = replace(self.view.counters, next_node=uid + 1)
        node = Node(NodeUid(uid), f"127.0.0.{uid}", NOW, memory_bytes=4 * GB)
        builder = self.with_writes(Put(counters), Put(replace(node, **changes)))
        return builder.with_daemon(uid)

    def with_database(
        self,
        name: str = "",
        *,
        on: Sequence[Sequence[int]] = ((1, 2),),
        endpoint_on: int | None = None,
        memory_bytes: int = 200 * MB,
        used_bytes: int = 50 * MB,
        **changes: Any,
    ) -> "ClusterBuilder":
        """Add a serving database. ``on``: per slot group, the nodes of its copies, the primary's first; their number
        determines the replication. ``endpoint_on`` None: the node of the first primary. ``changes`` are ``Database``
        fields."""
        uid = DatabaseUid(self.view.counters.next_database)
        database = Database(
            uid,
            name or f"db{uid}",
            10_000 + uid,
            memory_bytes,
            NOW,
            NOW,
            ServerKind.VALKEY,
            "9.1.2",
            status=DatabaseStatus.ACTIVE,
            has_replica=len(on[0]) > 1,
            shards_count=len(on),
        )
        endpoint_node = NodeUid(on[0][0] if endpoint_on is None else endpoint_on)
        endpoint = Endpoint(uid_of_endpoint(uid), uid, "127.0.0.1", database.port, (endpoint_node,))
        counters = replace(self.view.counters, next_database=uid + 1)
        builder = self.with_writes(Put(counters), Put(replace(database, **changes)), Put(endpoint))
        for number, nodes in enumerate(on, start=1):
            builder = builder._with_group(uid, number, nodes, used_bytes)
        return builder

    def _with_group(self, uid: DatabaseUid, number: int, nodes: Sequence[int], used_bytes: int) -> "ClusterBuilder":
        group_uid = uid_of_group(uid, number)
        first = self.view.counters.next_shard
        counters = replace(self.view.counters, next_shard=first + len(nodes))
        group = SlotGroup(
            group_uid,
            uid,
            number,
            phase=GroupPhase.SERVING,
            primary=ShardUid(first),
            generation=1,
            replication_id=f"replication-{group_uid}",
        )
        builder = self.with_writes(Put(counters), Put(group))
        for offset, node in enumerate(nodes):
            shard_uid = ShardUid(first + offset)
            shard = Shard(shard_uid, uid, group_uid, NodeUid(node), 20_000 + shard_uid, NOW, in_sync_generation=1)
            builder = builder.with_writes(Put(shard)).with_healthy_shard(shard_uid, used_bytes=used_bytes)
        return builder

    def with_healthy_shard(self, shard_uid: int, *, used_bytes: int = 50 * MB) -> "ClusterBuilder":
        """The shard's process runs, and its server has the role on record: primary, or replica in sync."""
        shard = self.view.shards[ShardUid(shard_uid)]
        group = self.view.groups[shard.group_uid]
        is_primary = group.primary == shard.uid
        primary = None if group.primary is None else self.view.shards.get(group.primary)
        server = ServerSeen(
            shard.uid,
            shard.incarnation,
            NOW,
            Health.OK,
            run_id=f"run-{shard.uid}",
            role=Role.PRIMARY if is_primary else Role.REPLICA,
            replication_id=f"replication-{group.uid}",
            offset=1000,
            primary_address="" if is_primary or primary is None else self.view.nodes[primary.node_uid].servers_at,
            primary_port=0 if is_primary or primary is None else primary.port,
            is_link_up=not is_primary,
            keys=100,
            used_memory_bytes=used_bytes,
        )
        process = ProcessSeen(shard.uid, shard.incarnation, ProcessState.RUNNING, _identity(shard.uid))
        return ClusterBuilder(
            replace(
                self.view,
                processes={**self.view.processes, shard.uid: process},
                servers={**self.view.servers, shard.uid: server},
            )
        )

    def with_server(self, shard_uid: int, **changes: Any) -> "ClusterBuilder":
        """Change the observation of a server (``ServerSeen`` fields), or add it."""
        uid = ShardUid(shard_uid)
        unseen = ServerSeen(uid, self.view.shards[uid].incarnation, NOW, Health.UNKNOWN)
        seen = replace(self.view.servers.get(uid, unseen), **changes)
        return ClusterBuilder(replace(self.view, servers={**self.view.servers, uid: seen}))

    def without_server(self, shard_uid: int) -> "ClusterBuilder":
        """The server has not been observed."""
        servers = {uid: seen for uid, seen in self.view.servers.items() if uid != shard_uid}
        return ClusterBuilder(replace(self.view, servers=servers))

    def with_process(self, shard_uid: int, state: ProcessState) -> "ClusterBuilder":
        """Change the report of a shard's process."""
        uid = ShardUid(shard_uid)
        shard = self.view.shards[uid]
        seen = ProcessSeen(uid, shard.incarnation, state, _identity(uid) if state == ProcessState.RUNNING else None)
        return ClusterBuilder(replace(self.view, processes={**self.view.processes, uid: seen}))

    def with_sighting(self, shard_uid: int, sighting: Sighting) -> "ClusterBuilder":
        """Change what the machine of the shard's process says."""
        return ClusterBuilder(replace(self.view, sightings={**self.view.sightings, ShardUid(shard_uid): sighting}))

    def with_silent_server(self, shard_uid: int, since: datetime) -> "ClusterBuilder":
        """A server of this machine has not answered since then; its process runs."""
        builder = self.with_sighting(shard_uid, Sighting.RUNS)
        return builder.with_server(shard_uid, health=Health.TIMEOUT, unanswered_since=since, machine_heard_since=since)

    def with_dead_shard(self, shard_uid: int) -> "ClusterBuilder":
        """The shard's process has certainly ended."""
        builder = self.with_process(shard_uid, ProcessState.GONE)
        return builder.with_server(shard_uid, health=Health.REFUSED, is_link_up=False)

    def with_daemon(self, node_uid: int) -> "ClusterBuilder":
        """The node's daemon holds its lease and has reported."""
        uid = NodeUid(node_uid)
        daemon = DaemonPresence(uid, 1000 + uid, 1, "boot", uid, "0.1.0", f"https://127.0.0.{uid}:9443", NOW)
        return ClusterBuilder(
            replace(
                self.view,
                daemons={**self.view.daemons, uid: daemon},
                node_seen={**self.view.node_seen, uid: NodeSeen(uid, NOW)},
            )
        )

    def without_daemon(self, node_uid: int) -> "ClusterBuilder":
        """The node's daemon has ended; its shards may still serve."""
        daemons = {uid: daemon for uid, daemon in self.view.daemons.items() if uid != node_uid}
        return ClusterBuilder(replace(self.view, daemons=daemons))

    def with_dead_node(self, node_uid: int) -> "ClusterBuilder":
        """The node's daemon and all of its shard processes have ended."""
        builder = self.without_daemon(node_uid)
        for shard in self.view.shards_on(NodeUid(node_uid)):
            builder = builder.with_dead_shard(shard.uid)
        return builder

    def with_free_memory(self, node_uid: int, free_bytes: int) -> "ClusterBuilder":
        """Change the free memory that the node's agent reports."""
        uid = NodeUid(node_uid)
        figures = NodeFigures(memory_free_bytes=free_bytes)
        return ClusterBuilder(replace(self.view, figures={**self.view.figures, uid: figures}))

    def with_node_changed(self, node_uid: int, **changes: Any) -> "ClusterBuilder":
        """Change a node's record."""
        return self.with_writes(Put(replace(self.view.nodes[NodeUid(node_uid)], **changes)))

    def with_database_changed(self, database_uid: int, **changes: Any) -> "ClusterBuilder":
        """Change a database's record."""
        return self.with_writes(Put(replace(self.view.databases[DatabaseUid(database_uid)], **changes)))

    def with_policy(self, **changes: Any) -> "ClusterBuilder":
        """Change the policy."""
        return self.with_writes(Put(replace(self.view.policy, **changes)))

    def with_leader(self, node_uid: int, *, term: int = 1) -> "ClusterBuilder":
        """Change the leader."""
        return ClusterBuilder(replace(self.view, leadership=Leadership(NodeUid(node_uid), term)))

    def with_action(
        self, name: ActionName, node_uid: int, parameters: ActionParameters | None = None, **changes: Any
    ) -> "ClusterBuilder":
        """Add a queued action with uid ``action-<n>``. A removal also closes the node, as the API does."""
        uid = ActionUid(f"action-{len(self.view.actions) + 1}")
        chosen = _DEFAULT_PARAMETERS[name] if parameters is None else parameters
        action = Action(uid, name, NodeUid(node_uid), chosen, ActionStatus.QUEUED, NOW, "admin@example.com")
        builder = self.with_writes(Put(replace(action, **changes)))
        return builder.with_node_changed(node_uid, is_closed=True) if name == ActionName.REMOVE else builder

    def with_move(self, move: Move) -> "ClusterBuilder":
        """Add or replace a move."""
        return self.with_writes(Put(move))

    def with_snapshot(self, snapshot: Snapshot) -> "ClusterBuilder":
        """Add a snapshot."""
        return self.with_writes(Put(snapshot))

    def with_endpoints_seen(self) -> "ClusterBuilder":
        """Every endpoint process answers and serves the endpoints bound to its node."""
        processes = {}
        for uid in self.view.nodes:
            seen = tuple(EndpointSeen(e.uid, EndpointState.LISTENING, generation=1) for e in self.view.endpoints_on(uid))
            processes[uid] = EndpointProcessSeen(uid, NOW, answers=True, endpoints=seen)
        return ClusterBuilder(replace(self.view, endpoint_processes=processes))

    def with_records(self, *records: Record) -> "ClusterBuilder":
        """Create or replace records."""
        return self.with_writes(*(Put(record) for record in records))

    def with_writes(self, *writes: Write) -> "ClusterBuilder":
        """Apply the writes of a decision."""
        return ClusterBuilder(self.view.with_writes(writes))


def cluster(nodes: int = 3, *, racks: Sequence[str] = (), memory_bytes: int = 4 * GB, leader: int = 1) -> ClusterBuilder:
    """A healthy cluster without databases, led by the daemon of node ``leader``."""
    view = ClusterView(
        cluster=Cluster("test.local", NOW, "127.0.0.1", 9443),
        policy=Policy(),
        counters=Counters(),
        leadership=Leadership(NodeUid(leader), 1),
    )
    builder = ClusterBuilder(view)
    for number in range(nodes):
        builder = builder.with_node(memory_bytes=memory_bytes, rack=racks[number] if racks else "")
    return builder


def _identity(shard_uid: int) -> ProcessIdentity:
    return ProcessIdentity(50_000 + shard_uid, "boot", shard_uid, "/usr/bin/valkey-server", f"/data/{shard_uid}")
