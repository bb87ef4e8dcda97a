"""Laws of the actions for all clusters and all orders of outcomes: they end or name a blocker, survive crashes, and never go
back."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from shardwright.actions.base import decide_action
from shardwright.model.action import ACTION_TRANSITIONS, Action, ActionName, ActionStatus
from shardwright.model.database import ShardWanted
from shardwright.model.ids import NodeUid
from shardwright.model.move import GroupMove, Move, MoveState, Rebind
from shardwright.model.view import ClusterView
from testkit.builders import MB, NOW, ClusterBuilder, cluster
from testkit.stepper import action_of, decide_once, run_action, step_move, step_moves

TURNS_MAX = 400
A = "action-1"


@st.composite
def clusters(draw: st.DrawFn) -> ClusterBuilder:
    """Clusters in which most actions are possible."""
    nodes = draw(st.integers(2, 5))
    builder = cluster(nodes, leader=draw(st.integers(1, nodes)))
    for _ in range(draw(st.integers(0, 4))):
        copies = draw(st.permutations(range(1, nodes + 1)))[: draw(st.integers(1, 2))]
        builder = builder.with_database(on=(copies,), endpoint_on=draw(st.integers(1, nodes)))
    if draw(st.booleans()):
        uid = draw(st.integers(1, nodes))
        builder = builder.with_node_changed(uid, memory_bytes=draw(st.sampled_from([0, 120, 250])) * MB)
    return builder.with_policy(
        max_slave_full_syncs=draw(st.integers(0, 2)), default_concurrent_restore_actions=draw(st.integers(0, 3))
    )


def prepared(builder: ClusterBuilder, name: ActionName, node: int) -> ClusterBuilder:
    """The cluster with the action queued as ``action-1``; a node that is to leave maintenance is put into it first."""
    if name == ActionName.MAINTENANCE_OFF:
        builder = run_action(builder.with_action(ActionName.MAINTENANCE_ON, node), A, now=NOW - timedelta(hours=1))
        builder = ClusterBuilder(replace(builder.view, actions={}, moves={}))
    return builder.with_action(name, node)


def outcomes(seed: list[bool]) -> Callable[[Move], bool]:
    """The moves that fail, by number; after the end of the list no move fails."""

    def fails(move: Move) -> bool:
        number = int(move.uid.rpartition("-")[2]) - 1
        return number < len(seed) and seed[number]

    return fails


def check_step(before: Action, after: Action) -> None:
    if before.status != after.status:
        assert after.status in ACTION_TRANSITIONS[before.status], f"{before.status} -> {after.status}"
    assert after.progress >= before.progress
    assert 0 <= after.progress <= 100
    assert after.work_total_bytes >= before.work_total_bytes
    assert after.moves_started >= before.moves_started
    assert (after.ended_at is not None) == after.status.is_terminal
    if after.status == ActionStatus.FAILED:
        assert after.error_code
        assert after.error_message


def check_moves(view: ClusterView) -> None:
    live = [m.group_uid for m in view.live_moves() if isinstance(m, GroupMove)]
    assert len(live) == len(set(live)), "one live move per slot group"
    endpoints = [m.endpoint_uid for m in view.live_moves() if isinstance(m, Rebind)]
    assert len(endpoints) == len(set(endpoints)), "one live move per endpoint"
    for group in view.groups:
        nodes = [s.node_uid for s in view.shards_of_group(group) if s.wanted == ShardWanted.RUNNING]
        assert len(nodes) == len(set(nodes)), "two copies on one node"


def check_end(view: ClusterView, action: Action) -> None:
    """``completed`` means that everything that had to leave the node has left."""
    if action.status != ActionStatus.COMPLETED:
        return
    node = action.node_uid
    running = [s for s in view.shards_on(node) if s.wanted == ShardWanted.RUNNING]
    match action.name:
        case ActionName.REMOVE:
            assert node not in view.nodes
            assert running == []
            assert node in view.removed_nodes
        case ActionName.MAINTENANCE_ON:
            assert running == []
            assert view.endpoints_on(node) == []
            assert view.nodes[node].is_quorum_only
        case ActionName.STEP_DOWN:
            assert [s for s in running if view.is_primary(s)] == []
            assert view.endpoints_on(node) == []
        case ActionName.MAINTENANCE_OFF:
            assert not view.nodes[node].is_quorum_only
            assert view.maintenance_snapshot(node) is None


@given(clusters(), st.sampled_from(list(ActionName)), st.integers(1, 5), st.data())
def test_every_action_ends_or_names_what_blocks_it(
    builder: ClusterBuilder, name: ActionName, number: int, data: st.DataObject
) -> None:
    node = 1 + number % len(builder.view.nodes)
    builder = prepared(builder, name, node)
    fails = outcomes(data.draw(st.lists(st.booleans(), max_size=12)))
    dies_at = data.draw(st.one_of(st.none(), st.tuples(st.integers(0, 12), st.integers(1, 5))))
    for turn in range(TURNS_MAX):
        now = NOW + timedelta(seconds=turn)
        before = action_of(builder.view, A)
        if before.status.is_terminal:
            break
        builder = decide_once(builder, before, now=now)
        check_step(before, action_of(builder.view, A))
        check_moves(builder.view)
        if dies_at is not None and dies_at[0] == turn:
            dead = 1 + dies_at[1] % len(builder.view.nodes)
            if dead != node and NodeUid(dead) in builder.view.nodes:
                builder = builder.without_daemon(dead)
        live = builder.view.live_moves()
        if live:
            chosen = data.draw(st.sampled_from(live)) if turn < 30 else live[0]
            builder = step_move(builder, chosen, now=now, fails=fails(chosen))
    action = action_of(builder.view, A)
    assert action.status.is_terminal or action.reasons, "neither ended nor explained"
    check_end(builder.view, action)


@given(clusters(), st.sampled_from(list(ActionName)), st.integers(1, 5), st.lists(st.booleans(), max_size=60))
def test_lost_turns_and_new_leaders_lead_to_the_same_end(
    builder: ClusterBuilder, name: ActionName, number: int, crashes: list[bool]
) -> None:
    """A leader that dies before its decision is committed leaves no trace; one that dies afterwards has left the records. In
    both cases the next leader decides from the store alone."""
    start = prepared(builder, name, 1 + number % len(builder.view.nodes))
    undisturbed = run_action(start, A, now=NOW, turns=TURNS_MAX)
    disturbed = start
    for turn in range(TURNS_MAX):
        now = NOW + timedelta(seconds=turn)
        action = action_of(disturbed.view, A)
        if action.status.is_terminal:
            break
        if turn < len(crashes) and crashes[turn]:
            assert decide_action(action, disturbed.view, now) == decide_action(action, disturbed.view, now)
        else:
            disturbed = decide_once(disturbed, action, now=now)
        disturbed = step_moves(disturbed, now=now)
    assert summary(disturbed.view) == summary(undisturbed.view)


def summary(view: ClusterView) -> tuple[object, ...]:
    action = action_of(view, A)
    node = action.node_uid
    kept = sorted((s.group_uid, view.is_primary(s)) for s in view.shards_on(node) if s.wanted == ShardWanted.RUNNING)
    marks = [(n.uid, n.is_quorum_only, n.is_closed, n.is_decommissioning) for n in view.nodes.values()]
    endpoints = [e.uid for e in view.endpoints_on(node)]
    return action.status, action.error_code, kept, marks, endpoints


@given(clusters(), st.sampled_from(list(ActionName)), st.integers(1, 5), st.integers(0, 15))
def test_a_cancelled_action_ends_soon_and_leaves_no_move_running(
    builder: ClusterBuilder, name: ActionName, number: int, turns: int
) -> None:
    builder = prepared(builder, name, 1 + number % len(builder.view.nodes))
    builder = run_action(builder, A, now=NOW, turns=turns)
    action = action_of(builder.view, A)
    if action.status.is_terminal:
        return
    builder = builder.with_records(replace(action, cancel_requested_at=NOW))
    builder = run_action(builder, A, now=NOW + timedelta(seconds=turns), turns=20)
    action = action_of(builder.view, A)
    assert action.status == ActionStatus.CANCELLED
    assert not [m for m in builder.view.live_moves() if m.state != MoveState.CLEANING]
