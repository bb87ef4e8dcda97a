"""Slot groups whose copies are on other machines: silence ends nothing and promotes nothing."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.commands import EndStuckServer
from shardwright.model.database import GroupPhase, Shard, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.ids import GroupUid, NodeUid, ShardUid
from shardwright.model.liveness import Ended, Proof
from shardwright.model.seen import Health, Sighting
from shardwright.model.view import Put
from shardwright.reconcile.group import decide_group
from shardwright.reconcile.repair import decide_repair, is_missing
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, PRIMARY, REPLICA = GroupUid("1:1"), ShardUid(1), ShardUid(2)
LONG_AGO = NOW - timedelta(seconds=60)


def silent(health: Health = Health.TIMEOUT, sighting: Sighting = Sighting.NONE) -> ClusterBuilder:
    """The primary's node has been away for long, and its server does not answer."""
    builder = cluster(nodes=3).with_database(on=((1, 2),)).without_daemon(1)
    shard = replace(builder.view.shards[PRIMARY], missing_since=LONG_AGO)
    builder = builder.with_records(shard).with_sighting(PRIMARY, sighting)
    return builder.with_server(PRIMARY, health=health, unanswered_since=LONG_AGO)


def decide(builder: ClusterBuilder) -> Decision:
    return decide_group(builder.view.groups[GROUP], builder.view, NOW)


def promoted(decision: Decision) -> list[ShardUid | None]:
    records = (w.record for w in decision.writes if isinstance(w, Put))
    return [r.primary for r in records if isinstance(r, SlotGroup) and r.phase is GroupPhase.SERVING]


@pytest.mark.parametrize("health", [Health.REFUSED, Health.UNREACHABLE, Health.TIMEOUT, Health.UNKNOWN])
@pytest.mark.parametrize("sighting", [Sighting.NONE, Sighting.HERE, Sighting.RUNS])
def test_a_silent_primary_of_a_node_that_is_away_is_not_replaced(health: Health, sighting: Sighting) -> None:
    assert decide(silent(health, sighting)).writes == ()


def proven(sighting: Sighting, *, link_down_s: int = 2) -> ClusterBuilder:
    """The same, and a second ago its machine has proven its end, which is recorded."""
    builder = silent(sighting=sighting)
    primary = replace(builder.view.shards[PRIMARY], ended_since=NOW - timedelta(seconds=1))
    return builder.with_records(primary).with_server(REPLICA, is_link_up=False, link_down_s=link_down_s)


@pytest.mark.parametrize("sighting", [Sighting.ENDED, Sighting.REBOOTED])
def test_it_is_replaced_when_its_machine_proves_its_end(sighting: Sighting) -> None:
    builder = silent(sighting=sighting)
    noted = [w.record for w in decide_repair(builder.view, NOW).writes]
    assert noted == [replace(builder.view.shards[PRIMARY], ended_since=NOW)]
    assert promoted(decide(builder)) == [], "the record of its end comes first"
    assert promoted(decide(proven(sighting))) == [REPLICA]


@pytest.mark.parametrize("sighting", [Sighting.ENDED, Sighting.REBOOTED])
def test_a_replica_that_was_cut_off_from_it_does_not_replace_it(sighting: Sighting) -> None:
    """It served behind the cut for nine minutes, and its files have all of that."""
    decision = decide(proven(sighting, link_down_s=600))
    assert promoted(decision) == []
    phases = [w.record.phase for w in decision.writes if isinstance(w.record, SlotGroup)]
    assert phases == [GroupPhase.STARTING], "all copies are compared"


@pytest.mark.parametrize("sighting", [Sighting.NONE, Sighting.HERE, Sighting.RUNS])
def test_a_silent_primary_of_a_group_that_starts_is_not_replaced(sighting: Sighting) -> None:
    builder = silent(sighting=sighting)
    group = replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING)
    assert promoted(decide(builder.with_records(group))) == []
    ended = silent(sighting=Sighting.ENDED).with_records(group)
    assert promoted(decide(ended)) == [REPLICA]


def test_a_server_is_not_ended_as_stuck_when_a_cut_has_just_healed() -> None:
    builder = cluster(nodes=3).with_database(on=((1, 2),)).with_silent_server(PRIMARY, NOW - timedelta(seconds=11))
    assert EndStuckServer(PRIMARY) in decide(builder).commands
    for heard_since in (None, NOW, NOW - timedelta(seconds=9)):
        assert EndStuckServer(PRIMARY) not in decide(builder.with_server(PRIMARY, machine_heard_since=heard_since)).commands


def test_the_event_names_the_proof() -> None:
    writes = decide(proven(Sighting.REBOOTED)).writes
    assert any("its machine has booted since" in str(w.record) for w in writes)


@pytest.mark.parametrize("sighting", [Sighting.NONE, Sighting.HERE])
def test_a_server_whose_machine_does_not_tell_its_cpu_time_is_not_ended_as_stuck(sighting: Sighting) -> None:
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    here = builder.with_silent_server(PRIMARY, NOW - timedelta(seconds=11))
    assert EndStuckServer(PRIMARY) in decide(here).commands
    assert EndStuckServer(PRIMARY) not in decide(here.with_sighting(PRIMARY, sighting)).commands


def test_a_node_without_presence_that_is_not_judged_away_is_waited_for() -> None:
    """A store that lost every lease for a moment: no copy is missing, nothing is lost, and nothing is proven."""
    builder = silent(Health.REFUSED)
    unsure = ClusterBuilder(builder.view.changed(away=frozenset()))
    shard: Shard = unsure.view.shards[PRIMARY]
    assert not is_missing(unsure.view, shard)
    assert not unsure.view.is_lost(shard)
    sure = builder.view.changed(away=frozenset({NodeUid(1)}))
    assert is_missing(sure, shard)
    assert not sure.is_lost(shard), "missing is no proof"


def test_an_end_is_certain_whether_the_node_is_away_or_not() -> None:
    view = silent(sighting=Sighting.REBOOTED).view
    for judged in (None, frozenset[NodeUid](), frozenset({NodeUid(1)})):
        assert view.changed(away=judged).liveness(view.shards[PRIMARY]) == Ended(Proof.REBOOTED)
