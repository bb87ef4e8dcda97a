"""A move that cannot go on is told apart from one that is slow, and what holds it up has a name within two seconds."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.actions.blockers import blockers_of
from shardwright.api.services.standing import Condition, standing
from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.move import Move, MoveState, Relocation
from shardwright.model.reason import Grade
from shardwright.model.seen import EndpointProcessSeen, Health, ProcessState, Sighting
from testkit import moves
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.stepper import action_of, decide_once, run_action

A = "action-1"
LATER = NOW + timedelta(minutes=1)
SOON = LATER + timedelta(seconds=2)
JUDGED = LATER + timedelta(seconds=4)


def moving(state: MoveState) -> tuple[ClusterBuilder, Relocation]:
    """An action of one relocation that stands in this state since LATER."""
    builder = cluster(3, leader=2).with_database(on=((1,),)).with_endpoints_seen()
    builder = builder.with_action(ActionName.MAINTENANCE_ON, 1)
    for turns in range(1, 12):
        found = run_action(builder, A, now=NOW, turns=turns)
        move = next((m for m in found.view.live_moves() if m.state == state), None)
        if isinstance(move, Relocation):
            move = replace(move, state_since=LATER, started_at=LATER)
            return found.with_move(move), move
    raise AssertionError(f"no move was {state}")


def codes(builder: ClusterBuilder, move: Move) -> list[str]:
    return [r.code for r in blockers_of(builder.view, [move], SOON)]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (MoveState.STARTING, "shard_starting"),
        (MoveState.SYNCING, "sync_not_advancing"),
        (MoveState.READY, "replica_not_in_sync"),
    ],
)
def test_what_does_not_advance_is_named_and_what_has_just_begun_is_not(state: MoveState, code: str) -> None:
    builder, move = moving(state)
    assert codes(builder, move) == [code]
    assert blockers_of(builder.view, [move], LATER + timedelta(seconds=1)) == []


def test_a_missing_daemon_is_named_at_once() -> None:
    builder, move = moving(MoveState.STARTING)
    reasons = blockers_of(builder.without_daemon(move.to_node).view, [move], LATER)
    assert [(r.code, r.grade, r.remedy) for r in reasons] == [
        ("node_down", Grade.HARD_LIMIT, f"start the daemon of node {move.to_node}")
    ]


def test_a_server_that_has_ended_where_nobody_can_start_it_is_not_called_stuck() -> None:
    builder, move = moving(MoveState.SYNCING)
    primary = next(g.primary for g in builder.view.groups.values() if g.uid == move.group_uid)
    assert primary is not None
    node = builder.view.shards[primary].node_uid
    dead = builder.without_daemon(node).with_process(primary, ProcessState.UNKNOWN)
    dead = dead.with_server(primary, health=Health.REFUSED, unanswered_since=LATER).with_sighting(primary, Sighting.HERE)
    (reason,) = blockers_of(dead.view, [move], SOON)
    assert (reason.code, reason.remedy) == ("node_down", f"start the daemon of node {node}")


def test_a_dead_replica_that_leaves_blocks_nothing() -> None:
    """A dead node is removed in this way: what copies its group anew goes on without it."""
    builder, relocation = moving(MoveState.SYNCING)
    shard = builder.view.shards[relocation.shard_uid]
    assert relocation.new_shard_uid is not None
    group = replace(builder.view.groups[relocation.group_uid], primary=relocation.new_shard_uid)
    dead = builder.with_records(group).without_daemon(shard.node_uid).with_process(shard.uid, ProcessState.UNKNOWN)
    dead = dead.with_server(shard.uid, health=Health.REFUSED, unanswered_since=LATER)
    assert "node_down" not in codes(dead, relocation)


@pytest.mark.parametrize(("answers", "code"), [(False, "node_down"), (True, "endpoint_passing")])
def test_an_endpoint_waits_for_a_daemon_only_while_nothing_on_its_node_could_serve_it(answers: bool, code: str) -> None:
    builder, relocation = moving(MoveState.READY)
    uid = next(iter(builder.view.endpoints))
    move = moves.rebind(state=MoveState.HANDOFF, endpoint_uid=uid, to_node=relocation.to_node)
    processes = dict(builder.view.endpoint_processes)
    processes[relocation.to_node] = EndpointProcessSeen(relocation.to_node, NOW, answers=answers)
    away = ClusterBuilder(replace(builder.without_daemon(relocation.to_node).view, endpoint_processes=processes))
    assert codes(away, move) == [code]


@pytest.mark.parametrize(("is_active", "code"), [(True, "server_busy"), (False, "server_stuck")])
def test_busy_and_stuck_servers_are_told_apart(is_active: bool, code: str) -> None:
    builder, move = moving(MoveState.SYNCING)
    silent = builder.with_server(
        move.shard_uid, health=Health.TIMEOUT, unanswered_since=LATER, cpu_active_at=SOON if is_active else None
    )
    assert codes(silent, move) == [code]


def test_a_server_is_called_idle_only_when_its_cpu_time_has_been_read_twice() -> None:
    builder, move = moving(MoveState.SYNCING)
    elsewhere = builder.with_server(move.shard_uid, health=Health.TIMEOUT, unanswered_since=LATER)
    silent = elsewhere.with_sighting(move.shard_uid, Sighting.RUNS).view
    assert [r.text.endswith(" does not answer") for r in blockers_of(silent, [move], SOON)] == [True]
    assert ["uses no CPU" in r.text for r in blockers_of(silent, [move], JUDGED)] == [True]
    (reason,) = blockers_of(elsewhere.view, [move], JUDGED)
    assert "does not say" in reason.text, "its CPU time cannot be read"
    assert reason.remedy == "check node 1, its network and its daemon"


def test_a_stuck_server_that_is_not_ended_says_what_to_do() -> None:
    builder, move = moving(MoveState.SYNCING)
    primary = next(g.primary for g in builder.view.groups.values() if g.uid == move.group_uid)
    assert primary is not None
    builder = builder.with_records(replace(builder.view.shards[primary], settings="1|noeviction|disabled||"))
    silent = builder.with_server(primary, health=Health.TIMEOUT, unanswered_since=LATER)
    silent = silent.with_sighting(primary, Sighting.RUNS)
    others = [s.uid for s in silent.view.shards_of_group(builder.view.shards[primary].group_uid) if s.uid != primary]
    for uid in others:
        silent = silent.with_records(replace(silent.view.shards[uid], in_sync_generation=-1))
    (reason,) = blockers_of(silent.view, [move], JUDGED)
    assert (reason.code, reason.grade) == ("server_stuck", Grade.HARD_LIMIT)
    assert "kill it on node" in reason.remedy


def test_the_action_shows_it_within_two_seconds_and_says_blocked_or_slow() -> None:
    builder, move = moving(MoveState.STARTING)

    def condition(found: ClusterBuilder) -> Condition:
        action = action_of(found.view, A)
        return standing(action, found.view.moves_of_action(action.uid), found.view, SOON).condition

    assert condition(decide_once(builder, action_of(builder.view, A), now=LATER)) is Condition.MOVING
    dead = builder.without_daemon(move.to_node)
    dead = decide_once(dead, action_of(dead.view, A), now=SOON)
    assert condition(dead) is Condition.BLOCKED
    assert "node_down" in {r.code for r in action_of(dead.view, A).reasons}


def test_without_a_leader_that_is_what_blocks_it() -> None:
    builder, _ = moving(MoveState.SYNCING)
    view = replace(builder.view, leadership=None)
    action = replace(action_of(view, A), status=ActionStatus.RUNNING)
    found = standing(action, view.moves_of_action(action.uid), view, SOON)
    assert (found.condition, found.reasons[0].code) == (Condition.BLOCKED, "no_leader")
