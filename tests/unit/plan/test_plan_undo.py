"""How what an action moved gets back, and what stays where it is because the cluster was changed meanwhile."""

from dataclasses import replace
from typing import Any

import pytest

from shardwright.model.database import DatabaseStatus, Handoff
from shardwright.model.ids import GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import Move, MoveState, Rebind, Relocation
from shardwright.model.view import Delete
from shardwright.plan.proposal import ReturnPlan
from shardwright.plan.undo import plan_undo
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import handoff_move, rebind, relocation

GROUP = GroupUid("1:1")
PAIR = cluster(4).with_database(on=((2, 3),), endpoint_on=2)
"""After the action: the primary is on node 2, its replica on node 3. Before it the replica was on node 1."""


def moved(**changes: Any) -> Relocation:
    """Shard 2 came from node 1, as the copy of shard 9."""
    fields = {"state": MoveState.DONE, "shard_uid": ShardUid(9), "new_shard_uid": ShardUid(2), "from_node": NodeUid(1)}
    return relocation(**{**fields, **changes})


def rebound(**changes: Any) -> Rebind:
    """The endpoint went from node 1 to node 2."""
    return rebind(**{"state": MoveState.DONE, "to_node": NodeUid(2), **changes})


def shorts(found: ReturnPlan) -> list[str]:
    return [f"{m.kind} {m.subject} -> {m.to_node}" for m in found.moves]


def undo(builder: ClusterBuilder, *moves: Move) -> ReturnPlan:
    return plan_undo(builder.view, moves)


def test_what_took_effect_goes_back_and_what_did_not_stays() -> None:
    assert shorts(undo(PAIR, moved(), rebound())) == ["relocate 2 -> 1", "rebind 1:1 -> 1"]
    for state in MoveState:
        took_effect = state in (MoveState.CLEANING, MoveState.DONE)
        assert bool(undo(PAIR, moved(state=state)).moves) == took_effect


def test_a_copy_that_moved_twice_goes_back_to_where_it_was_first() -> None:
    builder = cluster(4).with_database(on=((2, 4),))
    further = moved(uid=MoveUid("a-2"), shard_uid=ShardUid(2), from_node=NodeUid(3), to_node=NodeUid(4))
    assert shorts(undo(builder, moved(), further)) == ["relocate 2 -> 1"]
    home = replace(further, to_node=NodeUid(1))
    back = cluster(4).with_database(on=((2, 1),))
    assert undo(back, moved(), home) == ReturnPlan()


def test_a_role_goes_back_where_its_copy_still_is() -> None:
    passed_on = handoff_move(
        state=MoveState.DONE, shard_uid=ShardUid(2), new_shard_uid=ShardUid(1), from_node=NodeUid(3), to_node=NodeUid(3)
    )
    assert shorts(undo(PAIR, passed_on)) == ["handoff 1 -> 3"]
    found = undo(PAIR.with_server(2, is_link_up=False), passed_on)
    assert (found.moves, [r.code for r in found.waiting]) == ((), ["replica_not_in_sync"])
    led = PAIR.with_records(replace(PAIR.view.groups[GROUP], primary=ShardUid(2)))
    assert undo(led, passed_on) == ReturnPlan()


def test_a_deleted_database_needs_nothing_back() -> None:
    for status, count in ((DatabaseStatus.DELETE_PENDING, 0), (DatabaseStatus.ACTIVE, 1)):
        assert len(undo(PAIR.with_database_changed(1, status=status), moved()).moves) == count
    assert undo(ClusterBuilder(replace(PAIR.view, groups={}, endpoints={})), moved(), rebound()) == ReturnPlan()


def test_what_cannot_go_back_is_a_difference_that_says_why() -> None:
    gone = ClusterBuilder(PAIR.view.with_writes([Delete(PAIR.view.nodes[NodeUid(1)])]))
    found = undo(gone, moved(), rebound())
    assert (found.moves, found.waiting, found.unplaced) == ((), (), ())
    assert all("node 1 is no longer a member" in r.text for r in found.differences)
    assert len(found.differences) == 2
    lost = undo(ClusterBuilder(PAIR.view.with_writes([Delete(PAIR.view.shards[ShardUid(2)])])), moved())
    assert [(r.code, "the copy that replaced it no longer exists" in r.text) for r in lost.differences] == [
        ("not_restorable", True)
    ]


def test_what_finds_no_room_on_its_way_back_is_named() -> None:
    full = undo(PAIR.with_node_changed(1, memory_bytes=0), moved(), rebound())
    assert [(u.shard_uid, u.reason.code) for u in full.unplaced] == [(2, "insufficient_memory")]
    closed = undo(PAIR.with_node_changed(1, endpoints_max=0), rebound())
    assert [u.endpoint_uid for u in closed.unplaced] == ["1:1"]


@pytest.mark.parametrize(
    ("is_undo", "state", "waits"),
    [
        (False, MoveState.SYNCING, True),
        (False, MoveState.CLEANING, True),
        (True, MoveState.CLEANING, True),
        (True, MoveState.SYNCING, False),
    ],
)
def test_a_group_that_another_move_changes_is_waited_for_unless_it_is_the_way_back_itself(
    is_undo: bool, state: MoveState, waits: bool
) -> None:
    other = moved(state=state, uid=MoveUid("b-1"), from_node=NodeUid(2), to_node=NodeUid(4), is_undo=is_undo)
    found = undo(PAIR.with_move(other), moved(), *([other] if is_undo else []))
    assert found.moves == ()
    assert bool(found.waiting) == waits
    assert found.in_flight == ((other,) if is_undo else ())


def test_a_group_whose_handoff_is_pending_is_waited_for() -> None:
    group = replace(PAIR.view.groups[GROUP], handoff=Handoff(ShardUid(1), ShardUid(2), 2, 1, NOW))
    assert [r.code for r in undo(PAIR.with_records(group), moved()).waiting] == ["group_busy"]


@pytest.mark.parametrize("is_undo", [False, True])
def test_an_endpoint_that_is_on_its_way_is_waited_for_unless_it_comes_back(is_undo: bool) -> None:
    other = rebound(uid=MoveUid("b-1"), state=MoveState.HANDOFF, from_node=NodeUid(2), is_undo=is_undo)
    found = undo(PAIR.with_move(other), rebound())
    assert (found.moves, len(found.waiting)) == ((), 0 if is_undo else 1)
