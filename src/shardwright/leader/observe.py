"""What the leader sees of servers, endpoint processes and processes that no agent reports of, beside the records.

Owns one polling task for each shard and each node; wakes the leader when something that decisions depend on has changed.
Must not decide and must not write. Lives as long as one leadership.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any

from shardwright.clock import Clock
from shardwright.errors import Transient
from shardwright.leader.targets import server_target
from shardwright.model.action import MoveKind
from shardwright.model.database import Shard, ShardWanted
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import (
    EndpointProcessSeen,
    EndpointSeen,
    EndpointState,
    Health,
    ProcessIdentity,
    ProcessState,
    ServerSeen,
    Sighting,
)
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import Nodes
from shardwright.server.protocol import Servers
from shardwright.tasks import Wake, spawn

IDLE_S = 1.0
HOT_S = 0.05
"""While a move, a start or a change of the database waits for what is seen."""

Sighted = tuple[ProcessIdentity, Sighting]
"""A process that was looked for, and what its machine says of it."""


class Observer:
    """See the module's text. ``wake`` is called when a decision may come out differently; ``idle_s`` and ``hot_s`` are the
    pauses between two questions to the same server."""

    def __init__(
        self,
        servers: Servers,
        nodes: Nodes,
        *,
        clock: Clock,
        wake: Callable[[], None],
        idle_s: float = IDLE_S,
        hot_s: float = HOT_S,
    ) -> None:
        self._idle_s = idle_s
        self._hot_s = hot_s
        self._servers = servers
        self._nodes = nodes
        self._clock = clock
        self._wake = wake
        self._view = ClusterView()
        self._seen: dict[ShardUid, ServerSeen] = {}
        self._processes: dict[NodeUid, EndpointProcessSeen] = {}
        self._sightings: dict[ShardUid, Sighted] = {}
        """Of servers that did not answer when they were last asked: what their machine says of that process."""
        self._cpu: dict[ShardUid, float] = {}
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._pokes: dict[object, Wake] = {}
        self._hot: frozenset[ShardUid] = frozenset()
        self._hot_nodes: frozenset[NodeUid] = frozenset()
        self._augmented: tuple[ClusterView, ClusterView] | None = None
        """The last answer of ``augment`` with what it was made from."""

    def follow(self, view: ClusterView, *, hot: frozenset[ShardUid]) -> None:
        """Poll what these records name, the ``hot`` shards and the endpoint processes of their databases often."""
        self._view = view
        became_hot = hot - self._hot
        hot_nodes = _nodes_of_endpoints(view, hot)
        for node_uid in hot_nodes - self._hot_nodes:
            self.poke_node(node_uid)
        self._hot, self._hot_nodes = hot, hot_nodes
        wanted: set[object] = set()
        for shard in view.shards.values():
            # Where no daemon is, nobody else says that what was to end has ended.
            if shard.wanted is ShardWanted.RUNNING or shard.node_uid not in view.daemons:
                wanted.add(("shard", shard.uid))
                self._ensure(("shard", shard.uid), partial(self._poll_shard, shard.uid))
        for uid in view.nodes:
            wanted.add(("node", uid))
            self._ensure(("node", uid), partial(self._poll_node, uid))
        for key in self._tasks.keys() - wanted:
            self._tasks.pop(key).cancel()
            self._pokes.pop(key, None)
        for shard_uid in became_hot:
            self.poke(shard_uid)

    def poke(self, shard_uid: ShardUid) -> None:
        """Ask this server at once: something was just done to it."""
        if (event := self._pokes.get(("shard", shard_uid))) is not None:
            event.set()

    def poke_node(self, node_uid: NodeUid) -> None:
        """Ask this node's endpoint process at once."""
        if (event := self._pokes.get(("node", node_uid))) is not None:
            event.set()

    def augment(self, view: ClusterView) -> ClusterView:
        """The view with what is seen now. The same object while neither has changed."""
        if self._augmented is not None and self._augmented[0] is view:
            return self._augmented[1]
        servers = {uid: seen for uid, seen in self._seen.items() if _is_of(seen, view)}
        sightings = {
            uid: sighting
            for uid, (identity, sighting) in self._sightings.items()
            if (process := view.processes.get(uid)) is not None and process.identity == identity
        }
        found = view.changed(servers=servers, sightings=sightings, endpoint_processes=dict(self._processes))
        self._augmented = (view, found)
        return found

    async def close(self) -> None:
        """End all polling."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ensure(self, key: object, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._tasks.get(key)
        if task is None or task.done():
            self._pokes[key] = Wake()
            self._tasks[key] = spawn(f"observe {key}", work())

    async def _rest(self, key: object, seconds: float) -> None:
        poke = self._pokes[key]
        await poke.wait(seconds)
        poke.clear()

    async def _poll_shard(self, uid: ShardUid) -> None:
        key = ("shard", uid)
        while (shard := self._view.shards.get(uid)) is not None:
            if is_worth_asking(self._view, shard):
                await self.ask(shard)
            await self._rest(key, self._hot_s if uid in self._hot else self._idle_s)

    async def ask(self, shard: Shard) -> None:
        """Ask a shard's server now, and when it does not answer, its machine for its process."""
        try:
            target = server_target(self._view, shard)
        except Transient:
            return
        seen = await self._servers.observe(target)
        sighted: Sighted | None = None
        if not answers(seen):
            seen, sighted = await self._look(seen)
        before, known = self._seen.get(shard.uid), self._sightings.pop(shard.uid, None)
        if sighted is not None:
            self._sightings[shard.uid] = sighted
        self._seen[shard.uid] = seen
        self._augmented = None
        if before is None or _matters(before) != _matters(seen) or known != sighted:
            self._wake()
        if before is not None and answers(before) and not answers(seen):
            # Its whole node may be gone: what else runs there is asked now, so that all of it is decided together.
            for other in self._view.shards_on(shard.node_uid):
                if other.uid != shard.uid:
                    self.poke(other.uid)

    async def _look(self, seen: ServerSeen) -> "tuple[ServerSeen, Sighted | None]":
        """What the machine of a server says that does not answer: an agent that died reports no end, and a busy server uses
        CPU, a stuck one none. It is said of the process that was looked for: another may be on record by then."""
        uid = seen.shard_uid
        shard, process = self._view.shards.get(uid), self._view.processes.get(uid)
        if shard is None or process is None or process.identity is None or process.state is not ProcessState.RUNNING:
            return seen, None
        identity = process.identity
        look = await self._nodes.link(shard.node_uid).look(identity)
        sighted = None if look.sighting is Sighting.NONE else (identity, look.sighting)
        before = self._seen.get(uid)
        if look.cpu_s is None or seen.health is not Health.TIMEOUT:
            return seen, sighted
        was_silent = before is not None and before.health is Health.TIMEOUT and before.incarnation == seen.incarnation
        last, self._cpu[uid] = self._cpu.get(uid) if was_silent else None, look.cpu_s
        active_at = before.cpu_active_at if before is not None and was_silent else None
        return replace(seen, cpu_active_at=seen.at if last is not None and look.cpu_s > last else active_at), sighted

    async def _poll_node(self, uid: NodeUid) -> None:
        key = ("node", uid)
        while True:
            seen = await self._nodes.link(uid).endpoint_process.status()
            before = self._processes.get(uid)
            self._processes[uid] = seen
            self._augmented = None
            if before is None or _endpoints_that_matter(before) != _endpoints_that_matter(seen):
                self._wake()
            await self._rest(key, self._hot_s if uid in self._hot_nodes else self._idle_s)


def answers(seen: ServerSeen) -> bool:
    """Whether there is no need to look for its process."""
    return seen.health in (Health.OK, Health.LOADING)


def _is_of(seen: ServerSeen, view: ClusterView) -> bool:
    shard = view.shards.get(seen.shard_uid)
    return shard is not None and shard.incarnation == seen.incarnation


def _nodes_of_endpoints(view: ClusterView, hot: frozenset[ShardUid]) -> frozenset[NodeUid]:
    """Nodes that serve the databases of these shards, or are about to, or did so a moment ago."""
    if not hot and not view.live_moves():
        return frozenset()
    databases = {view.shards[uid].database_uid for uid in hot if uid in view.shards}
    found = {node for uid in databases for endpoint in view.endpoints_of(uid) for node in endpoint.nodes}
    for move in view.live_moves():
        if move.kind is MoveKind.REBIND:
            found.update(node for node in (move.from_node, move.to_node) if node is not None)
    return frozenset(found)


def is_worth_asking(view: ClusterView, shard: Shard) -> bool:
    """Whether the shard's server may answer, or its silence says something."""
    return view.process_state(shard.uid) is ProcessState.RUNNING or is_unreported(view, shard)


def is_unreported(view: ClusterView, shard: Shard) -> bool:
    """Whether nobody will say what became of the shard's current incarnation: its node's daemon is gone and has not reported
    it. That nothing listens on its port is then all that can be known; a removal of the node waits for it."""
    return shard.node_uid not in view.daemons and view.process_state(shard.uid) is ProcessState.UNKNOWN


def _matters(seen: ServerSeen) -> object:
    """What decisions depend on; figures that change all the time are left out."""
    return (
        seen.incarnation,
        seen.health,
        seen.run_id,
        seen.role,
        seen.replication_id,
        seen.primary_address,
        seen.primary_port,
        seen.is_link_up,
        seen.is_syncing,
        seen.is_fenced,
        seen.keys > 0,
        seen.is_aof_on,
        seen.is_persistence_busy,
        seen.is_persistence_ok,
        seen.saves_since_start > 0,
        seen.troubles,
    )


def _endpoints_that_matter(seen: EndpointProcessSeen) -> object:
    return (
        seen.answers,
        seen.has_ended,
        seen.pid,
        tuple(
            (e.endpoint_uid, e.state, e.generation, e.held_generation, e.access, e.connections == 0, _bind_error(e))
            for e in seen.endpoints
        ),
    )


def _bind_error(seen: EndpointSeen) -> str:
    """Another process may hold the port by now. What an endpoint that listens says is for people only."""
    return seen.text if seen.state is EndpointState.BIND_FAILED else ""
