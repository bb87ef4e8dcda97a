"""A check asks all agents, lets them try the ports of the others, and takes silence for a finding."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from shardwright.api.schemas.v1 import nodes as wire
from shardwright.api.services.check import Checks, NodeResult
from shardwright.clock import SystemClock
from shardwright.errors import Transient
from shardwright.model.check import CheckCode, NodeFacts, PortLook, PortOffer, PortUse, Reach
from shardwright.model.cluster import ClusterKind
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import NodeLink
from testkit.builders import NOW, cluster

ONE, TWO, THREE = NodeUid(1), NodeUid(2), NodeUid(3)
FACTS = NodeFacts(NOW, 0.0, "0.1.0", (("valkey", "9.1.2"),), 1 << 20, 1 << 40, 1 << 39)


@dataclass
class Agents:
    """Three agents: what they say, and what they reach."""

    facts: dict[NodeUid, NodeFacts] = field(
        default_factory=lambda: {
            uid: replace(FACTS, offers=(PortOffer(PortUse.AGENT, f"127.0.0.{uid}", 9444),)) for uid in (ONE, TWO, THREE)
        }
    )
    closed: set[tuple[NodeUid, NodeUid]] = field(default_factory=set)
    """From and to."""
    deaf: set[NodeUid] = field(default_factory=set)
    """They give facts and then fall silent."""
    tried: list[tuple[NodeUid, NodeUid, PortUse]] = field(default_factory=list)

    def link(self, node: NodeUid) -> NodeLink:
        return Agent(self, node)  # type: ignore[return-value]

    def close(self) -> None: ...


@dataclass
class Agent:
    agents: Agents
    node: NodeUid

    async def check(self) -> NodeFacts:
        if self.node not in self.agents.facts:
            raise Transient(Code.AGENT_SILENT, "it is switched off")
        return self.agents.facts[self.node]

    async def try_ports(self, ports: Sequence[tuple[NodeUid, PortOffer]]) -> tuple[PortLook, ...]:
        if self.node in self.agents.deaf:
            raise Transient(Code.AGENT_SILENT, "it has just died")
        self.agents.tried += [(self.node, uid, offer.use) for uid, offer in ports]
        closed = self.agents.closed
        return tuple(
            PortLook(uid, offer, Reach.NO_ANSWER if (self.node, uid) in closed else Reach.OPEN) for uid, offer in ports
        )


class Clock(SystemClock):
    """Stands still."""

    def now(self):  # type: ignore[no-untyped-def]
        return NOW

    def monotonic(self) -> float:
        return 7.0


def view(kind: ClusterKind = ClusterKind.MACHINES) -> ClusterView:
    found = cluster(3).with_database(on=((1, 2),)).view
    assert found.cluster is not None
    return replace(found, cluster=replace(found.cluster, kind=kind))


def checked(agents: Agents, about: Sequence[NodeUid] = (ONE, TWO, THREE), of: ClusterView | None = None) -> list[NodeResult]:
    return list(asyncio.run(Checks(agents, clock=Clock()).check(of or view(), about)))


def codes(results: Sequence[NodeResult]) -> dict[int, list[str]]:
    return {result.uid: [str(f.code) for f in result.findings] for result in results}


def test_a_sound_cluster_has_no_findings() -> None:
    agents = Agents()
    assert codes(checked(agents)) == {1: [], 2: [], 3: []}
    assert len(agents.tried) == 6, "each node tries each other one"


def test_a_closed_port_is_a_finding_of_both_ends() -> None:
    results = checked(Agents(closed={(ONE, TWO)}))
    assert codes(results) == {1: ["port_no_answer"], 2: ["port_no_answer"], 3: []}
    assert [bool(result.error) for result in results] == [True, True, False]
    shown = wire.check(results[0])
    assert (shown["node_uid"], shown["result"], shown["error"]) == (1, False, results[0].error)
    (finding,) = shown["findings"]
    assert (finding["code"], finding["grade"]) == ("port_no_answer", "failed")
    assert (finding["node_uid"], finding["from_node_uid"]) == (2, 1)
    assert "error" not in wire.check(results[2])


def test_a_silent_agent_is_a_finding_and_the_others_try_its_usual_ports() -> None:
    agents = Agents(closed={(ONE, TWO)})
    del agents.facts[TWO]
    results = checked(agents)
    assert codes(results)[TWO] == ["port_no_answer"] * 3 + ["node_silent"]
    assert "it is switched off" in results[1].findings[3].text
    assert {(to, use) for source, to, use in agents.tried if source == ONE} == {
        (TWO, PortUse.API),
        (TWO, PortUse.AGENT),
        (TWO, PortUse.CONTROL),
        (THREE, PortUse.AGENT),
    }


def test_an_agent_that_falls_silent_during_the_check_is_a_finding() -> None:
    assert codes(checked(Agents(deaf={THREE})))[THREE] == ["node_silent"]


def test_a_check_of_one_node_tries_only_its_connections() -> None:
    agents = Agents(closed={(ONE, TWO), (THREE, ONE)})
    assert codes(checked(agents, (THREE,))) == {3: ["port_no_answer"]}
    assert {(source, to) for source, to, _ in agents.tried} == {(ONE, THREE), (TWO, THREE), (THREE, ONE), (THREE, TWO)}


def test_the_difference_of_clocks_leaves_out_the_time_of_the_collection() -> None:
    agents = Agents()
    agents.facts[TWO] = replace(agents.facts[TWO], at=NOW + timedelta(seconds=9), took_s=9.0)
    assert codes(checked(agents)) == {1: [], 2: [], 3: []}
    agents.facts[THREE] = replace(agents.facts[THREE], at=NOW + timedelta(seconds=400))
    results = checked(agents)
    assert codes(results) == {1: [], 2: [], 3: ["clock_differs"]}
    assert results[2].error


def test_the_nodes_of_one_machine_have_one_clock_and_need_no_ports() -> None:
    agents = Agents(closed={(ONE, TWO)})
    agents.facts[THREE] = replace(agents.facts[THREE], at=NOW + timedelta(seconds=400))
    assert codes(checked(agents, of=view(ClusterKind.LOCAL))) == {1: [], 2: [], 3: []}
    assert agents.tried == []


def test_the_servers_of_all_databases_are_needed_on_every_node() -> None:
    agents = Agents()
    agents.facts[THREE] = replace(agents.facts[THREE], servers=())
    (finding,) = checked(agents)[2].findings
    assert finding.code is CheckCode.SERVER_MISSING
