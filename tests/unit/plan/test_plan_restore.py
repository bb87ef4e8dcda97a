"""How a node gets back what its snapshot says it held."""

from dataclasses import replace
from datetime import timedelta

from shardwright.actions.maintenance_on import take_snapshot
from shardwright.model.cluster import Snapshot
from shardwright.model.codes import Code
from shardwright.model.database import DatabaseStatus, Handoff, ShardWanted
from shardwright.model.ids import EndpointUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import MoveState, Relocation
from shardwright.model.seen import Health
from shardwright.model.view import Delete
from shardwright.plan.proposal import MoveProposal, RelocationProposal, ReturnPlan
from shardwright.plan.restore import plan_restore
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import rebind, relocation

PAIR = cluster(3).with_database(on=((1, 2),))
LATER = NOW + timedelta(hours=1)


def snapshot_of(builder: ClusterBuilder, node: int = 1) -> Snapshot:
    return take_snapshot(builder.view, NodeUid(node), name="maintenance_mode_2026-01-02_03-04-05", now=NOW)


def away(builder: ClusterBuilder, shard: int, node: int) -> ClusterBuilder:
    """The shard has been replaced by a younger one (uid 100 more) on another node."""
    old = builder.view.shards[ShardUid(shard)]
    new = replace(old, uid=ShardUid(shard + 100), node_uid=NodeUid(node), created_at=LATER)
    group = builder.view.groups[old.group_uid]
    primary = new.uid if group.primary == old.uid else group.primary
    builder = builder.with_writes(Delete(old)).with_records(new, replace(group, primary=primary))
    for copy in builder.view.shards_of_group(old.group_uid):
        builder = builder.with_healthy_shard(copy.uid)
    return builder


def with_primary(builder: ClusterBuilder, shard: int) -> ClusterBuilder:
    group = builder.view.groups[builder.view.shards[ShardUid(shard)].group_uid]
    builder = builder.with_records(replace(group, primary=ShardUid(shard)))
    for copy in builder.view.shards_of_group(group.uid):
        builder = builder.with_healthy_shard(copy.uid)
    return builder


def rebound(builder: ClusterBuilder, node: int) -> ClusterBuilder:
    endpoint = builder.view.endpoints[EndpointUid("1:1")]
    return builder.with_records(replace(endpoint, nodes=(NodeUid(node),)))


def short(proposal: MoveProposal) -> str:
    later = " later" if proposal.is_later else ""
    role = " primary" if isinstance(proposal, RelocationProposal) and proposal.hands_over else ""
    return f"{proposal.kind} {proposal.subject} -> {proposal.to_node}{role}{later}"


def shorts(found: ReturnPlan) -> list[str]:
    assert found.unplaced == ()
    return [short(p) for p in found.moves]


def test_nothing_to_do_when_all_is_as_it_was() -> None:
    assert plan_restore(PAIR.view, snapshot_of(PAIR)) == ReturnPlan()


def test_a_copy_comes_back_first_its_role_and_endpoint_afterwards() -> None:
    snapshot = snapshot_of(PAIR)
    gone = rebound(with_primary(away(PAIR, 1, 3), 2), 2)
    assert shorts(plan_restore(gone.view, snapshot)) == ["relocate 101 -> 1", "rebind 1:1 -> 1 later"]
    back = rebound(with_primary(away(PAIR, 1, 1), 2), 2)
    assert shorts(plan_restore(back.view, snapshot)) == ["handoff 2 -> 1", "rebind 1:1 -> 1 later"]
    led = rebound(away(PAIR, 1, 1), 2)
    assert shorts(plan_restore(led.view, snapshot)) == ["rebind 1:1 -> 1"]


def test_an_only_copy_comes_back_with_its_role() -> None:
    builder = cluster(3).with_database(on=((1,),))
    found = plan_restore(away(builder, 1, 3).view, snapshot_of(builder))
    assert shorts(found) == ["relocate 101 -> 1 primary"]


def test_the_youngest_copy_comes_back_because_it_was_not_there_before() -> None:
    # The replica was on node 2 before; the one on node 3 is the replacement, and a replica.
    builder = cluster(3).with_database(on=((2, 1),))
    snapshot = snapshot_of(builder)
    assert shorts(plan_restore(away(builder, 2, 3).view, snapshot)) == ["relocate 102 -> 1"]


def test_a_copy_that_another_node_in_maintenance_is_promised_is_the_last_choice() -> None:
    builder = cluster(4).with_database(on=((2, 1, 3),))
    snapshot = snapshot_of(builder)
    gone = away(away(builder, 2, 4), 3, 3)
    assert shorts(plan_restore(gone.view, snapshot)) == ["relocate 103 -> 1"]
    promised = replace(snapshot_of(builder, 3), shards=snapshot_of(gone, 3).shards)
    assert shorts(plan_restore(gone.with_snapshot(promised).view, snapshot)) == ["relocate 102 -> 1"]


def test_the_primary_comes_back_when_no_replica_can() -> None:
    builder = cluster(3, racks=("a", "a", "b")).with_database(on=((1, 3),), is_rack_aware=True)
    gone = with_primary(away(builder, 1, 2), 101)
    # Moving the replica of node 3 would put both copies into rack a.
    assert shorts(plan_restore(gone.view, snapshot_of(builder)))[0] == "relocate 101 -> 1 primary"


def test_what_no_longer_exists_is_a_difference() -> None:
    snapshot = snapshot_of(PAIR.with_database(on=((1, 2),)))
    found = plan_restore(PAIR.view, snapshot)
    assert [r.code for r in found.differences] == ["database_gone", "endpoint_gone"]
    assert (found.moves, found.waiting, found.unplaced) == ((), (), ())
    deleting = PAIR.with_database_changed(1, status=DatabaseStatus.DELETE_PENDING)
    assert [r.code for r in plan_restore(deleting.view, snapshot_of(PAIR)).differences] == ["database_gone"]


def test_a_replica_that_was_given_up_is_a_difference() -> None:
    builder = cluster(3).with_database(on=((2, 1),))
    snapshot = snapshot_of(builder)
    alone = builder.with_writes(Delete(builder.view.shards[ShardUid(2)]))
    assert [r.code for r in plan_restore(alone.view, snapshot).differences] == ["replica_gone"]


def test_a_role_that_came_meanwhile_is_a_difference() -> None:
    builder = cluster(3).with_database(on=((2, 1),))
    found = plan_restore(with_primary(builder, 2).view, snapshot_of(builder))
    assert [r.code for r in found.differences] == ["role_changed"]


def test_a_copy_that_finds_no_room_is_named() -> None:
    builder = cluster(3).with_database(on=((1,),))
    gone = away(builder, 1, 3).with_node_changed(1, memory_bytes=0)
    found = plan_restore(gone.view, snapshot_of(builder))
    assert [(u.shard_uid, u.reason.code) for u in found.unplaced] == [(101, Code.INSUFFICIENT_MEMORY)]


def test_a_role_waits_until_its_copy_is_in_sync() -> None:
    builder = with_primary(PAIR, 2)
    found = plan_restore(builder.with_server(1, is_link_up=False).view, snapshot_of(PAIR))
    assert [r.code for r in found.waiting] == [Code.REPLICA_NOT_IN_SYNC]


def test_a_role_waits_for_the_move_that_brings_its_copy() -> None:
    snapshot = snapshot_of(PAIR)
    gone = with_primary(away(PAIR, 1, 3), 2)
    move = plan_restore(gone.view, snapshot).moves[0].to_move(MoveUid("a-1"), None, now=NOW)
    moving = gone.with_move(move)
    assert plan_restore(moving.view, snapshot).in_flight == (move,)
    assert isinstance(move, Relocation)
    cleaning = replace(move, state=MoveState.CLEANING, has_left=True, new_shard_uid=ShardUid(1))
    back = with_primary(away(PAIR, 1, 1), 2).with_move(cleaning)
    assert shorts(plan_restore(back.view, snapshot))[0] == "handoff 2 -> 1 later"


def test_a_group_that_another_move_changes_is_waited_for() -> None:
    gone = with_primary(away(PAIR, 1, 3), 2)
    moving = gone.with_move(relocation(action_uid=None))
    assert [r.code for r in plan_restore(moving.view, snapshot_of(PAIR)).waiting] == [Code.GROUP_BUSY]


def test_a_group_whose_primary_does_not_answer_is_waited_for() -> None:
    gone = with_primary(away(PAIR, 1, 3), 2).with_dead_shard(2)
    assert [r.code for r in plan_restore(gone.view, snapshot_of(PAIR)).waiting] == [Code.FAILOVER_PENDING]


def test_a_copy_that_is_only_being_tidied_up_does_not_count_as_back() -> None:
    snapshot = snapshot_of(PAIR)
    gone = with_primary(away(PAIR, 1, 3), 2)
    stopped = replace(PAIR.view.shards[ShardUid(1)], wanted=ShardWanted.STOPPED)
    cleaning = relocation(
        state=MoveState.CLEANING, has_left=True, shard_uid=stopped.uid, new_shard_uid=ShardUid(101), from_node=NodeUid(1)
    )
    builder = gone.with_records(stopped, cleaning)
    found = plan_restore(builder.view, snapshot)
    assert [r.code for r in found.waiting] == [Code.GROUP_BUSY]
    assert snapshot_of(builder).shards == ()


def test_a_group_without_any_copy_is_a_difference() -> None:
    snapshot = snapshot_of(PAIR)
    none = PAIR.with_writes(*(Delete(shard) for shard in PAIR.view.shards.values()))
    assert [r.code for r in plan_restore(none.view, snapshot).differences] == [Code.NO_COPIES]


def test_a_primary_that_works_is_waited_for_by_name() -> None:
    gone = with_primary(away(PAIR, 1, 3), 2)
    busy = gone.with_server(2, health=Health.TIMEOUT, unanswered_since=NOW, cpu_active_at=LATER)
    (waiting,) = plan_restore(busy.view, snapshot_of(PAIR)).waiting
    assert (waiting.code, waiting.shard_uid) == (Code.SERVER_BUSY, 2)


def test_a_replica_that_was_here_does_not_come_back_as_the_primary() -> None:
    builder = cluster(3, racks=("a", "b", "a")).with_database(on=((2, 1),), is_rack_aware=True)
    led = with_primary(away(builder, 2, 3), 102)
    # The replica of node 2 cannot come beside the primary's rack; the primary could.
    found = plan_restore(led.view, snapshot_of(builder))
    assert (found.moves, [u.reason.code for u in found.unplaced]) == ((), [Code.RACK_CONFLICT])


def test_a_role_waits_while_its_group_is_changed() -> None:
    builder = with_primary(PAIR, 2)
    group = builder.view.groups[GroupUid("1:1")]
    pending = replace(group, handoff=Handoff(ShardUid(2), ShardUid(1), 2, 1, NOW))
    found = plan_restore(builder.with_records(pending).view, snapshot_of(PAIR))
    assert ([r.code for r in found.waiting], found.moves) == ([Code.GROUP_BUSY], ())


def test_an_endpoint_waits_for_a_move_elsewhere_and_is_on_its_way_with_one_here() -> None:
    builder = rebound(PAIR, 2)
    for to_node, waits in ((3, True), (1, False)):
        move = rebind(from_node=NodeUid(2), to_node=NodeUid(to_node))
        found = plan_restore(builder.with_move(move).view, snapshot_of(PAIR))
        assert ([r.code for r in found.waiting] == [Code.GROUP_BUSY]) == waits
        assert found.in_flight == (() if waits else (move,))


def test_an_endpoint_that_finds_no_place_is_named() -> None:
    found = plan_restore(rebound(PAIR, 2).with_node_changed(1, endpoints_max=0).view, snapshot_of(PAIR))
    assert [u.endpoint_uid for u in found.unplaced] == ["1:1"]
