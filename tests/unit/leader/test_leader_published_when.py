"""When the leader publishes what it sees: news at once, figures now and then, and nothing of what is no more."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from shardwright.clock import SystemClock
from shardwright.leader.publish import PERIOD, PERIOD_WITHOUT_AGENT, Publisher
from shardwright.model.ids import ShardUid
from shardwright.model.seen import Health, ServerSeen
from shardwright.model.view import ClusterView, Delete
from shardwright.store import keys, records
from shardwright.store.commit import Fence
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import CreatedAt, PutKey, Transaction
from shardwright.tasks import spawn
from testkit.builders import NOW, ClusterBuilder, cluster

PAIR = cluster(3).with_database(on=((1, 2),))
SOON, LATER = NOW + PERIOD / 2, NOW + PERIOD


def at(builder: ClusterBuilder, when: datetime, **changes: object) -> tuple[ClusterView, datetime]:
    """What is seen then: of shard 1 with these changes."""
    for uid in builder.view.servers:
        builder = builder.with_server(uid, at=when)
    return builder.with_server(1, **changes).view, when


def published(*turns: tuple[ClusterView, datetime]) -> list[dict[ShardUid, ServerSeen]]:
    """What is in the store behind each turn of one leadership."""

    async def run() -> list[dict[ShardUid, ServerSeen]]:
        clock = SystemClock()
        store = MemoryStore(clock)
        await store.transact(Transaction((CreatedAt(keys.LEADER, 0),), (PutKey(keys.LEADER, b"{}"),)))
        fence = Fence((await store.range(keys.LEADER)).items[0].create_revision)
        mirror = Mirror(store, clock=clock)
        following = spawn("test: mirror", mirror.run())
        publisher = Publisher(store, mirror, fence, clock=clock)
        found = []
        for view, now in turns:
            await publisher.publish(view, now)
            await mirror.fresh()
            items = (await store.range(keys.SEEN_SERVERS)).items
            seen = (records.decode(item.key, item.value) for item in items)
            found.append({one.shard_uid: one for one in seen if isinstance(one, ServerSeen)})
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        return found

    return asyncio.run(run())


def times(turns: Sequence[dict[ShardUid, ServerSeen]], uid: int = 1) -> list[timedelta]:
    """Of which time the published sight is."""
    return [turn[ShardUid(uid)].at - NOW for turn in turns]


@pytest.mark.parametrize(
    "news",
    [
        {"health": Health.TIMEOUT},
        {"is_fenced": True},
        {"run_id": "another"},
        {"is_link_up": True},
        {"is_syncing": True},
        {"incarnation": 2},
        {"replication_id": "another"},
    ],
)
def test_news_is_published_at_once_and_only_of_the_server_that_it_is_of(news: dict[str, object]) -> None:
    turns = published(at(PAIR, NOW), at(PAIR, SOON, **news))
    assert times(turns) == [timedelta(0), PERIOD / 2]
    assert times(turns, 2) == [timedelta(0), timedelta(0)]


def test_figures_are_published_once_in_a_period() -> None:
    turns = published(at(PAIR, NOW), at(PAIR, SOON, keys=7), at(PAIR, LATER, keys=7))
    assert times(turns) == [timedelta(0), timedelta(0), PERIOD]
    assert turns[2][ShardUid(1)].keys == 7


def test_figures_of_a_node_without_an_agent_are_published_more_often() -> None:
    alone = PAIR.without_daemon(1)
    turns = published(at(alone, NOW), at(alone, NOW + PERIOD_WITHOUT_AGENT, keys=7))
    assert times(turns) == [timedelta(0), PERIOD_WITHOUT_AGENT]


def test_what_says_the_same_is_published_once() -> None:
    turns = published(at(PAIR, NOW), at(PAIR, LATER), at(PAIR, LATER + PERIOD, cpu_s=3.0))
    assert times(turns) == [timedelta(0)] * 3


def test_what_was_seen_of_a_deleted_shard_goes() -> None:
    gone = PAIR.view.shards[ShardUid(2)]
    without = ClusterBuilder(PAIR.without_server(2).view.with_writes([Delete(gone)]))
    turns = published(at(PAIR, NOW), at(without, SOON))
    assert [sorted(turn) for turn in turns] == [[1, 2], [1]]


def test_a_leader_whose_term_is_over_publishes_nothing() -> None:
    async def run() -> int:
        clock = SystemClock()
        store = MemoryStore(clock)
        await store.transact(Transaction((CreatedAt(keys.LEADER, 0),), (PutKey(keys.LEADER, b"{}"),)))
        await Publisher(store, Mirror(store, clock=clock), Fence(999), clock=clock).publish(PAIR.view, NOW)
        return len((await store.range(keys.SEEN_SERVERS)).items)

    assert asyncio.run(run()) == 0
