"""Copies whose files are damaged: who is filled anew, who is waited for, and what an operator can have done."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.database import Damage, GroupPhase, Role, Shard, SlotGroup, StartWith
from shardwright.model.decision import Decision
from shardwright.model.event import Event
from shardwright.model.ids import DatabaseUid, GroupUid, ShardUid
from shardwright.model.seen import Health, ProcessSeen, ProcessState
from shardwright.model.view import Put
from shardwright.reconcile.group import decide_group
from shardwright.reconcile.restarts import DAMAGED
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP = GroupUid("1:1")
SAID = "Bad file format reading the append only file appendonly.aof.1.incr.aof"


def pair() -> ClusterBuilder:
    """Shard 1 on node 1 leads, shard 2 on node 2 follows; both keep an append-only file."""
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),), persistence="aof")
    database = builder.view.databases[DatabaseUid(1)]
    return builder.with_records(*(replace(s, settings=database.settings_fingerprint) for s in builder.view.shards.values()))


def damaged(builder: ClusterBuilder, uid: int, damage: Damage | None = Damage.APPEND_ONLY_FILE) -> ClusterBuilder:
    """The shard's server has ended because it could not load its files; without damage, for another reason."""
    shard = builder.view.shards[ShardUid(uid)]
    seen = ProcessSeen(shard.uid, shard.incarnation, ProcessState.FAILED, text=SAID, damage=damage)
    builder = builder.with_server(uid, health=Health.REFUSED, is_link_up=False)
    return ClusterBuilder(replace(builder.view, processes={**builder.view.processes, shard.uid: seen}))


def ruined(damage: Damage = Damage.APPEND_ONLY_FILE, **changes: object) -> ClusterBuilder:
    """No copy of a group that starts can load its files."""
    since = NOW - timedelta(minutes=1)
    group = replace(pair().view.groups[GROUP], phase=GroupPhase.STARTING, starting_since=since)
    builder = pair().with_records(replace(group, **changes))  # type: ignore[arg-type]
    return damaged(damaged(builder, 1, damage), 2, damage)


def decide(builder: ClusterBuilder) -> Decision:
    return decide_group(builder.view.groups[GROUP], builder.view, NOW)


def shards_in(decision: Decision) -> dict[int, Shard]:
    return {w.record.uid: w.record for w in decision.writes if isinstance(w.record, Shard)}


def group_in(decision: Decision) -> SlotGroup | None:
    """The last that is written of it."""
    return next((w.record for w in reversed(decision.writes) if isinstance(w.record, SlotGroup)), None)


def kinds_in(decision: Decision) -> list[str]:
    return [w.record.kind for w in decision.writes if isinstance(w, Put) and isinstance(w.record, Event)]


# -- with a live primary --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", list(Damage))
def test_a_replica_whose_files_are_damaged_is_filled_anew_at_once(damage: Damage) -> None:
    decision = decide(damaged(pair(), 2, damage))
    shard = shards_in(decision)[2]
    assert (shard.starts_with, shard.incarnation, shard.damage, shard.failure) == (StartWith.NOTHING, 2, None, "")
    assert shard.in_sync_generation == -1
    assert "shard_files_put_aside" in kinds_in(decision)


def test_one_that_fails_for_another_reason_keeps_its_files() -> None:
    decision = decide(damaged(pair(), 2, None))
    assert shards_in(decision)[2].starts_with is StartWith.FILES
    assert kinds_in(decision) == ["shard_restart"]


@pytest.mark.parametrize("changes", [{"health": Health.TIMEOUT}, {"role": Role.REPLICA}, {"health": Health.LOADING}])
def test_while_no_primary_is_seen_to_serve_damaged_files_are_left_alone(changes: dict[str, object]) -> None:
    decision = decide(damaged(pair(), 2).with_server(1, **changes))
    assert shards_in(decision)[2].starts_with is StartWith.FILES


def test_a_later_start_loads_what_the_copy_has_kept_since() -> None:
    builder = pair()
    filled = replace(builder.view.shards[ShardUid(2)], starts_with=StartWith.NOTHING)
    decision = decide(builder.with_records(filled).with_dead_shard(2))
    assert shards_in(decision)[2].starts_with is StartWith.FILES


def test_damage_that_was_not_met_any_more_is_forgotten() -> None:
    builder = pair()
    decision = decide(builder.with_records(replace(builder.view.shards[ShardUid(2)], damage=Damage.SNAPSHOT, failure=SAID)))
    assert (shards_in(decision)[2].damage, shards_in(decision)[2].failure) == (None, "")


# -- without one ----------------------------------------------------------------------------------------------------------


def test_a_group_whose_copies_are_all_damaged_says_so_with_the_way_out() -> None:
    decision = decide(ruined())
    group = group_in(decision)
    assert group is not None
    assert [r.code for r in group.waits_for] == ["shard_files_damaged"] * 2
    assert SAID in group.waits_for[0].text
    assert "shardwright db start orders --from-copy 1 --cut-damaged-tail" in group.waits_for[0].remedy
    assert {s.starts_with for s in shards_in(decision).values()} == {StartWith.FILES}
    assert {s.damage for s in shards_in(decision).values()} == {Damage.APPEND_ONLY_FILE}


def test_a_damaged_snapshot_cannot_be_cut() -> None:
    group = group_in(decide(ruined(Damage.SNAPSHOT)))
    assert group is not None
    assert not any("--cut-damaged-tail" in r.remedy for r in group.waits_for)
    assert group.waits_for[0].remedy == (
        "replace its files with a backup on node 1, or discard the data: shardwright db delete orders"
    )


def test_starts_in_vain_are_spaced_out_and_go_on() -> None:
    builder, delays = ruined(), []
    for _ in range(8):
        shard = shards_in(decide(builder))[1]
        assert shard.restart_not_before is not None
        delays.append((shard.restart_not_before - NOW).total_seconds())
        builder = damaged(builder.with_records(replace(shard, restart_not_before=None)), 1)
    assert delays == [*DAMAGED.delays_s, *[DAMAGED.delays_s[-1]] * 3]
    waiting = builder.view.shards[ShardUid(1)]
    later = builder.with_records(replace(waiting, restart_not_before=NOW + timedelta(seconds=299)))
    assert 1 not in shards_in(decide(later))


def test_a_copy_in_sync_leads_in_place_of_a_primary_whose_files_are_damaged() -> None:
    builder = ruined()
    ready = builder.with_healthy_shard(2).with_server(2, role=Role.PRIMARY, is_fenced=True)
    group = group_in(decide(ready))
    assert group is not None
    assert (group.phase, group.primary) == (GroupPhase.SERVING, 2)
    unmarked = ready.with_records(replace(ready.view.shards[ShardUid(2)], in_sync_generation=-1))
    group = group_in(decide(unmarked))
    assert group is not None
    assert group.phase is GroupPhase.STARTING
    assert "continue with the data of shard 2" in group.waits_for[0].remedy


# -- cutting --------------------------------------------------------------------------------------------------------------


def test_the_damaged_end_of_the_chosen_copy_is_cut_once_and_without_delay() -> None:
    builder = ruined(start_from=ShardUid(1), start_cuts=True)
    late = replace(builder.view.shards[ShardUid(1)], restarts=6, restart_not_before=NOW + timedelta(minutes=4))
    builder = builder.with_records(late)
    decision = decide(builder)
    assert shards_in(decision)[1].starts_with is StartWith.CUT_FILES
    assert "shard_files_cut" in kinds_in(decision)
    group = group_in(decision)
    assert group is not None
    assert (group.start_from, group.start_cuts) == (1, False)
    assert all(s.starts_with is StartWith.FILES for uid, s in shards_in(decision).items() if uid != 1)


def test_what_was_cut_is_told_when_the_copy_leads() -> None:
    builder = ruined(start_from=ShardUid(1)).with_healthy_shard(1)
    shard = replace(builder.view.shards[ShardUid(1)], starts_with=StartWith.CUT_FILES, damage=Damage.APPEND_ONLY_FILE)
    seen = replace(builder.view.processes[ShardUid(1)], text="12 bytes were cut")
    builder = ClusterBuilder(replace(builder.view, processes={**builder.view.processes, ShardUid(1): seen}))
    decision = decide(builder.with_records(shard))
    group = group_in(decision)
    assert group is not None
    assert (group.phase, group.primary, group.start_from) == (GroupPhase.SERVING, 1, None)
    assert shards_in(decision)[1].damage is None
    (event,) = [w.record for w in decision.writes if isinstance(w.record, Event)]
    assert event.kind == "group_started_from_copy"
    assert event.text.endswith("12 bytes were cut")


def cut_but_not_reported() -> ClusterBuilder:
    """The server of the chosen copy answers; its agent has not yet reported the start."""
    builder = ruined(start_from=ShardUid(1)).with_healthy_shard(1).with_process(1, ProcessState.ABSENT)
    return builder.with_records(replace(builder.view.shards[ShardUid(1)], starts_with=StartWith.CUT_FILES))


def test_a_copy_that_was_cut_leads_only_when_its_agent_has_reported_what_was_cut() -> None:
    decision = decide(cut_but_not_reported())
    assert not decision.writes
    assert [(r.code, r.shard_uid) for r in decision.reasons] == [("start_not_reported", 1)]


def test_a_copy_that_was_cut_does_not_wait_for_the_report_of_a_dead_agent() -> None:
    group = group_in(decide(cut_but_not_reported().without_daemon(1)))
    assert group is not None
    assert (group.phase, group.primary) == (GroupPhase.SERVING, 1)


def test_when_cutting_does_not_help_the_wish_is_over_and_says_so() -> None:
    builder = ruined(start_from=ShardUid(1))
    cut = replace(builder.view.shards[ShardUid(1)], starts_with=StartWith.CUT_FILES)
    decision = decide(builder.with_records(cut))
    group = group_in(decision)
    assert group is not None
    assert group.start_from is None
    assert "group_start_failed" in kinds_in(decision)
    assert shards_in(decision)[1].starts_with is StartWith.FILES
