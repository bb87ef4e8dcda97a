"""How a node is emptied: the cheapest safe way for every resource."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.model.action import ActionName
from shardwright.model.codes import Code
from shardwright.model.database import DatabaseStatus, GroupPhase, Handoff, ShardWanted
from shardwright.model.ids import DatabaseUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import MoveKind, MoveState, Relocation
from shardwright.model.reason import Reason
from shardwright.model.seen import BusyCommand, Health, ProcessState, Sighting
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, Leaves, plan_evacuation
from shardwright.plan.proposal import MoveProposal, RelocationProposal
from testkit.builders import MB, NOW, ClusterBuilder, cluster

PAIR = cluster(3).with_database(on=((1, 2),))
SINGLE = cluster(3).with_database(on=((1,),))


def plan(builder: ClusterBuilder, node: int = 1, leaves: Leaves = Leaves.ALL, **changes: object) -> EvacuationPlan:
    scope = EvacuationScope(leaves, **changes)  # type: ignore[arg-type]
    return plan_evacuation(builder.view, NodeUid(node), scope)


def short(proposal: MoveProposal) -> str:
    later = " later" if proposal.is_later else ""
    role = " primary" if isinstance(proposal, RelocationProposal) and proposal.hands_over else ""
    return f"{proposal.kind} {proposal.subject} -> {proposal.to_node}{role}{later}"


def shorts(found: EvacuationPlan) -> list[str]:
    return [short(p) for p in found.moves]


def waits(found: EvacuationPlan) -> list[str]:
    return [str(r.code) for r in found.waiting]


def test_a_group_that_waits_for_a_dead_node_is_told_with_its_remedy() -> None:
    reason = Reason(
        Code.COPY_OUT_OF_REACH, "shard 1 does not run", remedy="start the daemon of node 1, or go on with shard 2"
    )
    group = replace(PAIR.view.groups[GroupUid("1:1")], phase=GroupPhase.STARTING, waits_for=(reason,))
    builder = PAIR.with_records(group).with_dead_node(1)
    for node in (1, 2):
        (waiting,) = plan(builder, node).waiting
        assert waiting.code == Code.FAILOVER_PENDING
        assert waiting.text.endswith("shard 1 does not run")
        assert waiting.remedy == reason.remedy


def test_an_empty_node_needs_nothing() -> None:
    assert plan(PAIR, 3).is_empty


def test_a_primary_with_a_proven_replica_hands_over_and_leaves_as_a_replica() -> None:
    assert shorts(plan(PAIR)) == ["handoff 1 -> 2", "relocate 1 -> 3 later", "rebind 1:1 -> 2"]


def test_a_primary_without_a_replica_gets_a_new_copy_that_takes_the_role() -> None:
    found = plan(SINGLE)
    # Both other nodes are empty; the lower number decides.
    assert shorts(found) == ["relocate 1 -> 2 primary", "rebind 1:1 -> 2"]
    assert found.moves[0].bytes_total == 50 * MB


def test_a_replica_just_moves() -> None:
    assert shorts(plan(PAIR, 2)) == ["relocate 2 -> 3"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"health": Health.LOADING}, Code.REPLICA_NOT_IN_SYNC),
        ({"health": Health.UNKNOWN}, Code.REPLICA_NOT_IN_SYNC),
        ({"is_link_up": False}, Code.REPLICA_NOT_IN_SYNC),
        ({"is_syncing": True}, Code.REPLICA_NOT_IN_SYNC),
        ({"replication_id": "of another history"}, Code.REPLICA_NOT_IN_SYNC),
        ({"replication_id": ""}, Code.REPLICA_NOT_IN_SYNC),
    ],
)
def test_a_replica_that_may_soon_be_in_sync_is_waited_for(changes: dict[str, object], code: Code) -> None:
    found = plan(PAIR.with_server(2, **changes))
    assert waits(found) == [code]
    assert [short(p) for p in found.moves if p.kind is not MoveKind.REBIND] == ["relocate 1 -> 3 later"]
    assert "shard 2" in found.waiting[0].text


def test_what_was_not_observed_yet_is_not_bad_news() -> None:
    assert waits(plan(PAIR.without_server(2))) == [Code.REPLICA_NOT_IN_SYNC]
    assert waits(plan(SINGLE.without_server(1))) == [Code.NOT_OBSERVED]
    assert plan(SINGLE.without_server(1)).unplaced == ()


@pytest.mark.parametrize("broken", ["process", "server"])
def test_a_broken_replica_is_no_reason_to_wait(broken: str) -> None:
    builder = PAIR.with_dead_shard(2) if broken == "process" else PAIR.with_server(2, health=Health.TIMEOUT)
    assert shorts(plan(builder))[0] == "relocate 1 -> 3 primary"


def test_a_replica_on_a_node_in_maintenance_gets_no_role() -> None:
    found = plan(PAIR.with_node_changed(2, is_quorum_only=True))
    assert shorts(found)[0] == "relocate 1 -> 3 primary"


def test_a_replica_on_a_closed_node_may_take_the_role() -> None:
    assert shorts(plan(PAIR.with_node_changed(2, is_closed=True)))[0] == "handoff 1 -> 2"


def test_a_dead_daemon_blocks_no_handoff() -> None:
    assert shorts(plan(PAIR.without_daemon(2)))[0] == "handoff 1 -> 2"


def test_the_largest_goes_first() -> None:
    builder = SINGLE.with_database(on=((1,),), memory_bytes=900 * MB)
    assert [p.subject for p in plan(builder).moves if p.kind == MoveKind.RELOCATE] == [2, 1]


def test_the_plan_counts_what_it_has_placed_itself() -> None:
    builder = cluster(2).with_node_changed(2, memory_bytes=300 * MB)
    for _ in range(2):
        builder = builder.with_database(on=((1,),), memory_bytes=200 * MB)
    found = plan(builder)
    assert [short(p) for p in found.moves if p.kind == MoveKind.RELOCATE] == ["relocate 1 -> 2 primary"]
    assert [(u.shard_uid, u.reason.code) for u in found.unplaced] == [(2, Code.INSUFFICIENT_MEMORY)]
    assert "lacks 100 MiB" in found.unplaced[0].reason.text


def test_nodes_are_filled_up_when_evening_out_leaves_something_behind() -> None:
    # Evened out, 200 and 200 go to different nodes and 300 finds no room.
    builder = cluster(3).with_node_changed(2, memory_bytes=450 * MB).with_node_changed(3, memory_bytes=320 * MB)
    for size in (300, 220, 220):
        builder = builder.with_database(on=((1,),), memory_bytes=size * MB)
    assert plan(builder).unplaced == ()


def test_primaries_only_leaves_replicas_where_they_are() -> None:
    builder = PAIR.with_database(on=((2, 1),)).with_database(on=((1,),))
    found = plan(builder, leaves=Leaves.PRIMARIES)
    assert [short(p) for p in found.moves if p.kind is not MoveKind.REBIND] == ["handoff 1 -> 2", "relocate 5 -> 3 primary"]


def test_databases_may_differ_in_what_leaves() -> None:
    builder = PAIR.with_database(on=((2, 1),))
    found = plan(builder, leaves=Leaves.PRIMARIES, databases={DatabaseUid(2): Leaves.ALL})
    assert [short(p) for p in found.moves if p.kind is not MoveKind.REBIND] == ["handoff 1 -> 2", "relocate 4 -> 3"]
    assert plan(builder, leaves=Leaves.NOTHING, includes_endpoints=False).is_empty
    assert [p.kind for p in plan(builder, leaves=Leaves.NOTHING).moves] == [MoveKind.REBIND]


def test_roles_only_never_moves_a_shard() -> None:
    found = plan(PAIR.with_database(on=((1,),)), leaves=Leaves.ROLES)
    assert [short(p) for p in found.moves if p.kind is not MoveKind.REBIND] == ["handoff 1 -> 2"]
    assert [(u.shard_uid, u.reason.code) for u in found.unplaced] == [(3, Code.NO_REPLICA)]


def test_endpoints_stay_when_they_are_not_asked_for() -> None:
    assert [p.kind for p in plan(SINGLE, includes_endpoints=False).moves] == [MoveKind.RELOCATE]


def test_what_is_on_its_way_is_not_planned_again() -> None:
    first = plan(PAIR).moves[0]
    move = first.to_move(MoveUid("a-1"), None, now=NOW)
    found = plan(PAIR.with_move(move))
    assert found.in_flight == (move,)
    assert [short(p) for p in found.moves if p.kind is not MoveKind.REBIND] == ["relocate 1 -> 3 later"]
    assert found.waiting == ()


def test_a_group_that_another_move_changes_is_waited_for() -> None:
    other = plan(PAIR, 2).moves[0].to_move(MoveUid("b-1"), None, now=NOW)
    found = plan(PAIR.with_move(other))
    assert waits(found) == [Code.GROUP_BUSY]
    assert found.in_flight == ()


@pytest.mark.parametrize("what", ["starting", "handoff"])
def test_a_group_that_is_not_ready_is_waited_for(what: str) -> None:
    group = PAIR.view.groups[GroupUid("1:1")]
    changed = (
        replace(group, phase=GroupPhase.STARTING)
        if what == "starting"
        else replace(group, handoff=Handoff(ShardUid(1), ShardUid(2), 2, 1, NOW))
    )
    assert waits(plan(PAIR.with_records(changed))) == [Code.GROUP_BUSY]


def test_shards_of_a_database_that_is_deleted_are_waited_for() -> None:
    found = plan(SINGLE.with_database_changed(1, status=DatabaseStatus.DELETE_PENDING))
    assert waits(found) == [Code.STOPPING]


def test_a_shard_that_is_being_stopped_holds_the_node_until_its_process_is_gone() -> None:
    builder = PAIR.with_records(replace(PAIR.view.shards[ShardUid(2)], wanted=ShardWanted.GONE))
    assert waits(plan(builder, 2)) == [Code.STOPPING]
    assert plan(builder.with_process(2, ProcessState.GONE), 2).is_empty


def test_a_process_on_a_node_without_a_daemon_names_what_would_help() -> None:
    builder = PAIR.with_records(replace(PAIR.view.shards[ShardUid(2)], wanted=ShardWanted.GONE)).without_daemon(2)
    assert plan(builder, 2).waiting[0].remedy == "start the daemon of node 2"
    silent = builder.with_process(2, ProcessState.UNKNOWN).with_server(2, health=Health.REFUSED)
    assert plan(silent, 2).waiting[0].remedy == "start the daemon of node 2", "another machine may have refused"
    assert plan(silent.with_sighting(2, Sighting.HERE), 2).is_empty


def test_a_dead_node_can_be_emptied_when_live_copies_exist() -> None:
    dead = PAIR.with_dead_node(2)
    assert shorts(plan(dead, 2)) == ["relocate 2 -> 3"]
    waiting = PAIR.with_dead_node(1)
    assert waits(plan(waiting)) == [Code.FAILOVER_PENDING]
    group = next(iter(waiting.view.groups.values()))
    (keeps,) = plan(waiting.with_records(replace(group, phase=GroupPhase.STARTING))).waiting
    assert keeps.remedy == "start the daemon of node 1, or discard the data: delete database 1"


def test_a_dead_node_with_the_only_copy_cannot() -> None:
    found = plan(SINGLE.with_dead_node(1))
    assert [(u.reason.code, u.reason.remedy) for u in found.unplaced] == [(Code.NO_LIVE_COPY, "start the daemon of node 1")]
    both = plan(PAIR.with_dead_node(1).with_dead_node(2), 2)
    assert [u.reason.code for u in both.unplaced] == [Code.NO_LIVE_COPY]


def test_an_only_copy_that_crashed_is_waited_for_while_it_can_come_back() -> None:
    assert waits(plan(SINGLE.with_dead_shard(1))) == [Code.FAILOVER_PENDING]


@pytest.mark.parametrize("node", [1, 2])
def test_a_busy_primary_is_no_failover_and_who_keeps_it_busy_is_named(node: int) -> None:
    silent = {"health": Health.TIMEOUT, "unanswered_since": NOW - timedelta(seconds=9), "cpu_active_at": NOW}
    builder = PAIR.with_endpoints_seen().with_server(1, **silent)
    processes = builder.view.endpoint_processes
    (endpoint,) = processes[NodeUid(1)].endpoints
    busy = replace(endpoint, busy=(BusyCommand("10.0.0.9:5 nightly-job", "EVAL", NOW - timedelta(seconds=14)),))
    serving = {NodeUid(1): replace(processes[NodeUid(1)], endpoints=(busy,))}
    view = builder.view.changed(endpoint_processes=processes | serving)
    (reason,) = [r for r in plan(ClusterBuilder(view), node).waiting if r.code == "server_busy"]
    assert "EVAL of 10.0.0.9:5 nightly-job since" in reason.text
    assert "SCRIPT KILL" in reason.remedy


def test_two_nodes_that_step_down_do_not_pass_roles_to_and_fro() -> None:
    builder = PAIR.with_action(ActionName.STEP_DOWN, 1).with_action(ActionName.STEP_DOWN, 2)
    found = plan(builder, leaves=Leaves.ROLES)
    assert [u.reason.code for u in found.unplaced] == [Code.NO_REPLICA]


def test_a_node_that_failed_a_shard_is_tried_last() -> None:
    found = plan_evacuation(SINGLE.view, NodeUid(1), EvacuationScope(), failures={ShardUid(1): {NodeUid(2): 1}})
    assert found.moves[0].to_node == 3


def test_moves_that_clean_up_stay_in_flight() -> None:
    move = plan(SINGLE).moves[0].to_move(MoveUid("a-1"), None, now=NOW)
    assert isinstance(move, Relocation)
    cleaning = replace(move, state=MoveState.CLEANING, has_left=True)
    builder = SINGLE.with_move(cleaning).with_records(replace(SINGLE.view.shards[ShardUid(1)], wanted=ShardWanted.GONE))
    assert plan(builder).in_flight == (cleaning,)


def test_a_replica_on_a_dead_node_is_not_waited_for() -> None:
    """Its record stays until the copy is rebuilt; nobody is there who could start it."""
    assert shorts(plan(PAIR.with_dead_node(2))) == ["relocate 1 -> 3 primary", "rebind 1:1 -> 3"]
    unreported = PAIR.with_dead_node(2).with_process(2, ProcessState.UNKNOWN)
    found = plan(unreported)
    assert shorts(found) == ["relocate 1 -> 3 primary", "rebind 1:1 -> 3"]
    assert not waits(found)
