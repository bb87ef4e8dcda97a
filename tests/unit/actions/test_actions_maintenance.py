"""Into maintenance and back."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.actions.base import decide_action
from shardwright.model.action import (
    ActionName,
    ActionParameters,
    ActionStatus,
    MaintenanceOffParameters,
    MaintenanceOnParameters,
)
from shardwright.model.cluster import Snapshot, SnapshotShard
from shardwright.model.codes import Code
from shardwright.model.commands import YieldLeadership
from shardwright.model.database import Role
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid
from shardwright.model.move import MoveKind
from shardwright.model.store_member import StoreRole
from shardwright.model.view import Delete
from shardwright.model.virtual_address import VirtualAddress
from testkit.builders import MB, NOW, ClusterBuilder, cluster
from testkit.stepper import action_of, run_action

N1 = NodeUid(1)
NAME = "maintenance_mode_2026-01-02_03-04-06"
"""Taken by the turn after the first."""
PAIR = cluster(3, leader=2).with_database(on=((1, 2),))


def run(
    builder: ClusterBuilder, name: ActionName, parameters: ActionParameters | None = None, **options: object
) -> ClusterBuilder:
    """Run one more action on node 1, an hour after the one before."""
    number = len(builder.view.actions) + 1
    now = NOW + timedelta(hours=number - 1)
    builder = builder.with_action(name, 1, parameters, created_at=now)
    return run_action(builder, f"action-{number}", now=now, **options)  # type: ignore[arg-type]


def on(builder: ClusterBuilder, *, turns: int = 200, **parameters: object) -> ClusterBuilder:
    return run(builder, ActionName.MAINTENANCE_ON, MaintenanceOnParameters(**parameters), turns=turns)  # type: ignore[arg-type]


def off(builder: ClusterBuilder, **parameters: object) -> ClusterBuilder:
    return run(builder, ActionName.MAINTENANCE_OFF, MaintenanceOffParameters(**parameters))  # type: ignore[arg-type]


def result(builder: ClusterBuilder) -> tuple[str, str]:
    action = action_of(builder.view, f"action-{len(builder.view.actions)}")
    return str(action.status), str(action.error_code)


def held(builder: ClusterBuilder, node: int = 1) -> list[tuple[str, str]]:
    view = builder.view
    return [(s.group_uid, "primary" if view.is_primary(s) else "replica") for s in view.shards_on(NodeUid(node))]


# -- maintenance_on --------------------------------------------------------------------------------------------------------


def test_the_node_is_marked_emptied_and_remembered() -> None:
    builder = on(PAIR)
    assert result(builder) == ("completed", "")
    assert builder.view.nodes[N1].is_quorum_only
    assert held(builder) == []
    assert builder.view.endpoints_on(N1) == []
    snapshot = builder.view.snapshots[N1, NAME]
    assert snapshot.shards == (SnapshotShard(DatabaseUid(1), "1:1", ShardUid(1), Role.PRIMARY),)  # type: ignore[arg-type]
    assert snapshot.endpoints == ("1:1",)
    action = action_of(builder.view, "action-1")
    assert [s.name for s in action.steps] == ["check", "snapshot", "mark", "evict"]
    assert all(s.ended_at is not None for s in action.steps)
    assert action.snapshot_name == NAME


def test_without_a_majority_nothing_changes() -> None:
    before = PAIR.without_daemon(3)
    builder = on(before)
    assert result(builder) == ("failed", "no_quorum")
    assert (builder.view.nodes, builder.view.snapshots, builder.view.moves) == (before.view.nodes, {}, {})


def test_a_majority_is_not_judged_before_the_members_of_the_store_were_asked() -> None:
    before = PAIR
    for uid in (1, 2, 3):
        before = before.with_node_changed(uid, store_role=StoreRole.VOTER)
    waiting = on(ClusterBuilder(before.view.changed(silent_members=None)), turns=5)
    action = action_of(waiting.view, "action-1")
    assert (action.status, [r.code for r in action.reasons]) == (ActionStatus.STARTING, [Code.STORE_MEMBERS_UNKNOWN])
    assert (waiting.view.nodes, waiting.view.snapshots) == (before.view.nodes, {})
    silent = ClusterBuilder(waiting.view.changed(silent_members=frozenset({NodeUid(3)})))
    assert result(run_action(silent, "action-1", now=NOW)) == ("failed", "no_quorum")
    asked = run_action(ClusterBuilder(waiting.view.changed(silent_members=frozenset())), "action-1", now=NOW)
    assert result(asked) == ("completed", "")
    assert action_of(asked.view, "action-1").reasons == ()


def test_the_preflight_is_not_repeated() -> None:
    builder = PAIR.with_action(ActionName.MAINTENANCE_ON, 1)
    builder = run_action(builder, "action-1", now=NOW, turns=2)
    builder = run_action(builder.without_daemon(3).with_leader(2), "action-1", now=NOW, turns=5)
    assert action_of(builder.view, "action-1").error_code != "no_quorum"


def test_a_second_activation_keeps_the_snapshot_and_one_deactivation_undoes_both() -> None:
    builder = on(on(PAIR))
    assert result(builder) == ("completed", "")
    assert list(builder.view.snapshots) == [(N1, NAME)]
    builder = off(builder)
    assert result(builder) == ("completed", "")
    assert held(builder) == [("1:1", "primary")]
    assert not builder.view.nodes[N1].is_quorum_only


def test_a_snapshot_is_overwritten_on_demand_and_only_the_latest_is_kept() -> None:
    builder = on(on(PAIR), overwrite_snapshot=True)
    assert [s.name for s in builder.view.snapshots.values()] == ["maintenance_mode_2026-01-02_04-04-06"]
    assert next(iter(builder.view.snapshots.values())).shards == ()


def test_replicas_may_stay() -> None:
    builder = on(PAIR.with_database(on=((2, 1),)).with_database(on=((1,),)), evict_replicas=False)
    assert result(builder) == ("completed", "")
    assert held(builder) == [("1:1", "replica"), ("2:1", "replica")]


def test_listed_databases_leave_entirely_and_of_others_only_primaries() -> None:
    three = PAIR.with_database(on=((2, 1),)).with_database(on=((1, 2),))
    assert held(on(three, evict_databases=(DatabaseUid(2),))) == [("1:1", "replica"), ("3:1", "replica")]
    assert held(on(three, evict_databases=())) == [("1:1", "replica"), ("2:1", "replica"), ("3:1", "replica")]
    assert held(on(three, evict_databases=(DatabaseUid(1),), evict_replicas=False)) == [
        ("2:1", "replica"),
        ("3:1", "replica"),
    ]


def test_with_too_little_room_what_fits_moves_and_the_rest_is_named() -> None:
    builder = cluster(3, leader=2).with_database(on=((1,),), memory_bytes=300 * MB)
    builder = builder.with_database(on=((1,),), memory_bytes=100 * MB)
    builder = builder.with_node_changed(2, memory_bytes=150 * MB).with_node_changed(3, memory_bytes=150 * MB)
    builder = on(builder)
    assert result(builder) == ("failed", "insufficient_resources")
    assert held(builder) == [("1:1", "primary")]
    assert builder.view.nodes[N1].is_quorum_only
    action = action_of(builder.view, "action-1")
    assert [r.shard_uid for r in action.reasons] == [1]
    assert "shard 1 of database 1" in action.error_message
    assert "lacks 150 MiB" in action.error_message
    assert builder.view.endpoints_on(N1) == [], "endpoints leave also when a shard must stay"


def test_leadership_is_given_up_before_anything_moves() -> None:
    builder = PAIR.with_leader(1).with_action(ActionName.MAINTENANCE_ON, 1, MaintenanceOnParameters(yields_leadership=True))
    builder = run_action(builder, "action-1", now=NOW, turns=2)
    decision = decide_action(action_of(builder.view, "action-1"), builder.view, NOW)
    assert decision.commands == (YieldLeadership(),)
    assert builder.view.moves == {}
    builder = run_action(builder, "action-1", now=NOW)
    assert result(builder) == ("completed", "")
    assert builder.view.leadership is not None
    assert builder.view.leadership.node_uid == 2


def test_leadership_stays_unless_asked_for() -> None:
    builder = on(PAIR.with_leader(1))
    assert builder.view.leadership is not None
    assert builder.view.leadership.node_uid == 1


def test_a_shard_that_appears_meanwhile_leaves_too() -> None:
    builder = run_action(PAIR.with_action(ActionName.MAINTENANCE_ON, 1), "action-1", now=NOW, turns=4)
    builder = run_action(builder.with_database(on=((1,),)), "action-1", now=NOW)
    assert result(builder) == ("completed", "")
    assert held(builder) == []


def test_what_blocks_is_shown_while_it_blocks() -> None:
    builder = PAIR.with_server(2, is_link_up=False).with_action(ActionName.MAINTENANCE_ON, 1)
    builder = run_action(builder, "action-1", now=NOW, turns=20)
    action = action_of(builder.view, "action-1")
    assert action.status == ActionStatus.RUNNING
    assert [(r.code, r.shard_uid) for r in action.reasons] == [("replica_not_in_sync", 1)]
    builder = run_action(builder.with_server(2, is_link_up=True), "action-1", now=NOW)
    assert result(builder) == ("completed", "")
    assert action_of(builder.view, "action-1").reasons == ()


# -- maintenance_off -------------------------------------------------------------------------------------------------------


def test_placement_roles_and_endpoints_come_back_and_the_snapshot_goes() -> None:
    before = PAIR.with_database(on=((2, 1),)).with_database(on=((1,),))
    builder = off(on(before))
    assert result(builder) == ("completed", "")
    assert held(builder) == [*sorted(held(before))]
    assert builder.view.endpoints_on(N1) == before.view.endpoints_on(N1)
    assert builder.view.snapshots == {}
    assert builder.view.nodes == before.view.nodes


def test_without_a_snapshot_the_node_stays_as_it_was() -> None:
    marked = PAIR.with_node_changed(1, is_quorum_only=True)
    builder = off(marked)
    assert result(builder) == ("failed", "snapshot_not_found")
    assert builder.view.nodes == marked.view.nodes
    assert result(off(PAIR)) == ("failed", "snapshot_not_found")
    named = off(on(PAIR), snapshot_name="mine")
    assert result(named) == ("failed", "snapshot_not_found")
    assert named.view.nodes[N1].is_quorum_only


def test_skipping_the_restore_needs_no_snapshot_and_still_deletes_it() -> None:
    builder = off(on(PAIR), skips_restore=True)
    assert result(builder) == ("completed", "")
    assert (held(builder), builder.view.snapshots) == ([], {})
    assert not builder.view.nodes[N1].is_quorum_only
    bare = off(PAIR.with_node_changed(1, is_quorum_only=True), skips_restore=True)
    assert result(bare) == ("completed", "")
    assert not bare.view.nodes[N1].is_quorum_only


def test_a_snapshot_of_a_user_is_restored_and_kept() -> None:
    mine = Snapshot(N1, "mine", NOW, endpoints=())
    builder = off(on(PAIR).with_snapshot(mine), snapshot_name="mine")
    assert result(builder) == ("completed", "")
    assert list(builder.view.snapshots) == [(N1, "mine")]
    assert held(builder) == []


def test_a_node_without_a_daemon_stays_in_maintenance() -> None:
    builder = off(on(PAIR).without_daemon(1))
    assert result(builder) == ("failed", "node_down")
    assert builder.view.nodes[N1].is_quorum_only


def test_no_room_is_found_out_before_anything_moves() -> None:
    away = on(PAIR).with_node_changed(1, memory_bytes=0)
    builder = off(away)
    assert result(builder) == ("failed", "insufficient_resources")
    assert builder.view.nodes == away.view.nodes
    assert builder.view.snapshots == away.view.snapshots
    assert "skip_shards_restore" in action_of(builder.view, "action-2").error_message


def test_a_restore_that_fails_marks_the_node_again_and_keeps_the_snapshot() -> None:
    builder = run(on(PAIR), ActionName.MAINTENANCE_OFF, fails=lambda m: m.uid.startswith("action-2"))
    assert result(builder) == ("failed", "move_failed")
    assert builder.view.nodes[N1].is_quorum_only
    assert list(builder.view.snapshots) == [(N1, NAME)]


def test_a_restore_that_fails_leaves_an_open_node_open() -> None:
    opened = on(PAIR).with_node_changed(1, is_quorum_only=False)
    builder = run(opened, ActionName.MAINTENANCE_OFF, fails=lambda m: m.uid.startswith("action-2"))
    assert result(builder)[0] == "failed"
    assert not builder.view.nodes[N1].is_quorum_only


def test_a_restore_waits_for_its_nodes_daemon_and_names_it() -> None:
    builder = on(PAIR).with_action(ActionName.MAINTENANCE_OFF, 1)
    builder = run_action(builder, "action-2", now=NOW, turns=4).without_daemon(1)
    builder = run_action(builder, "action-2", now=NOW)
    waiting = action_of(builder.view, "action-2")
    assert waiting.status is ActionStatus.RUNNING
    assert waiting.reasons[0].code == "node_down"
    assert waiting.reasons[0].remedy
    back = run_action(builder.with_daemon(1), "action-2", now=NOW + timedelta(minutes=10))
    assert result(back) == ("completed", "")


def test_what_no_longer_exists_is_listed_on_the_completed_action() -> None:
    builder = on(PAIR.with_database(on=((1,),)))
    gone = [r for r in builder.view.shards.values() if r.database_uid == 2]
    view = builder.view
    builder = builder.with_writes(
        *(Delete(s) for s in gone),
        Delete(view.groups["2:1"]),  # type: ignore[index]
        Delete(view.databases[DatabaseUid(2)]),
        Delete(view.endpoints["2:1"]),  # type: ignore[index]
    )
    builder = off(builder)
    assert result(builder) == ("completed", "")
    assert [r.code for r in action_of(builder.view, "action-2").reasons] == ["database_gone", "endpoint_gone"]
    assert held(builder) == [("1:1", "primary")]


def test_roles_come_back_to_replicas_that_stayed() -> None:
    builder = off(on(PAIR, evict_replicas=False))
    assert held(builder) == [("1:1", "primary")]
    kinds = [m.kind for m in builder.view.moves.values() if m.uid.startswith("action-2")]
    assert kinds == [MoveKind.HANDOFF, MoveKind.REBIND]


@pytest.mark.parametrize("moves_max", [1, 2, 0])
def test_any_number_at_once_leads_to_the_same_end(moves_max: int) -> None:
    before = PAIR.with_database(on=((2, 1),)).with_database(on=((1,),))
    builder = off(on(before, moves_max=moves_max), moves_max=moves_max)
    assert held(builder) == held(before)


def test_a_deleted_snapshot_ends_a_restore_that_runs() -> None:
    builder = on(PAIR).with_action(ActionName.MAINTENANCE_OFF, 1)
    builder = run_action(builder, "action-2", now=NOW, turns=2)
    builder = builder.with_writes(Delete(builder.view.snapshots[N1, NAME]))
    builder = run_action(builder, "action-2", now=NOW)
    assert result(builder) == ("failed", "snapshot_not_found")
    assert replace(builder.view.nodes[N1], is_quorum_only=False) == PAIR.view.nodes[N1]
    assert builder.view.nodes[N1].is_quorum_only


def test_a_closed_node_gets_nothing_back_and_is_told_how_to_reopen() -> None:
    builder = off(on(PAIR).with_node_changed(1, is_closed=True))
    assert result(builder)[0] == "failed"
    assert builder.view.nodes[N1].is_quorum_only
    assert "accept_servers true" in action_of(builder.view, "action-2").error_message


def test_a_node_with_a_virtual_address_is_not_in_maintenance_before_another_has_it() -> None:
    address = VirtualAddress("10.0.0.9", 24, "eth0", NOW, holder=N1, generation=1)
    waiting = on(PAIR.with_records(address), turns=50)
    action = action_of(waiting.view, "action-1")
    assert (action.status, [r.code for r in action.reasons]) == (ActionStatus.RUNNING, [Code.VIRTUAL_ADDRESS_HELD])
    moved = waiting.with_records(replace(address, holder=NodeUid(2), generation=2))
    ended = run_action(moved, "action-1", now=NOW + timedelta(minutes=5))
    assert action_of(ended.view, "action-1").status is ActionStatus.COMPLETED
