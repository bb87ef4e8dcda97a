"""The interface to nodes. Owns the seam: ``local.py`` implements it for this machine, and the simulation has another
implementation.

Does not contain servers: the leader reaches them over the network (``server/protocol.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shardwright.endpoint.protocol import EndpointControl, PassResult
from shardwright.model.check import NodeFacts, PortLook, PortOffer
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import NodeFigures, ProcessIdentity, ProcessSeen, ServerSeen, Sighting

AGENT_PORT = 9444
"""Port at which an agent accepts the daemons of other machines."""
CHECK_TIMEOUT_S = 4.0
"""An agent measures its disk for a second at most; all agents of a local cluster may do that at the same time."""
TRY_PORTS_TIMEOUT_S = 3.5
"""An agent waits a good second for the other nodes. Both together are less than a client of the API waits."""


@dataclass(frozen=True, slots=True)
class ProcessLook:
    """A sighting with its details. ``cpu_s``: CPU time used so far; None: unknown."""

    sighting: Sighting = Sighting.NONE
    cpu_s: float | None = None


NOT_SEEN = ProcessLook()
"""The machine of the process cannot be asked."""


@dataclass(frozen=True, slots=True)
class NewsMark:
    """The latest news of an agent that a caller knows. ``epoch`` names one run of the agent."""

    epoch: str
    number: int


@dataclass(frozen=True, slots=True)
class NodeNews:
    """The figures of an agent's node, and the agent's observations of its servers since the caller's mark."""

    mark: NewsMark
    at: datetime
    """Time of the answer, by the agent's clock, which also gave the times in ``servers``. Do not compare it with another
    clock."""
    waited_s: float
    """How long the agent kept the caller waiting for news."""
    figures: NodeFigures
    servers: tuple[ServerSeen, ...]
    """The servers whose observation is new to the caller; all servers if its mark is not of this run of the agent."""
    daemon: ProcessIdentity | None = None
    """The daemon that answers, with its machine and boot: it runs now. None: it is of an older version."""
    ended: tuple[ProcessSeen, ...] = ()
    """The processes of its node's shards that have ended or failed, as the agent last reported. The store may not have that
    report yet, or be out of the agent's reach."""


class NodeLink(Protocol):
    """One leader's access to one node."""

    async def news(self, since: NewsMark | None) -> NodeNews:
        """The observations of the node's agent. Waits for news that may change a decision, at most until the agent has
        queried its servers once more. Raises Transient if the agent does not answer."""
        ...

    @property
    def endpoint_process(self) -> EndpointControl:
        """The node's endpoint process."""
        ...

    async def pass_endpoint(self, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        """Pass an endpoint's listener and quiet connections to another node's process; the other connections follow when
        they become quiet. A repeated call continues. Raises Transient like ``EndpointControl``, and Permanent if the other
        node is on another machine than this one."""
        ...

    def is_here(self, process: ProcessIdentity) -> bool:
        """Whether a process of this node belongs to the caller's own machine, in this or an earlier boot, by its ids. Asks
        no one: ``look`` may have its answer from another machine."""
        ...

    async def look(self, process: ProcessIdentity) -> ProcessLook:
        """Look for a process that its agent has reported. Never raises. ``NOT_SEEN``: the machine does not answer, or the
        process belonged to another machine, by its ids."""
        ...

    async def end(self, process: ProcessIdentity) -> None:
        """End exactly this process at once (SIGKILL). Without effect if it has ended. Raises Transient if its machine is
        unreachable, and LostLeadership if another daemon leads."""
        ...

    async def check(self) -> NodeFacts:
        """What the agent says of its machine for a check of the nodes. Takes seconds; some ports are open for other nodes
        afterwards, for ``try_ports``. Raises Transient."""
        ...

    async def try_ports(self, ports: Sequence[tuple[NodeUid, PortOffer]]) -> tuple[PortLook, ...]:
        """What becomes of the agent's attempts to connect to these ports of other nodes, in the same order. Takes seconds.
        Raises Transient."""
        ...


class Nodes(Protocol):
    """One leader's access to all nodes."""

    def link(self, node: NodeUid) -> NodeLink:
        """The link to a node. Never fails; calls over the link may."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...
