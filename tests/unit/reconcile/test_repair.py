"""Lost copies: when one counts as lost, where it is rebuilt, and what ends a rebuild."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest

from shardwright.model.action import ActionName, ActionStatus, MaintenanceOnParameters
from shardwright.model.database import DatabaseStatus, GroupPhase, Shard, ShardWanted
from shardwright.model.ids import DatabaseUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import MoveState, Relocation
from shardwright.model.seen import Health, ProcessState
from shardwright.model.view import ClusterView
from shardwright.moves.decide import decide_move
from shardwright.reconcile.database import decide_database, unsettled
from shardwright.reconcile.repair import RETRY, decide_repair, is_missing
from testkit.builders import GB, MB, NOW, ClusterBuilder, cluster
from testkit.stepper import step_move

GRACE = timedelta(seconds=600)
LATER = NOW + GRACE + timedelta(seconds=1)
REPLICA = ShardUid(2)


def pair(nodes: int = 4, **changes: Any) -> ClusterBuilder:
    """Shard 1, the primary, on node 1 and shard 2, its replica, on node 2."""
    return cluster(nodes=nodes).with_database(on=((1, 2),), **changes)


def lost(builder: ClusterBuilder | None = None, *, since: datetime = NOW) -> ClusterBuilder:
    """Node 2 is dead since then, and that is noted."""
    builder = (builder or pair()).with_dead_node(2)
    return builder.with_records(replace(builder.view.shards[REPLICA], missing_since=since))


def moves(builder: ClusterBuilder, now: datetime = LATER) -> list[Relocation]:
    """The rebuilds that the next decision begins."""
    return [w.record for w in decide_repair(builder.view, now).writes if isinstance(w.record, Relocation)]


def noted(view: ClusterView, now: datetime = NOW) -> dict[int, datetime | None]:
    found = [w.record for w in decide_repair(view, now).writes if isinstance(w.record, Shard)]
    return {shard.uid: shard.missing_since for shard in found}


def test_a_healthy_cluster_needs_nothing() -> None:
    assert decide_repair(pair().view, NOW).writes == ()


def test_a_copy_whose_process_is_gone_is_noted_and_forgotten_when_it_is_sound() -> None:
    builder = pair().with_dead_shard(2)
    assert noted(builder.view) == {2: NOW}
    back = lost().with_healthy_shard(2).with_daemon(2)
    assert noted(back.view, LATER) == {2: None}


@pytest.mark.parametrize(
    ("health", "process", "has_daemon", "restarts", "expected"),
    [
        (Health.OK, ProcessState.RUNNING, False, 0, False),  # its daemon is away, its server serves
        (Health.REFUSED, ProcessState.UNKNOWN, False, 0, True),
        (Health.TIMEOUT, ProcessState.RUNNING, False, 0, True),
        (Health.UNKNOWN, ProcessState.UNKNOWN, False, 0, False),  # not looked at yet
        (Health.UNKNOWN, ProcessState.ABSENT, False, 0, False),  # its agent may have died after the start
        (Health.REFUSED, ProcessState.ABSENT, False, 0, True),
        (Health.UNKNOWN, ProcessState.ABSENT, True, 1, False),  # it is being started
        (Health.TIMEOUT, ProcessState.RUNNING, True, 0, False),  # busy, or about to be ended
        (Health.REFUSED, ProcessState.RUNNING, True, 3, True),  # again and again
        (Health.REFUSED, ProcessState.FAILED, True, 0, True),
        (Health.REFUSED, ProcessState.GONE, True, 0, True),
    ],
)
def test_when_a_copy_is_missing(
    health: Health, process: ProcessState, has_daemon: bool, restarts: int, expected: bool
) -> None:
    builder = pair().with_process(2, process).with_server(2, health=health)
    builder = builder if has_daemon else builder.without_daemon(2)
    builder = builder.with_records(replace(builder.view.shards[REPLICA], restarts=restarts))
    assert is_missing(builder.view, builder.view.shards[REPLICA]) is expected


@pytest.mark.parametrize("process", ProcessState)
@pytest.mark.parametrize("health", Health)
@pytest.mark.parametrize("shard_uid", [1, 2])
def test_what_is_noted_is_not_taken_back_by_the_next_turn(process: ProcessState, health: Health, shard_uid: int) -> None:
    # A process may have ended since its server was seen to answer. Notes that take each other back keep the leader busy
    # without end, and no failover comes while the primary's end was noted just now.
    for has_daemon, restarts, since in product((True, False), (0, 1, 3), (None, NOW)):
        builder = pair().with_process(shard_uid, process).with_server(shard_uid, health=health)
        builder = builder if has_daemon else builder.without_daemon(shard_uid)
        shard = builder.view.shards[ShardUid(shard_uid)]
        builder = builder.with_records(replace(shard, restarts=restarts, missing_since=since))
        writes = (w.record for w in decide_repair(builder.view, NOW).writes)
        settled = builder.with_records(*(r for r in writes if isinstance(r, Shard)))
        assert noted(settled.view) == {}


def test_it_is_rebuilt_elsewhere_after_the_grace_period() -> None:
    decision = decide_repair(lost().view, NOW + timedelta(seconds=1))
    assert (decision.writes, decision.wake_at) == ((), NOW + GRACE)
    (move,) = moves(lost())
    assert (move.action_uid, move.shard_uid, move.from_node) == (None, 2, 2)
    assert move.to_node in (3, 4)


def test_a_time_written_by_a_clock_that_was_ahead_begins_anew() -> None:
    assert noted(lost(since=NOW + timedelta(hours=1)).view) == {2: NOW}


def test_an_end_recorded_by_a_clock_that_was_ahead_is_recorded_again() -> None:
    builder = pair().with_process(1, ProcessState.GONE).with_server(1, health=Health.REFUSED)
    for ended_since, expected in ((None, NOW), (NOW + timedelta(hours=1), NOW), (NOW - timedelta(seconds=1), None)):
        primary = replace(builder.view.shards[ShardUid(1)], missing_since=NOW, ended_since=ended_since)
        (*_, last) = [None, *decide_repair(builder.with_records(primary).view, NOW).writes]
        found = None if last is None else last.record.ended_since  # type: ignore[union-attr]
        assert found == expected


def test_policy_and_database_can_forbid_it() -> None:
    assert moves(lost().with_policy(slave_ha=False)) == []
    assert moves(lost(pair(options={"slave_ha": False}))) == []
    assert moves(lost(pair(options={"slave_ha": True})).with_policy(slave_ha=False)) != []


def test_only_a_serving_primary_is_copied() -> None:
    group = lost().view.groups[GroupUid("1:1")]
    assert moves(lost().with_records(replace(group, phase=GroupPhase.STARTING))) == []
    assert moves(lost().with_server(1, health=Health.TIMEOUT)) == []
    assert moves(lost().with_records(replace(group, primary=REPLICA))) == []


@pytest.mark.parametrize("mark", ["is_quorum_only", "is_closed", "is_decommissioning"])
def test_never_on_a_node_that_takes_nothing(mark: str) -> None:
    builder = lost().with_node_changed(3, **{mark: True})
    assert [m.to_node for m in moves(builder)] == [4]
    builder = builder.with_node_changed(4, **{mark: True})
    decision = decide_repair(builder.view, LATER)
    assert decision.writes == ()
    assert decision.reasons
    assert decision.wake_at is not None


def test_racks_and_room_are_respected() -> None:
    builder = cluster(nodes=4, racks=("a", "b", "a", "c")).with_database(on=((1, 2),), is_rack_aware=True)
    assert [m.to_node for m in moves(lost(builder))] == [4]
    small = pair(memory_bytes=2 * GB).with_node_changed(4, memory_bytes=100 * MB)
    assert [m.to_node for m in moves(lost(small))] == [3]


def test_one_rebuild_for_each_group_and_syncs_are_bounded() -> None:
    builder = cluster(nodes=4)
    for _ in range(3):
        builder = builder.with_database(on=((1, 2),))
    builder = builder.with_dead_node(2)
    builder = builder.with_records(*(replace(s, missing_since=NOW) for s in builder.view.shards_on(NodeUid(2))))
    begun = []
    while found := moves(builder):
        begun += found
        builder = builder.with_records(*found)
    assert len(begun) == builder.view.policy.max_slave_full_syncs == 2
    assert len({m.group_uid for m in begun}) == 2


def test_the_database_with_the_higher_priority_comes_first() -> None:
    builder = cluster(nodes=4).with_database(on=((1, 2),)).with_database(on=((1, 2),), options={"slave_ha_priority": 5})
    builder = builder.with_dead_node(2)
    builder = builder.with_records(*(replace(s, missing_since=NOW) for s in builder.view.shards_on(NodeUid(2))))
    assert [m.database_uid for m in moves(builder)] == [2]


def test_a_node_that_an_action_empties_is_left_to_the_action() -> None:
    assert moves(lost().with_action(ActionName.REMOVE, 2)) == []
    cancelled = lost().with_action(ActionName.REMOVE, 2, status=ActionStatus.CANCELLING)
    assert len(moves(cancelled)) == 1, "it empties nothing any more"


@pytest.mark.parametrize(
    ("parameters", "is_rebuilt"),
    [
        (MaintenanceOnParameters(), False),
        (MaintenanceOnParameters(evict_replicas=False), True),
        (MaintenanceOnParameters(evict_databases=(DatabaseUid(1),)), False),
        (MaintenanceOnParameters(evict_databases=()), True),
    ],
    ids=["everything", "no_replicas", "this_database", "no_database"],
)
def test_a_copy_that_a_maintenance_lets_stay_is_rebuilt_when_it_is_lost(
    parameters: MaintenanceOnParameters, is_rebuilt: bool
) -> None:
    """The maintenance of a dead node may wait for something else for ever."""
    assert bool(moves(lost().with_action(ActionName.MAINTENANCE_ON, 2, parameters))) is is_rebuilt


def test_a_group_with_a_live_move_is_left_alone() -> None:
    (move,) = moves(lost())
    assert moves(lost().with_move(move)) == []


def test_a_failed_rebuild_is_tried_again_later_and_elsewhere() -> None:
    (move,) = moves(lost())
    failed = replace(move, state=MoveState.FAILED, ended_at=LATER)
    assert moves(lost().with_move(failed)) == []
    (again,) = moves(lost().with_move(failed), LATER + RETRY.delay(0))
    assert again.uid != move.uid
    assert {move.to_node, again.to_node} == {3, 4}


@pytest.mark.parametrize(
    ("state", "is_withdrawn"), [(MoveState.PLANNED, True), (MoveState.SYNCING, True), (MoveState.CLEANING, False)]
)
def test_a_copy_that_comes_back_in_time_ends_its_rebuild(state: MoveState, is_withdrawn: bool) -> None:
    builder = pair()
    (move,) = moves(lost())
    back = builder.with_move(replace(move, state=state))
    assert [m.is_cancel_wanted for m in moves(back)] == ([True] if is_withdrawn else [])


def test_a_target_that_takes_nothing_any_more_ends_its_rebuild() -> None:
    (move,) = moves(lost())
    closed = lost().with_move(replace(move, state=MoveState.STARTING)).with_node_changed(move.to_node, is_closed=True)
    assert [m.is_cancel_wanted for m in moves(closed)] == [True]
    emptied = lost().with_move(move).with_action(ActionName.MAINTENANCE_ON, move.to_node)
    assert [m.is_cancel_wanted for m in moves(emptied)] == [True]


def test_a_database_that_wants_no_replicas_any_more_ends_its_rebuild() -> None:
    (move,) = moves(lost())
    changed = lost().with_move(replace(move, state=MoveState.SYNCING)).with_database_changed(1, has_replica=False)
    assert [m.is_cancel_wanted for m in moves(changed)] == [True]


def test_a_change_has_not_ended_while_a_move_holds_a_copy_too_many() -> None:
    (move,) = moves(lost())
    builder = pair().with_move(replace(move, state=MoveState.CLEANING))
    builder = builder.with_database_changed(1, has_replica=False, status=DatabaseStatus.ACTIVE_CHANGE_PENDING)
    database = next(iter(builder.view.databases.values()))
    assert "copies_too_many" in [r.code for r in unsettled(database, builder.view)]
    assert decide_database(database, builder.view, LATER).writes == ()


def test_a_move_that_an_operator_asked_for_is_not_taken_back() -> None:
    (move,) = moves(lost())
    assert moves(pair().with_move(replace(move, uid=MoveUid("a-1"), action_uid="a", state=MoveState.SYNCING))) == []  # type: ignore[arg-type]


def test_the_lost_copys_record_goes_when_the_new_one_stands() -> None:
    builder = lost()
    builder = builder.with_records(*moves(builder))
    for _ in range(10):
        for move in builder.view.live_moves():
            builder = step_move(builder, move, now=LATER)
    (group,) = builder.view.groups
    assert [(s.uid, s.wanted) for s in builder.view.shards_of_group(group)] == [
        (1, ShardWanted.RUNNING),
        (3, ShardWanted.RUNNING),
    ]


def test_the_products_own_move_gives_up_a_copy_of_a_dead_node() -> None:
    """It waits for nobody: no daemon is there to end the old process."""
    builder = lost()
    (move,) = moves(builder)
    builder = step_move(step_move(step_move(builder.with_move(move), move, now=LATER), move, now=LATER), move, now=LATER)
    new = max(builder.view.shards)
    builder = builder.with_healthy_shard(new)
    builder = builder.with_records(replace(builder.view.shards[new], in_sync_generation=1))
    at = LATER
    for _ in range(8):
        at += timedelta(seconds=1)
        for live in builder.view.live_moves():
            builder = builder.with_writes(*decide_move(live, builder.view, at).writes)
    assert builder.view.moves[move.uid].state is MoveState.DONE
    assert builder.view.shards[REPLICA].wanted is ShardWanted.GONE
