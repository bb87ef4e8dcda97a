"""An agent reports its servers over its socket; a caller learns at once when one stops answering."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from shardwright.errors import Transient
from shardwright.model.check import PortOffer, PortUse, Reach
from shardwright.model.seen import Health, ProcessState
from shardwright.nodes.local import LocalNodes
from shardwright.nodes.protocol import NewsMark, NodeLink, NodeNews
from shardwright.server.binaries import all_servers
from testkit.deadlines import Stopwatch
from tests.integration.agent_harness import NODE, SECRETS, World, database, free_port, group, shard, world

pytestmark = pytest.mark.server


def run(directory: Path, scenario: Callable[[World, LocalNodes], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with world(directory) as made:
            nodes = LocalNodes(lambda uid: None, agent_of=lambda uid: str(made.news_socket))
            try:
                async with asyncio.timeout(90):
                    await scenario(made, nodes)
            finally:
                nodes.close()

    asyncio.run(whole())


async def one_server(made: World) -> int:
    """A running server, and its pid."""
    await made.put(database(all_servers()[0]), SECRETS, group(), shard(free_port(made.address)))
    seen = await made.until_state(1, ProcessState.RUNNING)
    assert seen.identity is not None
    return seen.identity.pid


async def until_reported(link: NodeLink, health: Health, since: NewsMark | None = None) -> NodeNews:
    while True:
        news = await link.news(since)
        since = news.mark
        if any(s.health is health for s in news.servers):
            return news


def test_a_leader_learns_of_a_server_of_its_death_and_of_a_restarted_agent(tmp_path: Path) -> None:
    async def scenario(made: World, nodes: LocalNodes) -> None:
        link = nodes.link(NODE)
        with pytest.raises(Transient) as silent:
            await link.news(None)
        assert silent.value.code == "agent_silent"
        async with made.agent():
            pid = await one_server(made)
            well = await until_reported(link, Health.OK)
            (seen,) = well.servers
            figures = well.figures
            assert min(figures.memory_free_bytes, figures.disk_free_bytes, figures.uptime_s) > 0
            assert (seen.shard_uid, seen.run_id != "", seen.used_memory_bytes > 0) == (1, True, True)
            os.kill(pid, signal.SIGSTOP)
            stopped = Stopwatch()
            try:
                busy = await until_reported(link, Health.TIMEOUT, well.mark)
                assert stopped.is_within(10)
            finally:
                os.kill(pid, signal.SIGCONT)
            well = await until_reported(link, Health.OK, busy.mark)
        with pytest.raises(Transient):
            await link.news(well.mark)
        async with made.agent():
            await made.until(made.news_socket.exists)
            again = await until_reported(link, Health.OK, well.mark)
            assert again.mark.epoch != well.mark.epoch

    run(tmp_path, scenario)


def test_an_invalid_request_ends_only_that_connection(tmp_path: Path) -> None:
    async def scenario(made: World, nodes: LocalNodes) -> None:
        async with made.agent():
            await one_server(made)
            await until_reported(nodes.link(NODE), Health.OK)
            for line in (b"nonsense\n", b"[]\n", b'{"op":"news","since":"yesterday"}\n'):
                reader, writer = await asyncio.open_unix_connection(str(made.news_socket))
                writer.write(line)
                assert await asyncio.wait_for(reader.read(), 20) == b""
                writer.close()
                await writer.wait_closed()
            await until_reported(nodes.link(NODE), Health.OK)

    run(tmp_path, scenario)


def test_a_check_does_not_keep_news_waiting(tmp_path: Path) -> None:
    async def scenario(made: World, nodes: LocalNodes) -> None:
        link = nodes.link(NODE)
        async with made.agent():
            pid = await one_server(made)
            assert pid
            await until_reported(link, Health.OK)
            facts, news = await asyncio.gather(link.check(), link.news(None))
            assert news.servers
            assert (facts.offers, facts.etcd) == ((), None), "nodes of one machine need no open ports"
            assert facts.disk_free_bytes > 0
            port = free_port(made.address)
            offer = PortOffer(PortUse.AGENT, made.address, port)
            (tried,) = await link.try_ports(((NODE, offer),))
            assert (tried.offer, tried.reach) == (offer, Reach.REFUSED)

    run(tmp_path, scenario)
