"""Copies that are restarted: what they load, and whether they keep their in-sync mark."""

from dataclasses import replace
from datetime import timedelta

from shardwright.model.database import GroupPhase
from shardwright.model.ids import ShardUid
from shardwright.model.seen import Health, ProcessState
from testkit.builders import NOW
from testkit.groups import decide, group_after, replicated, shards_after, starting


def test_a_replica_started_anew_beside_a_living_primary_is_no_heir_until_it_has_caught_up() -> None:
    builder = replicated().with_dead_shard(2)
    again = decide(builder)
    assert shards_after(again)[2].in_sync_generation == -1
    back = builder.with_writes(*again.writes).with_healthy_shard(2).with_records(shards_after(again)[2])
    attached = back.with_server(2, is_link_up=False).with_dead_shard(1)
    after = group_after(decide(attached))
    assert after is not None
    assert (after.primary, after.phase) == (1, GroupPhase.STARTING)


def test_a_dead_replica_keeps_its_mark_until_the_primary_was_looked_at() -> None:
    """After a power cut, the agents of the replicas may report before the new leader has asked the primary's server."""
    builder = replicated().with_dead_shard(2)
    for unknown in (
        builder.without_server(1),
        builder.with_process(1, ProcessState.UNKNOWN).with_server(1, health=Health.REFUSED),
    ):
        assert shards_after(decide(unknown)) == {}
    for looked_at in (builder, builder.with_server(1, health=Health.TIMEOUT)):
        assert shards_after(decide(looked_at))[2].in_sync_generation == -1
    ended = builder.with_dead_shard(1)
    started_over = decide(ended)
    after = group_after(started_over)
    assert after is not None
    assert after.phase is GroupPhase.STARTING
    marks = {s.uid: s.in_sync_generation for s in ended.view.shards.values()}
    again = decide(ended.with_writes(*started_over.writes))
    assert {uid: s.in_sync_generation for uid, s in shards_after(again).items()} == marks


def test_a_copy_started_anew_because_all_were_gone_stays_what_it_was() -> None:
    builder = starting(replicated()).with_dead_shard(1).with_dead_shard(2)
    marks = {s.uid: s.in_sync_generation for s in builder.view.shards.values()}
    assert {uid: s.in_sync_generation for uid, s in shards_after(decide(builder)).items()} == marks


def test_a_dead_replica_is_started_anew_on_another_port_and_spaced_out() -> None:
    builder = replicated().with_dead_shard(2)
    old = builder.view.shards[ShardUid(2)]
    restarted = shards_after(decide(builder))[2]
    assert restarted.incarnation == old.incarnation + 1
    assert restarted.port != old.port
    assert restarted.kept is builder.view.databases[old.database_uid].persistence
    again = builder.with_records(replace(old, restarts=4, restart_not_before=NOW + timedelta(seconds=3)))
    waiting = decide(again)
    assert shards_after(waiting) == {}
    assert waiting.wake_at == NOW + timedelta(seconds=3)
