"""A move's next step, from what is seen."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from shardwright.actions.handoff import BUSY_CODE
from shardwright.actions.move import HANDOFF_ATTEMPTS_MAX, decide_move, is_persisted
from shardwright.model.codes import Code
from shardwright.model.commands import Attach, HandOff, PassEndpoint, SaveNow
from shardwright.model.database import Endpoint, GroupPhase, Handoff, Persistence, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.event import Event
from shardwright.model.ids import EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import MOVE_TRANSITIONS, HandoffMove, Move, MoveState, Rebind, Relocation
from shardwright.model.reason import Reason
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, Health, ProcessSeen, ProcessState
from shardwright.model.view import Delete, Put
from shardwright.reconcile.group import decide_group
from shardwright.testing import moves
from shardwright.testing.builders import NOW, ClusterBuilder, cluster

GROUP = GroupUid("1:1")


def relocation(state: MoveState = MoveState.PLANNED, **changes: Any) -> Relocation:
    """Shard 2, the replica on node 2, goes to node 3."""
    return moves.relocation(**{"state": state, **changes})


def handoff(state: MoveState = MoveState.HANDOFF, **changes: Any) -> HandoffMove:
    """Shard 1 hands its role to shard 2."""
    return moves.handoff_move(**{"state": state, **changes})


def replicated() -> ClusterBuilder:
    return cluster(nodes=3).with_database(on=((1, 2),))


LONG_AGO = NOW - timedelta(seconds=5)


def with_new_copy(builder: ClusterBuilder, **changes: object) -> ClusterBuilder:
    """Shard 3 on node 3: running, linked and in sync unless said otherwise."""
    template = builder.view.shards[ShardUid(2)]
    shard = replace(template, uid=ShardUid(3), node_uid=NodeUid(3), port=template.port + 7)
    if changes.get("is_syncing") or changes.get("role") is Role.PRIMARY:
        shard = replace(shard, in_sync_generation=-1)
    counters = replace(builder.view.counters, next_shard=4)
    return builder.with_records(counters, shard).with_healthy_shard(3).with_server(3, **changes)


def decide(builder: ClusterBuilder, move: Move, *, later_s: float = 0) -> Decision:
    return decide_move(move, builder.with_move(move).view, NOW + timedelta(seconds=later_s))


def move_after(decision: Decision) -> Any:
    found = [w.record for w in decision.writes if isinstance(w.record, Move)]
    assert len(found) == 1, decision
    return found[0]


def shard_after(decision: Decision, uid: int) -> Shard:
    return next(w.record for w in decision.writes if isinstance(w.record, Shard) and w.record.uid == uid)


def test_a_planned_relocation_records_the_new_shard_with_a_number_of_its_own() -> None:
    builder = replicated()
    decision = decide(builder, relocation())
    new = shard_after(decision, builder.view.counters.next_shard)
    assert (new.node_uid, new.wanted, new.group_uid) == (3, ShardWanted.RUNNING, GROUP)
    assert (move_after(decision).state, move_after(decision).new_shard_uid) == (MoveState.STARTING, new.uid)


def test_a_new_server_that_follows_is_syncing_and_its_bytes_count() -> None:
    starting = relocation(MoveState.STARTING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), is_link_up=False, is_syncing=True, sync_done_bytes=10, sync_total_bytes=100)
    syncing = move_after(decide(builder, starting))
    assert syncing.state is MoveState.SYNCING
    counted = move_after(decide(builder, syncing))
    assert (counted.bytes_done, counted.state) == (10, MoveState.SYNCING)
    assert counted.bytes_total >= 100


def test_a_linked_copy_is_ready_then_the_old_one_stops_then_its_files_go() -> None:
    builder = with_new_copy(replicated())
    ready = move_after(decide(builder, relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3))))
    assert ready.state is MoveState.READY
    cleaning = move_after(decide(builder, ready))
    assert cleaning.state is MoveState.CLEANING
    stopping = shard_after(decide(builder, cleaning), 2)
    assert stopping.wanted is ShardWanted.STOPPED
    stopped = builder.with_records(stopping).with_process(2, ProcessState.GONE)
    left = move_after(decide(stopped, cleaning))
    assert left.has_left
    assert shard_after(decide(stopped, left), 2).wanted is ShardWanted.GONE


def test_done_only_when_the_files_are_deleted() -> None:
    builder = with_new_copy(replicated())
    gone = replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.GONE)
    builder = builder.with_records(gone).with_process(2, ProcessState.GONE)
    cleaning = relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), has_left=True)
    assert decide(builder, cleaning).writes == ()
    deleted = ProcessSeen(ShardUid(2), gone.incarnation, ProcessState.GONE, files_are_deleted=True)
    view = replace(builder.view, processes={**builder.view.processes, ShardUid(2): deleted})
    decision = decide_move(cleaning, view, NOW)
    assert Delete(gone) in decision.writes
    assert move_after(decision).state is MoveState.DONE


def test_the_old_copy_stays_while_the_new_one_is_not_in_sync() -> None:
    builder = with_new_copy(replicated())
    lagging = builder.with_records(replace(builder.view.shards[ShardUid(3)], in_sync_generation=-1))
    decision = decide(lagging, relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3)))
    assert decision.writes == ()
    assert [r.code for r in decision.reasons] == ["new_copy_not_in_sync"]


def test_a_failover_onto_the_leaving_copy_takes_the_move_back_to_its_handoff() -> None:
    builder = with_new_copy(replicated())
    group = replace(builder.view.groups[GROUP], primary=ShardUid(2))
    decision = decide(builder.with_records(group), relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3)))
    assert move_after(decision).state is MoveState.HANDOFF
    assert not any(isinstance(w.record, Shard) for w in decision.writes)


def test_a_leaving_primary_hands_over_before_it_stops() -> None:
    builder = with_new_copy(cluster(nodes=3).with_database(on=((2, 1),)))
    move = relocation(MoveState.READY, shard_uid=ShardUid(1), new_shard_uid=ShardUid(3), hands_over=True)
    handing = move_after(decide(builder, move))
    assert handing.state is MoveState.HANDOFF
    assert decide(builder, handing).commands == (HandOff(GROUP, ShardUid(1), ShardUid(3)),)


def test_while_a_handoff_is_pending_nothing_else_is_decided() -> None:
    builder = with_new_copy(replicated())
    pending = replace(builder.view.groups[GROUP], handoff=Handoff(ShardUid(1), ShardUid(2), 9, 1, NOW))
    move = handoff()
    assert decide(builder.with_records(pending), replace(move, is_cancel_wanted=True)) == Decision()


def test_failed_handoffs_wait_and_end_but_a_busy_command_only_blocks() -> None:
    builder = replicated()
    move = handoff()
    waiting = replace(move, attempts=1, not_before=NOW + timedelta(seconds=1))
    assert decide(builder, waiting).wake_at == NOW + timedelta(seconds=1)
    spent = replace(move, attempts=HANDOFF_ATTEMPTS_MAX, reasons=(Reason(Code.REPLICA_LAGS, "it lags"),))
    assert move_after(decide(builder, spent)).state is MoveState.FAILED
    busy = replace(spent, reasons=(Reason(BUSY_CODE, "EVAL of 10.0.0.1 runs"),))
    assert decide(builder, busy).commands == (HandOff(GROUP, ShardUid(1), ShardUid(2)),)


@pytest.mark.parametrize("state", [MoveState.STARTING, MoveState.SYNCING, MoveState.READY])
def test_a_cancelled_relocation_deletes_the_new_copy_and_keeps_the_old(state: MoveState) -> None:
    builder = with_new_copy(replicated())
    move = relocation(state, new_shard_uid=ShardUid(3), is_cancel_wanted=True)
    decision = decide(builder, move)
    assert move_after(decision).state is MoveState.UNDOING
    assert shard_after(decision, 3).wanted is ShardWanted.GONE
    assert not any(isinstance(w.record, Shard) and w.record.uid == 2 for w in decision.writes)


@pytest.mark.parametrize("state", [ProcessState.FAILED, ProcessState.GONE])
def test_a_new_server_that_does_not_start_is_given_up_with_its_reason(state: ProcessState) -> None:
    builder = with_new_copy(replicated()).with_process(3, state).without_server(3)
    decision = decide(builder, relocation(MoveState.STARTING, new_shard_uid=ShardUid(3)))
    undoing = move_after(decision)
    assert undoing.state is MoveState.UNDOING
    assert [r.code for r in undoing.reasons] == ["shard_start_failed"]


def test_a_silent_sync_is_given_up() -> None:
    builder = with_new_copy(replicated(), is_link_up=False, is_syncing=True)
    move = relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3))
    assert decide(builder, move, later_s=60).writes == ()
    assert move_after(decide(builder, move, later_s=121)).state is MoveState.UNDOING


def test_persistence_is_in_place_only_when_written_and_ok() -> None:
    seen = replicated().view.servers[ShardUid(1)]
    assert is_persisted(Persistence.DISABLED, None)
    assert not is_persisted(Persistence.AOF, replace(seen, is_aof_on=True, is_persistence_busy=True))
    assert is_persisted(Persistence.AOF, replace(seen, is_aof_on=True))
    assert not is_persisted(Persistence.SNAPSHOT, replace(seen, saves_since_start=0))
    assert is_persisted(Persistence.SNAPSHOT, replace(seen, saves_since_start=1))
    assert not is_persisted(Persistence.SNAPSHOT, replace(seen, saves_since_start=1, health=Health.TIMEOUT))


def test_a_snapshot_is_asked_for_before_the_old_files_go() -> None:
    builder = with_new_copy(replicated().with_database_changed(1, persistence=Persistence.SNAPSHOT))
    stopped = replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.STOPPED)
    builder = builder.with_records(stopped).with_process(2, ProcessState.GONE)
    cleaning = relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), has_left=True)
    assert decide(builder, cleaning).commands == (SaveNow(ShardUid(3)),)


def rebind(state: MoveState) -> Rebind:
    """The endpoint goes from node 1 to node 3."""
    return moves.rebind(state=state)


def with_endpoint_states(builder: ClusterBuilder, states: dict[int, EndpointState]) -> ClusterBuilder:
    seen = {
        NodeUid(node): EndpointProcessSeen(
            NodeUid(node), NOW, answers=True, endpoints=(EndpointSeen(EndpointUid("1:1"), state, 1, connections=2),)
        )
        for node, state in states.items()
    }
    return ClusterBuilder(replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, **seen}))


def test_an_endpoint_is_passed_then_recorded_then_done() -> None:
    builder, move = replicated(), rebind(MoveState.HANDOFF)
    before = with_endpoint_states(builder, {1: EndpointState.LISTENING, 3: EndpointState.ABSENT})
    assert [type(c) for c in decide(before, move).commands] == [PassEndpoint]
    passed = with_endpoint_states(builder, {1: EndpointState.DRAINING, 3: EndpointState.LISTENING})
    bound = next(w.record for w in decide(passed, move).writes if isinstance(w, Put))
    assert isinstance(bound, Endpoint)
    assert bound.nodes == (3,)
    draining = passed.with_records(bound)
    assert [type(c) for c in decide(draining, move).commands] == [PassEndpoint]
    ended = with_endpoint_states(draining, {1: EndpointState.ABSENT, 3: EndpointState.LISTENING})
    assert move_after(decide(ended, move)).state is MoveState.DONE


def test_a_source_that_was_told_to_listen_again_still_passes_its_connections() -> None:
    """The leader ended a hold there by what it had seen before: clients were cut off when the rebind counted it as left."""
    builder = with_endpoint_states(replicated(), {1: EndpointState.BIND_FAILED, 3: EndpointState.LISTENING})
    bound = replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NodeUid(3),))
    builder = builder.with_records(bound)
    assert [type(c) for c in decide(builder, rebind(MoveState.HANDOFF)).commands] == [PassEndpoint]
    empty = EndpointSeen(EndpointUid("1:1"), EndpointState.BIND_FAILED, 1)
    left = with_source(builder, EndpointProcessSeen(NodeUid(1), NOW, answers=True, endpoints=(empty,)))
    assert move_after(decide(left, rebind(MoveState.HANDOFF))).state is MoveState.DONE


def test_a_target_whose_daemon_stays_away_is_given_up_before_the_start_limit() -> None:
    starting = relocation(MoveState.STARTING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=None, health=Health.REFUSED).without_daemon(3)
    away = builder.with_process(3, ProcessState.UNKNOWN)
    assert decide(away, starting, later_s=9).writes == ()
    given_up = move_after(decide(away, starting, later_s=11))
    assert (given_up.state, given_up.reasons[0].code) == (MoveState.UNDOING, "node_down")
    assert decide(away.with_daemon(3), starting, later_s=11).writes == ()
    assert decide(builder, starting, later_s=11).writes == ()


@pytest.mark.parametrize("state", [MoveState.SYNCING, MoveState.READY, MoveState.CLEANING])
def test_a_new_copy_whose_whole_node_dies_is_given_up(state: MoveState) -> None:
    """Its next incarnation waited for a daemon that was not there: in a sync for two minutes, behind it without end."""
    move = relocation(state, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=None, health=Health.REFUSED).without_daemon(3)
    builder = builder.with_process(3, ProcessState.UNKNOWN)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(3)], in_sync_generation=-1))
    assert move_after_or_none(decide(builder, move, later_s=9)) is None
    given_up = move_after(decide(builder, move, later_s=11))
    assert (given_up.state, given_up.reasons[0].code) == (MoveState.UNDOING, "node_down")
    assert move_after_or_none(decide(builder.with_daemon(3), move, later_s=11)) is None
    back = with_new_copy(replicated()).without_daemon(3)
    ended = move_after_or_none(decide(back, move, later_s=11))
    assert ended is None or ended.state is not MoveState.UNDOING


def test_when_the_new_copys_files_are_out_of_reach_the_primarys_are_written_before_the_old_ones_go() -> None:
    """The move waited for a dead node's file, and while it did the lost copy was not rebuilt."""
    later = NOW + timedelta(seconds=11)
    builder = with_new_copy(replicated().with_database_changed(1, persistence=Persistence.SNAPSHOT), health=Health.REFUSED)
    builder = builder.without_daemon(3).with_process(3, ProcessState.UNKNOWN)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(2)], wanted=ShardWanted.STOPPED))
    builder = builder.with_process(2, ProcessState.GONE).with_server(1, at=later)
    cleaning = relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), has_left=True)
    assert decide(builder, cleaning, later_s=11).commands == (SaveNow(ShardUid(1)),)
    saved = builder.with_server(1, saves_since_start=1)
    assert shard_after(decide(saved, cleaning, later_s=11), 2).wanted is ShardWanted.GONE
    unseen = saved.with_server(1, health=Health.TIMEOUT)
    waits = decide(unseen, cleaning, later_s=11)
    assert [w.record.uid for w in waits.writes] == ["a-1"]  # type: ignore[union-attr]
    assert [r.code for r in move_after(waits).reasons] == ["persistence_pending"]


def test_an_endpoint_process_that_was_started_anew_has_nothing_to_pass() -> None:
    builder = with_endpoint_states(replicated(), {1: EndpointState.ABSENT, 3: EndpointState.ABSENT})
    bound = next(w.record for w in decide(builder, rebind(MoveState.HANDOFF)).writes if isinstance(w, Put))
    assert bound.nodes == (3,)  # type: ignore[union-attr]


def with_source(builder: ClusterBuilder, seen: EndpointProcessSeen) -> ClusterBuilder:
    return ClusterBuilder(replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, NodeUid(1): seen}))


def test_a_silent_source_may_still_have_its_clients_and_only_one_that_has_ended_is_passed_over() -> None:
    builder = with_endpoint_states(replicated(), {3: EndpointState.ABSENT})
    move = rebind(MoveState.HANDOFF)
    silent = with_source(builder, EndpointProcessSeen(NodeUid(1), NOW, answers=False))
    assert decide(silent, move, later_s=60).writes == ()
    ended = with_source(builder, EndpointProcessSeen(NodeUid(1), NOW, answers=False, has_ended=True))
    bound = next(w.record for w in decide(ended, move).writes if isinstance(w, Put))
    assert bound.nodes == (3,)  # type: ignore[union-attr]


def test_clients_that_could_not_be_passed_on_are_named_in_an_event() -> None:
    builder = with_endpoint_states(replicated(), {3: EndpointState.LISTENING})
    bound = replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NodeUid(3),))
    left = EndpointSeen(EndpointUid("1:1"), EndpointState.DRAINING, 1, ended=("10.0.0.9:5 nightly-job EVAL",))
    passed = with_source(builder.with_records(bound), EndpointProcessSeen(NodeUid(1), NOW, answers=True, endpoints=(left,)))
    decision = decide(passed, rebind(MoveState.HANDOFF))
    assert move_after(decision).state is MoveState.DONE
    (event,) = [w.record for w in decision.writes if isinstance(w, Put) and isinstance(w.record, Event)]
    assert "10.0.0.9:5 nightly-job EVAL" in event.text


def test_every_live_state_has_a_way_out_and_terminal_ones_have_none() -> None:
    for transitions in MOVE_TRANSITIONS.values():
        for state, following in transitions.items():
            assert bool(following) is not state.is_terminal
            assert following <= transitions.keys()


def test_a_deleted_database_ends_its_moves() -> None:
    builder = with_new_copy(replicated())
    without = replace(builder.view, groups={}, databases={})
    decision = decide_move(relocation(MoveState.SYNCING, new_shard_uid=ShardUid(3)), without, NOW)
    assert move_after(decision).state is MoveState.UNDOING
    assert not any(isinstance(w.record, SlotGroup) for w in decision.writes)


def test_roles_that_changed_meanwhile_end_a_handoff() -> None:
    builder = replicated()
    group = replace(builder.view.groups[GROUP], primary=ShardUid(9))
    move = handoff()
    ended = move_after(decide(builder.with_records(group), move))
    assert (ended.state, [r.code for r in ended.reasons]) == (MoveState.FAILED, ["roles_changed"])
    assert builder.view.servers[ShardUid(1)].role is Role.PRIMARY


@pytest.mark.parametrize("state", [MoveState.STARTING, MoveState.SYNCING])
def test_a_copy_without_a_source_is_given_up_at_once(state: MoveState) -> None:
    move = relocation(state, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=Role.PRIMARY, is_link_up=False).with_dead_node(1).with_dead_node(2)
    undoing = move_after(decide(builder, move))
    assert (undoing.state, [reason.code for reason in undoing.reasons]) == (MoveState.UNDOING, ["no_live_copy"])
    for may_return in (builder.with_daemon(1), builder.with_healthy_shard(1)):
        after = move_after_or_none(decide(may_return, move))
        assert after is None or after.state is MoveState.SYNCING


def test_a_server_is_started_ahead_and_waits_for_its_sync() -> None:
    starting = relocation(MoveState.STARTING, new_shard_uid=ShardUid(3))
    builder = with_new_copy(replicated(), role=Role.PRIMARY, is_link_up=False).with_policy(max_slave_full_syncs=1)
    other = replace(starting, uid=MoveUid("b-1"), group_uid=GroupUid("9:1"), state=MoveState.SYNCING)
    for age_s in (0, 3600):
        assert decide(builder.with_move(other), starting, later_s=age_s).writes == ()
    begun = move_after(decide(builder.with_move(replace(other, state=MoveState.READY)), starting))
    assert (begun.state, begun.sync_began_at) == (MoveState.SYNCING, NOW)
    assert move_after(decide(builder.with_move(other).with_policy(max_slave_full_syncs=0), starting)) == begun


def test_the_group_attaches_a_new_copy_when_its_sync_may_begin() -> None:
    builder = with_new_copy(replicated(), role=Role.PRIMARY, is_link_up=False)
    attach = Attach(ShardUid(3), ShardUid(1))
    for state, attaches in ((MoveState.STARTING, False), (MoveState.SYNCING, True), (MoveState.HANDOFF, True)):
        view = builder.with_move(relocation(state, new_shard_uid=ShardUid(3))).view
        assert (attach in decide_group(view.groups[GROUP], view, NOW).commands) is attaches


def move_after_or_none(decision: Decision) -> Any:
    return next((w.record for w in decision.writes if isinstance(w.record, Move)), None)


def test_an_endpoint_does_not_wait_for_a_node_that_is_gone() -> None:
    """A daemon that only died is back sooner; behind that the action chooses another node."""
    builder = with_endpoint_states(replicated(), {1: EndpointState.LISTENING}).without_daemon(3)
    silent = EndpointProcessSeen(NodeUid(3), NOW, answers=False)
    builder = ClusterBuilder(
        replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, NodeUid(3): silent})
    )
    waiting = decide(builder, rebind(MoveState.HANDOFF), later_s=9)
    assert waiting.writes == ()
    ended = move_after(decide(builder, rebind(MoveState.HANDOFF), later_s=11))
    assert (ended.state, [r.code for r in ended.reasons]) == (MoveState.FAILED, ["node_down"])
    assert decide(builder.with_daemon(3), rebind(MoveState.HANDOFF), later_s=11).writes == ()


def test_a_source_that_falls_silent_while_it_passes_an_endpoint_on_is_waited_for() -> None:
    """Its silence passed for an endpoint that it does not know any more: the move was done with clients still there."""
    builder = with_endpoint_states(replicated(), {1: EndpointState.DRAINING, 3: EndpointState.LISTENING})
    builder = builder.with_records(replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NodeUid(3),)))
    move = rebind(MoveState.HANDOFF)

    def source(seen: EndpointProcessSeen | None) -> ClusterBuilder:
        processes = {k: v for k, v in builder.view.endpoint_processes.items() if k != NodeUid(1)}
        return ClusterBuilder(
            replace(builder.view, endpoint_processes=processes if seen is None else {**processes, NodeUid(1): seen})
        )

    silent = EndpointProcessSeen(NodeUid(1), NOW, answers=False)
    for waiting in (source(silent), source(None)):
        assert decide(waiting, move, later_s=60).writes == ()
    members = {uid: node for uid, node in builder.view.nodes.items() if uid != NodeUid(1)}
    removed = ClusterBuilder(replace(source(silent).view, nodes=members))
    for left in (source(replace(silent, has_ended=True)), source(replace(silent, answers=True)), removed):
        assert move_after(decide(left, move)).state is MoveState.DONE


@pytest.mark.parametrize("bound_to", [1, 3])
def test_an_endpoint_whose_nodes_are_both_gone_is_given_up(bound_to: int) -> None:
    """It was bound to the dead target and waited there without end; now whoever asked looks for another node."""
    builder = replicated().without_daemon(1).without_daemon(3)
    silent = {NodeUid(n): EndpointProcessSeen(NodeUid(n), NOW, answers=False) for n in (1, 3)}
    builder = ClusterBuilder(replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, **silent}))
    endpoint = builder.view.endpoints[EndpointUid("1:1")]
    builder = builder.with_records(replace(endpoint, nodes=(NodeUid(bound_to),)))
    assert decide(builder, rebind(MoveState.HANDOFF), later_s=9).writes == ()
    ended = move_after(decide(builder, rebind(MoveState.HANDOFF), later_s=11))
    assert (ended.state, [r.code for r in ended.reasons]) == (MoveState.FAILED, ["node_down"])


@pytest.mark.parametrize("at_source", [EndpointState.LISTENING, EndpointState.DRAINING, EndpointState.ABSENT])
@pytest.mark.parametrize("bound_to", [1, 3])
def test_an_endpoint_whose_target_dies_is_the_sources_again(at_source: EndpointState, bound_to: int) -> None:
    """It waited without end when the target's node died: recorded there, or passed on in part and not yet recorded."""
    builder = with_endpoint_states(replicated(), {1: at_source}).without_daemon(3)
    silent = EndpointProcessSeen(NodeUid(3), NOW, answers=False)
    processes = {**builder.view.endpoint_processes, NodeUid(3): silent}
    builder = ClusterBuilder(replace(builder.view, endpoint_processes=processes))
    builder = builder.with_records(replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NodeUid(bound_to),)))
    assert decide(builder, rebind(MoveState.HANDOFF), later_s=9).writes == ()
    decision = decide(builder, rebind(MoveState.HANDOFF), later_s=11)
    ended = move_after(decision)
    assert [w.record.nodes for w in decision.writes if isinstance(w.record, Endpoint)] == ([(1,)] if bound_to == 3 else [])
    assert (ended.state, ended.reasons[0].code) == (MoveState.FAILED, "node_down")


@pytest.mark.parametrize("state", [MoveState.SYNCING, MoveState.READY, MoveState.HANDOFF])
def test_a_copy_that_may_be_all_there_is_is_not_given_up(state: MoveState) -> None:
    move = replace(relocation(state, new_shard_uid=ShardUid(3)), is_cancel_wanted=True)
    alive = with_new_copy(replicated())
    assert move_after(decide(alive, move)).state is MoveState.UNDOING
    for dead in (alive.with_dead_shard(1), alive.with_server(1, health=Health.TIMEOUT), alive.with_server(1, at=LONG_AGO)):
        waiting = move_after(decide(dead, move))
        assert (waiting.state, [r.code for r in waiting.reasons]) == (state, ["primary_unseen"])
        assert decide(dead, waiting).writes == ()
    empty = with_new_copy(replicated(), is_syncing=True, is_link_up=False).with_dead_shard(1)
    assert move_after(decide(empty, replace(move, state=MoveState.SYNCING))).state is MoveState.UNDOING


@pytest.mark.parametrize("is_cancel_wanted", [False, True])
@pytest.mark.parametrize("state", [MoveState.SYNCING, MoveState.READY])
def test_a_new_copy_that_a_failover_made_the_primary_is_not_given_up(state: MoveState, is_cancel_wanted: bool) -> None:
    """It is all that the group has: it was deleted when the others were gone, or when its sync did not advance."""
    builder = with_new_copy(replicated(), role=Role.PRIMARY).with_dead_node(1).with_dead_node(2)
    builder = builder.with_records(replace(builder.view.groups[GROUP], primary=ShardUid(3)))
    decision = decide(builder, relocation(state, new_shard_uid=ShardUid(3), is_cancel_wanted=is_cancel_wanted), later_s=300)
    assert move_after(decision).state is (MoveState.READY if state is MoveState.SYNCING else MoveState.CLEANING)
    assert not [w for w in decision.writes if isinstance(w.record, Shard)]


def test_an_old_copy_that_its_group_has_taken_back_leaves_once_more() -> None:
    builder = with_new_copy(replicated(), role=Role.REPLICA)
    cleaning = relocation(MoveState.CLEANING, new_shard_uid=ShardUid(3), hands_over=True, has_left=True, left_at=NOW)
    back = move_after(decide(builder, cleaning))
    assert (back.has_left, back.left_at) == (False, None)
    group = replace(builder.view.groups[GROUP], primary=ShardUid(2))
    assert move_after(decide(builder.with_records(group), back)).state is MoveState.HANDOFF


@pytest.mark.parametrize("old", [ShardWanted.RUNNING, ShardWanted.STOPPED])
def test_the_old_copy_and_its_files_stay_while_the_group_starts_over(old: ShardWanted) -> None:
    """The new primary was killed just behind its handoff and came back empty, with its mark: the old copy was ended, and
    with it everything."""
    builder = with_new_copy(replicated().with_database_changed(1, persistence=Persistence.SNAPSHOT), role=Role.PRIMARY)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(3)], in_sync_generation=1))
    builder = builder.with_server(3, keys=0, saves_since_start=1)
    builder = builder.with_records(replace(builder.view.shards[ShardUid(2)], wanted=old))
    if old is ShardWanted.STOPPED:
        builder = builder.with_process(2, ProcessState.GONE)
    group = replace(builder.view.groups[GROUP], primary=ShardUid(3))
    cleaning = relocation(
        MoveState.CLEANING, new_shard_uid=ShardUid(3), hands_over=True, has_left=old is ShardWanted.STOPPED
    )
    starting = builder.with_records(replace(group, phase=GroupPhase.STARTING))
    assert not [w for w in decide(starting, cleaning).writes if isinstance(w.record, Shard)]
    serving = builder.with_records(group)
    assert shard_after(decide(serving, cleaning), 2).wanted is not old
