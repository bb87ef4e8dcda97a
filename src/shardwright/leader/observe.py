"""What the leader sees of servers, endpoint processes and (on its own machine) processes, beside the records.

Owns one polling task for each shard and each node; wakes the leader when something that decisions depend on has changed.
Must not decide and must not write. Lives as long as one leadership.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from shardwright.clock import Clock
from shardwright.endpoint.protocol import Endpoints
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
    ProcessSeen,
    ProcessState,
    ServerSeen,
    Sighting,
)
from shardwright.model.view import ClusterView
from shardwright.server.protocol import Servers
from shardwright.tasks import Wake, spawn

IDLE_S = 1.0
HOT_S = 0.05
"""While a move, a start or a change of the database waits for what is seen."""


class Machine(Protocol):
    """What can be known of processes of this machine without their agent."""

    def is_local(self, identity: ProcessIdentity) -> bool:
        """Whether the process belongs to this machine, in this or an earlier boot."""
        ...

    def is_running(self, identity: ProcessIdentity) -> bool:
        """Whether exactly this process runs; certain for a local one."""
        ...

    def cpu_seconds(self, identity: ProcessIdentity) -> float | None:
        """CPU time used so far; None when it does not run."""
        ...


class Observer:
    """See the module's text. ``wake`` is called when a decision may come out differently; ``idle_s`` and ``hot_s`` are the
    pauses between two questions to the same server."""

    def __init__(
        self,
        servers: Servers,
        endpoints: Endpoints,
        *,
        machine: Machine,
        clock: Clock,
        wake: Callable[[], None],
        idle_s: float = IDLE_S,
        hot_s: float = HOT_S,
    ) -> None:
        self._idle_s = idle_s
        self._hot_s = hot_s
        self._servers = servers
        self._endpoints = endpoints
        self._machine = machine
        self._clock = clock
        self._wake = wake
        self._view = ClusterView()
        self._seen: dict[ShardUid, ServerSeen] = {}
        self._processes: dict[NodeUid, EndpointProcessSeen] = {}
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
        """The view with what is seen now. The same object while neither has changed and nothing is to be asked anew."""
        if self._augmented is not None and self._augmented[0] is view:
            return self._augmented[1]
        servers = {
            uid: seen
            for uid, seen in self._seen.items()
            if uid in view.shards and view.shards[uid].incarnation == seen.incarnation
        }
        sightings = {
            uid: sighting
            for uid, seen in view.processes.items()
            if (sighting := self._look(seen, servers.get(uid))) is not Sighting.NONE
        }
        found = view.changed(servers=servers, sightings=sightings, endpoint_processes=dict(self._processes))
        # A process that this machine was asked about may end at any moment: such a view is good for one look.
        is_certain = all(
            seen.state is not ProcessState.RUNNING or self._answers(servers.get(uid)) for uid, seen in view.processes.items()
        )
        self._augmented = (view, found) if is_certain else None
        return found

    async def close(self) -> None:
        """End all polling."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look(self, reported: ProcessSeen, seen: ServerSeen | None) -> Sighting:
        """An agent that died reports no end: for a server that does not answer, look at this machine's processes."""
        identity = reported.identity
        if reported.state is not ProcessState.RUNNING or identity is None or self._answers(seen):
            return Sighting.NONE
        if not self._machine.is_local(identity):
            return Sighting.NONE
        return Sighting.RUNS if self._machine.is_running(identity) else Sighting.ENDED

    @staticmethod
    def _answers(seen: ServerSeen | None) -> bool:
        return seen is not None and seen.health in (Health.OK, Health.LOADING)

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
                await self._ask_server(shard)
            await self._rest(key, self._hot_s if uid in self._hot else self._idle_s)

    async def _ask_server(self, shard: Shard) -> None:
        try:
            target = server_target(self._view, shard)
        except Transient:
            return
        seen = await self._servers.observe(target)
        if seen.health is Health.TIMEOUT:
            seen = self._with_cpu(seen)
        else:
            self._cpu.pop(shard.uid, None)
        before = self._seen.get(shard.uid)
        self._seen[shard.uid] = seen
        self._augmented = None
        if before is None or _matters(before) != _matters(seen):
            self._wake()

    def _with_cpu(self, seen: ServerSeen) -> ServerSeen:
        """Tell a busy server from a stuck one."""
        process = self._view.processes.get(seen.shard_uid)
        used = None if process is None or process.identity is None else self._machine.cpu_seconds(process.identity)
        if used is None:
            return seen
        last = self._cpu.get(seen.shard_uid)
        self._cpu[seen.shard_uid] = used
        before = self._seen.get(seen.shard_uid)
        active_at = before.cpu_active_at if before is not None and before.health is Health.TIMEOUT else None
        return replace(seen, cpu_active_at=seen.at if last is not None and used > last else active_at)

    async def _poll_node(self, uid: NodeUid) -> None:
        key = ("node", uid)
        while True:
            seen = await self._endpoints.status(uid)
            before = self._processes.get(uid)
            self._processes[uid] = seen
            self._augmented = None
            if before is None or _endpoints_that_matter(before) != _endpoints_that_matter(seen):
                self._wake()
            await self._rest(key, self._hot_s if uid in self._hot_nodes else self._idle_s)


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
