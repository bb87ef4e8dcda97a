"""The ``Nodes`` of a simulated leader, and the machines of its nodes.

A machine has its own process table, id and boot. A leader can examine only its own machine.
"""

from collections.abc import Sequence

from shardwright.clock import Clock
from shardwright.endpoint.protocol import PassResult
from shardwright.errors import Transient
from shardwright.model.check import NodeFacts, PortLook, PortOffer
from shardwright.model.codes import Code
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import ProcessIdentity, Sighting
from shardwright.nodes.protocol import NOT_SEEN, NewsMark, NodeLink, NodeNews, ProcessLook
from sim.endpoints import SimEndpointControl
from sim.loop import SimProcess
from sim.machines import SimMachine
from sim.network import AGENT, Answer, NoReply, Refused
from sim.world import World

NEWS_PATIENCE_S = 2.0
"""Additional time that a leader waits for news, beyond the agent's own delay."""


class SimNodeLink:
    """``NodeLink``."""

    def __init__(self, nodes: "SimNodes", node: NodeUid) -> None:
        self.nodes = nodes
        self.node = node
        self.endpoint_process = SimEndpointControl(
            nodes.world, node, process=nodes.process, place=nodes.place, clock=nodes.clock
        )

    async def news(self, since: NewsMark | None) -> NodeNews:
        nodes, node = self.nodes, self.node
        world = nodes.world

        def receiver() -> SimProcess | None:
            daemon = world.nodes[node].daemon if node in world.nodes else None
            return None if daemon is None else daemon.process

        def execute(answer: Answer) -> None:
            daemon = world.nodes[node].daemon
            assert daemon is not None

            async def work() -> None:
                answer(await daemon.watch.news(since))

            world.loop.start(daemon.process, work(), "news")

        try:
            news: NodeNews = await world.network.call(
                nodes.place, node, receiver, execute, timeout_s=world.pace.idle_poll_s + NEWS_PATIENCE_S, kind=AGENT
            )
        except (NoReply, Refused) as e:
            raise Transient(Code.AGENT_SILENT, f"the agent of node {node} sends no news") from e
        return news

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        return await self.endpoint_process.pass_endpoint(endpoint, to_node)

    def is_here(self, process: ProcessIdentity) -> bool:
        return self.nodes.machine.is_home_of(process)

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        machine = self.nodes.machine
        if not machine.is_home_of(process):
            return NOT_SEEN
        if process.boot_id != machine.boot_id:
            return ProcessLook(Sighting.REBOOTED)
        if not machine.has_here(process):
            return ProcessLook(Sighting.ENDED)
        return ProcessLook(Sighting.RUNS, 1.0 if machine.is_frozen(process) else self.nodes.world.loop.now)

    async def end(self, process: ProcessIdentity) -> None:
        nodes = self.nodes
        if not nodes.machine.is_home_of(process):
            raise Transient(Code.PROCESS_OF_ANOTHER_MACHINE, f"process {process.pid} does not run on this machine")
        server = nodes.machine.server_of(process)
        if server is not None and nodes.process.runs:
            nodes.world.log(f"daemon {nodes.place} ends hanging server {server.shard_uid}")
            nodes.world.checker.server_ended(server)
            server.die(planned=False)

    async def check(self) -> NodeFacts:
        raise Transient(Code.AGENT_SILENT, "the simulated agents take part in no check")

    async def try_ports(self, ports: Sequence[tuple[NodeUid, PortOffer]]) -> tuple[PortLook, ...]:
        raise Transient(Code.AGENT_SILENT, "the simulated agents take part in no check")


class SimNodes:
    """The ``Nodes`` of one leader."""

    def __init__(self, world: World, *, process: SimProcess, place: int, clock: Clock) -> None:
        self.world = world
        self.process = process
        self.place = place
        self.clock = clock
        self._links: dict[NodeUid, SimNodeLink] = {}

    @property
    def machine(self) -> SimMachine:
        """The machine on which the leader runs."""
        return self.world.machine_of(self.place)

    def link(self, node: NodeUid) -> NodeLink:
        if node not in self._links:
            self._links[node] = SimNodeLink(self, node)
        return self._links[node]

    def close(self) -> None: ...
