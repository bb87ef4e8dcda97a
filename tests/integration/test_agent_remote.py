"""An agent as leaders on other machines ask it, over TLS: news, what its machine says of a process, and the end of one."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from shardwright.endpoint.tls import TlsAddress
from shardwright.errors import LostLeadership, Transient
from shardwright.machine.processes import identity_of, is_running
from shardwright.model.check import PortOffer, PortUse, Reach
from shardwright.model.cluster import Leadership
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.seen import Health, ProcessIdentity, ProcessState, Sighting
from shardwright.nodes.protocol import NOT_SEEN, NewsMark, NodeLink, NodeNews
from shardwright.nodes.remote import NodeAddress, RemoteNodes
from shardwright.server.binaries import all_servers
from shardwright.store import keys
from shardwright.store.protocol import DeleteKey, Transaction
from shardwright.trust.contexts import client_context, server_context
from testkit.certificates import members
from testkit.deadlines import Stopwatch
from tests.integration.agent_harness import NODE, SECRETS, World, database, free_port, group, shard, world

LOOPS = (
    pytest.param(asyncio.new_event_loop, id="asyncio", marks=pytest.mark.proof),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
)
pytestmark = [
    pytest.mark.server,
    pytest.mark.parametrize("loop", LOOPS),
]
Loop = Callable[[], asyncio.AbstractEventLoop]
TERM = 7
LinkOf = Callable[[int], NodeLink]
"""The link of the leader of a term."""


def run(loop: Loop, directory: Path, scenario: Callable[[World, LinkOf], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with world(directory / "world") as made, links(made) as link_of, asyncio.timeout(120):
            await made.put(Leadership(NodeUid(2), TERM))
            await scenario(made, link_of)

    (directory / "world").mkdir()
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())


@asynccontextmanager
async def links(made: World) -> AsyncIterator[LinkOf]:
    authority = members()
    own, leaders = server_context(authority.member(NODE, made.address)), client_context(authority.member(2))
    port = free_port(made.address)
    made.remote = TlsAddress(made.address, port, lambda: own)
    address = NodeAddress(made.address, agent_port=port)
    opened: list[RemoteNodes] = []

    def link_of(term: int) -> NodeLink:
        opened.append(RemoteNodes(lambda uid: address, context=lambda: leaders, term=term))
        return opened[-1].link(NODE)

    try:
        yield link_of
    finally:
        for nodes in opened:
            nodes.close()


async def one_server(made: World) -> ProcessIdentity:
    await made.put(database(all_servers()[0]), SECRETS, group(), shard(free_port(made.address)))
    seen = await made.until_state(1, ProcessState.RUNNING)
    assert seen.identity is not None
    return seen.identity


async def until_reported(link: NodeLink, health: Health, since: NewsMark | None = None) -> NodeNews:
    watch = Stopwatch()
    while True:
        assert watch.is_within(20), watch
        try:
            news = await link.news(since)
        except Transient:
            await asyncio.sleep(0.01)
            continue
        since = news.mark
        if any(s.health is health for s in news.servers):
            return news


def test_news_and_looks_over_the_network(loop: Loop, tmp_path: Path) -> None:
    async def scenario(made: World, link_of: LinkOf) -> None:
        link = link_of(TERM)
        with pytest.raises(Transient) as silent:
            await link.news(None)
        assert silent.value.code == Code.AGENT_SILENT
        async with made.agent():
            process = await one_server(made)
            well = await until_reported(link, Health.OK)
            look = await link.look(process)
            assert look.sighting is Sighting.RUNS
            assert look.cpu_s is not None
            assert await link.look(elsewhere(process)) == NOT_SEEN
            assert (await link.look(replace(process, start_ticks=1))).sighting is Sighting.ENDED
            os.kill(process.pid, signal.SIGSTOP)
            try:
                busy = await until_reported(link, Health.TIMEOUT, well.mark)
                assert (await link.look(process)).sighting is Sighting.RUNS, "a frozen process runs"
            finally:
                os.kill(process.pid, signal.SIGCONT)
            await until_reported(link, Health.OK, busy.mark)
        with pytest.raises(Transient):
            await link.news(well.mark)
        assert await link.look(process) == NOT_SEEN, "without its agent, its machine says nothing"
        async with made.agent():
            again = await until_reported(link, Health.OK, well.mark)
            assert again.mark.epoch != well.mark.epoch

    run(loop, tmp_path, scenario)


def test_only_the_leader_of_now_ends_a_process_and_only_one_of_the_node(loop: Loop, tmp_path: Path) -> None:
    async def scenario(made: World, link_of: LinkOf) -> None:
        async with made.agent():
            process = await one_server(made)
            for term in (TERM - 1, TERM + 1, 0):
                with pytest.raises(LostLeadership, match=f"term {term} is over"):
                    await link_of(term).end(process)
            link = link_of(TERM)
            other = await asyncio.to_thread(stranger)
            try:
                for wrong, text in (
                    (identity_of(other.pid), "not one of this node"),
                    (elsewhere(process), "not run on this machine"),
                ):
                    assert wrong is not None
                    with pytest.raises(Transient, match=text) as refused:
                        await link.end(wrong)
                    assert refused.value.code == Code.AGENT_REFUSED
                assert other.poll() is None
            finally:
                other.kill()
                await asyncio.to_thread(other.wait)
            await link.end(replace(process, start_ticks=1))
            assert is_running(process), "a process that had ended before is not mistaken for this one"
            await made.store.transact(Transaction((), (DeleteKey(keys.LEADER),)))
            with pytest.raises(LostLeadership):
                await link.end(process)
            assert is_running(process)
            await made.put(Leadership(NodeUid(2), TERM))
            await link.end(process)
            await made.until_state(1, ProcessState.GONE)
            assert (await link.look(process)).sighting is Sighting.ENDED
            await link.end(process)

    run(loop, tmp_path, scenario)


def stranger() -> "subprocess.Popen[bytes]":
    """A process of this user that is not of the node."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], cwd="/tmp")


def elsewhere(process: ProcessIdentity) -> ProcessIdentity:
    return replace(process, machine_id="another", boot_id="another")


def test_facts_for_a_check_over_the_network(loop: Loop, tmp_path: Path) -> None:
    async def scenario(made: World, link_of: LinkOf) -> None:
        link = link_of(0)
        async with made.agent():
            await made.until(lambda: made.seen() is not None)
            facts = await link.check()
            assert facts.servers == tuple((str(b.kind), b.version) for b in all_servers())
            offer = PortOffer(PortUse.AGENT, made.address, free_port(made.address))
            (tried,) = await link.try_ports(((NODE, offer),))
            assert (tried.node_uid, tried.reach) == (NODE, Reach.REFUSED)

    run(loop, tmp_path, scenario)
