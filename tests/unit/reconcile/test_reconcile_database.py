"""A database's next step: creation, changes of the number of copies, deletion."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.database import Database, DatabaseStatus, Endpoint, GroupPhase, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.event import Event
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import Move, MoveState
from shardwright.model.seen import ProcessSeen, ProcessState
from shardwright.model.view import Delete, Put
from shardwright.reconcile.database import decide_database
from testkit.builders import GB, NOW, ClusterBuilder, cluster
from testkit.moves import relocation

ONE = DatabaseUid(1)
CHANGING = DatabaseStatus.ACTIVE_CHANGE_PENDING


def decide(builder: ClusterBuilder, *, later_s: float = 0) -> Decision:
    return decide_database(builder.view.databases[ONE], builder.view, NOW + timedelta(seconds=later_s))


def after(builder: ClusterBuilder, *, turns: int = 1) -> ClusterBuilder:
    for _ in range(turns):
        builder = builder.with_writes(*decide(builder).writes)
    return builder


def with_settings(builder: ClusterBuilder) -> ClusterBuilder:
    """Every server runs with its database's settings."""
    wanted = builder.view.databases[ONE].settings_fingerprint
    return builder.with_records(*(replace(s, settings=wanted) for s in builder.view.shards.values()))


def cleaning(shard_uid: int, new_shard_uid: int) -> Move:
    """A relocation whose old copy has left and whose files have not."""
    return relocation(
        state=MoveState.CLEANING, shard_uid=ShardUid(shard_uid), new_shard_uid=ShardUid(new_shard_uid), has_left=True
    )


def test_a_new_database_gets_its_groups_shards_and_endpoint_at_once() -> None:
    builder = cluster(3).with_database(on=((1, 2),))
    bare = replace(builder.view, groups={}, shards={}, endpoints={})
    builder = ClusterBuilder(bare).with_database_changed(1, status=DatabaseStatus.PENDING)
    records = [w.record for w in decide(builder).writes]
    assert [type(r) for r in records if not isinstance(r, Shard)][:1] == [SlotGroup]
    shards = [r for r in records if isinstance(r, Shard)]
    assert len({s.node_uid for s in shards}) == 2
    assert len([r for r in records if isinstance(r, Endpoint)]) == 1


def test_a_database_without_a_place_fails_and_says_why() -> None:
    builder = cluster(2).with_database(on=((1, 2),))
    bare = replace(builder.view, groups={}, shards={}, endpoints={})
    builder = ClusterBuilder(bare).with_database_changed(1, status=DatabaseStatus.PENDING, memory_bytes=100 * GB)
    failed, event = (w.record for w in decide(builder).writes)
    assert isinstance(failed, Database)
    assert isinstance(event, Event)
    assert failed.status is DatabaseStatus.CREATION_FAILED
    assert failed.failure == event.text != ""


def test_a_replica_is_added_and_the_change_ends_when_it_is_in_sync() -> None:
    builder = cluster(2).with_database(on=((1,),)).with_endpoints_seen()
    builder = with_settings(builder.with_database_changed(1, has_replica=True, status=CHANGING))
    added = after(builder)
    assert [s.node_uid for s in added.view.shards.values()] == [1, 2]
    assert decide(added).writes == ()
    assert [r.code for r in decide(added).reasons] == ["shard_not_ready"]
    in_sync = replace(added.view.shards[ShardUid(2)], in_sync_generation=1)
    settled = after(added.with_records(in_sync).with_healthy_shard(2))
    assert settled.view.databases[ONE].status is DatabaseStatus.ACTIVE


def test_a_copy_goes_only_while_its_primary_was_just_seen_to_serve() -> None:
    builder = cluster(2).with_database(on=((1, 2),)).with_endpoints_seen()
    builder = builder.with_database_changed(1, has_replica=False, status=CHANGING)
    assert [r.code for r in decide(builder, later_s=5).reasons] == ["primary_unseen"]
    assert [r.code for r in decide(builder.with_dead_shard(1)).reasons] == ["primary_unseen"]
    assert after(builder).view.shards[ShardUid(2)].wanted is ShardWanted.GONE


@pytest.mark.parametrize("has_replica", [True, False])
def test_a_change_of_copies_waits_for_a_move_that_tidies_up_and_does_not_end_before(has_replica: bool) -> None:
    builder = cluster(3).with_database(on=((1, 2),) if not has_replica else ((1,),)).with_endpoints_seen()
    left = replace(builder.view.shards[ShardUid(1)], uid=ShardUid(9), node_uid=NodeUid(3), wanted=ShardWanted.STOPPED)
    moved = builder.with_records(left).with_process(9, ProcessState.GONE).with_move(cleaning(9, 1))
    moved = moved.with_database_changed(1, has_replica=has_replica, status=CHANGING)
    assert [r.code for r in decide(moved).reasons] == ["group_busy"]
    assert decide(moved).writes == ()
    done = moved.with_move(replace(cleaning(9, 1), state=MoveState.DONE))
    assert decide(done).writes != ()


@pytest.mark.parametrize("state", [MoveState.SYNCING, MoveState.READY, MoveState.HANDOFF])
def test_a_copy_and_the_one_that_replaces_it_count_as_one(state: MoveState) -> None:
    """The relocation began in the moment in which the replica was requested."""
    builder = cluster(3).with_database(on=((1, 2),)).with_endpoints_seen()
    builder = with_settings(builder.with_database_changed(1, has_replica=True, status=CHANGING))
    move = relocation(state=state, shard_uid=ShardUid(1), new_shard_uid=ShardUid(2))
    moving = builder.with_move(move)
    assert [r.code for r in decide(moving).reasons] == ["group_busy"]
    assert decide(moving).writes == ()
    left = replace(builder.view.shards[ShardUid(1)], wanted=ShardWanted.GONE)
    moved = moving.with_records(left).with_move(replace(move, state=MoveState.DONE))
    (added, _) = (w.record for w in decide(moved).writes)
    assert isinstance(added, Shard)


def test_a_change_that_needs_no_other_copies_does_not_wait_for_a_move() -> None:
    builder = cluster(3).with_database(on=((1, 2),)).with_endpoints_seen()
    builder = with_settings(builder.with_database_changed(1, status=CHANGING)).with_move(cleaning(9, 1))
    assert after(builder).view.databases[ONE].status is DatabaseStatus.ACTIVE


def test_a_deletion_ends_everything_and_forgets_it_when_nothing_is_left() -> None:
    builder = cluster(2).with_database(on=((1, 2),)).with_database_changed(1, status=DatabaseStatus.DELETE_PENDING)
    ending = after(builder)
    assert {s.wanted for s in ending.view.shards.values()} == {ShardWanted.GONE}
    assert not ending.view.endpoints
    assert decide(ending).writes == ()
    gone = {
        uid: ProcessSeen(uid, s.incarnation, ProcessState.ABSENT, files_are_deleted=True)
        for uid, s in ending.view.shards.items()
    }
    writes = decide(ClusterBuilder(replace(ending.view, processes=gone))).writes
    assert sum(isinstance(w, Delete) for w in writes) == 2 + 1 + 1
    assert [type(w.record) for w in writes if isinstance(w, Put)] == [Event]


def unborn(*, missing_for_s: float = 11) -> ClusterBuilder:
    """A database of which nobody was let in yet; node 2, where its replica shall be, has died."""
    builder = cluster(3).with_database(on=((1, 2),)).with_database_changed(1, status=DatabaseStatus.PENDING)
    starting = replace(builder.view.groups[GroupUid("1:1")], phase=GroupPhase.STARTING, primary=None, generation=0)
    missing = replace(builder.view.shards[ShardUid(2)], missing_since=NOW - timedelta(seconds=missing_for_s))
    return builder.with_records(starting, missing).with_dead_node(2)


def test_a_creation_whose_node_has_died_is_made_anew_on_the_others() -> None:
    cleared = after(unborn())
    assert not cleared.view.groups
    assert not cleared.view.endpoints
    assert {s.wanted for s in cleared.view.shards.values()} == {ShardWanted.GONE}
    assert [r.code for r in decide(cleared).reasons] == ["shard_ending"]
    assert decide(cleared).writes == ()
    created = after(cleared.with_writes(Delete(cleared.view.shards[ShardUid(1)])))
    running = [s for s in created.view.shards.values() if s.wanted is ShardWanted.RUNNING]
    assert {s.node_uid for s in running} == {1, 3}
    assert {s.uid for s in running}.isdisjoint(cleared.view.shards)


@pytest.mark.parametrize("why", ["just now", "daemon is back", "has served"])
def test_a_creation_is_not_made_anew_in_haste_nor_when_somebody_was_let_in(why: str) -> None:
    match why:
        case "just now":
            builder = unborn(missing_for_s=9)
        case "daemon is back":
            builder = unborn().with_daemon(2)
        case _:
            builder = unborn()
            serving = replace(builder.view.groups[GroupUid("1:1")], phase=GroupPhase.SERVING, generation=1)
            builder = builder.with_records(serving)
    assert decide(builder).writes == ()
    assert decide(builder).reasons


def test_a_deletion_does_not_wait_for_a_node_that_has_died() -> None:
    builder = cluster(3).with_database(on=((1, 2),)).with_database_changed(1, status=DatabaseStatus.DELETE_PENDING)
    ending = after(builder.with_dead_node(2))
    gone = {ShardUid(1): ProcessSeen(ShardUid(1), 1, ProcessState.ABSENT, files_are_deleted=True)}
    rest = ClusterBuilder(replace(ending.view, processes={**ending.view.processes, **gone}))
    assert [type(w.record).__name__ for w in decide(rest).writes if isinstance(w, Delete)] == [
        "Shard",
        "Shard",
        "SlotGroup",
        "Database",
    ]
    # Its server may still run while only its daemon is away.
    running = rest.with_process(2, ProcessState.RUNNING)
    assert [w.record.uid for w in decide(running).writes if isinstance(w, Delete)] == [1]  # type: ignore[union-attr]
