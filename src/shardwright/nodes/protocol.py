"""What a leader may ask of a node. Owns the seam: ``local.py`` is a node of this machine, a simulation has another.

Servers are not in it: they are asked over the network, wherever they are (``server/protocol.py``).
"""

from dataclasses import dataclass
from typing import Protocol

from shardwright.endpoint.protocol import EndpointControl, PassResult
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import ProcessIdentity, Sighting


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """What the machine of a process says of it. ``cpu_s``: CPU time used so far; None: not known."""

    sighting: Sighting = Sighting.NONE
    cpu_s: float | None = None


NOT_SEEN = ProcessLook()
"""The machine cannot be asked."""


class NodeLink(Protocol):
    """One node, as one leader reaches it."""

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
