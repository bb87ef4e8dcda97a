"""Laws of the planner for all clusters: it never exceeds limits, never co-locates copies, respects racks, is repeatable, and
explains itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shardwright.model.database import Database
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid
from shardwright.model.move import MoveKind
from shardwright.model.view import ClusterView
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, Leaves, plan_evacuation
from shardwright.plan.explain import Unplaceable
from shardwright.plan.placement import Placed, place_database
from shardwright.plan.proposal import RelocationProposal
from testkit.builders import MB, ClusterBuilder, cluster


@st.composite
def clusters(draw: st.DrawFn) -> ClusterBuilder:
    """Small clusters with every kind of obstacle; the existing placement may break every rule."""
    nodes = draw(st.integers(1, 5))
    racks = draw(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=nodes, max_size=nodes))
    builder = cluster(nodes, racks=racks)
    for uid in range(1, nodes + 1):
        builder = builder.with_node_changed(
            uid,
            memory_bytes=draw(st.sampled_from([0, 150, 400, 1000])) * MB,
            shards_max=draw(st.sampled_from([1, 2, 100])),
            endpoints_max=draw(st.sampled_from([1, 2, 100])),
            is_quorum_only=draw(st.sampled_from([False, False, False, True])),
            is_closed=draw(st.sampled_from([False, False, False, True])),
        )
    for _ in range(draw(st.integers(0, 4))):
        copies = draw(st.permutations(range(1, nodes + 1)))[: draw(st.integers(1, min(2, nodes)))]
        builder = builder.with_database(
            on=(copies,),
            memory_bytes=draw(st.sampled_from([0, 100, 240, 600])) * MB,
            used_bytes=draw(st.integers(0, 120)) * MB,
            is_rack_aware=draw(st.booleans()),
        )
    for uid in range(1, nodes + 1):
        match draw(st.sampled_from(["fine", "fine", "fine", "daemon", "dead"])):
            case "daemon":
                builder = builder.without_daemon(uid)
            case "dead":
                builder = builder.with_dead_node(uid)
            case _:
                pass
    for shard in list(builder.view.shards):
        if draw(st.sampled_from([False, False, False, True])):
            builder = builder.with_server(shard, is_link_up=False)
    return builder.with_policy(evict_node_use_free_memory=draw(st.booleans()))


def new_database(view: ClusterView, *, size: int, has_replica: bool, is_rack_aware: bool, groups: int) -> Database:
    template = cluster(3).with_database(on=((1, 2),)).view.databases[DatabaseUid(1)]
    return replace(
        template,
        uid=DatabaseUid(99),
        memory_bytes=size,
        has_replica=has_replica,
        is_rack_aware=is_rack_aware,
        shards_count=groups,
    )


def check_usable(view: ClusterView, uid: NodeUid) -> None:
    node = view.nodes[uid]
    assert node.accepts_placement, f"node {uid} takes no shards"
    assert uid in view.daemons, f"node {uid} has no daemon"


def check_racks(view: ClusterView, database: Database, nodes: Sequence[NodeUid], placed: NodeUid) -> None:
    if database.is_rack_aware:
        assert view.nodes[placed].rack
        racks = [view.nodes[uid].rack for uid in nodes if uid != placed and uid in view.nodes]
        assert view.nodes[placed].rack not in racks


def held_bytes(view: ClusterView) -> Counter[NodeUid]:
    found: Counter[NodeUid] = Counter()
    for shard in view.shards.values():
        found[shard.node_uid] += size_of(view, shard.group_uid, view.databases[shard.database_uid])
    return found


def size_of(view: ClusterView, group: GroupUid, database: Database) -> int:
    if database.memory_bytes and not view.policy.evict_node_use_free_memory:
        return database.shard_memory_bytes
    return max((view.servers[s.uid].used_memory_bytes for s in view.shards_of_group(group)), default=0)


@given(
    clusters(),
    st.sampled_from([0, 90 * MB, 500 * MB]),
    st.booleans(),
    st.booleans(),
    st.integers(1, 3),
)
def test_a_new_database_breaks_no_rule(
    builder: ClusterBuilder, size: int, has_replica: bool, is_rack_aware: bool, groups: int
) -> None:
    view = ClusterBuilder(builder.view).with_policy(evict_node_use_free_memory=False).view
    database = new_database(view, size=size, has_replica=has_replica, is_rack_aware=is_rack_aware, groups=groups)
    found = place_database(view, database)
    assert found == place_database(view, database), "deterministic"
    if isinstance(found, Unplaceable):
        check_explained(found)
        return
    assert isinstance(found, Placed)
    assert len(found.groups) == groups
    shards = Counter(s.node_uid for s in view.shards.values())
    memory = held_bytes(view)
    for nodes in found.groups:
        assert len(nodes) == database.copies == len(set(nodes))
        for uid in nodes:
            check_usable(view, uid)
            check_racks(view, database, nodes, uid)
            shards[uid] += 1
            memory[uid] += database.shard_memory_bytes
            assert shards[uid] <= view.nodes[uid].shards_max
            assert database.shard_memory_bytes == 0 or memory[uid] <= view.nodes[uid].memory_bytes
    check_usable(view, found.endpoint_node)
    assert len(view.endpoints_on(found.endpoint_node)) < view.nodes[found.endpoint_node].endpoints_max


def check_explained(found: Unplaceable) -> None:
    assert found.reasons
    assert all(r.code and r.text for r in found.reasons)
    reason = found.as_reason("it")
    assert reason.grade in {r.grade for r in found.nearest}
    assert found.passes_by_itself or reason.remedy, "a hard limit names a remedy"


@given(clusters(), st.integers(1, 5), st.sampled_from(list(Leaves)))
def test_an_evacuation_breaks_no_rule(builder: ClusterBuilder, number: int, leaves: Leaves) -> None:
    view = builder.view
    node = NodeUid(1 + number % len(view.nodes))
    scope = EvacuationScope(leaves)
    plan = plan_evacuation(view, node, scope)
    assert plan == plan_evacuation(view, node, scope), "deterministic"
    check_capacity(view, plan)
    for proposal in plan.moves:
        assert proposal.from_node == node
        assert proposal.to_node != node
        if proposal.kind != MoveKind.HANDOFF:
            check_usable(view, proposal.to_node)
        if isinstance(proposal, RelocationProposal):
            others = [s.node_uid for s in view.shards_of_group(GroupUid(str(proposal.group_uid))) if s.node_uid != node]
            assert proposal.to_node not in others
            check_racks(view, view.databases[proposal.database_uid], others, proposal.to_node)
    check_complete(view, node, leaves, plan)
    for unplaced in plan.unplaced:
        assert unplaced.reason.text
        assert unplaced.reason.remedy or unplaced.reason.code == "no_replica"


def check_capacity(view: ClusterView, plan: EvacuationPlan) -> None:
    shards = Counter(s.node_uid for s in view.shards.values())
    endpoints = Counter(uid for e in view.endpoints.values() for uid in e.nodes)
    memory = held_bytes(view)
    for proposal in plan.moves:
        uid = proposal.to_node
        node = view.nodes[uid]
        if isinstance(proposal, RelocationProposal):
            size = size_of(view, proposal.group_uid, view.databases[proposal.database_uid])
            shards[uid] += 1
            memory[uid] += size
            assert shards[uid] <= node.shards_max
            assert size == 0 or memory[uid] <= node.memory_bytes
        elif proposal.kind == MoveKind.REBIND:
            endpoints[uid] += 1
            assert endpoints[uid] <= node.endpoints_max


def check_complete(view: ClusterView, node: NodeUid, leaves: Leaves, plan: EvacuationPlan) -> None:
    """Everything that has to leave is planned, waited for, or named."""
    planned = {p.subject for p in plan.moves}
    named = {r.shard_uid for r in plan.waiting} | {u.shard_uid for u in plan.unplaced}
    for shard in view.shards_on(node):
        must_leave = leaves == Leaves.ALL or (leaves != Leaves.NOTHING and view.is_primary(shard))
        assert not must_leave or shard.uid in planned | named
    homeless = {u.endpoint_uid for u in plan.unplaced}
    for endpoint in view.endpoints_on(node):
        is_waiting = any(r.database_uid == endpoint.database_uid for r in plan.waiting)
        assert endpoint.uid in planned | homeless or is_waiting
