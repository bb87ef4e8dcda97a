"""Figures are asked of the agents, for a second; an agent that does not answer delays no second request."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from shardwright.api.services.figures import FRESH_S, SILENT_S, Figures
from shardwright.clock import SystemClock
from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import Health, NodeFigures, ServerSeen, with_figures
from shardwright.nodes.protocol import NewsMark, NodeLink, NodeNews
from testkit.builders import NOW, ClusterBuilder, cluster

ONE, TWO = NodeUid(1), NodeUid(2)


@dataclass
class Time(SystemClock):
    now_s: float = 100.0

    def monotonic(self) -> float:
        return self.now_s


@dataclass
class Agents:
    """Two agents, some of them silent. Each answer has a higher figure than the last one."""

    builder: ClusterBuilder
    silent: set[NodeUid] = field(default_factory=set)
    asked: list[NodeUid] = field(default_factory=list)

    def link(self, node: NodeUid) -> NodeLink:
        return _Agent(self, node)  # type: ignore[return-value]

    def close(self) -> None: ...


@dataclass
class _Agent:
    agents: Agents
    node: NodeUid

    async def news(self, since: NewsMark | None) -> NodeNews:
        self.agents.asked.append(self.node)
        if self.node in self.agents.silent:
            raise Transient(Code.AGENT_SILENT, "it is dead")
        number = len(self.agents.asked)
        view = self.agents.builder.view
        servers = tuple(replace(view.servers[s.uid], offset=5000 + number) for s in view.shards_on(self.node))
        return NodeNews(NewsMark("life", number), NOW, 0.0, NodeFigures(memory_free_bytes=number), servers)


def run(scenario: Callable[[Figures, Agents, Time], Awaitable[None]]) -> None:
    async def whole() -> None:
        time, agents = Time(), Agents(cluster(2).with_database(on=((1, 2),)))
        await scenario(Figures(agents, clock=time), agents, time)

    asyncio.run(whole())


def test_what_agents_tell_is_laid_over_the_records_and_asked_once_a_second() -> None:
    async def scenario(figures: Figures, agents: Agents, time: Time) -> None:
        view = agents.builder.view
        await asyncio.gather(figures.refresh(view.daemons), figures.refresh(view.daemons))
        assert sorted(agents.asked) == [ONE, TWO]
        shown = figures.over(view)
        assert sorted(f.memory_free_bytes for f in shown.figures.values()) == [1, 2]
        assert shown.servers[ShardUid(1)].offset > 5000
        time.now_s += FRESH_S + 0.1
        await figures.refresh(view.daemons)
        assert len(agents.asked) == 4

    run(scenario)


def test_a_silent_agent_is_left_alone_and_its_node_has_the_figures_of_the_store() -> None:
    async def scenario(figures: Figures, agents: Agents, time: Time) -> None:
        view = agents.builder.view
        await figures.refresh(view.daemons)
        agents.silent.add(TWO)
        for _ in range(3):
            time.now_s += FRESH_S + 0.1
            await figures.refresh(view.daemons)
        assert agents.asked.count(TWO) == 2
        shown = figures.over(view)
        assert TWO not in shown.figures
        assert shown.servers[ShardUid(2)] == view.servers[ShardUid(2)]
        agents.silent.clear()
        time.now_s += SILENT_S
        await figures.refresh(view.daemons)
        assert TWO in figures.over(view).figures

    run(scenario)


def test_a_node_without_a_daemon_is_forgotten() -> None:
    async def scenario(figures: Figures, agents: Agents, time: Time) -> None:
        await figures.refresh([ONE, TWO])
        await figures.refresh([ONE])
        assert set(figures.over(agents.builder.view).figures) == {ONE}

    run(scenario)


def test_figures_are_taken_of_the_same_incarnation_and_of_answers_only() -> None:
    known = ServerSeen(ShardUid(1), 1, NOW, Health.OK, run_id="a", offset=1)
    latest = replace(known, offset=9, keys=3, run_id="b")
    assert with_figures(known, latest) == replace(known, offset=9, keys=3)
    assert with_figures(known, replace(latest, incarnation=2)) == known
    assert with_figures(known, replace(latest, health=Health.TIMEOUT)) == known
    assert with_figures(replace(known, health=Health.TIMEOUT), latest).offset == 1
