"""All primaries of a node hand over; no shard leaves it."""

from datetime import timedelta

from shardwright.actions.base import decide_action
from shardwright.model.action import ActionName, ActionStatus, StepDownParameters
from shardwright.model.commands import YieldLeadership
from shardwright.model.ids import NodeUid
from shardwright.model.move import MoveKind
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.stepper import action_of, run_action

A = "action-1"
N1 = NodeUid(1)
PAIRS = cluster(3, leader=2).with_database(on=((1, 2),)).with_database(on=((2, 1),))


def step_down(builder: ClusterBuilder, *, turns: int = 200, fails: object = None, **parameters: object) -> ClusterBuilder:
    builder = builder.with_action(ActionName.STEP_DOWN, 1, StepDownParameters(**parameters))  # type: ignore[arg-type]
    options = {} if fails is None else {"fails": fails}
    return run_action(builder, A, now=NOW, turns=turns, **options)  # type: ignore[arg-type]


def result(builder: ClusterBuilder) -> tuple[str, str]:
    action = action_of(builder.view, A)
    return str(action.status), str(action.error_code)


def primaries(builder: ClusterBuilder) -> list[int]:
    return [s.uid for s in builder.view.shards_on(N1) if builder.view.is_primary(s)]


def test_primaries_hand_over_endpoints_go_and_replicas_stay() -> None:
    builder = step_down(PAIRS)
    assert result(builder) == ("completed", "")
    assert primaries(builder) == []
    assert [s.uid for s in builder.view.shards_on(N1)] == [1, 4]
    assert builder.view.endpoints_on(N1) == []
    kinds = [m.kind for m in builder.view.moves_of_action(action_of(builder.view, A).uid)]
    assert kinds == [MoveKind.HANDOFF, MoveKind.REBIND]
    assert builder.view.nodes[N1].accepts_placement, "the node is not marked"


def test_a_primary_without_a_replica_is_named_and_nothing_moves() -> None:
    builder = step_down(PAIRS.with_database(on=((1,),)).with_database(on=((1,),)))
    assert result(builder) == ("failed", "no_replica")
    assert builder.view.moves == {}
    assert [r.shard_uid for r in action_of(builder.view, A).reasons] == [5, 6]
    assert "shard 5 of database 3" in action_of(builder.view, A).error_message


def test_a_replica_on_a_node_in_maintenance_does_not_count() -> None:
    assert result(step_down(PAIRS.with_node_changed(2, is_quorum_only=True))) == ("failed", "no_replica")


def test_only_endpoints() -> None:
    builder = step_down(PAIRS.with_database(on=((1,),)), endpoints_only=True)
    assert result(builder) == ("completed", "")
    assert primaries(builder) == [1, 5]
    assert builder.view.endpoints_on(N1) == []


def test_only_shards() -> None:
    builder = step_down(PAIRS, shards_only=True)
    assert result(builder) == ("completed", "")
    assert primaries(builder) == []
    assert [e.uid for e in builder.view.endpoints_on(N1)] == ["1:1"]


def test_an_endpoint_without_a_place_is_found_out_before_anything_moves() -> None:
    builder = PAIRS.with_node_changed(2, endpoints_max=0).with_node_changed(3, endpoints_max=0)
    builder = step_down(builder)
    assert result(builder) == ("failed", "insufficient_resources")
    assert builder.view.moves == {}


def test_leadership_is_given_up_on_demand() -> None:
    builder = step_down(PAIRS.with_leader(1), yields_leadership=True, turns=2)
    assert decide_action(action_of(builder.view, A), builder.view, NOW).commands == (YieldLeadership(),)
    assert result(run_action(builder, A, now=NOW)) == ("completed", "")


def test_leadership_is_not_given_up_while_nobody_else_is_there() -> None:
    """It would be taken up again at once: a hundred terms in a second."""
    alone = step_down(PAIRS.with_leader(1), yields_leadership=True, turns=2).without_daemon(2).without_daemon(3)
    decision = decide_action(action_of(alone.view, A), alone.view, NOW)
    assert decision.commands == ()
    assert [(r.code, r.remedy) for r in decision.reasons] == [("leadership_not_yielded", "start the daemon of another node")]


def test_failed_handoffs_are_tried_until_the_time_is_over() -> None:
    builder = step_down(PAIRS, retry_timeout_s=20, fails=lambda m: m.kind == MoveKind.HANDOFF)
    action = action_of(builder.view, A)
    assert result(builder) == ("failed", "move_failed")
    assert action.ended_at is not None
    assert timedelta(seconds=20) <= action.ended_at - NOW <= timedelta(seconds=30)
    assert 3 < len([m for m in builder.view.moves.values() if m.kind == MoveKind.HANDOFF]) < 8
    assert builder.view.endpoints_on(N1) == [] or primaries(builder) == [1]


def test_a_replica_that_is_not_in_sync_is_waited_for_and_then_named() -> None:
    broken = PAIRS.with_server(2, is_link_up=False)
    waiting = step_down(broken, turns=30)
    assert action_of(waiting.view, A).status == ActionStatus.RUNNING
    assert result(run_action(waiting.with_server(2, is_link_up=True), A, now=NOW)) == ("completed", "")
    over = step_down(broken)
    assert result(over)[0] == "failed"
    assert [r.shard_uid for r in action_of(over.view, A).reasons] == [1]


def test_a_dead_replica_may_come_back_before_the_time_is_over() -> None:
    broken = step_down(PAIRS.with_dead_shard(2), turns=10)
    assert action_of(broken.view, A).status == ActionStatus.RUNNING
    assert result(run_action(broken.with_healthy_shard(2), A, now=NOW)) == ("completed", "")
    assert result(step_down(PAIRS.with_dead_shard(2), retry_timeout_s=5)) == ("failed", "no_replica")
