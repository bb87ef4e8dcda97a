"""The decisions of one turn: their order, what each sees, and what is committed together."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from shardwright.leader.batch import Batch
from shardwright.leader.turn import AGAIN, AGAIN_MAX, DECIDERS, Decide, Deciders, TurnResult, decide_turn
from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.commands import Command, HandOff, Open, Promote
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.view import ClusterView, Put, Write
from testkit.builders import NOW, cluster

LATER = NOW + timedelta(seconds=1)


def decides(*writes: Write, commands: Sequence[Command] = (), wake_at: datetime | None = None) -> Decide:
    return lambda view, now: Decision(writes=writes, commands=tuple(commands), wake_at=wake_at)


def turn(
    view: ClusterView, *deciders: Decide, singly: bool = False, foreign: Sequence[Write] = ()
) -> tuple[TurnResult, list[list[Write]]]:
    """A turn whose batches are committed, each with what another writer wrote meanwhile; and these batches."""
    parts = tuple((lambda view, one=one: [one]) for one in deciders)
    deciding = decide_turn(view, NOW, parts, singly=singly)
    committed: list[list[Write]] = []
    try:
        batch: Batch = next(deciding)
        while True:
            committed.append(list(batch.writes))
            view = view.with_writes((*batch.writes, *foreign))
            batch = deciding.send(view)
    except StopIteration as done:
        outcome: TurnResult = done.value
        return outcome, committed


def rack(number: int, name: str) -> Put:
    return Put(replace(cluster(3).view.nodes[NodeUid(number)], rack=name))


def test_a_turn_without_writes_commits_nothing() -> None:
    view = cluster(3).view
    outcome, committed = turn(view, decides(), decides(commands=[Promote(ShardUid(1))]))
    assert committed == []
    assert outcome == TurnResult(view, (Promote(ShardUid(1)),), None)


def test_decisions_are_committed_together() -> None:
    outcome, committed = turn(cluster(3).view, decides(rack(1, "a")), decides(rack(2, "b")))
    assert committed == [[rack(1, "a"), rack(2, "b")]]
    assert [outcome.view.nodes[NodeUid(n)].rack for n in (1, 2)] == ["a", "b"]


def test_each_decision_by_itself_after_a_failed_turn() -> None:
    _, committed = turn(cluster(3).view, decides(rack(1, "a")), decides(), decides(rack(2, "b")), singly=True)
    assert committed == [[rack(1, "a")], [rack(2, "b")]]


def test_a_decision_sees_the_writes_of_those_before_it() -> None:
    def follows(view: ClusterView, now: datetime) -> Decision:
        return Decision(writes=(rack(2, view.nodes[NodeUid(1)].rack + "!"),))

    _, committed = turn(cluster(3).view, decides(rack(1, "a")), follows)
    assert committed == [[rack(1, "a"), rack(2, "a!")]]


def test_a_record_that_is_written_already_is_decided_again_on_the_view_after_the_commit() -> None:
    """Each of its states is on record, and what another writer changed during the commit is not overwritten."""

    def adds(view: ClusterView, now: datetime) -> Decision:
        return Decision(writes=(rack(1, view.nodes[NodeUid(1)].rack + view.nodes[NodeUid(3)].rack),))

    _, committed = turn(cluster(3).view, decides(rack(1, "a")), adds, foreign=[rack(3, "x")])
    assert committed == [[rack(1, "a")], [rack(1, "ax")]]


def test_a_command_is_given_once_and_in_the_order_of_the_decisions() -> None:
    first, second = Promote(ShardUid(1)), Open(ShardUid(1))
    outcome, _ = turn(cluster(3).view, decides(commands=[first]), decides(commands=[second, first]))
    assert outcome.commands == (first, second)


def test_the_earliest_wake_time_counts() -> None:
    outcome, _ = turn(cluster(3).view, decides(wake_at=LATER), decides(), decides(wake_at=NOW))
    assert outcome.wake_at == NOW


def test_a_decision_that_fails_leaves_what_was_decided_before_it_uncommitted() -> None:
    def fails(view: ClusterView, now: datetime) -> Decision:
        raise AssertionError("a defect")

    with pytest.raises(AssertionError, match="a defect"):
        turn(cluster(3).view, decides(rack(1, "a")), fails)
    deciding = decide_turn(cluster(3).view, NOW, (lambda view: [decides(rack(1, "a"))], lambda view: [fails]), singly=True)
    assert next(deciding).writes == [rack(1, "a")], "by itself it is committed first"


def test_a_part_decides_on_what_exists_when_it_begins() -> None:
    """Its things are listed on the view of then: one that an earlier part adds is decided in the same turn."""
    seen: list[int] = []

    def count(view: ClusterView, now: datetime) -> Decision:
        seen.append(len(view.nodes))
        return NOTHING

    fourth = Put(replace(cluster(3).view.nodes[NodeUid(3)], uid=NodeUid(4)))
    deciding = decide_turn(
        cluster(3).view, NOW, (lambda view: [decides(fourth)], lambda view: [count] * len(view.nodes)), singly=False
    )
    assert next(deciding).writes == [fourth]
    assert seen == [4, 4, 4, 4]


def test_an_action_is_committed_with_its_first_move_at_once() -> None:
    """Each step by itself would be a commit more before the clients' pause."""
    builder = cluster(3).with_database(on=((1, 2),)).with_endpoints_seen().with_leader(3)
    builder = builder.with_action(ActionName.STEP_DOWN, 1, status=ActionStatus.QUEUED)
    deciding = decide_turn(builder.view, NOW, DECIDERS, again=AGAIN, singly=False)
    batch = next(deciding)
    with pytest.raises(StopIteration) as done:
        deciding.send(builder.view.with_writes(batch.writes))
    outcome: TurnResult = done.value.value
    (action,) = batch.view.actions.values()
    (move,) = batch.view.moves.values()
    assert action.status is ActionStatus.RUNNING
    assert move.state is MoveState.HANDOFF
    assert HandOff in [type(command) for command in outcome.commands]


def test_what_always_writes_is_decided_again_in_the_next_turn() -> None:
    def adds(view: ClusterView, now: datetime) -> Decision:
        return Decision(writes=(Put(replace(view.counters, next_shard=view.counters.next_shard + 1)),))

    view = cluster(3).view
    part: Deciders = (lambda view: [adds],)
    batch = next(decide_turn(view, NOW, part, again=part, singly=False))
    assert batch.view.counters.next_shard == view.counters.next_shard + 1 + AGAIN_MAX
    assert len(list(batch.writes)) == 1 + AGAIN_MAX


def test_after_a_failed_turn_nothing_is_decided_again() -> None:
    part: Deciders = (lambda view: [decides(rack(1, "a"))],)
    deciding = decide_turn(cluster(3).view, NOW, part, again=part, singly=True)
    next(deciding)
    with pytest.raises(StopIteration):
        deciding.send(cluster(3).view)


def test_a_cluster_at_rest_asks_for_nothing() -> None:
    view = cluster(3).with_database(on=((1, 2),)).with_endpoints_seen().view
    settings = view.databases[DatabaseUid(1)].settings_fingerprint
    view = view.with_writes([Put(replace(s, settings=settings)) for s in view.shards.values()])
    deciding = decide_turn(view, NOW, DECIDERS, singly=False)
    with pytest.raises(StopIteration) as done:
        next(deciding)
    assert done.value.value == TurnResult(view, (), None)


def test_a_record_that_was_deleted_earlier_in_the_turn_is_skipped() -> None:
    """Each decider first checks that its record still exists."""
    view = cluster(3).with_database(on=((1, 2),)).view
    for part in DECIDERS:
        for decide in part(view):
            assert isinstance(decide(view, NOW), Decision)
    nothing_left = ClusterView(policy=view.policy, counters=view.counters)
    assert all(decide(nothing_left, NOW) == NOTHING for part in DECIDERS for decide in part(view))


def test_a_failover_is_decided_and_its_commands_wait_for_the_next_turn() -> None:
    """Roles come first; the heir is promoted once the record of its role is committed and its server was seen again."""
    builder = cluster(3).with_database(on=((1, 2),)).with_endpoints_seen().with_dead_shard(1)
    since = NOW - timedelta(seconds=1)
    dead = replace(builder.view.shards[ShardUid(1)], missing_since=since, ended_since=since)
    deciding = decide_turn(builder.with_records(dead).view, NOW, DECIDERS, singly=False)
    batch = next(deciding)
    assert batch.view.groups[GroupUid("1:1")].primary == 2
    with pytest.raises(StopIteration) as done:
        deciding.send(builder.view.with_writes(batch.writes))
    assert not any(isinstance(c, HandOff | Promote) for c in done.value.value.commands)
