"""An agent's news for a leader: everything at first, then only what is new; decisive news at once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from shardwright.agent.watch import ServerWatch
from shardwright.clock import SystemClock
from shardwright.model.database import ServerSecrets
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid
from shardwright.model.seen import Health, ProcessState, ServerSeen
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import NewsMark
from shardwright.server.protocol import ServerTarget
from testkit.builders import NOW, ClusterBuilder, cluster

NODE = NodeUid(1)


def two_on_one_node() -> ClusterBuilder:
    builder = cluster(nodes=3)
    for uid in (1, 2):
        builder = builder.with_database(on=((1, 2),)).with_records(ServerSecrets(DatabaseUid(uid), "a", "b", "c", "d", "e"))
    return builder


class Servers:
    """The answers of the node's servers."""

    def __init__(self) -> None:
        self.health = Health.OK
        self.offset = 0
        self.asked: list[ShardUid] = []

    async def observe(self, target: ServerTarget) -> ServerSeen:
        self.asked.append(target.shard_uid)
        self.offset += 1
        return ServerSeen(target.shard_uid, target.incarnation, NOW, self.health, offset=self.offset)


def run(test: Callable[[ServerWatch, Servers, ClusterView], Awaitable[None]], *, every_s: float = 0.005) -> None:
    async def whole() -> None:
        servers = Servers()
        watch = ServerWatch(NODE, servers.observe, clock=SystemClock(), epoch="life", every_s=every_s)
        try:
            async with asyncio.timeout(30):
                await test(watch, servers, two_on_one_node().view)
        finally:
            await watch.close()

    asyncio.run(whole())


async def both_seen(watch: ServerWatch) -> NewsMark:
    while True:
        news = await watch.news(None)
        if len(news.servers) == 2:
            return news.mark
        await asyncio.sleep(0)


def test_a_new_caller_receives_everything_at_once_and_then_only_news() -> None:
    async def test(watch: ServerWatch, servers: Servers, view: ClusterView) -> None:
        watch.follow(view)
        mark = await both_seen(watch)
        assert {s.shard_uid for s in (await watch.news(NewsMark("another life", mark.number))).servers} == {1, 3}
        later = await watch.news(mark)
        assert later.mark.number > mark.number
        assert all(s.offset > 2 for s in later.servers)
        assert later.waited_s > 0

    run(test)


def test_only_running_servers_of_the_node_are_queried() -> None:
    async def test(watch: ServerWatch, servers: Servers, view: ClusterView) -> None:
        watch.follow(view)
        await both_seen(watch)
        assert set(servers.asked) == {1, 3}, "2 and 4 are on another node"
        process = replace(view.processes[ShardUid(3)], state=ProcessState.GONE)
        watch.follow(view.changed(processes={**view.processes, ShardUid(3): process}))
        news = await watch.news(None)
        assert [s.shard_uid for s in news.servers] == [1]

    run(test)


def test_decisive_news_is_sent_at_once_and_figures_with_the_next_round() -> None:
    async def test(watch: ServerWatch, servers: Servers, view: ClusterView) -> None:
        watch.follow(view)
        mark = await both_seen(watch)
        waiting = asyncio.ensure_future(watch.news(mark))
        await asyncio.sleep(0)
        assert not waiting.done(), "nothing is new"
        servers.health = Health.LOADING
        watch._polls.poke(ShardUid(1))
        news = await asyncio.wait_for(waiting, 20)
        assert [s.health for s in news.servers] == [Health.LOADING]
        assert news.waited_s < 1000

    run(test, every_s=3600.0)
