"""What the leader sees of servers, endpoint processes and processes that no agent reports of, beside the records.

Owns what is asked and how often. Steady servers are asked by the agents of their nodes, which report what is new; the leader
asks those itself that a decision waits for, that do not answer, or whose agent is silent. ``attendance.py`` hears agents.
Wakes the leader when something that decisions depend on has changed. Must not decide and must not write. Lives as long as
one leadership.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from shardwright.clock import Clock
from shardwright.errors import Transient
from shardwright.leader.attendance import Attendance
from shardwright.leader.presence import Presence
from shardwright.model.database import Shard, ShardWanted
from shardwright.model.ids import EndpointUid, NodeUid, ShardUid
from shardwright.model.move import Rebind
from shardwright.model.seen import (
    EndpointProcessSeen,
    EndpointSeen,
    EndpointState,
    Health,
    ProcessIdentity,
    ProcessState,
    ServerSeen,
    Sighting,
    answers,
    decisive,
)
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import Nodes
from shardwright.server.protocol import Servers
from shardwright.server.targets import server_target
from shardwright.tasks import Polls

IDLE_S = 1.0
HOT_S = 0.05
"""While a move, a start or a change of the database waits for what is seen."""

Sighted = tuple[ProcessIdentity | None, Sighting]
"""A process that was looked for, and what its machine says of it. None: no process is on record."""


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
        known: Presence | None = None,
    ) -> None:
        self._idle_s = idle_s
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
        self._hot: frozenset[ShardUid] = frozenset()
        self._hot_nodes: frozenset[NodeUid] = frozenset()
        self._asked: Polls[ShardUid] = Polls("ask server", self._ask, lambda uid: hot_s if uid in self._hot else idle_s)
        self._endpoints: Polls[NodeUid] = Polls(
            "ask endpoint process of node",
            self._ask_endpoint_process,
            lambda uid: hot_s if uid in self._hot_nodes else idle_s,
        )
        self.attendance = Attendance(
            nodes, clock=clock, changed=self._changed, take=self._take, ask=self.poke, idle_s=idle_s, known=known
        )
        self._augmented: tuple[ClusterView, ClusterView] | None = None
        """The last answer of ``augment`` with what it was made from."""

    def follow(self, view: ClusterView, *, hot: frozenset[ShardUid]) -> None:
        """Watch what these records name: hear the agents, ask every endpoint process, and ask those servers that a decision
        waits for or that no agent reports. The ``hot`` ones and their databases' endpoint processes are asked often."""
        self._view = view
        became_hot = hot - self._hot
        hot_nodes = _nodes_of_endpoints(view, hot)
        became_hot_nodes = hot_nodes - self._hot_nodes
        self._hot, self._hot_nodes = hot, hot_nodes
        self.attendance.follow(view)
        self._endpoints.follow(view.nodes)
        self._asked.follow([s.uid for s in view.shards.values() if self._is_to_be_asked(s)])
        for uid in became_hot:
            self._asked.poke(uid)
        for node_uid in became_hot_nodes:
            self._endpoints.poke(node_uid)

    def poke(self, shard_uid: ShardUid) -> None:
        """Ask this server at once: something was just done to it."""
        self._asked.add(shard_uid)
        self._asked.poke(shard_uid)

    def poke_node(self, node_uid: NodeUid) -> None:
        """Ask this node's endpoint process at once."""
        self._endpoints.poke(node_uid)

    def augment(self, view: ClusterView) -> ClusterView:
        """The view with what is seen now. The same object while neither has changed."""
        if self._augmented is not None and self._augmented[0] is view:
            return self._augmented[1]
        servers = {uid: seen for uid, seen in self._seen.items() if _is_of(seen, view)}
        sightings = {
            uid: sighting for uid, (identity, sighting) in self._sightings.items() if _identity_of(uid, view) == identity
        }
        found = view.changed(
            servers=servers,
            sightings=sightings,
            endpoint_processes=dict(self._processes),
            figures=self.attendance.figures_of(view),
            processes=self.attendance.processes_of(view),
            away=self.attendance.away,
            returning=self.attendance.returning,
        )
        found = _with_machines_off(found)
        self._augmented = (view, found)
        return found

    async def close(self) -> None:
        """End all questions."""
        await asyncio.gather(self._asked.close(), self._endpoints.close(), self.attendance.close())

    def _changed(self, matters: bool) -> None:
        """What the agents say, or which nodes are away, has changed. ``matters``: a decision may come out differently."""
        self._augmented = None
        if matters:
            self._wake()

    # -- servers -------------------------------------------------------------------------------------------------------

    def _is_to_be_asked(self, shard: Shard) -> bool:
        """Whether the leader asks it itself. Where no daemon is, no agent says that what was to end has ended."""
        if shard.wanted is not ShardWanted.RUNNING and self._view.has_agent(shard.node_uid):
            return False
        seen = self._seen.get(shard.uid)
        is_known = seen is not None and seen.incarnation == shard.incarnation and answers(seen)
        return not is_known or shard.uid in self._hot or not self.attendance.is_heard(shard.node_uid)

    async def _ask(self, uid: ShardUid) -> None:
        shard = self._view.shards.get(uid)
        if shard is not None and is_worth_asking(self._view, shard):
            await self.ask(shard)

    async def ask(self, shard: Shard) -> None:
        """Ask a shard's server now, and when it does not answer, its machine for its process."""
        try:
            target = server_target(self._view, shard)
        except Transient:
            return
        seen = await self._servers.observe(target)
        before, sighted = self._seen.get(shard.uid), None
        if not answers(seen):
            seen, sighted = await self._look(seen)
        self._note(shard, seen, sighted)
        if before is not None and answers(before) and not answers(seen):
            # Its whole node may be gone: what else runs there is asked now, so that all of it is decided together.
            for other in self._view.shards_on(shard.node_uid):
                if other.uid != shard.uid:
                    self.poke(other.uid)

    def _note(self, shard: Shard, seen: ServerSeen, sighted: Sighted | None) -> None:
        before, known = self._seen.get(shard.uid), self._sightings.pop(shard.uid, None)
        if sighted is not None:
            self._sightings[shard.uid] = sighted
        self._seen[shard.uid] = seen
        self._augmented = None
        if before is None or decisive(before) != decisive(seen) or known != sighted:
            self._wake()

    async def _look(self, seen: ServerSeen) -> tuple[ServerSeen, Sighted | None]:
        """What the machine of a server says that does not answer: an agent that died reports no end, and a busy server uses
        CPU, a stuck one none. It is said of the process that was looked for: another may be on record by then."""
        uid = seen.shard_uid
        before = self._seen.get(uid)
        if before is not None and before.incarnation == seen.incarnation and not seen.replication_id_lately:
            # Known from its agent: this leader has not asked it before.
            seen = replace(seen, replication_id_lately=before.replication_id or before.replication_id_lately)
        if before is not None and before.incarnation == seen.incarnation:
            if answers(before):
                seen = replace(seen, answered_at=before.at)
            else:
                seen = replace(seen, answered_at=before.answered_at, machine_heard_since=before.machine_heard_since)
        shard, process = self._view.shards.get(uid), self._view.processes.get(uid)
        if shard is None:
            return seen, None
        if process is None or process.identity is None or process.state is not ProcessState.RUNNING:
            # Only of a node that is away: a refusal from before that may be older than the start.
            is_lost = is_unreported(self._view, shard) and shard.node_uid in self.attendance.away
            return seen, (None, Sighting.HERE) if is_lost and self.attendance.is_here(shard.node_uid) else None
        identity = process.identity
        if self.attendance.has_rebooted(uid, identity):
            return seen, (identity, Sighting.REBOOTED)
        look = await self._nodes.link(shard.node_uid).look(identity)
        if look.sighting is Sighting.NONE:
            return replace(seen, machine_heard_since=None), None
        sighted = (identity, look.sighting)
        seen = replace(seen, machine_heard_since=seen.machine_heard_since or seen.at)
        if look.cpu_s is None or seen.health is not Health.TIMEOUT:
            return seen, sighted
        last, self._cpu[uid] = self._cpu.get(uid), look.cpu_s
        if before is None or before.health is not Health.TIMEOUT or before.incarnation != seen.incarnation:
            return seen, sighted
        is_active = last is not None and look.cpu_s > last
        return replace(seen, cpu_active_at=seen.at if is_active else before.cpu_active_at), sighted

    # -- agents --------------------------------------------------------------------------------------------------------

    def _take(self, node_uid: NodeUid, seen: ServerSeen) -> None:
        """What an agent says of a server, unless this leader knows better. Silence is for the leader itself to look into."""
        shard, known = self._view.shards.get(seen.shard_uid), self._seen.get(seen.shard_uid)
        if shard is None or shard.node_uid != node_uid or shard.incarnation != seen.incarnation:
            return
        if not answers(seen):
            self.poke(shard.uid)
        elif (
            known is None
            or known.incarnation != seen.incarnation
            or (known.at < seen.at and not self._is_to_be_asked(shard))
        ):
            self._note(shard, seen, None)

    # -- endpoint processes --------------------------------------------------------------------------------------------

    def _suspects(self, node_uid: NodeUid) -> tuple[EndpointUid, ...]:
        """The endpoints of a node whose primary is silent, and may be cut off: its process asks their servers too."""
        view = self._view
        silent = {
            group.database_uid
            for group in view.groups.values()
            if group.primary in self._seen
            and self._seen[group.primary].unanswered_since is not None
            and self._seen[group.primary].machine_heard_since is None
        }
        return tuple(e.uid for uid in sorted(silent) for e in view.endpoints_of(uid) if node_uid in e.nodes)

    async def _ask_endpoint_process(self, uid: NodeUid) -> None:
        seen = await self._nodes.link(uid).endpoint_process.status(self._suspects(uid))
        before = self._processes.get(uid)
        if not seen.answers:
            known = None if before is None else before.silent_since
            seen = replace(seen, silent_since=known or seen.at)
        if before is not None and before.answers and not seen.answers:
            # The first sign that its whole node may be gone: an agent counts as silent only after seconds.
            for shard in self._view.shards_on(uid):
                self.poke(shard.uid)
        self._processes[uid] = seen
        self._augmented = None
        if before is None or _endpoints_that_matter(before) != _endpoints_that_matter(seen):
            self._wake()


def _identity_of(uid: ShardUid, view: ClusterView) -> ProcessIdentity | None:
    process = view.processes.get(uid)
    return None if process is None else process.identity


def _with_machines_off(view: ClusterView) -> ClusterView:
    """The view with what the word that a machine is off says of its processes. An answer, and a look at the machine, prevail
    over the word."""
    off = [uid for uid, node in view.nodes.items() if node.declared_off is not None and view.is_off(uid)]
    if not off:
        return view
    sightings = {shard.uid: Sighting.OFF for uid in off for shard in view.shards_on(uid)}
    seen = {uid: process for uid in off if (process := view.endpoint_processes.get(uid)) and not process.answers}
    ended = {uid: replace(process, has_ended=True) for uid, process in seen.items()}
    return view.changed(sightings=sightings | view.sightings, endpoint_processes={**view.endpoint_processes, **ended})


def _is_of(seen: ServerSeen, view: ClusterView) -> bool:
    shard = view.shards.get(seen.shard_uid)
    return shard is not None and shard.incarnation == seen.incarnation


def _nodes_of_endpoints(view: ClusterView, hot: frozenset[ShardUid]) -> frozenset[NodeUid]:
    """Nodes that serve the databases of these shards, or are about to, or did so a moment ago; and those that close the
    clients of a virtual address."""
    leaving = frozenset(a.holder for a in view.virtual_addresses.values() if a.holder and a.leaving_since is not None)
    if not hot and not view.live_moves():
        return leaving
    databases = {view.shards[uid].database_uid for uid in hot if uid in view.shards}
    found = {node for uid in databases for endpoint in view.endpoints_of(uid) for node in endpoint.nodes}
    for move in view.live_moves():
        if isinstance(move, Rebind):
            found.update((move.from_node, move.to_node))
    return frozenset(found) | leaving


def is_worth_asking(view: ClusterView, shard: Shard) -> bool:
    """Whether the shard's server may answer, or its silence says something."""
    return view.process_state(shard.uid) is ProcessState.RUNNING or is_unreported(view, shard)


def is_unreported(view: ClusterView, shard: Shard) -> bool:
    """Whether only its server can tell what became of the shard's current incarnation: its node's daemon is gone and has not
    reported a start. It may have ended between a start and its report. A removal of the node waits for the answer."""
    is_start_unreported = view.process_state(shard.uid) in (ProcessState.UNKNOWN, ProcessState.ABSENT)
    return not view.has_agent(shard.node_uid) and is_start_unreported


def _endpoints_that_matter(seen: EndpointProcessSeen) -> object:
    return (
        seen.answers,
        seen.has_ended,
        seen.pid,
        tuple(
            (
                e.endpoint_uid,
                e.state,
                e.generation,
                e.held_generation,
                e.access,
                e.address,
                e.connections == 0,
                _bind_error(e),
                tuple((v.address, v.state) for v in e.virtual),
            )
            for e in seen.endpoints
        ),
        seen.instance,
        tuple((uid, one.version, one.is_waived, one.unconfirmed_s is None) for uid, one in seen.leases.items()),
    )


def _bind_error(seen: EndpointSeen) -> str:
    """Another process may hold the port by now. What an endpoint that listens says is for people only."""
    return seen.text if seen.state is EndpointState.BIND_FAILED else ""
