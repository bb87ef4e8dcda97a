"""Which keys go with a record: locks when an action ends, names and ports with their database, sights with their shard."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from shardwright.leader.companions import companions
from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.ids import ActionUid, DatabaseUid, ShardUid
from shardwright.model.view import Delete, Put, Write
from shardwright.store import keys
from shardwright.store.protocol import DeleteKey
from testkit.builders import cluster

PAIR = cluster(3).with_database("orders", on=((1, 2),))


def action(name: ActionName = ActionName.MAINTENANCE_ON, status: ActionStatus = ActionStatus.COMPLETED) -> Action:
    return replace(PAIR.with_action(name, 1).view.actions[ActionUid("action-1")], status=status)


def deleted(writes: Sequence[Write], held: dict[str, str] | None = None) -> list[str]:
    """The keys that go; ``held`` are the locks and who holds them."""
    transaction = companions(writes, PAIR.view, (held or {}).get)
    assert transaction.compares == ()
    return [operation.key for operation in transaction.operations if isinstance(operation, DeleteKey)]


LOCK = keys.node_lock_key(action().node_uid)


@pytest.mark.parametrize("status", list(ActionStatus))
def test_an_action_gives_its_lock_back_when_it_ends_and_not_before(status: ActionStatus) -> None:
    assert deleted([Put(action(status=status))], {LOCK: "action-1"}) == ([LOCK] if status.is_terminal else [])


def test_a_lock_that_another_action_holds_by_now_stays() -> None:
    assert deleted([Put(action())], {LOCK: "action-2"}) == []
    assert deleted([Put(action())]) == []
    assert deleted([Delete(action())], {LOCK: "action-1"}) == [], "it ended long before it is forgotten"


def test_a_removal_holds_the_whole_clusters_lock_too() -> None:
    held = {LOCK: "action-1", keys.REMOVE_LOCK: "action-1"}
    assert deleted([Put(action(ActionName.REMOVE))], held) == [LOCK, keys.REMOVE_LOCK]
    assert deleted([Put(action(ActionName.REMOVE))], {keys.REMOVE_LOCK: "action-1"}) == [keys.REMOVE_LOCK]
    assert deleted([Put(action())], held) == [LOCK]


def test_a_databases_name_and_port_are_free_when_it_is_deleted() -> None:
    database = PAIR.view.databases[DatabaseUid(1)]
    assert deleted([Delete(database)]) == [keys.name_key("orders"), keys.port_key(database.port)]
    assert deleted([Put(database)]) == []


def test_what_was_seen_of_a_shard_goes_with_it() -> None:
    shard = PAIR.view.shards[ShardUid(2)]
    assert deleted([Delete(shard), Put(PAIR.view.shards[ShardUid(1)])]) == [keys.seen_server_key(ShardUid(2))]


def test_each_key_goes_once() -> None:
    shard = PAIR.view.shards[ShardUid(2)]
    assert len(deleted([Delete(shard), Delete(shard), Put(action()), Put(action())], {LOCK: "action-1"})) == 2
