"""Servers and endpoint processes in memory, behind the protocols through which a leader reaches them.

They do what they are told and keep the order of it in ``World.steps``: ``1:fence`` is a command to the server of shard 1,
``node 2:hold`` one to the endpoint process of node 2, ``commit: SlotGroup, Move`` the records of one transaction. What is
planned in ``fails`` is raised instead, ``fails_after`` when it was done. Nothing waits for real time.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from shardwright.endpoint.protocol import (
    EndpointProcessEnded,
    EndpointSpec,
    HoldResult,
    LeaseTerms,
    PassResult,
    ReleaseResult,
    Target,
)
from shardwright.errors import Transient
from shardwright.leader.fitting import UNUSED_PORT
from shardwright.leader.handoff import Build, Handoffs
from shardwright.leader.probe import silent
from shardwright.model.check import NodeFacts, PortLook, PortOffer
from shardwright.model.codes import Code
from shardwright.model.database import Handoff, Persistence, Role, ServerSecrets, Shard
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import HandoffMove, MoveState
from shardwright.model.seen import (
    BusyCommand,
    EndpointProcessSeen,
    EndpointSeen,
    EndpointState,
    Health,
    ProcessIdentity,
    ServerSeen,
)
from shardwright.model.view import ClusterView, Put
from shardwright.nodes.protocol import NOT_SEEN, NewsMark, NodeNews, ProcessLook
from shardwright.server.protocol import ServerSettings, ServerTarget
from shardwright.tasks import RightOfWay
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import handoff_move

GROUP, DATABASE, ENDPOINT = GroupUid("1:1"), DatabaseUid(1), EndpointUid("1:1")
OLD, NEW = ShardUid(1), ShardUid(2)
MOVE = handoff_move(state=MoveState.HANDOFF)
INTENT = Handoff(OLD, NEW, 2, 7, NOW, 1, 1)


def ready() -> ClusterBuilder:
    """Shard 1 on node 1 leads and shard 2 on node 2 follows; the endpoint is on node 1; a move wants the handoff."""
    builder = cluster(3).with_database(on=((1, 2),)).with_endpoints_seen().with_move(MOVE)
    return builder.with_records(ServerSecrets(DATABASE, "a", "b", "c", "d", "e"))


def intended() -> ClusterBuilder:
    """The same with the intent on record, as a new leader finds it."""
    return ready().with_records(replace(ready().view.groups[GROUP], handoff=INTENT))


class FakeClock:
    """Time passes only during a sleep, or when ``passed_s`` is raised."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


class FakeServer:
    """``ManagementSession`` with one server, and the server itself."""

    def __init__(self, world: "World", shard: Shard, seen: ServerSeen) -> None:
        self.world = world
        self.shard = shard
        self.seen = replace(seen, second_replication_id="", second_offset=-1)
        self.is_reachable = True
        self.is_paused = False
        self.catches_up = True
        """Whether a lagging replica receives something each time it is asked."""
        self.ignores = ""
        """A command that it answers with OK and does not execute."""

    def _do(self, name: str, **changes: Any) -> None:
        self.world.step(f"{self.shard.uid}:{name}", lambda: self._change({} if name == self.ignores else changes))

    def _change(self, changes: dict[str, Any]) -> None:
        self.seen = replace(self.seen, at=self.world.clock.now(), **changes)

    async def info(self) -> ServerSeen:
        self._do("info")
        found = self.seen
        if self.catches_up and found.role is Role.REPLICA:
            self.seen = replace(found, offset=max(found.offset, self.world.servers[OLD].seen.offset))
        return found

    async def attach(self, address: str, port: int) -> None:
        self._do("attach", role=Role.REPLICA, primary_address=address, primary_port=port, is_link_up=port != UNUSED_PORT)

    async def promote(self) -> None:
        before = self.seen
        self._do(
            "promote",
            role=Role.PRIMARY,
            replication_id=f"replication-of-{self.shard.uid}",
            second_replication_id=before.replication_id,
            second_offset=before.offset + 1,
        )

    async def pause_writes(self, seconds: float) -> None:
        self._do("pause_writes")
        self.is_paused = True

    async def end_pause(self) -> None:
        self._do("end_pause")
        self.is_paused = False

    async def fence(self) -> None:
        self._do("fence", is_fenced=True)

    async def unfence(self) -> None:
        self._do("unfence", is_fenced=False)
        self.is_paused = False

    async def end_application_connections(self) -> None:
        self._do("end_clients")

    async def apply(self, settings: ServerSettings) -> None:
        self._do(f"apply {settings.eviction_policy}")

    async def save(self, persistence: Persistence) -> None:
        self._do(f"save {persistence}")


class FakeEndpoints:
    """``EndpointControl`` and ``NodeLink`` of one node."""

    def __init__(self, world: "World", node: NodeUid) -> None:
        self.world = world
        self.node = node
        self.answers = True
        self.has_ended = False
        self.busy: tuple[BusyCommand, ...] = ()
        self.sees = NOT_SEEN
        """The answer to a look for any process."""
        self.endpoints: dict[EndpointUid, EndpointSeen] = {}
        for endpoint in world.view.endpoints_on(node):
            self.endpoints[endpoint.uid] = EndpointSeen(endpoint.uid, EndpointState.LISTENING, generation=1)

    @property
    def endpoint_process(self) -> "FakeEndpoints":
        return self

    def _do(self, name: str, uid: EndpointUid | None, change: Callable[[], None] = lambda: None) -> None:
        if self.has_ended:
            raise EndpointProcessEnded(Code.ENDPOINT_PROCESS_SILENT, "it has ended")
        if not self.answers:
            raise Transient(Code.ENDPOINT_PROCESS_SILENT, f"the endpoint process of node {self.node} does not answer")
        self.world.step(f"node {self.node}:{name}", change)

    async def status(self, suspects: Collection[EndpointUid] = ()) -> EndpointProcessSeen:
        answers = self.answers and not self.has_ended
        found = tuple(self.endpoints.values()) if answers else ()
        return EndpointProcessSeen(
            self.node, self.world.clock.now(), answers=answers, has_ended=self.has_ended, endpoints=found
        )

    async def serve(self, spec: EndpointSpec) -> None:
        self._do("serve", spec.uid)

    async def tell_lease(self, endpoint: EndpointUid, terms: LeaseTerms) -> None:
        self._do(f"lease {terms.version}", endpoint)

    async def retire(self, endpoint: EndpointUid) -> None:
        self._do("retire", endpoint, lambda: None)

    async def drop(self, endpoint: EndpointUid) -> None:
        self._do("drop", endpoint, lambda: self.endpoints.__delitem__(endpoint))

    async def check(self) -> NodeFacts:
        raise NotImplementedError

    async def try_ports(self, ports: Sequence[tuple[NodeUid, PortOffer]]) -> tuple[PortLook, ...]:
        raise NotImplementedError

    async def calm(self, endpoint: EndpointUid) -> None:
        self._do("calm", endpoint)

    async def hold(self, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        held = replace(self.endpoints[endpoint], held_generation=None if self.busy else new.generation)
        self._do("hold", endpoint, lambda: self.endpoints.__setitem__(endpoint, held))
        return HoldResult(was_held=not self.busy, is_drained=not self.busy, busy=self.busy)

    async def release(self, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        held = self.endpoints[endpoint].held_generation is not None
        now = replace(self.endpoints[endpoint], held_generation=None, generation=target.generation)
        self._do(f"release to {target.shard_uid}", endpoint, lambda: self.endpoints.__setitem__(endpoint, now))
        return ReleaseResult(3.0 if held else 0.0, 2 if held else 0, target.generation)

    async def news(self, since: NewsMark | None) -> NodeNews:
        raise Transient(Code.AGENT_SILENT, "there is no agent here")

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        self._do(f"pass to {to_node}", endpoint)
        return PassResult(1, 0)

    def is_here(self, process: ProcessIdentity) -> bool:
        return False

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        return self.sees

    async def end(self, process: ProcessIdentity) -> None:
        self._do(f"end {process.pid}", None)


class Gate:
    """Blocks the opening of sessions until it is opened."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self) -> None:
        """Report the arrival, and wait."""
        self.reached.set()
        await self.opened.wait()


def _name(record: object) -> str:
    return "Move" if isinstance(record, HandoffMove) else type(record).__name__


@dataclass
class World:
    """``Servers``, and the records that a leader commits to."""

    view: ClusterView
    steps: list[str] = field(default_factory=list)
    fails: dict[str, Exception] = field(default_factory=dict)
    fails_after: dict[str, Exception] = field(default_factory=dict)
    on_step: dict[str, Callable[[], None]] = field(default_factory=dict)
    gates: dict[ShardUid, Gate] = field(default_factory=dict)
    clock: Any = field(default_factory=FakeClock)
    servers: dict[ShardUid, FakeServer] = field(default_factory=dict)
    nodes: dict[NodeUid, FakeEndpoints] = field(default_factory=dict)
    right_of_way: RightOfWay = field(default_factory=RightOfWay)

    def __post_init__(self) -> None:
        self.servers = {uid: FakeServer(self, self.view.shards[uid], seen) for uid, seen in self.view.servers.items()}
        self.nodes = {uid: FakeEndpoints(self, uid) for uid in self.view.nodes}

    @property
    def move(self) -> HandoffMove:
        """The move that wants the handoff."""
        move = self.view.moves[MOVE.uid]
        assert isinstance(move, HandoffMove)
        return move

    def step(self, name: str, change: Callable[[], None] = lambda: None) -> None:
        """Do it and note it, or fail as planned."""
        if name in self.on_step:
            self.on_step.pop(name)()
        if name in self.fails:
            self.steps.append(f"{name} failed")
            raise self.fails[name]
        self.steps.append(name)
        change()
        if name in self.fails_after:
            raise self.fails_after[name]

    def current(self) -> ClusterView:
        return self.view

    async def commit(self, build: Build) -> None:
        writes = build(self.view)
        if writes:
            names = ", ".join(_name(w.record) for w in writes if isinstance(w, Put))
            self.step(f"commit: {names}", lambda: self._apply(writes))

    def _apply(self, writes: Sequence[Any]) -> None:
        self.view = self.view.with_writes(writes)

    async def observe(self, target: ServerTarget) -> ServerSeen:
        server = self.servers[target.shard_uid]
        health = server.seen.health if server.is_reachable else Health.TIMEOUT
        return replace(server.seen, at=self.clock.now(), health=health)

    async def manage(self, target: ServerTarget) -> FakeServer:
        if (gate := self.gates.get(target.shard_uid)) is not None:
            await gate.pass_through()
        server = self.servers[target.shard_uid]
        if not server.is_reachable:
            raise Transient(Code.SERVER_UNREACHABLE, f"shard {target.shard_uid} cannot be reached")
        self.step(f"{target.shard_uid}:session")
        return server

    async def close(self) -> None: ...

    def handoffs(self) -> Handoffs:
        """The product's handoffs in this world, in term 7."""
        return Handoffs(
            self,
            FakeNodes(self),
            commit=self.commit,
            current=self.current,
            term=7,
            clock=self.clock,
            probe=silent,
            right_of_way=self.right_of_way,
        )

    def commands(self) -> list[str]:
        """The steps without sessions and queries."""
        return [s for s in self.steps if not s.endswith((":session", ":info"))]


class FakeNodes:
    """``Nodes`` of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def link(self, node: NodeUid) -> FakeEndpoints:
        return self._world.nodes[node]

    def close(self) -> None: ...


def hand_off(made: World) -> list[str]:
    """One attempt; what was commanded."""
    asyncio.run(made.handoffs().hand_off(GROUP, OLD, NEW))
    return made.commands()


def reasons(made: World) -> list[str]:
    """The codes of the reasons of the group's move."""
    return [r.code for r in made.move.reasons]
