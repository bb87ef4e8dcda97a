"""What a leader may ask of a node. Owns the seam: ``local.py`` is a node of this machine, a simulation has another.

Servers are not in it: they are asked over the network, wherever they are (``server/protocol.py``).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shardwright.endpoint.protocol import EndpointControl, PassResult
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import NodeFigures, ProcessIdentity, ServerSeen, Sighting


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """What the machine of a process says of it. ``cpu_s``: CPU time used so far; None: not known."""

    sighting: Sighting = Sighting.NONE
    cpu_s: float | None = None


NOT_SEEN = ProcessLook()
"""The machine cannot be asked."""


@dataclass(frozen=True, slots=True)
class NewsMark:
    """Up to where a caller knows an agent's news. ``epoch`` names one life of the agent."""

    epoch: str
    number: int


@dataclass(frozen=True, slots=True)
class NodeNews:
    """The figures of an agent's node, and what the agent has seen of its servers since the caller's mark."""

    mark: NewsMark
    at: datetime
    """When it answered, by its own clock, which is also that of ``servers``. No other clock may be compared with it."""
    waited_s: float
    """How long it kept the caller waiting for news."""
    figures: NodeFigures
    servers: tuple[ServerSeen, ...]
    """Those that are new to the caller; all of them when it knew nothing of this life of the agent."""


class NodeLink(Protocol):
    """One node, as one leader reaches it."""

    async def news(self, since: NewsMark | None) -> NodeNews:
        """What the node's agent sees of its servers. Waits until decisions may come out differently by it, or until its
        servers were asked once more. Raises Transient when the agent does not answer."""
        ...

    @property
    def endpoint_process(self) -> EndpointControl:
        """The node's endpoint process."""
        ...

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        """Pass the listener and every quiet connection of an endpoint to another node's process; the rest follow as they
        become quiet. Repeating it continues. Raises Transient as ``EndpointControl`` does."""
        ...

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        """Look for a process that its agent has reported. Never raises: ``NOT_SEEN`` says that the machine does not answer,
        or is another one than the process ran on."""
        ...

    async def end(self, process: ProcessIdentity) -> None:
        """End exactly this process at once (SIGKILL). Nothing happens when it has ended. Raises Transient when its machine
        cannot be reached."""
        ...


class Nodes(Protocol):
    """All nodes, as one leader reaches them."""

    def link(self, node: NodeUid) -> NodeLink:
        """The way to a node. Never fails: what is asked over it may."""
        ...

    def close(self) -> None:
        """End all connections that are kept."""
        ...
