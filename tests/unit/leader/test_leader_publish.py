"""What the leader publishes of servers for those who answer operators."""

import asyncio

from shardwright.api.services.intent import with_sightings
from shardwright.clock import SystemClock
from shardwright.leader.publish import Publisher
from shardwright.model.ids import ShardUid
from shardwright.model.liveness import Ended, Proof, has_ended
from shardwright.model.seen import Health, ServerSeen, Sighting
from shardwright.model.view import ClusterView
from shardwright.store import keys, records
from shardwright.store.commit import Fence
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import CreatedAt, PutKey, Transaction
from testkit.builders import NOW, ClusterBuilder, cluster

TWO = ShardUid(2)


def published(view: ClusterView) -> ServerSeen:
    """What is in the store of shard 2 afterwards."""

    async def run() -> ServerSeen:
        clock = SystemClock()
        store = MemoryStore(clock)
        await store.transact(Transaction((CreatedAt(keys.LEADER, 0),), (PutKey(keys.LEADER, b"{}"),)))
        page = await store.range(keys.LEADER)
        fence = Fence(page.items[0].create_revision)
        await Publisher(store, Mirror(store, clock=clock), fence, clock=clock).publish(view, NOW)
        (item,) = (await store.range(keys.seen_server_key(TWO))).items
        found = records.decode(item.key, item.value)
        assert isinstance(found, ServerSeen)
        return found

    return asyncio.run(run())


def pair() -> ClusterBuilder:
    return cluster().with_database(on=((1, 2),))


def test_that_a_process_has_ended_is_told_to_those_who_cannot_look() -> None:
    """The agent of a dead node goes on saying that its server runs."""
    silent = pair().without_daemon(2).with_server(2, health=Health.REFUSED)
    assert published(silent.view).sighting is Sighting.NONE
    judged = published(silent.view.changed(sightings={TWO: Sighting.ENDED}))
    assert judged.sighting is Sighting.ENDED
    view = silent.view.changed(servers={**silent.view.servers, TWO: judged})
    assert not has_ended(view.liveness(view.shards[TWO]))
    seen = with_sightings(view)
    assert seen.liveness(seen.shards[TWO]) == Ended(Proof.SEEN)


def test_without_such_news_the_view_stays_as_it_is() -> None:
    assert with_sightings(pair().view) == pair().view
