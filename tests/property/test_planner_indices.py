"""A view's indices agree with its tables after any writes; fast checks agree with slow ones."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from bench.clusters import Shape, make_cluster
from shardwright.model.ids import GroupUid, NodeUid, ShardUid
from shardwright.model.view import ClusterView, Delete, Put
from shardwright.plan.ledger import Ledger
from shardwright.plan.placement import copy_request

NODES, SHARDS = 4, 12
CLUSTER = make_cluster(Shape(NODES, SHARDS, 2, shards_spare=1), 5)


def check_indices(view: ClusterView) -> None:
    for node in range(1, NODES + 1):
        assert view.shards_on(NodeUid(node)) == [s for _, s in sorted(view.shards.items()) if s.node_uid == node]
    for uid in view.groups:
        assert view.shards_of_group(uid) == [s for _, s in sorted(view.shards.items()) if s.group_uid == uid]
    assert view.shards_of_group(GroupUid("none")) == []


@given(st.lists(st.tuples(st.integers(1, SHARDS), st.integers(0, NODES)), max_size=8))
def test_an_index_follows_every_write(writes: list[tuple[int, int]]) -> None:
    view = replace(CLUSTER, _indices={})
    check_indices(view)
    for uid, node in writes:
        shard = CLUSTER.shards[ShardUid(uid)]
        write = Put(replace(shard, node_uid=NodeUid(node))) if node else Delete(shard)
        before, view = view, view.with_writes([write])
        check_indices(view)
        check_indices(before)


def test_exactly_the_copies_that_do_not_fit_have_an_obstacle() -> None:
    for seed in range(20):
        view = make_cluster(Shape(5, 15, seed % 4, shards_spare=2), seed)
        ledger = Ledger(view)
        for shard in view.shards.values():
            database = view.databases[shard.database_uid]
            request = copy_request(ledger, database, shard.group_uid, leaving=shard, is_primary=view.is_primary(shard))
            nodes = [n for n in view.nodes.values() if n.uid != shard.node_uid]
            without = [n.uid for n in nodes if not list(ledger.obstacles(n, request))]
            assert [n.uid for n, _ in ledger.fitting(request)] == without
            for uid in without:
                loads = {n: replace(load) for n, load in ledger.loads.items()}
                copies = dict(ledger.copies_of(shard.group_uid))
                ledger.place(request, uid)
                ledger.take_back(request, uid)
                assert ledger.loads == loads
                assert ledger.copies_of(shard.group_uid) == copies
