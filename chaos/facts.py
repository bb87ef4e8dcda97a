"""The cluster's actual state, read directly: records from the store's file, and the answers of servers and endpoint
processes.

Read-only. Independent of the leader, because a leader under test must not vouch for itself.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from shardwright.clock import SystemClock
from shardwright.local.layout import Layout
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import find_processes, is_running, parent_of
from shardwright.model.action import Action
from shardwright.model.cluster import DaemonPresence, Leadership, Node
from shardwright.model.database import (
    Database,
    DatabaseStatus,
    Endpoint,
    GroupPhase,
    Role,
    ServerSecrets,
    Shard,
    ShardWanted,
    SlotGroup,
)
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid
from shardwright.model.move import GroupMove, Move
from shardwright.model.seen import (
    EndpointProcessSeen,
    EndpointState,
    Health,
    NodeSeen,
    ProcessIdentity,
    ProcessState,
    ServerSeen,
)
from shardwright.nodes.local import LocalNodes
from shardwright.server.adapter import ServerAdapter
from shardwright.server.protocol import ServerTarget
from shardwright.store import records
from testkit.stored import stored

_PREFIXES = (
    *("nodes/", "databases/", "shards/", "secrets/", "groups/", "endpoints/", "seen/nodes/", "daemons/", "leader"),
    *("actions/", "moves/"),
)


@dataclass(frozen=True)
class Records:
    """The store's records at one moment."""

    nodes: dict[NodeUid, Node]
    databases: dict[DatabaseUid, Database]
    groups: list[SlotGroup]
    shards: dict[ShardUid, Shard]
    endpoints: list[Endpoint]
    secrets: dict[DatabaseUid, ServerSecrets]
    identities: dict[ShardUid, ProcessIdentity]
    """The identities of running servers, as the agents report them."""
    daemons: dict[NodeUid, DaemonPresence]
    leader: Leadership | None
    actions: list[Action]
    moves: list[Move]

    def group_named(self, name: str) -> SlotGroup | None:
        """The slot group of a database; None if there is none."""
        uid = next((d.uid for d in self.databases.values() if d.name == name), None)
        return next((g for g in self.groups if g.database_uid == uid), None)

    def copies(self, group: SlotGroup) -> list[Shard]:
        """The copies of a group that are wanted running, by uid."""
        copies = [s for s in self.shards.values() if s.group_uid == group.uid and s.wanted is ShardWanted.RUNNING]
        return sorted(copies, key=lambda s: s.uid)

    def is_moving(self, group: SlotGroup) -> bool:
        """Whether a role or a copy of the group is being moved."""
        is_live = any(isinstance(m, GroupMove) and m.group_uid == group.uid and not m.state.is_terminal for m in self.moves)
        return is_live or group.handoff is not None or group.phase is not GroupPhase.SERVING

    def live_actions(self) -> list[Action]:
        """The actions that have not ended, oldest first."""
        return sorted((a for a in self.actions if not a.status.is_terminal), key=lambda a: (a.created_at, a.uid))


def read_records(layout: Layout) -> Records:
    """Read the records. Raises sqlite3.Error if the file cannot be read now."""
    all_records = [records.decode(key, value) for key, value in stored(layout.directory, _PREFIXES).items()]

    def of(kind: type[Any] | UnionType) -> list[Any]:
        return [r for r in all_records if isinstance(r, kind)]

    seen: list[NodeSeen] = of(NodeSeen)
    shards: dict[ShardUid, Shard] = {r.uid: r for r in of(Shard)}
    running = (p for n in seen for p in n.processes if p.identity is not None and p.state is ProcessState.RUNNING)
    return Records(
        nodes={r.uid: r for r in of(Node)},
        databases={r.uid: r for r in of(Database)},
        groups=of(SlotGroup),
        shards=shards,
        endpoints=of(Endpoint),
        secrets={r.database_uid: r for r in of(ServerSecrets)},
        identities={p.shard_uid: p.identity for p in running if p.identity is not None and _is_current(p, shards)},
        daemons={r.node_uid: r for r in of(DaemonPresence)},
        leader=next(iter(of(Leadership)), None),
        actions=of(Action),
        moves=of(Move),
    )


def _is_current(process: Any, shards: dict[ShardUid, Shard]) -> bool:
    shard = shards.get(process.shard_uid)
    return shard is not None and shard.incarnation == process.incarnation


# -- whether it has come to rest -----------------------------------------------------------------------------------------


def complaints(layout: Layout) -> list[str]:
    """The defects of a cluster that is no longer disturbed; empty if it has come to rest."""
    return asyncio.run(_complaints(layout))


async def _complaints(layout: Layout) -> list[str]:
    async def nothing() -> None:
        pass

    servers = ServerAdapter(check_term=nothing, is_leader=lambda: True, clock=SystemClock())
    local = LocalNodes.of(layout.run_directory())
    try:
        now = read_records(layout)
        asked = [s for s in now.shards.values() if s.wanted is ShardWanted.RUNNING and s.node_uid in now.nodes]
        answers = await asyncio.gather(*(servers.observe(_target(s, now)) for s in asked))
        processes = await asyncio.gather(*(local.link(n).endpoint_process.status() for n in now.nodes))
        seen = {a.shard_uid: a for a in answers}
        defects = list(_of_records(now))
        for group in now.groups:
            defects += _of_group(now, group, seen)
        for endpoint in now.endpoints:
            defects += _of_endpoint(now, endpoint, dict(zip(now.nodes, processes, strict=True)))
        return defects + list(_of_processes(now, layout))
    finally:
        await servers.close()


def _target(shard: Shard, now: Records) -> ServerTarget:
    address = now.nodes[shard.node_uid].address
    return ServerTarget(shard.uid, shard.incarnation, address, shard.port, now.secrets[shard.database_uid])


def _of_records(now: Records) -> Iterator[str]:
    if now.leader is None:
        yield "no daemon leads"
    yield from (f"node {uid} has no daemon" for uid in now.nodes if uid not in now.daemons)
    yield from (f"action {a.name} of node {a.node_uid} is {a.status}: {a.reasons}" for a in now.live_actions())
    yield from (f"move {m.uid} is {m.state}: {m.reasons}" for m in now.moves if not m.state.is_terminal)
    settled = (DatabaseStatus.ACTIVE, DatabaseStatus.CREATION_FAILED)
    yield from (f"database {d.name} is {d.status}" for d in now.databases.values() if d.status not in settled)
    unwanted = (s for s in now.shards.values() if s.wanted is not ShardWanted.RUNNING)
    yield from (f"shard {s.uid} on node {s.node_uid} is wanted {s.wanted}" for s in unwanted)


def _of_group(now: Records, group: SlotGroup, seen: dict[ShardUid, ServerSeen]) -> Iterator[str]:
    primary = None if group.primary is None else now.shards.get(group.primary)
    database = now.databases.get(group.database_uid)
    if group.phase is not GroupPhase.SERVING or group.handoff is not None or primary is None:
        yield f"group {group.uid}: {group.phase}, handoff {group.handoff}"
        return
    copies = now.copies(group)
    if database is not None and len(copies) != database.copies:
        yield f"group {group.uid} has {len(copies)} copies of {database.copies}"
    if len({s.node_uid for s in copies}) < len(copies):
        yield f"group {group.uid} has two copies on one node"
    address = now.nodes[primary.node_uid].address if primary.node_uid in now.nodes else ""
    for shard in copies:
        wrong = _of_server(shard, seen.get(shard.uid), is_primary=shard is primary, source=(address, primary.port))
        if wrong:
            yield f"shard {shard.uid} on node {shard.node_uid} {wrong}"


def _of_server(shard: Shard, seen: ServerSeen | None, *, is_primary: bool, source: tuple[str, int]) -> str:
    if seen is None or seen.health is not Health.OK:
        return f"is {seen and seen.health}"
    if seen.is_fenced:
        return "is fenced"
    if is_primary:
        return "" if seen.role is Role.PRIMARY else "is a replica and should be primary"
    follows = (seen.primary_address, seen.primary_port)
    is_following = seen.role is Role.REPLICA and follows == source and seen.is_link_up and not seen.is_syncing
    return "" if is_following else f"is {seen.role} of {follows}, link up {seen.is_link_up}, and should follow {source}"


def _of_endpoint(now: Records, endpoint: Endpoint, processes: dict[NodeUid, EndpointProcessSeen]) -> Iterator[str]:
    group = next((g for g in now.groups if g.database_uid == endpoint.database_uid), None)
    seen = {n: p.endpoint(endpoint.uid) for n, p in processes.items()}
    serving = [n for n, e in seen.items() if e.state is EndpointState.LISTENING]
    if serving != list(endpoint.nodes):
        yield f"endpoint {endpoint.uid} is served by {serving} and should be by {endpoint.nodes}"
    for node in serving:
        if group is None or seen[node].held_generation is not None or seen[node].generation != group.generation:
            yield f"endpoint {endpoint.uid} on node {node}: {seen[node]}, of group {group}"


def _of_processes(now: Records, layout: Layout) -> Iterator[str]:
    """Servers that are no longer wanted."""
    place = str(layout.nodes)
    for process in find_processes(lambda p: p.directory.startswith(place) and "/shards/" in p.directory):
        uid = ShardUid(int(Path(process.directory).name))
        known = now.identities.get(uid)
        is_child = known is not None and parent_of(process) == known.pid  # A server forks to save its data.
        if known != process and not is_child and is_running(process):
            yield f"process {process.pid} in {process.directory} is not the recorded one"


def endpoint_identity(layout: Layout, node: NodeUid) -> ProcessIdentity | None:
    """The endpoint process of a node; None if there is none."""
    return read_identity(layout.endpoint(node))
