"""Rebuilding lost copies, whatever died and whatever the operator closed: never two copies on one node, never on a node that
takes no shards, never more memory than a node has."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from shardwright.model.database import Shard, ShardWanted
from shardwright.model.move import Relocation
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.repair import decide_repair
from testkit.builders import GB, MB, NOW, ClusterBuilder, cluster
from testkit.stepper import step_moves

MARKS = st.sampled_from(["", "", "", "is_quorum_only", "is_closed", "is_decommissioning"])
RACKS = st.sampled_from(["a", "b", "c"])


@st.composite
def damaged(draw: st.DrawFn) -> ClusterBuilder:
    count = draw(st.integers(2, 6))
    racks = draw(st.lists(RACKS, min_size=count, max_size=count))
    builder = cluster(count, racks=racks, memory_bytes=GB)
    for _ in range(draw(st.integers(1, 5))):
        on = tuple(draw(st.permutations(range(1, count + 1)))[:2])
        size = draw(st.sampled_from([50, 200, 700])) * MB
        is_apart = racks[on[0] - 1] != racks[on[1] - 1]
        builder = builder.with_database(on=(on,), memory_bytes=2 * size, is_rack_aware=is_apart and draw(st.booleans()))
    for node in range(1, count + 1):
        if mark := draw(MARKS):
            builder = builder.with_node_changed(node, **{mark: True})
    for node in draw(st.sets(st.integers(1, count), max_size=2)):
        builder = builder.with_dead_node(node)
    return builder.with_policy(slave_ha_grace_period_s=draw(st.sampled_from([0, 5, 30])))


def held(view: ClusterView, node: int) -> int:
    copies = [s for s in view.shards.values() if s.node_uid == node and s.wanted is not ShardWanted.GONE]
    return sum(view.databases[s.database_uid].shard_memory_bytes for s in copies)


def check(before: ClusterView, move: Relocation) -> None:
    target = before.nodes[move.to_node]
    assert target.accepts_placement
    assert target.uid in before.daemons
    assert before.live_move_of_group(move.group_uid) is None
    assert target.uid not in {s.node_uid for s in before.shards_of_group(move.group_uid)}
    database = before.databases[move.database_uid]
    assert held(before, target.uid) + database.shard_memory_bytes <= target.memory_bytes
    stays = [s for s in before.shards_of_group(move.group_uid) if s.uid != move.shard_uid]
    if database.is_rack_aware:
        assert target.rack not in {before.nodes[s.node_uid].rack for s in stays}


@given(damaged())
def test_no_rebuild_breaks_a_rule_of_placement(builder: ClusterBuilder) -> None:
    at = NOW
    for _ in range(40):
        at += timedelta(seconds=2)
        for _ in range(10):
            decision = decide_repair(builder.view, at)
            if not decision.writes:
                break
            for write in decision.writes:
                if isinstance(write.record, Relocation):
                    check(builder.view, write.record)
            builder = builder.with_writes(*decision.writes)
        else:
            raise AssertionError(f"the cluster does not come to rest: {decision}")
        builder = step_moves(builder, now=at)
        new = [s for s in builder.view.shards.values() if s.in_sync_generation < 0 and s.uid in builder.view.servers]
        builder = builder.with_writes(*(Put(replace(s, in_sync_generation=1)) for s in new))
    assert not builder.view.live_moves()
    for uid in builder.view.groups:
        kept: list[Shard] = [s for s in builder.view.shards_of_group(uid) if s.wanted is not ShardWanted.GONE]
        assert len(kept) == 2
        assert len({s.node_uid for s in kept}) == 2
