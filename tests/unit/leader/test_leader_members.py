"""A leadership keeps the members of the store in agreement with the nodes, on a store in memory, in virtual time."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from shardwright.leader.members import LOOK_S, STEP_S
from shardwright.model.cluster import Leadership
from shardwright.model.event import Event
from shardwright.model.ids import NodeUid
from shardwright.model.store_member import StoreRole
from shardwright.model.version import CLUSTER_VERSION
from shardwright.plan.store_members import SILENT_LOOKS, UNKNOWN_KEPT
from shardwright.store import keys, records
from shardwright.store.members import Members
from shardwright.store.protocol import DeleteKey, PutKey
from sim.loop import result_of
from testkit.builders import ClusterBuilder
from testkit.store_members import MemoryMembers
from tests.unit.leader.test_leader_loop import Leading, settled

N2 = NodeUid(2)
Lead = Callable[..., Leading]


def with_roles(*voters: int) -> ClusterBuilder:
    builder = settled()
    assert builder.view.cluster is not None
    builder = builder.with_records(replace(builder.view.cluster, cluster_version=CLUSTER_VERSION))
    for uid in voters:
        builder = builder.with_node_changed(uid, store_role=StoreRole.VOTER)
    return builder


def role_of(leading: Leading, uid: int) -> StoreRole:
    return leading.mirror.view().nodes[NodeUid(uid)].store_role


def told(leading: Leading) -> list[str]:
    events = [e for e in leading.mirror.records(keys.EVENTS) if isinstance(e, Event)]
    return [f"{e.kind} {e.node_uid}" for e in events if e.kind.startswith("store_member")]


@pytest.fixture
def lead() -> Iterator[Lead]:
    made: list[Leading] = []

    def begin(builder: ClusterBuilder, members: Members | None) -> Leading:
        made.append(Leading(builder.view, members=members))
        return made[-1]

    yield begin
    for leading in made:
        leading.end()


def test_newcomers_are_promoted_one_after_the_other_and_written_down(lead: Lead) -> None:
    members = MemoryMembers((1,))
    leading = lead(with_roles(1), members)
    leading.run_for(1.0)
    for uid in (2, 3):
        result_of(members.add_learner(f"https://127.0.0.{uid}:2380"))
        leading.run_for(2 * LOOK_S)
        assert role_of(leading, uid) is StoreRole.LEARNER, "it has not started"
        members.starts(uid)
        members.behind = {f"node-{uid}"}
        leading.run_for(LOOK_S)
        assert role_of(leading, uid) is StoreRole.LEARNER, "it has not caught up"
        members.behind = set()
        leading.run_for(LOOK_S)
        assert role_of(leading, uid) is StoreRole.VOTER
    assert members.changes == ["promote node-2", "promote node-3"]
    assert told(leading) == [
        "store_member_added 2",
        "store_member_promoted 2",
        "store_member_added 3",
        "store_member_promoted 3",
    ]


def test_the_member_of_a_removed_node_is_removed_as_soon_as_the_others_can_do_without(lead: Lead) -> None:
    members = MemoryMembers((1, 2, 3))
    leading = lead(with_roles(1, 2, 3), members)
    leading.run_for(1.0)
    members.silent = {"node-2"}
    # Node 3 holds nothing.
    leading.change(DeleteKey(keys.key_of(leading.mirror.view().nodes[NodeUid(3)])))
    leading.run_for(3 * LOOK_S)
    assert members.changes == []
    assert leading.leader._current().silent_members == frozenset({N2})
    members.silent = set()
    leading.run_for(3 * LOOK_S)
    assert members.changes == ["remove node-3"]
    assert leading.leader._current().silent_members == frozenset()


def test_a_join_that_was_given_up_is_cleared_away_by_the_leaders_own_clock(lead: Lead) -> None:
    members = MemoryMembers((1,))
    leading = lead(with_roles(1), members)
    result_of(members.add_learner("https://127.0.0.9:2380"))
    leading.run_for(UNKNOWN_KEPT.total_seconds() - LOOK_S)
    assert members.changes == []
    leading.run_for(3 * LOOK_S)
    assert members.changes == ["remove https://127.0.0.9:2380"]


def test_an_etcd_of_the_operators_is_not_even_asked(lead: Lead) -> None:
    members = MemoryMembers((1, 2, 9))
    members.is_cut = True
    leading = lead(settled(), members)
    leading.run_for(5 * LOOK_S)
    assert members.changes == []
    assert told(leading) == []


def test_a_store_that_cannot_be_reached_is_asked_again_and_meanwhile_it_is_not_known_who_is_silent(lead: Lead) -> None:
    members = MemoryMembers((1, 2, 3))
    members.silent = {"node-2"}
    leading = lead(with_roles(1, 2, 3), members)
    assert leading.leader._current().silent_members is None, "none was asked yet"
    leading.run_for(LOOK_S)
    assert leading.leader._current().silent_members == frozenset({N2})
    members.is_cut = True
    leading.run_for(2 * LOOK_S)
    assert leading.leader._current().silent_members is None
    members.is_cut = False
    leading.run_for(2 * LOOK_S)
    assert leading.leader._current().silent_members == frozenset({N2})


def test_a_member_whose_answer_is_late_once_or_twice_does_not_count_as_silent(lead: Lead) -> None:
    members = MemoryMembers((1, 2, 3))
    leading = lead(with_roles(1, 2, 3), members)
    leading.run_for(LOOK_S)
    for looks in (1, SILENT_LOOKS - 1, SILENT_LOOKS):
        asked = members.asked
        members.silent = {"node-2"}
        while members.asked < asked + looks:
            leading.run_for(STEP_S / 10)
        leading.run_for(STEP_S / 10)
        expected = frozenset({N2}) if looks == SILENT_LOOKS else None
        assert leading.leader._current().silent_members == expected
        members.silent = set()
        leading.run_for(LOOK_S)
        assert leading.leader._current().silent_members == frozenset()


def test_a_new_leader_does_not_judge_by_one_late_answer(lead: Lead) -> None:
    members = MemoryMembers((1, 2, 3))
    members.silent = {"node-2"}
    leading = lead(with_roles(1, 2, 3), members)
    while members.asked < SILENT_LOOKS:
        assert leading.leader._current().silent_members is None
        leading.run_for(STEP_S / 10)
    leading.run_for(STEP_S / 10)
    assert leading.leader._current().silent_members == frozenset({N2})


def test_nothing_is_changed_after_the_leadership_and_the_members_are_closed(lead: Lead) -> None:
    members = MemoryMembers((1,))
    leading = lead(with_roles(1), members)
    leading.run_for(1.0)
    learner = replace(MemoryMembers((2,)).found[0], id=7, is_learner=True)
    # Written down already, so that the next step would be the promotion.
    node = replace(leading.mirror.view().nodes[N2], store_role=StoreRole.LEARNER)
    members.found.append(learner)
    other = Leadership(N2, 2)
    leading.change(PutKey(keys.key_of(node), records.encode(node)), DeleteKey(keys.LEADER))
    leading.change(PutKey(keys.LEADER, records.encode(other)))
    leading.run_for(3 * LOOK_S)
    assert members.changes == []
    assert members.is_closed


def test_a_store_without_members_needs_no_such_part(lead: Lead) -> None:
    leading = lead(with_roles(1), None)
    leading.run_for(2 * LOOK_S)
    assert told(leading) == []
