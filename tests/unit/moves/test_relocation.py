"""A relocation's next step, from what is seen."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.commands import Attach, HandOff, SaveNow
from shardwright.model.database import GroupPhase, Persistence, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.ids import GroupUid, MoveUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.seen import Health, ProcessSeen, ProcessState, Sighting
from shardwright.model.view import Delete
from shardwright.moves.cleaning import is_persisted
from shardwright.moves.decide import decide_move
from shardwright.reconcile.group import decide_group
from testkit.builders import NOW, cluster
from tests.unit.moves.moving import (
    GROUP,
    decide,
    move_after,
    move_after_or_none,
    relocation,
    replicated,
    shard_after,
    with_new_copy,
)

LONG_AGO = NOW - timedelta(seconds=5)


def test_a_planned_relocation_records_the_new_shard_with_a_number_of_its_own() -> None:
    builder = replicated()
    decision = decide(builder, relocation())
    new = shard_after(decision, builder.view.counters.next_shard)
    assert (new.node_uid, new.wanted, new.group_uid) == (3, ShardWanted.RUNNING, GROUP)
    assert (move_after(decision).state, move_after(decision).new_shard_uid) == (MoveState.STARTING, new.uid)


def test_a_new_server_that_follows_is_syncing_and_its_bytes_count() -> None:
    starting = relocation(MoveState.STARTING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), is_link_up=False, is_syncing=True, sync_done_bytes=10, sync_total_bytes=100)
    syncing = move_after(decide(builder, starting))
    assert syncing.state is MoveState.SYNCING
    counted = move_after(decide(builder, syncing))
    assert (counted.bytes_done, counted.state) == (10, MoveState.SYNCING)
    assert counted.bytes_total >= 100


def test_a_linked_copy_is_ready_then_the_old_one_stops_then_its_files_go() -> None:
    builder = with_new_copy(replicated())
    ready = move_after(decide(builder, relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3))))
    assert ready.state is MoveState.READY
    cleaning = move_after(decide(builder, ready))
    assert cleaning.state is MoveState.CLEANING
    stopping = shard_after(decide(builder, cleaning), 2)
    assert stopping.wanted is ShardWanted.STOPPED
    stopped = builder.with_records(stopping).with_process(2, ProcessState.GONE)
    left = move_after(decide(stopped, cleaning))
    assert left.has_left
    assert shard_after(decide(stopped, left), 2).wanted is ShardWanted.GONE


def test_done_only_when_the_files_are_deleted() -> None:
    builder = with_new_copy(replicated())
    gone = replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.GONE)
    builder = builder.with_records(gone).with_process(2, ProcessState.GONE)
    cleaning = relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), has_left=True)
    assert decide(builder, cleaning).writes == ()
    deleted = ProcessSeen(ShardUid(2), gone.incarnation, ProcessState.GONE, files_are_deleted=True)
    view = replace(builder.view, processes={**builder.view.processes, ShardUid(2): deleted})
    decision = decide_move(cleaning, view, NOW)
    assert Delete(gone) in decision.writes
    assert move_after(decision).state is MoveState.DONE


def test_the_old_copy_stays_while_the_new_one_is_not_in_sync() -> None:
    builder = with_new_copy(replicated())
    lagging = builder.with_records(replace(builder.view.shards[ShardUid(3)], in_sync_generation=-1))
    decision = decide(lagging, relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3)))
    assert decision.writes == ()
    assert [r.code for r in decision.reasons] == ["new_copy_not_in_sync"]


def test_a_failover_onto_the_leaving_copy_takes_the_move_back_to_its_handoff() -> None:
    builder = with_new_copy(replicated())
    group = replace(builder.view.groups[GROUP], primary=ShardUid(2))
    decision = decide(builder.with_records(group), relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3)))
    assert move_after(decision).state is MoveState.HANDOFF
    assert not any(isinstance(w.record, Shard) for w in decision.writes)


def test_a_leaving_primary_hands_over_before_it_stops() -> None:
    builder = with_new_copy(cluster(nodes=3).with_database(on=((2, 1),)))
    move = relocation(MoveState.READY, shard_uid=ShardUid(1), new_shard_uid=ShardUid(3), hands_over=True)
    handing = move_after(decide(builder, move))
    assert handing.state is MoveState.HANDOFF
    assert decide(builder, handing).commands == (HandOff(GROUP, ShardUid(1), ShardUid(3)),)


@pytest.mark.parametrize("state", [MoveState.STARTING, MoveState.SYNCING, MoveState.READY])
def test_a_cancelled_relocation_deletes_the_new_copy_and_keeps_the_old(state: MoveState) -> None:
    builder = with_new_copy(replicated())
    move = relocation(state, new_shard_uid=ShardUid(3), is_cancel_wanted=True)
    decision = decide(builder, move)
    assert move_after(decision).state is MoveState.UNDOING
    assert shard_after(decision, 3).wanted is ShardWanted.GONE
    assert not any(isinstance(w.record, Shard) and w.record.uid == 2 for w in decision.writes)


@pytest.mark.parametrize("state", [ProcessState.FAILED, ProcessState.GONE])
def test_a_new_server_that_does_not_start_is_given_up_with_its_reason(state: ProcessState) -> None:
    builder = with_new_copy(replicated()).with_process(3, state).without_server(3)
    decision = decide(builder, relocation(MoveState.STARTING, new_shard_uid=ShardUid(3)))
    undoing = move_after(decision)
    assert undoing.state is MoveState.UNDOING
    assert [r.code for r in undoing.reasons] == ["shard_start_failed"]


def test_a_silent_sync_is_given_up() -> None:
    builder = with_new_copy(replicated(), is_link_up=False, is_syncing=True)
    move = relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3))
    assert decide(builder, move, later_s=60).writes == ()
    assert move_after(decide(builder, move, later_s=121)).state is MoveState.UNDOING


def test_persistence_is_in_place_only_when_written_and_ok() -> None:
    seen = replicated().view.servers[ShardUid(1)]
    assert is_persisted(Persistence.DISABLED, None)
    assert not is_persisted(Persistence.AOF, replace(seen, is_aof_on=True, is_persistence_busy=True))
    assert is_persisted(Persistence.AOF, replace(seen, is_aof_on=True))
    assert not is_persisted(Persistence.SNAPSHOT, replace(seen, saves_since_start=0))
    assert is_persisted(Persistence.SNAPSHOT, replace(seen, saves_since_start=1))
    assert not is_persisted(Persistence.SNAPSHOT, replace(seen, saves_since_start=1, health=Health.TIMEOUT))


def test_a_snapshot_is_asked_for_before_the_old_files_go() -> None:
    builder = with_new_copy(replicated().with_database_changed(1, persistence=Persistence.SNAPSHOT))
    stopped = replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.STOPPED)
    builder = builder.with_records(stopped).with_process(2, ProcessState.GONE)
    cleaning = relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), has_left=True)
    assert decide(builder, cleaning).commands == (SaveNow(ShardUid(3)),)


def test_a_target_whose_daemon_stays_away_is_given_up_before_the_start_limit() -> None:
    starting = relocation(MoveState.STARTING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=None, health=Health.REFUSED).without_daemon(3)
    away = builder.with_process(3, ProcessState.UNKNOWN).with_sighting(3, Sighting.HERE)
    assert decide(away, starting, later_s=9).writes == ()
    given_up = move_after(decide(away, starting, later_s=11))
    assert (given_up.state, given_up.reasons[0].code) == (MoveState.UNDOING, "node_down")
    assert decide(away.with_daemon(3), starting, later_s=11).writes == ()
    assert decide(builder, starting, later_s=11).writes == ()


@pytest.mark.parametrize("state", [MoveState.SYNCING, MoveState.READY, MoveState.CLEANING])
def test_a_new_copy_whose_whole_node_dies_is_given_up(state: MoveState) -> None:
    """Its next incarnation waited for a daemon that was not there: in a sync for two minutes, behind it without end."""
    move = relocation(state, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=None, health=Health.REFUSED).without_daemon(3)
    builder = builder.with_process(3, ProcessState.UNKNOWN)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(3)], in_sync_generation=-1))
    assert move_after_or_none(decide(builder, move, later_s=9)) is None
    given_up = move_after(decide(builder, move, later_s=11))
    assert (given_up.state, given_up.reasons[0].code) == (MoveState.UNDOING, "node_down")
    assert move_after_or_none(decide(builder.with_daemon(3), move, later_s=11)) is None
    back = with_new_copy(replicated()).without_daemon(3)
    ended = move_after_or_none(decide(back, move, later_s=11))
    assert ended is None or ended.state is not MoveState.UNDOING


@pytest.mark.parametrize(
    ("health", "process"),
    [(Health.REFUSED, ProcessState.UNKNOWN), (Health.TIMEOUT, ProcessState.RUNNING)],
    ids=["its node died", "its machine is silent"],
)
def test_when_the_new_copys_files_are_out_of_reach_the_primarys_are_written_before_the_old_ones_go(
    health: Health, process: ProcessState
) -> None:
    """The move waited for a dead node's file, and while it did the lost copy was not rebuilt."""
    later = NOW + timedelta(seconds=11)
    builder = with_new_copy(replicated().with_database_changed(1, persistence=Persistence.SNAPSHOT), health=health)
    builder = builder.without_daemon(3).with_process(3, process)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.STOPPED))
    builder = builder.with_process(2, ProcessState.GONE).with_server(1, at=later)
    cleaning = relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), has_left=True)
    assert decide(builder, cleaning, later_s=11).commands == (SaveNow(ShardUid(1)),)
    saved = builder.with_server(1, saves_since_start=1)
    assert shard_after(decide(saved, cleaning, later_s=11), 2).wanted is ShardWanted.GONE
    unseen = saved.with_server(1, health=Health.TIMEOUT)
    waits = decide(unseen, cleaning, later_s=11)
    assert [w.record.uid for w in waits.writes] == ["a-1"]  # type: ignore[union-attr]
    assert [r.code for r in move_after(waits).reasons] == ["persistence_pending"]


def test_a_deleted_database_ends_its_moves() -> None:
    builder = with_new_copy(replicated())
    without = replace(builder.view, groups={}, databases={})
    decision = decide_move(relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3)), without, NOW)
    assert move_after(decision).state is MoveState.UNDOING
    assert not any(isinstance(w.record, SlotGroup) for w in decision.writes)


@pytest.mark.parametrize("state", [MoveState.STARTING, MoveState.SYNCING])
def test_a_copy_without_a_source_is_given_up_at_once(state: MoveState) -> None:
    move = relocation(state, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=Role.PRIMARY, is_link_up=False).with_dead_node(1).with_dead_node(2)
    undoing = move_after(decide(builder, move))
    assert (undoing.state, [reason.code for reason in undoing.reasons]) == (MoveState.UNDOING, ["no_live_copy"])
    for may_return in (builder.with_daemon(1), builder.with_healthy_shard(1)):
        after = move_after_or_none(decide(may_return, move))
        assert after is None or after.state is MoveState.SYNCING


def test_a_server_is_started_ahead_and_waits_for_its_sync() -> None:
    starting = relocation(MoveState.STARTING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=Role.PRIMARY, is_link_up=False).with_policy(max_slave_full_syncs=1)
    other = replace(starting, uid=MoveUid("b-1"), group_uid=GroupUid("9:1"), state=MoveState.SYNCING)
    for age_s in (0, 3600):
        assert decide(builder.with_move(other), starting, later_s=age_s).writes == ()
    begun = move_after(decide(builder.with_move(replace(other, state=MoveState.READY)), starting))
    assert (begun.state, begun.sync_began_at) == (MoveState.SYNCING, NOW)
    assert move_after(decide(builder.with_move(other).with_policy(max_slave_full_syncs=0), starting)) == begun


def test_the_group_attaches_a_new_copy_when_its_sync_may_begin() -> None:
    builder = with_new_copy(replicated(), role=Role.PRIMARY, is_link_up=False)
    attach = Attach(ShardUid(3), ShardUid(1))
    for state, attaches in ((MoveState.STARTING, False), (MoveState.SYNCING, True), (MoveState.HANDOFF, True)):
        view = builder.with_move(relocation(state, new_shard_uid=ShardUid(3))).view
        assert (attach in decide_group(view.groups[GROUP], view, NOW).commands) is attaches


@pytest.mark.parametrize("state", [MoveState.SYNCING, MoveState.READY, MoveState.HANDOFF])
def test_a_copy_that_may_be_all_there_is_is_not_given_up(state: MoveState) -> None:
    move = replace(relocation(state, new_shard_uid=ShardUid(3)), is_cancel_wanted=True)
    alive = with_new_copy(replicated())
    assert move_after(decide(alive, move)).state is MoveState.UNDOING
    for dead in (alive.with_dead_shard(1), alive.with_server(1, health=Health.TIMEOUT), alive.with_server(1, at=LONG_AGO)):
        waiting = move_after(decide(dead, move))
        assert (waiting.state, [r.code for r in waiting.reasons]) == (state, ["primary_unseen"])
        assert decide(dead, waiting).writes == ()
    empty = with_new_copy(replicated(), is_syncing=True, is_link_up=False).with_dead_shard(1)
    assert move_after(decide(empty, replace(move, state=MoveState.SYNCING))).state is MoveState.UNDOING


@pytest.mark.parametrize("is_cancel_wanted", [False, True])
@pytest.mark.parametrize("state", [MoveState.SYNCING, MoveState.READY])
def test_a_new_copy_that_a_failover_made_the_primary_is_not_given_up(state: MoveState, is_cancel_wanted: bool) -> None:
    """It is all that the group has: it was deleted when the others were gone, or when its sync did not advance."""
    builder = with_new_copy(replicated(), role=Role.PRIMARY).with_dead_node(1).with_dead_node(2)
    builder = builder.with_records(replace(builder.view.groups[GROUP], primary=ShardUid(3)))
    decision = decide(builder, relocation(state, new_shard_uid=ShardUid(3), is_cancel_wanted=is_cancel_wanted), later_s=300)
    assert move_after(decision).state is (MoveState.READY if state is MoveState.SYNCING else MoveState.CLEANING)
    assert not [w for w in decision.writes if isinstance(w.record, Shard)]


def test_an_old_copy_that_its_group_has_taken_back_leaves_once_more() -> None:
    builder = with_new_copy(replicated(), role=Role.REPLICA)
    cleaning = relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), hands_over=True, has_left=True, left_at=NOW)
    back = move_after(decide(builder, cleaning))
    assert (back.has_left, back.left_at) == (False, None)
    group = replace(builder.view.groups[GROUP], primary=ShardUid(2))
    assert move_after(decide(builder.with_records(group), back)).state is MoveState.HANDOFF


@pytest.mark.parametrize("old", [ShardWanted.RUNNING, ShardWanted.STOPPED])
def test_the_old_copy_and_its_files_stay_while_the_group_starts_over(old: ShardWanted) -> None:
    """The new primary was killed just behind its handoff and came back empty, with its mark: the old copy was ended, and
    with it everything."""
    builder = with_new_copy(replicated().with_database_changed(1, persistence=Persistence.SNAPSHOT), role=Role.PRIMARY)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(3)], in_sync_generation=1))
    builder = builder.with_server(3, keys=0, saves_since_start=1)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(2)], wanted=old))
    if old is ShardWanted.STOPPED:
        builder = builder.with_process(2, ProcessState.GONE)
    group = replace(builder.view.groups[GROUP], primary=ShardUid(3))
    cleaning = relocation(
        MoveState.CLEANING, new_shard_uid=ShardUid(3), hands_over=True, has_left=old is ShardWanted.STOPPED
    )
    starting = builder.with_records(replace(group, phase=GroupPhase.STARTING))
    assert not [w for w in decide(starting, cleaning).writes if isinstance(w.record, Shard)]
    serving = builder.with_records(group)
    assert shard_after(decide(serving, cleaning), 2).wanted is not old
