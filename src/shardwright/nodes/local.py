"""The nodes of this machine: reaches their agents and endpoint processes by Unix socket, and finds their processes in
``/proc``."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from shardwright.clock import Clock
from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.client import EndpointClient, UnixCaller
from shardwright.endpoint.protocol import CALL_TIMEOUT_S, EndpointControl, PassResult
from shardwright.errors import Transient
from shardwright.machine.processes import is_of_this_machine
from shardwright.model.check import NodeFacts, PortLook, PortOffer
from shardwright.model.codes import Code
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import ProcessIdentity
from shardwright.nodes import here, wire
from shardwright.nodes.paths import agent_path, control_path
from shardwright.nodes.protocol import CHECK_TIMEOUT_S, TRY_PORTS_TIMEOUT_S, NewsMark, NodeLink, NodeNews, ProcessLook

NEWS_TIMEOUT_S = 3.0
"""An agent without news keeps a caller waiting for a second."""
PathOf = Callable[[NodeUid], str | None]
"""Path of a node's socket; None: the node is unknown."""


class LocalNode:
    """See ``NodeLink``. ``agent``: the socket of the node's agent; None: it has no socket."""

    def __init__(self, node: NodeUid, endpoint_process: EndpointClient, *, path_of: PathOf, agent: str | None) -> None:
        self._node = node
        self._endpoint_process = endpoint_process
        self._path_of = path_of
        self._agent = agent
        self._channel: Channel | None = None

    async def news(self, since: NewsMark | None) -> NodeNews:
        """See ``NodeLink``. Uses one lasting connection: not for concurrent callers."""
        try:
            async with asyncio.timeout(NEWS_TIMEOUT_S):
                if self._channel is None:
                    self._channel = await Channel.connect(self._agent or "")
                return wire.news_of(await self._channel.ask(wire.question(since)))
        except (OSError, TimeoutError, ValueError) as e:
            self.close()
            reason = str(e) or "no answer in time"
            raise Transient(Code.AGENT_SILENT, f"the agent of node {self._node} sends no news: {reason}") from e
        except asyncio.CancelledError:
            self.close()  # The next question would receive the answer to this one.
            raise

    def close(self) -> None:
        """Close the connection to the agent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    @property
    def endpoint_process(self) -> EndpointControl:
        """See ``NodeLink``."""
        return self._endpoint_process

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        """See ``NodeLink``."""
        path = self._path_of(to_node)
        if not path:
            raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, f"no endpoint process of node {to_node} is known")
        return await self._endpoint_process.pass_endpoint(endpoint, path)

    def is_here(self, process: ProcessIdentity) -> bool:
        """See ``NodeLink``."""
        return is_of_this_machine(process)

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        """See ``NodeLink``."""
        return here.look(process)

    async def end(self, process: ProcessIdentity) -> None:
        """See ``NodeLink``."""
        here.end(process)

    async def check(self) -> NodeFacts:
        """See ``NodeLink``."""
        try:
            return wire.facts_of(await self._ask_once(wire.check_question(), CHECK_TIMEOUT_S))
        except ValueError as e:
            raise _no_facts(self._node, e) from e

    async def try_ports(self, ports: Sequence[tuple[NodeUid, PortOffer]]) -> tuple[PortLook, ...]:
        """See ``NodeLink``."""
        try:
            return wire.port_looks_of(await self._ask_once(wire.ports_question(ports), TRY_PORTS_TIMEOUT_S))
        except ValueError as e:
            raise _no_facts(self._node, e) from e

    async def _ask_once(self, message: Message, timeout_s: float) -> Message:
        """Over a connection of its own, because the answer takes long. Raises Transient, ValueError."""
        try:
            async with asyncio.timeout(timeout_s), await Channel.connect(self._agent or "") as channel:
                return await channel.ask(message)
        except (OSError, TimeoutError) as e:
            raise _no_facts(self._node, e) from e


def _no_facts(node: NodeUid, error: BaseException) -> Transient:
    text = f"the agent of node {node} gives no facts for a check: {str(error) or 'no answer in time'}"
    return Transient(Code.AGENT_SILENT, text)


class LocalNodes:
    """See ``Nodes``. ``path_of``: the control socket of a node's endpoint process. ``agent_of``: the socket of its agent;
    None: no agent is asked."""

    def __init__(
        self,
        path_of: PathOf,
        *,
        agent_of: PathOf = lambda node: None,
        clock: Clock | None = None,
        call_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self._path_of = path_of
        self._agent_of = agent_of
        self._clock = clock
        self._call_timeout_s = call_timeout_s
        self._links: dict[NodeUid, LocalNode] = {}

    @classmethod
    def of(cls, run_directory: Path, *, clock: Clock | None = None) -> Self:
        """The nodes of a local cluster with its sockets in this directory."""
        return cls(
            lambda uid: str(control_path(run_directory, uid)),
            agent_of=lambda uid: str(agent_path(run_directory, uid)),
            clock=clock,
        )

    def link(self, node: NodeUid) -> NodeLink:
        """See ``Nodes``."""
        if node not in self._links:
            caller = UnixCaller(node, self._path_of(node))
            client = EndpointClient(node, caller, clock=self._clock, call_timeout_s=self._call_timeout_s)
            self._links[node] = LocalNode(node, client, path_of=self._path_of, agent=self._agent_of(node))
        return self._links[node]

    def close(self) -> None:
        """See ``Nodes``."""
        for link in self._links.values():
            link.close()
        self._links.clear()
