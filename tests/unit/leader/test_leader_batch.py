"""What goes to the store together: as much as one transaction takes, and each state of a record by itself."""

from dataclasses import replace

from shardwright.leader.batch import Batch
from shardwright.leader.companions import companions
from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.database import Shard
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import ShardUid
from shardwright.model.view import Delete, Put
from shardwright.store import keys, records
from shardwright.store.bounds import check_transaction
from shardwright.store.protocol import CreatedAt, DeleteKey, ModifiedAt, Operation, PutKey, Transaction
from testkit.builders import NOW, cluster

VIEW = cluster(nodes=3).with_database(on=((1, 2),)).view


def shard(uid: int, **changes: object) -> Shard:
    return replace(VIEW.shards[ShardUid(1)], uid=ShardUid(uid), **changes)  # type: ignore[arg-type]


def transaction_of(batch: Batch) -> Transaction:
    """As it is committed."""
    compares = tuple(ModifiedAt(keys.key_of(w.record), 7) for w in batch.writes)
    operations: list[Operation] = []
    for write in batch.writes:
        key = keys.key_of(write.record)
        operations.append(PutKey(key, records.encode(write.record)) if isinstance(write, Put) else DeleteKey(key))
    extra = companions(batch.writes, batch.base, lambda key: None)
    return Transaction((*compares, CreatedAt(keys.LEADER, 1)), (*operations, *extra.operations))


def filled(make_writes: "list[list[Put | Delete]]") -> Batch:
    batch = Batch(VIEW)
    for writes in make_writes:
        if not batch.has_room_for(writes):
            break
        batch.add(writes)
    return batch


def test_later_decisions_see_the_writes_of_earlier_ones_and_the_base_stays() -> None:
    batch = Batch(VIEW)
    assert batch.has_room_for([Put(shard(9))])
    batch.add([Put(shard(9))])
    assert ShardUid(9) in batch.view.shards
    assert ShardUid(9) not in batch.base.shards


def test_a_hundred_small_writes_are_one_transaction_and_it_fits() -> None:
    batch = filled([[Put(shard(uid))] for uid in range(10, 1000)])
    assert len(batch.writes) >= 100
    check_transaction(transaction_of(batch))


def test_deletions_count_with_what_is_deleted_beside_them() -> None:
    builder = cluster(nodes=3)
    for _ in range(60):
        builder = builder.with_database(on=((1, 2),))
    batch = Batch(builder.view)
    for database in builder.view.databases.values():
        if batch.has_room_for([Delete(database)]):
            batch.add([Delete(database)])
    assert len(batch.writes) >= 30
    check_transaction(transaction_of(batch))


def test_large_records_fill_it_too() -> None:
    batch = filled([[Put(shard(uid, failure="x" * 50_000))] for uid in range(10, 100)])
    assert 10 <= len(batch.writes) < 20
    check_transaction(transaction_of(batch))


def test_one_decision_is_always_taken_and_refused_by_the_store_if_it_is_too_large() -> None:
    assert Batch(VIEW).has_room_for([Put(shard(uid)) for uid in range(10, 500)])


def test_two_states_of_a_record_are_two_transactions_but_counters_and_events_are_one() -> None:
    batch = Batch(VIEW)
    event = Event(NOW, EventKind.GROUP_WAITS, Severity.INFO, "it waits")
    batch.add([Put(shard(1, restarts=1)), Put(VIEW.counters), Put(event)])
    assert not batch.has_room_for([Put(shard(1, restarts=2))])
    assert not batch.has_room_for([Delete(shard(1))])
    assert batch.has_room_for([Put(shard(2)), Put(replace(VIEW.counters, next_shard=77)), Put(event)])


def test_of_an_action_and_its_moves_the_last_state_is_stored() -> None:
    builder = cluster(nodes=3).with_action(ActionName.STEP_DOWN, 1, status=ActionStatus.QUEUED)
    (action,) = builder.view.actions.values()
    batch = Batch(builder.view)
    batch.add([Put(replace(action, status=ActionStatus.STARTING))])
    assert batch.has_room_for([Put(replace(action, status=ActionStatus.RUNNING))])


def test_what_was_seen_of_an_incarnation_that_is_over_does_not_count_for_the_next() -> None:
    batch = Batch(VIEW)
    before = VIEW.shards[ShardUid(1)]
    assert before.uid in batch.view.servers
    batch.add([Put(replace(before, incarnation=before.incarnation + 1))])
    assert before.uid not in batch.view.servers
    assert before.uid not in batch.view.processes
    assert ShardUid(2) in batch.view.servers
