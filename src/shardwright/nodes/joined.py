"""All nodes of a cluster of several machines: those of this machine by Unix socket, all others over TLS."""

from collections.abc import Callable, Sequence

from shardwright.endpoint.protocol import EndpointControl, PassResult
from shardwright.model.check import NodeFacts, PortLook, PortOffer
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import ProcessIdentity
from shardwright.nodes.protocol import NewsMark, NodeLink, NodeNews, Nodes, ProcessLook
from shardwright.nodes.remote import cannot_pass

IsHere = Callable[[NodeUid], bool]
"""Whether a node is on this machine."""


class _NodeHere:
    """See ``NodeLink``. A node of this machine, which does not try to pass an endpoint to another machine."""

    def __init__(self, link: NodeLink, is_here: IsHere) -> None:
        self._link = link
        self._is_here = is_here

    async def news(self, since: NewsMark | None) -> NodeNews:
        """See ``NodeLink``."""
        return await self._link.news(since)

    @property
    def endpoint_process(self) -> EndpointControl:
        """See ``NodeLink``."""
        return self._link.endpoint_process

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        """See ``NodeLink``."""
        if not self._is_here(to_node):
            raise cannot_pass(endpoint, to_node)
        return await self._link.pass_endpoint(endpoint, to_node)

    def is_here(self, process: ProcessIdentity) -> bool:
        """See ``NodeLink``."""
        return self._link.is_here(process)

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        """See ``NodeLink``."""
        return await self._link.look(process)

    async def end(self, process: ProcessIdentity) -> None:
        """See ``NodeLink``."""
        await self._link.end(process)

    async def check(self) -> NodeFacts:
        """See ``NodeLink``."""
        return await self._link.check()

    async def try_ports(self, ports: Sequence[tuple[NodeUid, PortOffer]]) -> tuple[PortLook, ...]:
        """See ``NodeLink``."""
        return await self._link.try_ports(ports)


class JoinedNodes:
    """See ``Nodes``. Owns both parts."""

    def __init__(self, here: Nodes, elsewhere: Nodes, *, is_here: IsHere) -> None:
        self._here = here
        self._elsewhere = elsewhere
        self._is_here = is_here

    def link(self, node: NodeUid) -> NodeLink:
        """See ``Nodes``."""
        if self._is_here(node):
            return _NodeHere(self._here.link(node), self._is_here)
        return self._elsewhere.link(node)

    def close(self) -> None:
        """See ``Nodes``."""
        self._here.close()
        self._elsewhere.close()
