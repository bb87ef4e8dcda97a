"""Copies that step aside where the cluster is large, or much leaves at once: what the search looks at is bounded then."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from shardwright.model.database import DatabaseStatus, GroupPhase, Handoff, Shard, ShardWanted
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.move import MoveState, Relocation
from shardwright.model.seen import Health
from shardwright.plan.assignment import LEAVERS_MAX, RESIDENTS_MAX, ROOMS_MAX
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, plan_evacuation
from testkit.builders import MB, NOW, ClusterBuilder, cluster
from testkit.moves import relocation

SMALL, LARGE = 70 * MB, 150 * MB


def crowded(nodes: int, residents: int, *, room: int = 80 * MB) -> ClusterBuilder:
    """Node 1 is to leave. Every other one holds so many small copies and has room for one more, but for no
    large one: that has a place where a small one steps aside."""
    builder = cluster(nodes, memory_bytes=residents * SMALL + room)
    for node in range(2, nodes + 1):
        for _ in range(residents):
            builder = holding(builder, node, SMALL)
    return builder


def holding(builder: ClusterBuilder, node: int, size: int, copies: int = 1) -> ClusterBuilder:
    for _ in range(copies):
        builder = builder.with_database(on=((node,),), memory_bytes=size, used_bytes=size)
    return builder


def plan(builder: ClusterBuilder) -> EvacuationPlan:
    return plan_evacuation(builder.view, NodeUid(1), EvacuationScope(includes_endpoints=False))


def moved(found: EvacuationPlan, builder: ClusterBuilder) -> list[tuple[int, bool]]:
    """From which node, and whether it begins only when another move has ended."""
    return [(builder.view.shards[ShardUid(int(m.subject))].node_uid, m.is_later) for m in found.moves]


def test_in_a_large_cluster_one_of_a_sample_steps_aside() -> None:
    residents = RESIDENTS_MAX // ROOMS_MAX + 1
    builder = holding(crowded(ROOMS_MAX + 3, residents), 1, LARGE)
    found = plan(builder)
    assert found.unplaced == ()
    (aside, is_later), last = moved(found, builder)
    assert aside != 1
    assert not is_later
    assert last == (1, True)
    assert found.moves[1].to_node == aside


def test_with_many_that_leave_only_the_one_without_a_place_has_another_step_aside() -> None:
    builder = holding(holding(crowded(4, 3, room=95 * MB), 1, LARGE), 1, MB, LEAVERS_MAX + 1)
    found = plan(builder)
    assert found.unplaced == ()
    others = [where for where in moved(found, builder) if where[0] != 1]
    assert len(others) == 1
    assert sum(where == (1, True) for where in moved(found, builder)) == 1
    assert len(found.moves) == LEAVERS_MAX + 3


def test_with_many_that_leave_one_that_nobody_can_help_hinders_no_other() -> None:
    builder = holding(holding(crowded(4, 3, room=95 * MB), 1, 4 * LARGE), 1, MB, LEAVERS_MAX + 1)
    found = plan(builder)
    assert [u.reason.code for u in found.unplaced] == ["insufficient_memory"]
    assert moved(found, builder) == [(1, False)] * (LEAVERS_MAX + 1)


def _move(shard: Shard) -> Relocation:
    return relocation(
        state=MoveState.SYNCING, database_uid=shard.database_uid, group_uid=shard.group_uid,
        shard_uid=shard.uid, from_node=shard.node_uid, to_node=NodeUid(1),
    )  # fmt: skip


def _with_handoff(builder: ClusterBuilder, shard: Shard) -> ClusterBuilder:
    group = builder.view.groups[shard.group_uid]
    return builder.with_records(replace(group, handoff=Handoff(shard.uid, ShardUid(99), 2, 1, NOW)))


def _starting(builder: ClusterBuilder, shard: Shard) -> ClusterBuilder:
    return builder.with_records(replace(builder.view.groups[shard.group_uid], phase=GroupPhase.STARTING))


CHANGES: dict[str, Callable[[ClusterBuilder, Shard], ClusterBuilder]] = {
    "ends": lambda b, s: b.with_records(replace(s, wanted=ShardWanted.STOPPED)),
    "is of a database that is deleted": lambda b, s: b.with_database_changed(
        s.database_uid, status=DatabaseStatus.DELETE_PENDING
    ),
    "starts": _starting,
    "hands over": _with_handoff,
    "moves": lambda b, s: b.with_move(_move(s)),
    "does not answer": lambda b, s: b.with_server(s.uid, health=Health.TIMEOUT),
}


@pytest.mark.parametrize("why", CHANGES)
def test_a_copy_that_something_else_changes_does_not_step_aside(why: str) -> None:
    builder = holding(crowded(3, 1), 1, LARGE)
    assert len(plan(builder).moves) == 2
    for shard in list(builder.view.shards.values()):
        if shard.node_uid != 1:
            builder = CHANGES[why](builder, shard)
    assert not [m for m in plan(builder).moves if builder.view.shards[ShardUid(int(m.subject))].node_uid != 1]
