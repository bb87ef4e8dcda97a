"""Checks of the nodes: asks all agents at the same time, then lets each of them try the ports of the others.

Owns the order and the deadlines; changes nothing. ``plan/node_check.py`` judges. An agent that does not answer is a finding.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from shardwright.clock import Clock
from shardwright.endpoint.protocol import CONTROL_PORT
from shardwright.errors import Transient
from shardwright.model.check import Checked, CheckGrade, Finding, PortLook, PortOffer, PortUse
from shardwright.model.cluster import Node
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import AGENT_PORT, CHECK_TIMEOUT_S, TRY_PORTS_TIMEOUT_S, Nodes
from shardwright.plan.node_check import concerns, judge, ports_to_try


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What a check has found about one node."""

    uid: NodeUid
    findings: tuple[Finding, ...]

    @property
    def error(self) -> str:
        """The first failure; empty: none."""
        return next((f.text for f in self.findings if f.grade is CheckGrade.FAILED), "")


class Checks:
    """Runs checks, one at a time: several would measure each other."""

    def __init__(self, nodes: Nodes, *, clock: Clock) -> None:
        self._nodes = nodes
        self._clock = clock
        self._checking = asyncio.Lock()

    async def check(self, view: ClusterView, about: Collection[NodeUid]) -> tuple[NodeResult, ...]:
        """The result for each of these nodes, in ascending order. All nodes take part: a connection has two ends. Never
        raises for a failure of a node."""
        async with self._checking:
            asked = await asyncio.gather(*(self._ask(view.nodes[uid]) for uid in sorted(view.nodes)))
            if view.cluster is not None and view.cluster.is_of_machines:
                asked = await self._try_ports(view, asked, about)
            else:
                # On one machine there is one clock.
                asked = [replace(node, clock_ahead_s=0.0) for node in asked]
        interfaces = {one.interface for one in view.virtual_addresses.values()}
        found = judge(asked, about=about, needed=needed_servers(view), interfaces=interfaces, now=self._clock.now())
        return tuple(NodeResult(uid, tuple(f for f in found if concerns(f, uid))) for uid in sorted(about))

    async def _ask(self, node: Node) -> Checked:
        began_at, began = self._clock.now(), self._clock.monotonic()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                facts = await self._nodes.link(node.uid).check()
        except (Transient, TimeoutError) as e:
            reason = e.text if isinstance(e, Transient) else "no answer in time"
            return Checked(node.uid, node.address, None, silence=reason)
        round_trip_s = max(0.0, self._clock.monotonic() - began - facts.took_s)
        # The agent takes the time when it has collected everything; half of the way is then behind the answer.
        ahead_s = (facts.at - began_at).total_seconds() - facts.took_s - round_trip_s / 2
        return Checked(node.uid, node.address, facts, clock_ahead_s=ahead_s, clock_uncertain_s=round_trip_s / 2)

    async def _try_ports(self, view: ClusterView, asked: Sequence[Checked], about: Collection[NodeUid]) -> list[Checked]:
        offers = offered(view, asked)

        async def one(node: Checked) -> Checked:
            ports = ports_to_try(node.uid, offers, about)
            if node.facts is None or not ports:
                return node
            try:
                async with asyncio.timeout(TRY_PORTS_TIMEOUT_S):
                    looks: tuple[PortLook, ...] = await self._nodes.link(node.uid).try_ports(ports)
            except (Transient, TimeoutError) as e:
                reason = e.text if isinstance(e, Transient) else "it did not finish its attempts to connect"
                return replace(node, facts=None, silence=reason)
            return replace(node, looks=looks)

        return list(await asyncio.gather(*(one(node) for node in asked)))


def offered(view: ClusterView, asked: Sequence[Checked]) -> Mapping[NodeUid, tuple[PortOffer, ...]]:
    """The ports of each node: as its agent says, otherwise those that every node has."""
    return {
        node.uid: usual_offers(view, view.nodes[node.uid]) if node.facts is None else node.facts.offers for node in asked
    }


def usual_offers(view: ClusterView, node: Node) -> tuple[PortOffer, ...]:
    """The ports that every node of a cluster of machines has."""
    api_port = 0 if view.cluster is None else view.cluster.api_port
    ports = ((PortUse.API, api_port), (PortUse.AGENT, AGENT_PORT), (PortUse.CONTROL, CONTROL_PORT))
    return tuple(PortOffer(use, node.address, port) for use, port in ports)


def needed_servers(view: ClusterView) -> frozenset[tuple[str, str]]:
    """Kind and version of the servers of all databases."""
    return frozenset((str(d.server_kind), d.server_version) for d in view.databases.values())
