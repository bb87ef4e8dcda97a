"""Copies that make way: every plan can be executed move by move, breaks no rule meanwhile, and does not grow."""

import random
from dataclasses import replace

import pytest

from bench.clusters import MIB, Shape, make_cluster
from shardwright.model.cluster import Node
from shardwright.model.database import Shard
from shardwright.model.ids import MoveUid, NodeUid, ShardUid
from shardwright.model.view import ClusterView
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, plan_evacuation, plan_evacuations
from shardwright.plan.proposal import HandoffProposal, RelocationProposal
from testkit.builders import NOW, cluster

TURNS_MAX = 60


def small(seed: int) -> tuple[ClusterView, NodeUid]:
    """A small full cluster, and the node that is to be emptied."""
    chance = random.Random(seed)
    nodes = chance.randint(3, 6)
    racks = chance.randint(2, nodes) if seed % 2 else 0
    fill = chance.uniform(0.60, 0.80)
    spare = chance.choice((None, None, 2))
    sizes = (256, 512, 768, 1024, 1536, 2048, 3072)
    shape = Shape(nodes, chance.randint(4, 20), racks, fill, fill + 0.1, sizes, groups_max=3, shards_spare=spare)
    view = make_cluster(shape, seed)
    return view, NodeUid(1 + seed % nodes)


def plan_of(view: ClusterView, leaving: NodeUid) -> EvacuationPlan:
    return plan_evacuation(view, leaving, EvacuationScope(includes_endpoints=False))


def relocations(plan: EvacuationPlan) -> list[RelocationProposal]:
    return [m for m in plan.moves if isinstance(m, RelocationProposal)]


def carried_out(view: ClusterView, move: RelocationProposal) -> ClusterView:
    """The view after the move: the new copy has the place, the role and the process of the old one."""
    check_room(view, [move])
    moved = replace(view.shards[move.shard_uid], node_uid=move.to_node)
    return replace(view, shards={**view.shards, move.shard_uid: moved})


def check_room(view: ClusterView, moves: list[RelocationProposal]) -> None:
    """All of the moves at once: the old copies are still in place, and the new ones exist too."""
    coming: dict[NodeUid, list[Shard]] = {}
    for move in moves:
        shard = view.shards[move.shard_uid]
        coming.setdefault(move.to_node, []).append(shard)
        check_apart(view, shard, view.nodes[move.to_node])
    for uid, shards in coming.items():
        node, both = view.nodes[uid], [*view.shards_on(uid), *shards]
        assert node.accepts_placement
        assert len(both) <= node.shards_max
        assert sum(view.databases[s.database_uid].shard_memory_bytes for s in both) <= node.memory_bytes


def check_apart(view: ClusterView, shard: Shard, node: Node) -> None:
    for other in view.shards.values():
        if other.group_uid != shard.group_uid or other.uid == shard.uid:
            continue
        assert other.node_uid != node.uid
        if view.databases[shard.database_uid].is_rack_aware:
            assert view.nodes[other.node_uid].rack != node.rack


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_a_plan_is_executed_move_by_move_and_planned_again_after_each(first: int) -> None:
    for seed in range(first, first + 20):
        view, leaving = small(seed)
        plan = plan_of(view, leaving)
        assert plan == plan_of(view, leaving), "deterministic"
        total = sum(m.bytes_total for m in relocations(plan))
        if plan.unplaced:
            assert all(u.reason.text and u.reason.remedy for u in plan.unplaced)
            continue
        check_room(view, [m for m in relocations(plan) if not begins_later(m, plan)])
        transferred = 0
        for _ in range(TURNS_MAX):
            moves = relocations(plan)
            if not moves:
                break
            view = carried_out(view, moves[0])
            transferred += moves[0].bytes_total
            plan = plan_of(view, leaving)
            assert not plan.unplaced, f"seed {seed}: a copy has lost its place"
        assert not view.shards_on(leaving)
        assert transferred <= total, f"seed {seed}: the plan grew"


def begins_later(move: RelocationProposal, plan: EvacuationPlan) -> bool:
    """Whether the move waits for room; a move that waits only for its own handoff does not."""
    return any(r.shard_uid == move.shard_uid for r in plan.waiting) or (
        move.is_later and not any(h.shard_uid == move.shard_uid for h in plan.moves if isinstance(h, HandoffProposal))
    )


def test_every_plan_can_be_executed_in_its_order() -> None:
    stepped_aside = 0
    for seed in range(200, 300):
        view, leaving = small(seed)
        plan = plan_of(view, leaving)
        for move in relocations(plan):
            view = carried_out(view, move)
            stepped_aside += move.from_node != leaving
        left = {u.shard_uid for u in plan.unplaced}
        assert {s.uid for s in view.shards_on(leaving)} == left
    assert stepped_aside > 5, "the clusters are full enough to test the law"


def test_nodes_that_are_emptied_together_give_no_copies_to_each_other() -> None:
    for seed in range(30):
        view = make_cluster(Shape(10, 120, 5, 0.6, 0.75), seed)
        leaving = [NodeUid(1), NodeUid(4)]
        plans = plan_evacuations(view, leaving, EvacuationScope(includes_endpoints=False))
        for plan in plans.values():
            for move in relocations(plan):
                assert move.to_node not in leaving
                view = carried_out(view, move)


def test_a_third_copy_makes_room() -> None:
    # Node 2 lacks 100 for the copy that leaves node 1; node 3 takes the copy on node 2, but no other.
    builder = cluster(3).with_node_changed(2, memory_bytes=500 * MIB).with_node_changed(3, memory_bytes=250 * MIB)
    builder = builder.with_database(on=((1,),), memory_bytes=400 * MIB).with_database(on=((2,),), memory_bytes=200 * MIB)
    plan = plan_of(builder.view, NodeUid(1))
    found = [(m.shard_uid, m.from_node, m.to_node, m.is_later) for m in relocations(plan)]
    assert found == [(ShardUid(2), 2, 3, False), (ShardUid(1), 1, 2, True)]
    assert [r.shard_uid for r in plan.waiting] == [1]
    assert not plan.unplaced
    # While the third copy moves, nothing else is planned, and its room is not used.
    later = plan_of(builder.with_move(relocations(plan)[0].to_move(MoveUid("a-1"), None, now=NOW)).view, NodeUid(1))
    assert [r.shard_uid for r in later.waiting] == [1]
    assert not later.moves
    assert not later.unplaced


def test_room_for_a_copy_is_not_given_to_a_smaller_one() -> None:
    builder = cluster(3).with_node_changed(2, memory_bytes=550 * MIB).with_node_changed(3, memory_bytes=250 * MIB)
    builder = builder.with_database(on=((1,),), memory_bytes=400 * MIB).with_database(on=((2,),), memory_bytes=200 * MIB)
    builder = builder.with_database(on=((1,),), memory_bytes=50 * MIB)
    first = relocations(plan_of(builder.view, NodeUid(1)))[0]
    assert first.shard_uid == 2
    later = plan_of(builder.with_move(first.to_move(MoveUid("a-1"), None, now=NOW)).view, NodeUid(1))
    assert [(m.shard_uid, m.to_node) for m in relocations(later)] == [(ShardUid(3), NodeUid(3))]
