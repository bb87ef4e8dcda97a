"""Starting rules, failover and following: one decision each."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.commands import ApplySettings, Attach, EndStuckServer, Open, Promote, RecoverHandoff
from shardwright.model.database import GroupPhase, Handoff, Persistence, Role, Shard, ShardWanted
from shardwright.model.decision import Decision
from shardwright.model.event import Event
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.seen import Health, ProcessSeen, ProcessState
from shardwright.model.view import Delete
from shardwright.reconcile.group import decide_group, decide_unwanted
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.groups import GROUP, decide, group_after, noted, replicated, shards_after, starting
from testkit.moves import handoff_move, relocation


def test_a_settled_group_needs_nothing() -> None:
    assert decide(replicated()) == Decision()


def test_the_committed_primary_with_data_is_chosen_without_waiting_for_others() -> None:
    builder = starting(replicated()).with_server(1, keys=10, is_fenced=True).without_server(2)
    chosen = group_after(decide(builder))
    assert chosen is not None
    assert (chosen.primary, chosen.phase) == (1, GroupPhase.SERVING)
    assert chosen.generation == builder.view.groups[GROUP].generation + 1


def test_an_empty_committed_primary_waits_for_the_other_copy_and_gives_way_to_its_data() -> None:
    builder = starting(replicated()).with_server(1, keys=0)
    waiting = decide(builder.without_server(2))
    assert group_after(waiting) is None
    assert [r.code for r in waiting.reasons] == ["shard_not_started"]
    chosen = group_after(decide(builder.with_server(2, keys=5)))
    assert chosen is not None
    assert chosen.primary == 2


OF_BEFORE = {"second_replication_id": "before", "second_offset": 68, "offset": 67}
"""What a server says that has loaded a snapshot and written nothing since."""


@pytest.mark.parametrize(
    ("here", "other", "chosen"),
    [
        (OF_BEFORE, {"replication_id": "before", "offset": 189}, 2),
        (OF_BEFORE, {"replication_id": "before", "offset": 67}, 1),
        (OF_BEFORE, {"replication_id": "later", "second_replication_id": "before", "second_offset": 68, "offset": 189}, 2),
        (OF_BEFORE, {"replication_id": "later", "second_replication_id": "before", "second_offset": 67, "offset": 189}, 1),
        # Several handoffs later: who followed the dead primary itself holds all that it ever saved, whatever the offsets.
        (OF_BEFORE, {"replication_id": "replication-1:1", "second_replication_id": "between", "offset": 12}, 2),
        (OF_BEFORE, {"replication_id": "replication-1:1", "is_syncing": True}, 1),
        (OF_BEFORE, {"replication_id": "replication-1:1", "keys": 0}, 1),
        (OF_BEFORE, {"replication_id": "another", "offset": 189}, 1),
        (OF_BEFORE, {"replication_id": "before", "offset": 189, "is_syncing": True}, 1),
        ({**OF_BEFORE, "offset": 80}, {"replication_id": "before", "offset": 189}, 1),
        ({"offset": 67}, {"replication_id": "before", "offset": 189}, 1),
    ],
    ids=[
        "holds_more",
        "holds_the_same",
        "went_on",
        "left_before",
        "followed_the_dead_primary",
        "followed_it_and_is_being_filled",
        "followed_it_and_is_empty",
        "of_another_history",
        "is_being_filled",
        "wrote_since",
        "from_append_only_file",
    ],
)
def test_a_primary_that_loaded_a_snapshot_gives_way_to_a_copy_that_lived_on(
    here: dict[str, object], other: dict[str, object], chosen: int
) -> None:
    builder = starting(replicated()).with_server(1, keys=10, is_fenced=True, replication_id="new", **here)
    after = group_after(decide(builder.with_server(2, **{"keys": 10, "is_link_up": False, **other})))
    assert after is not None
    assert after.primary == chosen


@pytest.mark.parametrize(
    ("other", "heir"),
    [
        ({"offset": 129}, 3),
        ({"offset": 129, "is_syncing": True}, 2),
        ({"offset": 129, "replication_id": "another"}, 2),
        ({"offset": 124}, 2),
    ],
    ids=["received_more", "is_being_filled", "of_another_history", "received_the_same"],
)
def test_the_replica_that_has_received_most_takes_over_noted_as_in_sync_or_not(other: dict[str, object], heir: int) -> None:
    """Nobody could see the new copy beside the primary, nor that the old one had lost its link."""
    builder = replicated().with_process(1, ProcessState.GONE).with_server(2, offset=124, is_link_up=False)
    new = replace(builder.view.shards[ShardUid(2)], uid=ShardUid(3), node_uid=NodeUid(3), in_sync_generation=-1)
    builder = builder.with_records(new).with_healthy_shard(3)
    builder = builder.with_records(new).with_server(3, **{"is_link_up": False, "keys": 5, **other})
    after = group_after(decide(builder))
    assert after is not None
    assert after.primary == heir


@pytest.mark.parametrize("persistence", list(Persistence))
def test_a_group_that_starts_over_takes_back_the_copy_whose_files_a_move_has_kept(persistence: Persistence) -> None:
    """The new primary died before it had written a file: nobody started what had one."""
    builder = starting(replicated().with_database_changed(1, persistence=persistence)).with_server(1, keys=0)
    settings = next(iter(builder.view.databases.values())).settings_fingerprint
    left = replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.STOPPED, settings=settings)
    builder = builder.with_records(left).with_process(2, ProcessState.GONE).without_server(2)
    decision = decide(builder)
    if persistence is Persistence.DISABLED:
        assert group_after(decision) is not None
        return
    assert shards_after(decision) == {2: replace(left, wanted=ShardWanted.RUNNING, in_sync_generation=-1)}
    assert group_after(decision) is None
    again = decide(builder.with_records(shards_after(decision)[2]))
    assert group_after(again) is None
    assert shards_after(again)[2].incarnation == left.incarnation + 1


def test_empty_copies_only_keep_the_committed_primary() -> None:
    chosen = group_after(decide(starting(replicated()).with_server(1, keys=0).with_server(2, keys=0)))
    assert chosen is not None
    assert chosen.primary == 1


def test_a_new_group_takes_its_first_shard() -> None:
    builder = starting(replicated(), primary=None).with_server(1, keys=0).with_server(2, keys=0)
    chosen = group_after(decide(builder))
    assert chosen is not None
    assert chosen.primary == 1


def test_a_committed_primary_that_cannot_start_is_replaced_only_after_several_tries_and_only_by_a_copy_in_sync() -> None:
    builder = starting(replicated()).with_process(1, ProcessState.FAILED).without_server(1).with_server(2, keys=5)
    assert group_after(decide(builder)) is None
    tried = replace(builder.view.shards[ShardUid(1)], restarts=5, restart_not_before=NOW + timedelta(seconds=9))
    chosen = group_after(decide(builder.with_records(tried)))
    assert chosen is not None
    assert chosen.primary == 2
    stale = replace(builder.view.shards[ShardUid(2)], in_sync_generation=-1)
    assert group_after(decide(builder.with_records(tried, stale))) is None


def test_a_dead_primary_with_a_live_replica_in_sync_is_replaced() -> None:
    builder = replicated().with_dead_shard(1)
    decision = decide(builder)
    after = group_after(decision)
    assert after is not None
    assert (after.primary, after.generation) == (2, builder.view.groups[GROUP].generation + 1)
    assert any(isinstance(w.record, Event) and w.record.kind == "failover" for w in decision.writes)
    assert decision.commands == ()


def test_a_replica_does_not_take_over_before_it_was_seen_to_live_on() -> None:
    builder = replicated().with_dead_shard(1)
    waiting = decide_group(builder.view.groups[GROUP], builder.view, NOW)
    assert group_after(waiting) is None
    assert [r.code for r in waiting.reasons] == ["heir_not_known"]
    just = noted(builder, ago_s=0.0)
    assert group_after(decide_group(just.view.groups[GROUP], just.view, NOW)) is None
    dead = noted(builder.with_server(2, health=Health.REFUSED), ago_s=0.0)
    assert group_after(decide_group(dead.view.groups[GROUP], dead.view, NOW)) is None
    seen = just.with_server(2, at=NOW + timedelta(milliseconds=50))
    after = group_after(decide_group(seen.view.groups[GROUP], seen.view, NOW + timedelta(milliseconds=60)))
    assert after is not None
    assert after.primary == 2


def test_a_silent_primary_is_not_replaced_while_its_process_may_live() -> None:
    builder = replicated().with_server(1, health=Health.TIMEOUT, unanswered_since=NOW)
    assert group_after(decide(builder)) is None


def test_a_replica_out_of_sync_does_not_take_over() -> None:
    stale = replicated().with_dead_shard(1)
    stale = stale.with_records(replace(stale.view.shards[ShardUid(2)], in_sync_generation=-1))
    after = group_after(decide(stale))
    assert after is not None
    assert (after.phase, after.primary) == (GroupPhase.STARTING, 1)


def test_a_dead_primary_waits_for_a_replica_that_is_only_silent() -> None:
    builder = replicated().with_dead_shard(1).with_server(2, health=Health.TIMEOUT, unanswered_since=NOW)
    decision = decide(builder)
    assert group_after(decision) is None
    assert [r.code for r in decision.reasons] == ["shard_not_started"]


def strict(*, in_sync: bool = True) -> ClusterBuilder:
    """A strict database whose primary is dead; ``in_sync``: whether the replica is noted as that."""
    builder = replicated()
    database = next(iter(builder.view.databases.values()))
    replica = builder.view.shards[ShardUid(2)]
    generation = replica.in_sync_generation if in_sync else -1
    builder = builder.with_records(replace(database, is_strict=True), replace(replica, in_sync_generation=generation))
    builder = builder.with_records(replace(builder.view.groups[GROUP], replication_id=""))
    builder = builder.with_dead_shard(1).with_server(1, replication_id="", replication_id_lately="h")
    return builder.with_server(2, replication_id="h", is_link_up=False, offset=100)


def test_in_strict_mode_a_replica_that_followed_takes_over_before_anybody_noted_it() -> None:
    """It may have confirmed writes already, and nobody else has."""
    after = group_after(decide(strict(in_sync=False)))
    assert after is not None
    assert (after.primary, after.phase) == (2, GroupPhase.SERVING)
    for unfit in ({"replication_id": "other"}, {"is_syncing": True}, {"role": Role.PRIMARY}):
        other = group_after(decide(strict(in_sync=False).with_server(2, **unfit)))
        assert other is not None
        assert other.phase is GroupPhase.STARTING


def test_in_strict_mode_a_single_replica_takes_over_at_once() -> None:
    after = group_after(decide(strict().with_server(2, is_link_up=True)))
    assert after is not None
    assert after.primary == 2


def test_in_strict_mode_the_copy_that_moves_in_takes_over_when_it_has_received_more() -> None:
    builder = strict()
    third = replace(builder.view.shards[ShardUid(2)], uid=ShardUid(3), in_sync_generation=-1)
    builder = builder.with_records(third).with_healthy_shard(3)
    builder = builder.with_server(3, role=Role.REPLICA, replication_id="h", is_link_up=True, offset=101)
    waiting = decide(builder)
    assert group_after(waiting) is None
    assert [r.code for r in waiting.reasons] == ["heir_not_known"]
    assert waiting.wake_at is not None
    builder = builder.with_server(3, is_link_up=False)
    for offset, heir in ((101, 3), (100, 2)):
        after = group_after(decide(builder.with_server(3, offset=offset)))
        assert after is not None
        assert after.primary == heir
    silent = decide(builder.with_server(2, health=Health.TIMEOUT, unanswered_since=NOW))
    assert group_after(silent) is None


def test_a_dead_primary_does_not_wait_for_a_replica_that_was_started_anew() -> None:
    builder = replicated().with_dead_shard(1).with_server(2, role=Role.PRIMARY, is_fenced=True)
    after = group_after(decide(builder))
    assert after is not None
    assert (after.primary, after.phase) == (1, GroupPhase.STARTING)


def test_the_promoted_heir_is_promoted_then_opened() -> None:
    builder = replicated().with_dead_shard(1)
    heir = replace(builder.view.groups[GROUP], primary=ShardUid(2))
    builder = builder.with_records(heir)
    assert Promote(ShardUid(2)) in decide(builder).commands
    fenced = builder.with_server(2, role=Role.PRIMARY, is_fenced=True)
    assert Open(ShardUid(2)) in decide(fenced).commands


def test_a_primary_is_not_opened_beside_another_writable_one() -> None:
    builder = replicated().with_server(1, is_fenced=True).with_server(2, role=Role.PRIMARY, is_fenced=False)
    assert decide(builder).commands == (Attach(ShardUid(2), ShardUid(1)),)


def test_a_started_copy_is_attached_and_opened_once_linked() -> None:
    fresh = replicated().with_server(2, role=Role.PRIMARY, is_fenced=True, is_link_up=False)
    assert decide(fresh).commands == (Attach(ShardUid(2), ShardUid(1)),)
    linked = replicated().with_server(2, is_fenced=True)
    assert decide(linked).commands == (Open(ShardUid(2)),)


def test_sync_is_noted_and_forgotten() -> None:
    builder = replicated()
    unmarked = builder.with_records(replace(builder.view.shards[ShardUid(2)], in_sync_generation=-1))
    assert shards_after(decide(unmarked))[2].in_sync_generation == builder.view.groups[GROUP].generation
    assert shards_after(decide(builder.with_server(2, is_syncing=True, is_link_up=False)))[2].in_sync_generation == -1
    assert shards_after(decide(builder.with_server(2, is_link_up=False, link_down_s=60)))[2].in_sync_generation == -1
    assert shards_after(decide(builder.with_server(2, is_link_up=False, link_down_s=2))) == {}


def test_a_pending_handoff_is_left_to_its_recovery() -> None:
    builder = replicated().with_dead_shard(1)
    pending = replace(builder.view.groups[GROUP], handoff=Handoff(ShardUid(1), ShardUid(2), 9, 1, NOW))
    decision = decide(builder.with_records(pending))
    assert decision.writes == ()
    assert decision.commands == (RecoverHandoff(GROUP),)


def test_a_stuck_server_is_ended_and_a_busy_one_is_not() -> None:
    since = NOW - timedelta(seconds=11)
    stuck = replicated().with_silent_server(1, since)
    assert EndStuckServer(ShardUid(1)) in decide(stuck).commands
    busy = stuck.with_server(1, cpu_active_at=NOW - timedelta(seconds=1))
    assert EndStuckServer(ShardUid(1)) not in decide(busy).commands
    long_ago = stuck.with_server(1, at=NOW - timedelta(seconds=6))
    assert EndStuckServer(ShardUid(1)) not in decide(long_ago).commands


def test_a_stuck_server_that_may_hold_what_no_other_copy_has_is_not_ended() -> None:
    stuck = replicated().with_silent_server(1, NOW - timedelta(seconds=11))
    end = EndStuckServer(ShardUid(1))
    group = stuck.view.groups[GROUP]
    shards = stuck.view.shards

    def kept(text: str) -> Shard:
        settings = f"1|noeviction|{text}|appendfsync-every-sec|"
        return replace(shards[ShardUid(1)], settings=settings)

    alone = stuck.with_dead_shard(2)
    assert end not in decide(alone).commands
    assert end not in decide(alone.with_records(kept("snapshot"))).commands
    assert end in decide(alone.with_records(kept("aof"))).commands
    assert end in decide(alone.with_records(replace(group, generation=0))).commands
    unmarked = stuck.with_records(replace(shards[ShardUid(2)], in_sync_generation=-1))
    assert end not in decide(unmarked).commands
    seen_before = stuck.with_server(2, at=NOW - timedelta(seconds=3))
    assert end not in decide(seen_before).commands
    both = stuck.with_silent_server(2, NOW - timedelta(seconds=11))
    assert end not in decide(both).commands
    replica = replicated().with_silent_server(2, NOW - timedelta(seconds=11))
    assert EndStuckServer(ShardUid(2)) in decide(replica).commands
    assert end not in decide(starting(stuck)).commands


def test_changed_settings_are_applied() -> None:
    builder = replicated().with_database_changed(1, eviction_policy="allkeys-lru")
    wanted = builder.view.databases[builder.view.groups[GROUP].database_uid].settings_fingerprint
    assert decide(builder).commands == (ApplySettings(ShardUid(1), wanted), ApplySettings(ShardUid(2), wanted))


def test_a_shard_of_which_nothing_is_left_is_forgotten_unless_a_move_awaits_it() -> None:
    builder = replicated()
    gone = replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.GONE)
    deleted = ProcessSeen(ShardUid(2), gone.incarnation, ProcessState.GONE, files_are_deleted=True)
    builder = builder.with_records(gone)
    assert decide_unwanted(builder.view).writes == ()
    view = replace(builder.view, processes={**builder.view.processes, ShardUid(2): deleted})
    assert decide_unwanted(view).writes == (Delete(gone),)
    move = relocation(state=MoveState.CLEANING)
    assert decide_unwanted(replace(view, moves={move.uid: move})).writes == ()


def test_a_server_that_starts_anew_has_not_heard_of_a_change_meanwhile() -> None:
    builder = replicated().with_dead_shard(2)
    database = replace(next(iter(builder.view.databases.values())), persistence=Persistence.AOF)
    builder = builder.with_records(database)
    restarted = shards_after(decide(builder))[2]
    assert restarted.kept is Persistence.DISABLED
    back = builder.with_records(restarted).with_healthy_shard(2)
    assert ApplySettings(ShardUid(2), database.settings_fingerprint) in decide(back).commands


@pytest.mark.parametrize(("link_down_s", "takes_over"), [(2, True), (12, True), (35, False), (70, False)])
def test_a_replica_whose_link_was_down_long_before_its_primarys_end_does_not_take_over(
    link_down_s: int, takes_over: bool
) -> None:
    """Noted a second ago: the mark of a leader that could not see them both says nothing."""
    builder = replicated().with_dead_shard(1).with_server(2, is_link_up=False, link_down_s=link_down_s)
    after = group_after(decide(builder))
    assert after is not None
    assert (after.primary, after.phase) == ((2, GroupPhase.SERVING) if takes_over else (1, GroupPhase.STARTING))


def test_how_long_a_link_was_down_counts_only_while_the_primary_answered() -> None:
    """The primary died, and nobody has noticed yet: its last answer is as old as the end of the link."""
    builder = replicated().with_server(2, is_link_up=False, link_down_s=11)
    stale = builder.with_server(1, at=NOW - timedelta(seconds=11))
    assert shards_after(decide(stale)) == {}
    assert shards_after(decide(builder))[2].in_sync_generation == -1


def test_the_primarys_replication_id_is_kept_and_forgotten_with_its_role() -> None:
    builder = replicated().with_server(1, replication_id="h").with_server(2, replication_id="h")
    noted_id = group_after(decide(builder))
    assert noted_id is not None
    assert noted_id.replication_id == "h"
    assert decide(builder.with_records(noted_id)) == Decision()
    assert group_after(decide(builder.with_server(1, role=Role.REPLICA))) is None
    failed_over = group_after(decide(builder.with_records(noted_id).with_dead_shard(1)))
    assert failed_over is not None
    assert (failed_over.primary, failed_over.replication_id) == (2, "")


def unnoted() -> ClusterBuilder:
    """The primary, which keeps a file, died with its node, and nobody has noted that its replica has everything."""
    builder = replicated().with_dead_node(1).with_database_changed(1, persistence=Persistence.AOF)
    settings = next(iter(builder.view.databases.values())).settings_fingerprint
    builder = builder.with_records(*(replace(s, settings=settings) for s in builder.view.shards.values()))
    builder = builder.with_records(replace(builder.view.shards[ShardUid(2)], in_sync_generation=-1))
    return builder.with_server(2, is_link_up=False, link_down_s=2)


@pytest.mark.parametrize("phase", [GroupPhase.SERVING, GroupPhase.STARTING])
def test_a_replica_that_nobody_noted_takes_over_from_a_primary_whose_node_is_dead(phase: GroupPhase) -> None:
    builder = unnoted().with_records(replace(unnoted().view.groups[GROUP], phase=phase))
    after = group_after(decide(builder))
    assert after is not None
    assert (after.primary, after.phase, after.generation) == (2, GroupPhase.SERVING, 2)


@pytest.mark.parametrize("phase", [GroupPhase.SERVING, GroupPhase.STARTING])
@pytest.mark.parametrize(
    "unfit",
    [
        {"replication_id": "its own"},
        {"is_syncing": True},
        {"role": Role.PRIMARY},
        {"keys": 0},
        {"link_down_s": 12},
    ],
    ids=lambda u: next(iter(u)),
)
def test_one_that_may_lack_something_does_not(unfit: dict[str, object], phase: GroupPhase) -> None:
    builder = unnoted().with_server(2, **unfit)
    after = group_after(decide(builder.with_records(replace(builder.view.groups[GROUP], phase=phase))))
    assert after is None or (after.primary, after.phase) == (1, GroupPhase.STARTING)


def test_it_does_not_while_the_primarys_node_lives_or_another_copy_is_silent() -> None:
    """Its agent starts the primary again, and all copies are compared; a silent copy may hold more."""
    starting_over = unnoted().with_records(replace(unnoted().view.groups[GROUP], phase=GroupPhase.STARTING))
    assert group_after(decide(starting_over.with_daemon(1))) is None
    third = replace(starting_over.view.shards[ShardUid(2)], uid=ShardUid(3))
    silent = starting_over.with_records(third).with_healthy_shard(3).with_server(3, health=Health.TIMEOUT)
    assert group_after(decide(silent)) is None


def test_in_strict_mode_a_new_leader_knows_the_dead_primarys_history_from_the_record() -> None:
    builder = strict(in_sync=False).without_server(1)
    known = builder.with_records(replace(builder.view.groups[GROUP], replication_id="h"))
    after = group_after(decide(known))
    assert after is not None
    assert (after.primary, after.phase) == (2, GroupPhase.SERVING)


@pytest.mark.parametrize("lost", [1, 2], ids=["the primary's node", "the replica's node"])
def test_nobody_waits_for_a_dead_node_that_kept_nothing(lost: int) -> None:
    """Without persistence the end of its process was the end of what it held; with a file it is waited for."""
    left = 3 - lost
    builder = starting(replicated()).with_dead_node(lost).with_server(left, role=Role.PRIMARY, is_fenced=True, keys=0)
    after = group_after(decide(builder))
    assert after is not None
    assert (after.primary, after.phase) == (left, GroupPhase.SERVING)
    running = builder.with_process(lost, ProcessState.RUNNING)
    assert group_after(decide(running)) is None, "only its daemon is away"
    settings = replace(next(iter(builder.view.databases.values())), persistence=Persistence.AOF).settings_fingerprint
    keeps = builder.with_records(replace(builder.view.shards[ShardUid(lost)], settings=settings))
    assert group_after(decide(keeps)) is None


def stale_file(**other: object) -> ClusterBuilder:
    """A primary was started again from an append-only file that it had been told to keep no more; its replica lived on."""
    builder = replicated().with_database_changed(1, persistence=Persistence.SNAPSHOT)
    settings = next(iter(builder.view.databases.values())).settings_fingerprint
    builder = builder.with_records(*(replace(s, settings=settings) for s in builder.view.shards.values()))
    group = replace(builder.view.groups[GROUP], replication_id="of now", replication_id_before="of before")
    builder = starting(builder.with_records(group)).with_server(1, keys=10, is_fenced=True, replication_id="new", offset=0)
    return builder.with_server(2, **{"keys": 12, "is_link_up": False, **other})


@pytest.mark.parametrize(
    ("replication_id", "chosen"), [("of now", 2), ("of before", 2), ("another", 1)], ids=["followed", "handed over", "other"]
)
def test_a_file_that_was_kept_no_more_gives_way_to_who_followed_or_handed_over(replication_id: str, chosen: int) -> None:
    after = group_after(decide(stale_file(replication_id=replication_id)))
    assert after is not None
    assert after.primary == chosen


def test_an_append_only_file_that_is_kept_is_never_behind() -> None:
    builder = stale_file(replication_id="of now")
    kept = replace(next(iter(builder.view.databases.values())), persistence=Persistence.AOF).settings_fingerprint
    after = group_after(decide(builder.with_records(replace(builder.view.shards[ShardUid(1)], settings=kept))))
    assert after is not None
    assert after.primary == 1


def test_an_empty_new_copy_does_not_pass_for_a_moved_database() -> None:
    """The only copy, in memory, died with its node: the move ends and says so, and the operator decides."""
    builder = cluster(nodes=3).with_database(on=((1,),))
    settings = next(iter(builder.view.databases.values())).settings_fingerprint
    new = replace(builder.view.shards[ShardUid(1)], uid=ShardUid(2), node_uid=NodeUid(2))
    builder = builder.with_records(replace(new, settings=settings, in_sync_generation=-1)).with_healthy_shard(2)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(1)], settings=settings)).with_dead_node(1)
    move = relocation(state=MoveState.STARTING, shard_uid=ShardUid(1), new_shard_uid=ShardUid(2))
    builder = starting(builder).with_server(2, role=Role.PRIMARY, keys=0, is_fenced=True)
    assert group_after(decide(builder.with_move(move))) is None
    role_only = handoff_move(state=MoveState.HANDOFF)
    for other in (builder, builder.with_move(role_only)):
        after = group_after(decide(other))
        assert after is not None
        assert after.primary == 2
