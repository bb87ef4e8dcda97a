"""One turn of an agent, with a store in memory: what it reports of a start that it has just begun."""

import asyncio
from pathlib import Path

from shardwright.agent.loop import Agent
from shardwright.clock import SystemClock
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import NodeSeen, ProcessState
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Transaction
from shardwright.tasks import spawn
from testkit.builders import cluster

NODE, SHARD = NodeUid(1), ShardUid(1)


async def report_of_first_turn(directory: Path) -> NodeSeen:
    """What the first turn of an agent writes that has nothing of a recorded shard. The store has no passwords of its
    database, so that no server starts."""
    view = cluster(nodes=2).with_database(on=((1, 2),)).view
    stored: list[StoredRecord] = [*view.nodes.values(), *view.databases.values(), *view.shards.values()]
    store = MemoryStore(SystemClock())
    mirror = Mirror(store)
    following = spawn("test: mirror", mirror.run())
    operations = tuple(PutKey(keys.key_of(record), records.encode(record)) for record in stored)
    assert (await store.transact(Transaction((), operations))).succeeded
    await mirror.fresh()
    agent = Agent(
        NODE,
        store,
        mirror=mirror,
        directory=directory,
        control=directory / "endpoint.sock",
        clock=SystemClock(),
        endpoint_command=[str(directory / "no program")],
    )
    try:
        await agent.turn()
        await mirror.fresh()
        return mirror.view().node_seen[NODE]
    finally:
        following.cancel()


def test_a_turn_that_begins_a_start_does_not_report_that_nothing_was_started(tmp_path: Path) -> None:
    """That report would be a proof that no server runs, until the next one replaces it. The agent may die before."""
    (process,) = asyncio.run(report_of_first_turn(tmp_path)).processes
    assert (process.shard_uid, process.state) == (SHARD, ProcessState.UNKNOWN)
