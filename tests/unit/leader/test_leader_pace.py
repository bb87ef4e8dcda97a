"""How often a leader looks: what is hot, what calls for a turn, how long it sleeps."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.leader.pace import (
    NORMAL_PACE,
    RETENTION_EVERY,
    STILL_AFTER_S,
    Call,
    call_of,
    hot_shards,
    is_busy,
    is_retention_due,
    is_still,
    look_again_at,
    sleep_s,
)
from shardwright.model.database import DatabaseStatus, GroupPhase, Handoff, ShardWanted
from shardwright.model.ids import GroupUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.parking import Parking
from shardwright.model.seen import Health, ProcessState
from shardwright.store import keys
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import rebind, relocation

GROUP = GroupUid("1:1")
PRIMARY, REPLICA = ShardUid(1), ShardUid(2)
LATER = NOW + timedelta(milliseconds=30)


def settled() -> ClusterBuilder:
    """Two databases at rest: shards 1 and 2, and shards 3 and 4."""
    return cluster(4).with_database(on=((1, 2),)).with_database(on=((3, 4),))


def group(builder: ClusterBuilder, **changes: object) -> ClusterBuilder:
    return builder.with_records(replace(builder.view.groups[GROUP], **changes))  # type: ignore[arg-type]


def shard(builder: ClusterBuilder, uid: ShardUid, **changes: object) -> ClusterBuilder:
    return builder.with_records(replace(builder.view.shards[uid], **changes))  # type: ignore[arg-type]


RELOCATION = relocation(state=MoveState.SYNCING, shard_uid=REPLICA)
HOT: dict[str, Callable[[ClusterBuilder], ClusterBuilder]] = {
    "the database is being created": lambda b: b.with_database_changed(1, status=DatabaseStatus.PENDING),
    "the database is being changed": lambda b: b.with_database_changed(1, status=DatabaseStatus.ACTIVE_CHANGE_PENDING),
    "a move of the group is under way": lambda b: b.with_move(RELOCATION),
    "the group starts": lambda b: group(b, phase=GroupPhase.STARTING),
    "a handoff is pending": lambda b: group(b, handoff=Handoff(PRIMARY, REPLICA, 2, 1, NOW)),
    "a replica has yet to be seen in sync": lambda b: shard(b, REPLICA, in_sync_generation=0),
    "a copy is about to take over": lambda b: group(b, parking=Parking(PRIMARY, 1, NOW)),
    "the primary does not answer": lambda b: b.with_server(PRIMARY, health=Health.TIMEOUT, unanswered_since=NOW),
    "the only replica of a strict database does not answer": lambda b: b.with_database_changed(
        1, is_strict=True
    ).with_server(REPLICA, health=Health.TIMEOUT, unanswered_since=NOW),
    "the primary is missing": lambda b: shard(b, PRIMARY, missing_since=NOW),
}


def test_no_shard_is_hot_in_a_cluster_at_rest() -> None:
    assert hot_shards(settled().view) == frozenset()
    assert not is_busy(settled().view)


@pytest.mark.parametrize("what", HOT)
def test_the_shards_of_one_database_are_hot_while(what: str) -> None:
    view = HOT[what](settled()).view
    assert hot_shards(view) == {PRIMARY, REPLICA}
    assert is_busy(view)


COLD: dict[str, Callable[[ClusterBuilder], ClusterBuilder]] = {
    "a replica out of sync does not run": lambda b: shard(b, REPLICA, in_sync_generation=0).with_dead_shard(2),
    "a replica out of sync was not reported yet": lambda b: shard(b, REPLICA, in_sync_generation=0).with_process(
        2, ProcessState.UNKNOWN
    ),
    "a replica does not answer, and no write waits for it": lambda b: b.with_server(
        REPLICA, health=Health.TIMEOUT, unanswered_since=NOW
    ),
    "the replicas of a strict database answer": lambda b: b.with_database_changed(1, is_strict=True),
    "a silent copy of a strict database is to go": lambda b: shard(
        b.with_database_changed(1, is_strict=True).with_server(REPLICA, health=Health.TIMEOUT, unanswered_since=NOW),
        REPLICA,
        wanted=ShardWanted.GONE,
    ),
    "a replica is missing": lambda b: shard(b, REPLICA, missing_since=NOW),
    "a shard is to stop": lambda b: shard(b, REPLICA, wanted=ShardWanted.STOPPED, in_sync_generation=0),
    "a move has ended": lambda b: b.with_move(replace(RELOCATION, state=MoveState.DONE)),
}


@pytest.mark.parametrize("what", COLD)
def test_nothing_is_hot_when(what: str) -> None:
    assert hot_shards(COLD[what](settled()).view) == frozenset()


def test_a_shard_that_is_to_stop_is_not_hot_when_its_group_is() -> None:
    view = group(shard(settled(), REPLICA, wanted=ShardWanted.GONE), phase=GroupPhase.STARTING).view
    assert hot_shards(view) == {PRIMARY}


def test_a_rebind_makes_the_leader_busy_and_no_shard_hot() -> None:
    view = settled().with_move(rebind(state=MoveState.HANDOFF)).view
    assert hot_shards(view) == frozenset()
    assert is_busy(view)


NODE, SERVER, EVENT, SHARD = f"{keys.SEEN_NODES}1", f"{keys.SEEN_SERVERS}1", f"{keys.EVENTS}1", "shards/00000001"


@pytest.mark.parametrize(
    ("changed", "has_new_processes", "call"),
    [
        ([SERVER], False, Call.NOTHING),
        ([EVENT, SERVER], False, Call.NOTHING),
        ([EVENT, SERVER], True, Call.NOTHING),
        ([NODE], False, Call.TURN),
        ([NODE], True, Call.STIR),
        ([NODE, EVENT], False, Call.STIR),
        ([SHARD], False, Call.STIR),
        ([SERVER, SHARD], False, Call.STIR),
    ],
)
def test_what_a_change_of_the_store_calls_for(changed: list[str], has_new_processes: bool, call: Call) -> None:
    assert call_of(changed, has_new_processes=has_new_processes) is call


def test_a_cluster_in_which_nothing_changes_is_still_after_half_a_minute() -> None:
    assert not is_still(100.0, 100.0 + STILL_AFTER_S)
    assert is_still(100.0, 100.0 + STILL_AFTER_S + 0.1)


def test_the_next_turn_is_due_when_a_decision_asks_for_it_or_something_is_under_way() -> None:
    busy_at = NOW + timedelta(seconds=NORMAL_PACE.busy_turn_s)
    assert look_again_at(None, NOW, NORMAL_PACE, is_busy=False) is None
    assert look_again_at(LATER, NOW, NORMAL_PACE, is_busy=False) == LATER
    assert look_again_at(None, NOW, NORMAL_PACE, is_busy=True) == busy_at
    assert look_again_at(LATER, NOW, NORMAL_PACE, is_busy=True) == LATER
    assert look_again_at(NOW + timedelta(hours=1), NOW, NORMAL_PACE, is_busy=True) == busy_at


@pytest.mark.parametrize(("after_s", "sleeps_s"), [(None, 1.0), (3600.0, 1.0), (0.1, 0.1), (0.001, 0.005), (-5.0, 0.005)])
def test_a_leader_sleeps_until_then_at_most_until_the_next_full_turn(after_s: float | None, sleeps_s: float) -> None:
    look_again = None if after_s is None else NOW + timedelta(seconds=after_s)
    assert sleep_s(look_again, NOW, NORMAL_PACE) == pytest.approx(sleeps_s)


def test_a_pace_shorter_than_the_least_sleep_is_kept() -> None:
    assert sleep_s(NOW, NOW, replace(NORMAL_PACE, turn_s=0.001)) == 0.001


def test_what_has_been_kept_long_enough_is_looked_for_now_and_then() -> None:
    assert is_retention_due(None, NOW)
    assert not is_retention_due(NOW, NOW + RETENTION_EVERY - timedelta(seconds=1))
    assert is_retention_due(NOW, NOW + RETENTION_EVERY)
