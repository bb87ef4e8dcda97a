"""The nodes of other machines: reaches their agents and endpoint processes over TLS.

One connection to each agent and one to each endpoint process are kept and carry many requests at a time. Connections are
opened in the background; what happens during a write pause only uses those that are open. No failure of a connection says
anything about a process: only the agent of its machine does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from shardwright.clock import Clock
from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.client import EndpointClient, silence
from shardwright.endpoint.kept import KeptConnection, NotConnected
from shardwright.endpoint.protocol import (
    CONTROL_PORT,
    REMOTE_CALL_TIMEOUT_S,
    VOID_IF_LATE,
    EndpointControl,
    EndpointProcessEnded,
    PassResult,
)
from shardwright.endpoint.tls import CertificateProblem, Context, Revoked, connect_tls, nothing_revoked, refusal_of
from shardwright.errors import LostLeadership, Permanent, Transient
from shardwright.model.check import NodeFacts, PortLook, PortOffer
from shardwright.model.codes import Code
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import ProcessIdentity, Sighting
from shardwright.nodes import wire
from shardwright.nodes.protocol import (
    AGENT_PORT,
    CHECK_TIMEOUT_S,
    NOT_SEEN,
    TRY_PORTS_TIMEOUT_S,
    NewsMark,
    NodeLink,
    NodeNews,
    ProcessLook,
)

NEWS_TIMEOUT_S = 3.0
"""An agent without news keeps a caller waiting for a second."""
END_TIMEOUT_S = 2.0
"""The agent asks the store first."""
ENDPOINT_SILENT_AFTER_S = 1.0
"""An endpoint process answers everything within a second, except ``calm``; the leader asks it each second."""
AGENT_SILENT_AFTER_S = 2.5
"""An agent may keep the only question for a second, and shares its thread with the rest of its daemon."""
USES_OPEN_ONLY = frozenset({"hold", "release"})
"""Clients wait meanwhile."""


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where the processes of a node are reached."""

    address: str
    agent_port: int = AGENT_PORT
    control_port: int = CONTROL_PORT


AddressOf = Callable[[NodeUid], NodeAddress | None]
"""The address of a node now; None: the node is unknown."""


class RemoteCaller:
    """The way to an endpoint process: see ``ControlCaller``. ``has_ended`` asks the node's agent whether the process has
    certainly ended; its argument: whether the connection to the agent may be opened for this."""

    def __init__(self, node: NodeUid, kept: KeptConnection, has_ended: Callable[[bool], Awaitable[bool]]) -> None:
        self._node = node
        self._kept = kept
        self._has_ended = has_ended

    async def ask(self, message: Message, timeout_s: float) -> Message:
        """See ``ControlCaller``."""
        request = message["op"]
        may_open = request not in USES_OPEN_ONLY
        try:
            return await self._kept.ask(
                message,
                timeout_s=timeout_s,
                opens_within_s=REMOTE_CALL_TIMEOUT_S if may_open else 0.0,
                is_void_if_late=request in VOID_IF_LATE,
            )
        except NotConnected as error:
            # A refused connection alone proves nothing: a firewall refuses too, and so does a process without its port.
            is_refused = isinstance(error.cause, ConnectionRefusedError)
            if is_refused and request != "release" and await self._has_ended(may_open):
                text = f"the endpoint process of node {self._node} has ended: its agent says so"
                raise EndpointProcessEnded(Code.ENDPOINT_PROCESS_ENDED, text) from error
            text = f"{request} was not sent to the endpoint process of node {self._node}: {error}"
            raise Transient(_code_of(error, Code.ENDPOINT_PROCESS_NOT_CONNECTED), text) from error
        except (OSError, TimeoutError, ValueError) as error:
            raise silence(self._node, message, error, _code_of(error, Code.ENDPOINT_PROCESS_SILENT)) from error


class RemoteNode:
    """See ``NodeLink``. ``term``: of the leader that uses it; 0: not a leader, which may not end processes."""

    def __init__(
        self, node: NodeUid, *, address_of: AddressOf, context: Context, revoked: Revoked, clock: Clock | None, term: int
    ) -> None:
        self._node = node
        self._address_of = address_of
        self._context = context
        self._revoked = revoked
        self._term = term
        name = f"node {node}"
        self._agent = KeptConnection(
            lambda: self._connect(lambda at: at.agent_port), name=f"{name}: agent", silent_after_s=AGENT_SILENT_AFTER_S
        )
        self._process = KeptConnection(
            lambda: self._connect(lambda at: at.control_port),
            name=f"{name}: endpoint process",
            silent_after_s=ENDPOINT_SILENT_AFTER_S,
        )
        caller = RemoteCaller(node, self._process, self._has_process_ended)
        self._endpoint_process = EndpointClient(node, caller, clock=clock, call_timeout_s=REMOTE_CALL_TIMEOUT_S)

    async def _connect(self, port_of: Callable[[NodeAddress], int]) -> Channel:
        at = self._address_of(self._node)
        if at is None:
            raise OSError(f"no address of node {self._node} is known")
        return await connect_tls(at.address, port_of(at), context=self._context, revoked=self._revoked, node=self._node)

    @property
    def endpoint_process(self) -> EndpointControl:
        """See ``NodeLink``."""
        return self._endpoint_process

    async def news(self, since: NewsMark | None) -> NodeNews:
        """See ``NodeLink``."""
        try:
            return wire.news_of(await self._ask_agent(wire.question(since), NEWS_TIMEOUT_S))
        except ValueError as e:
            raise Transient(Code.AGENT_SILENT, f"the agent of node {self._node} sends no news: {e}") from e

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        """See ``NodeLink``. Always refused."""
        raise cannot_pass(endpoint, to_node)

    def is_here(self, process: ProcessIdentity) -> bool:
        """See ``NodeLink``. Never: what is here is reached by Unix socket."""
        return False

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        """See ``NodeLink``."""
        return await self._look(wire.look_question(process), may_open=True)

    async def end(self, process: ProcessIdentity) -> None:
        """See ``NodeLink``."""
        answer = await self._ask_agent(wire.end_question(process, self._term), END_TIMEOUT_S)
        if "ok" in answer:
            return
        text = f"the agent of node {self._node} did not end process {process.pid}: {answer.get('error', 'no reason')}"
        if answer.get("code") == Code.LOST_LEADERSHIP:
            raise LostLeadership(text)
        raise Transient(Code.AGENT_REFUSED, text)

    async def check(self) -> NodeFacts:
        """See ``NodeLink``."""
        try:
            return wire.facts_of(await self._ask_once(wire.check_question(), CHECK_TIMEOUT_S))
        except ValueError as e:
            raise Transient(Code.AGENT_REFUSED, f"the agent of node {self._node} gives no facts for a check: {e}") from e

    async def try_ports(self, ports: Sequence[tuple[NodeUid, PortOffer]]) -> tuple[PortLook, ...]:
        """See ``NodeLink``."""
        try:
            return wire.port_looks_of(await self._ask_once(wire.ports_question(ports), TRY_PORTS_TIMEOUT_S))
        except ValueError as e:
            raise Transient(Code.AGENT_REFUSED, f"the agent of node {self._node} tries no ports: {e}") from e

    async def _ask_once(self, message: Message, timeout_s: float) -> Message:
        """Over a connection of its own: the kept one takes an agent for silent that answers nothing for so long. Raises
        Transient, ValueError."""
        try:
            async with asyncio.timeout(timeout_s), await self._connect(lambda at: at.agent_port) as channel:
                answer = await channel.ask(message)
        except (OSError, TimeoutError) as e:
            text = f"the agent of node {self._node} did not answer {message['op']}: {str(e) or 'no answer in time'}"
            raise Transient(_code_of(e, Code.AGENT_SILENT), text) from e
        if (refused := refusal_of(answer)) is not None:
            raise Transient(refused.code, f"the agent of node {self._node}: {refused}")
        return answer

    def close(self) -> None:
        """Close the connections, and open no others."""
        self._agent.close()
        self._process.close()

    async def _look(self, question: Message, *, may_open: bool) -> ProcessLook:
        try:
            return wire.look_of(await self._ask_agent(question, REMOTE_CALL_TIMEOUT_S, may_open=may_open))
        except (Transient, ValueError):
            return NOT_SEEN

    async def _has_process_ended(self, may_open: bool) -> bool:
        look = await self._look(wire.endpoint_process_question(), may_open=may_open)
        return look.sighting is Sighting.ENDED

    async def _ask_agent(self, message: Message, timeout_s: float, *, may_open: bool = True) -> Message:
        """Raises Transient."""
        try:
            return await self._agent.ask(message, timeout_s=timeout_s, opens_within_s=timeout_s if may_open else 0.0)
        except (OSError, TimeoutError, ValueError) as e:
            text = f"the agent of node {self._node} did not answer {message['op']}: {str(e) or 'no answer in time'}"
            raise Transient(_code_of(e, Code.AGENT_SILENT), text) from e


class RemoteNodes:
    """See ``Nodes``. ``context``: for the next connection, with this machine's certificate. ``revoked``: the serials
    that no node may show. For one leadership: ``term`` is checked by agents before they end a process."""

    def __init__(
        self,
        address_of: AddressOf,
        *,
        context: Context,
        revoked: Revoked = nothing_revoked,
        clock: Clock | None = None,
        term: int = 0,
    ) -> None:
        self._address_of = address_of
        self._context = context
        self._revoked = revoked
        self._clock = clock
        self._term = term
        self._links: dict[NodeUid, RemoteNode] = {}

    def link(self, node: NodeUid) -> NodeLink:
        """See ``Nodes``."""
        if node not in self._links:
            self._links[node] = RemoteNode(
                node,
                address_of=self._address_of,
                context=self._context,
                revoked=self._revoked,
                clock=self._clock,
                term=self._term,
            )
        return self._links[node]

    def close(self) -> None:
        """See ``Nodes``."""
        for link in self._links.values():
            link.close()
        self._links.clear()


def cannot_pass(endpoint: EndpointUid, to_node: NodeUid) -> Permanent:
    """Why an endpoint is not passed: open files stay within a machine."""
    text = f"the connections of endpoint {endpoint} cannot be passed to node {to_node}, which is on another machine"
    return Permanent(Code.ENDPOINT_ON_OTHER_MACHINE, text)


def _code_of(error: BaseException, otherwise: Code) -> Code:
    cause = error.cause if isinstance(error, NotConnected) else error
    return cause.code if isinstance(cause, CertificateProblem) else otherwise
