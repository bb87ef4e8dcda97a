"""A slot group that cannot choose its primary: what it says it waits for, and an operator's decision."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shardwright.model.database import AofPolicy, Database, GroupPhase, Shard, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.event import Event
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.reason import Grade
from shardwright.model.seen import Health, ProcessState
from shardwright.model.view import Put
from shardwright.reconcile.group import decide_group
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP = GroupUid("1:1")
LONG_AGO = NOW - timedelta(minutes=1)


def after_a_power_cut(since: datetime | None = LONG_AGO, **changes: Any) -> ClusterBuilder:
    """The primary's node, 1, stays off; its copy, shard 1, has a file. Shard 2 on node 2 has loaded its own."""
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),), persistence="aof")
    database = builder.view.databases[DatabaseUid(1)]
    builder = builder.with_records(
        *(replace(s, settings=database.settings_fingerprint, missing_since=LONG_AGO) for s in builder.view.shards.values()),
        replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING, starting_since=since, **changes),
    )
    builder = builder.with_dead_node(1)
    return builder.with_server(2, role="primary", replication_id="new", is_link_up=False, is_fenced=True, keys=10)


def decide(builder: ClusterBuilder) -> Decision:
    return decide_group(builder.view.groups[GROUP], builder.view, NOW)


def group_in(decision: Decision) -> SlotGroup | None:
    return next((w.record for w in decision.writes if isinstance(w.record, SlotGroup)), None)


def events_in(decision: Decision) -> list[Event]:
    return [w.record for w in decision.writes if isinstance(w, Put) and isinstance(w.record, Event)]


def applied(builder: ClusterBuilder) -> ClusterBuilder:
    """After the decision was committed. (Events are no records of the view.)"""
    return builder.with_writes(*decide(builder).writes)


def test_what_a_group_waits_for_is_put_on_record_once_with_its_remedies() -> None:
    builder = after_a_power_cut()
    decision = decide(builder)
    group = group_in(decision)
    assert group is not None
    assert (group.phase, group.primary) == (GroupPhase.STARTING, 1)
    (reason,) = group.waits_for
    assert (reason.code, reason.grade, reason.shard_uid, reason.node_uid) == ("copy_out_of_reach", Grade.HARD_LIMIT, 1, 1)
    assert reason.remedy.startswith("start the daemon of node 1, or ")
    assert reason.remedy.endswith("shardwright db start orders --from-copy 2")
    assert "group_waits" in [e.kind for e in events_in(decision)]
    again = decide(applied(builder))
    assert group_in(again) is None
    assert not [e for e in events_in(again) if e.kind == "group_waits"]


def test_daemons_that_come_up_one_after_the_other_are_not_told_as_missing() -> None:
    decision = decide(after_a_power_cut(since=NOW - timedelta(seconds=1)))
    assert group_in(decision) is None
    assert decision.wake_at is not None
    assert decision.wake_at <= NOW + timedelta(seconds=4)


def test_a_record_of_before_that_does_not_say_since_when_is_told_at_once() -> None:
    group = group_in(decide(after_a_power_cut(since=None)))
    assert group is not None
    assert group.waits_for


def test_what_passes_by_itself_is_not_put_on_record() -> None:
    builder = after_a_power_cut().with_daemon(1).with_process(1, ProcessState.RUNNING).without_server(1)
    assert group_in(decide(builder)) is None


def test_the_reason_goes_when_the_node_is_back() -> None:
    builder = applied(after_a_power_cut())
    back = builder.with_daemon(1).with_process(1, ProcessState.RUNNING).without_server(1)
    group = group_in(decide(back))
    assert group is not None
    assert group.waits_for == ()
    assert group.phase is GroupPhase.STARTING


def test_without_another_copy_that_holds_something_the_way_out_is_to_give_the_data_up() -> None:
    group = group_in(decide(after_a_power_cut().with_server(2, keys=0)))
    assert group is not None
    assert group.waits_for[0].remedy.endswith("shardwright db delete orders")


def test_nobody_is_told_to_give_the_data_up_while_another_copy_is_on_its_way() -> None:
    for builder in (after_a_power_cut().without_server(2), after_a_power_cut().with_server(2, health=Health.LOADING)):
        group = group_in(decide(builder))
        assert group is not None
        assert [r.remedy for r in group.waits_for] == ["start the daemon of node 1"]


def test_a_group_goes_on_with_the_copy_that_an_operator_chose() -> None:
    builder = applied(after_a_power_cut())
    decision = decide(builder.with_records(replace(builder.view.groups[GROUP], start_from=ShardUid(2))))
    group = group_in(decision)
    assert group is not None
    assert (group.phase, group.primary, group.generation) == (GroupPhase.SERVING, 2, 2)
    assert (group.waits_for, group.start_from, group.starting_since) == ((), None, None)
    (chosen,) = [w.record for w in decision.writes if isinstance(w.record, Shard)]
    assert (chosen.uid, chosen.in_sync_generation) == (2, 2)
    (event,) = events_in(decision)
    assert event.kind == "group_started_from_copy"
    assert "node 1" in event.text


def test_the_chosen_copy_is_waited_for_when_it_has_died_meanwhile() -> None:
    builder = after_a_power_cut(start_from=ShardUid(2)).with_dead_shard(2)
    group = group_in(decide(builder))
    assert group is None or group.phase is GroupPhase.STARTING


def test_a_primary_that_has_come_back_meanwhile_leads_whatever_was_decided() -> None:
    builder = after_a_power_cut(start_from=ShardUid(2)).with_daemon(1).with_healthy_shard(1)
    group = group_in(decide(builder))
    assert group is not None
    assert (group.primary, group.start_from) == (1, None)


def test_a_copy_without_a_file_on_a_dead_node_is_named_when_it_is_the_only_one() -> None:
    builder = cluster(nodes=3).with_database("cache", on=((1,),)).with_dead_node(1)
    database: Database = builder.view.databases[DatabaseUid(1)]
    shard = replace(builder.view.shards[ShardUid(1)], settings=database.settings_fingerprint)
    starting = replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING, starting_since=LONG_AGO)
    group = group_in(decide(builder.with_records(shard, starting)))
    assert group is not None
    assert [r.code for r in group.waits_for] == ["copy_out_of_reach"]


# -- strict mode ----------------------------------------------------------------------------------------------------------


def strict(*, policy: AofPolicy = AofPolicy.ALWAYS, **changes: object) -> ClusterBuilder:
    """After a power cut: the only replica has loaded its file, in which every write is synced."""
    builder = after_a_power_cut().with_database_changed(1, is_strict=True, aof_policy=policy)
    told = builder.view.databases[DatabaseUid(1)].settings_fingerprint
    builder = builder.with_records(*(replace(s, settings=told) for s in builder.view.shards.values()))
    shard = replace(builder.view.shards[ShardUid(2)], file_generation=1)
    return applied(builder.with_records(replace(shard, **changes)))  # type: ignore[arg-type]


def leads(builder: ClusterBuilder, uid: int) -> bool:
    group = group_in(decide(builder))
    return group is not None and (group.phase, group.primary) == (GroupPhase.SERVING, uid)


def test_in_strict_mode_the_only_replica_leads_when_its_file_holds_all_that_was_acknowledged() -> None:
    assert leads(strict(), 2)
    assert "failover" in [e.kind for e in events_in(decide(strict()))]


def test_it_waits_when_that_is_not_certain() -> None:
    third = replace(strict().view.shards[ShardUid(2)], uid=ShardUid(3), node_uid=NodeUid(3))
    for name, builder in {
        "not strict": strict().with_database_changed(1, is_strict=False),
        "synced every second": strict(policy=AofPolicy.EVERY_SECOND),
        "not in sync": strict(in_sync_generation=-1),
        "a file that was not seen whole": strict(file_generation=0),
        "empty": strict().with_server(2, keys=0),
        "several replicas": strict().with_records(third),
        "the primary is loading": strict()
        .with_daemon(1)
        .with_process(1, ProcessState.RUNNING)
        .with_server(1, health=Health.LOADING),
    }.items():
        group = group_in(decide(builder))
        assert group is None or group.phase is GroupPhase.STARTING, name


def restarted_successor(*, is_strict: bool, persistence: str = "snapshot") -> ClusterBuilder:
    """Shard 2 took over from shard 1 and has restarted. Shard 1 was in sync in the generation before."""
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),), persistence=persistence, is_strict=is_strict)
    told = builder.view.databases[DatabaseUid(1)].settings_fingerprint
    shard_1, shard_2 = (replace(builder.view.shards[ShardUid(uid)], settings=told) for uid in (1, 2))
    return builder.with_records(
        replace(shard_1, in_sync_generation=1),
        replace(shard_2, in_sync_generation=2),
        replace(
            builder.view.groups[GROUP],
            phase=GroupPhase.STARTING,
            starting_since=LONG_AGO,
            primary=ShardUid(2),
            generation=2,
            replication_id="second",
        ),
    )


def beside_a_sleeper(*, persistence: str = "snapshot", is_strict: bool = True, **changes: Any) -> ClusterBuilder:
    """Shard 1's machine sleeps; shard 2's machine has booted, and shard 2 has loaded its file."""
    builder = restarted_successor(is_strict=is_strict, persistence=persistence)
    group, sleeper = builder.view.groups[GROUP], builder.view.shards[ShardUid(1)]
    builder = builder.with_records(replace(group, replication_id_before="first"), replace(sleeper, **changes))
    loaded = {"replication_id": "new", "second_replication_id": "first", "offset": 90, "second_offset": 91, "keys": 10}
    builder = builder.with_server(2, role="primary", is_link_up=False, is_fenced=True, **loaded)
    return builder.with_silent_server(1, LONG_AGO)


def test_in_strict_mode_a_snapshot_does_not_replace_what_a_silent_predecessor_holds() -> None:
    builder = beside_a_sleeper()
    assert group_in(decide(builder)) is None
    (reason,) = decide(builder).reasons
    assert (reason.code, reason.grade, reason.shard_uid) == ("shard_not_started", Grade.SOFT_LIMIT, 1)
    assert "the snapshot of shard 2" in reason.text


def test_people_are_told_when_its_node_is_away() -> None:
    builder = beside_a_sleeper()
    away = ClusterBuilder(builder.view.changed(daemons={uid: d for uid, d in builder.view.daemons.items() if uid != 1}))
    group = group_in(decide(away))
    assert group is not None
    (reason,) = group.waits_for
    assert reason.code == "copy_out_of_reach"
    assert reason.remedy.startswith("repair node 1 or its network, or if its machine is off: shardwright node declare-off 1")
    assert reason.remedy.endswith("shardwright db start orders --from-copy 2")


def test_the_predecessor_leads_again_when_it_answers_and_holds_more() -> None:
    awake = {"health": Health.OK, "role": "primary", "replication_id": "first", "offset": 100, "keys": 12}
    assert leads(beside_a_sleeper().with_server(1, **awake), 1)
    assert leads(beside_a_sleeper().with_server(1, **{**awake, "offset": 90}), 2)


def test_the_snapshot_is_enough_when_no_silent_copy_may_hold_more() -> None:
    third = replace(beside_a_sleeper().view.shards[ShardUid(1)], uid=ShardUid(3), node_uid=NodeUid(3), in_sync_generation=2)
    for name, builder in {
        "not strict": beside_a_sleeper(is_strict=False),
        "an append-only file": beside_a_sleeper(persistence="aof"),
        "it has ended": beside_a_sleeper().with_dead_shard(1),
        "it was not in sync": beside_a_sleeper(in_sync_generation=-1),
        "writes were acknowledged since": beside_a_sleeper().with_records(third).with_dead_shard(3),
    }.items():
        assert leads(builder, 2), name


# -- default mode: the best of several copies -----------------------------------------------------------------------------


def compared(successor: dict[str, Any], sleeper: dict[str, Any], follower: dict[str, Any]) -> ClusterBuilder:
    """All copies answer. Shard 3, which followed the successor, has no mark."""
    builder = restarted_successor(is_strict=False)
    shard_2 = builder.view.shards[ShardUid(2)]
    builder = builder.with_records(replace(shard_2, uid=ShardUid(3), node_uid=NodeUid(3), in_sync_generation=-1))
    for uid, seen in enumerate((sleeper, successor, follower), start=1):
        builder = builder.with_healthy_shard(uid).with_server(
            uid, is_link_up=False, **{"role": "primary", "keys": 10, **seen}
        )
    return builder


SLEEPER: dict[str, Any] = {"replication_id": "first", "offset": 100}
FOLLOWER: dict[str, Any] = {
    "role": "replica",
    "replication_id": "second",
    "second_replication_id": "first",
    "second_offset": 101,
    "offset": 103,
}
EMPTY: dict[str, Any] = {"replication_id": "new", "keys": 0}
SNAPSHOT: dict[str, Any] = {"replication_id": "new", "second_replication_id": "first", "offset": 90, "second_offset": 91}


@pytest.mark.parametrize("successor", [EMPTY, SNAPSHOT], ids=["empty", "from a snapshot"])
def test_a_copy_of_the_latest_history_comes_before_an_older_mark(successor: dict[str, Any]) -> None:
    assert leads(compared(successor, SLEEPER, FOLLOWER), 3)
    unconfirmed = {**SLEEPER, "offset": 110}
    assert leads(compared(successor, unconfirmed, FOLLOWER), 3), "the sleeper's other writes were never on a replica"


def test_without_a_record_of_the_latest_history_a_copy_that_holds_all_of_the_marked_one_and_more_leads() -> None:
    builder = compared(EMPTY, SLEEPER, FOLLOWER)
    unknown = builder.with_records(replace(builder.view.groups[GROUP], replication_id=""))
    assert leads(unknown, 3)
    assert leads(unknown.with_server(1, offset=101), 1), "it has a write that shard 3 lacks"


def test_an_older_mark_comes_before_a_copy_that_may_hold_less() -> None:
    lesser: dict[str, dict[str, Any]] = {
        "another history": {"replication_id": "else", "second_replication_id": ""},
        "a sync that has not ended": {"is_syncing": True},
        "empty": {"keys": 0},
    }
    for name, changes in lesser.items():
        assert leads(compared(EMPTY, SLEEPER, {**FOLLOWER, **changes}), 1), name


def test_a_mark_of_this_generation_comes_before_its_history() -> None:
    builder = compared(EMPTY, {**FOLLOWER, "replication_id": "from its file", "offset": 0}, FOLLOWER)
    assert leads(builder.with_records(replace(builder.view.shards[ShardUid(1)], in_sync_generation=2)), 1)


def serving(**seen: object) -> ClusterBuilder:
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),), persistence="aof", aof_policy=AofPolicy.ALWAYS)
    told = builder.view.databases[DatabaseUid(1)].settings_fingerprint
    builder = builder.with_records(*(replace(s, settings=told) for s in builder.view.shards.values()))
    return builder.with_server(1, is_aof_on=True).with_server(2, **{"is_aof_on": True, **seen})


def test_a_file_is_noted_as_whole_when_it_holds_all_that_the_primary_held() -> None:
    (noted,) = [w.record for w in decide(serving()).writes]
    assert isinstance(noted, Shard)
    assert (noted.uid, noted.file_generation) == (2, 1)
    for seen in (
        {"is_persistence_busy": True},
        {"is_persistence_ok": False},
        {"is_aof_on": False},
        {"offset": 999},
        {"at": NOW - timedelta(seconds=1)},
    ):
        assert decide(serving(**seen)).writes == (), seen


def test_it_is_noted_as_that_no_more_when_the_copy_is_filled_anew_or_restarted() -> None:
    builder = serving()
    whole = builder.with_records(replace(builder.view.shards[ShardUid(2)], file_generation=1))
    for changed in (whole.with_server(2, is_syncing=True), whole.with_dead_shard(2)):
        (shard,) = [w.record for w in decide(changed).writes if isinstance(w.record, Shard)]
        assert (shard.in_sync_generation, shard.file_generation) == (-1, -1)
