"""The next step with the members of the store: promote, remove, write it down, or wait."""

from datetime import timedelta

from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.cluster import DeclaredOff
from shardwright.model.ids import NodeUid
from shardwright.model.store_member import MemberState, StoreMember, StoreRole
from shardwright.model.view import Delete
from shardwright.plan.store_members import (
    LEAVING_STORE,
    SILENT_LOOKS,
    UNKNOWN_KEPT,
    Judgment,
    MemberSilence,
    Note,
    PromoteMember,
    Remove,
    next_step,
    node_of,
    strangers,
    unanswering_members,
)
from testkit.builders import NOW, ClusterBuilder, cluster

NONE, LEARNER, VOTER = StoreRole.NONE, StoreRole.LEARNER, StoreRole.VOTER


def voter(uid: int, *, is_reached: bool = True) -> MemberState:
    return MemberState(member(uid), is_reached)


def learner(uid: int, *, is_reached: bool = True, has_started: bool = True) -> MemberState:
    return MemberState(member(uid, is_learner=True, has_started=has_started), is_reached and has_started)


def member(uid: int, *, name: str | None = None, is_learner: bool = False, has_started: bool = True) -> StoreMember:
    """Its id is ten times the node's uid."""
    address = f"127.0.0.{uid}"
    clients = (f"https://{address}:2379",) if has_started else ()
    shown = (f"node-{uid}" if name is None else name) if has_started else ""
    return StoreMember(10 * uid, shown, (f"https://{address}:2380",), clients, is_learner)


def nodes(count: int, *roles: StoreRole) -> ClusterBuilder:
    builder = cluster(count)
    for uid, role in enumerate(roles, 1):
        builder = builder.with_node_changed(uid, store_role=role)
    return builder


def removed(builder: ClusterBuilder, uid: int) -> ClusterBuilder:
    return ClusterBuilder(builder.view.with_writes([Delete(builder.view.nodes[NodeUid(uid)])]))


def step(builder: ClusterBuilder, *states: MemberState, unknown_s: float = 0.0) -> object:
    return judged(builder, *states, unknown_s=unknown_s).step


def judged(builder: ClusterBuilder, *states: MemberState, unknown_s: float = 0.0) -> Judgment:
    known = dict.fromkeys(strangers(builder.view, states), timedelta(seconds=unknown_s))
    return next_step(builder.view, states, unknown_for=known)


# -- nothing -----------------------------------------------------------------------------------------------------------


def test_members_that_are_as_recorded_need_nothing() -> None:
    assert judged(nodes(3, VOTER, VOTER, VOTER), voter(1), voter(2), voter(3)) == Judgment()
    assert judged(nodes(4, VOTER), voter(1)) == Judgment(), "the other nodes are clients"


def test_an_etcd_of_the_operators_is_left_alone_whatever_its_members_are_called() -> None:
    assert judged(nodes(3), voter(1), voter(2), learner(3), voter(7)) == Judgment()


def test_a_store_that_was_not_asked_proves_nothing() -> None:
    assert judged(nodes(3, VOTER, VOTER, VOTER)) == Judgment()


# -- the record follows the store --------------------------------------------------------------------------------------


def test_a_new_learner_is_written_down_first_also_before_it_starts() -> None:
    assert step(nodes(3, VOTER), voter(1), learner(2)) == Note(NodeUid(2), LEARNER)
    assert step(nodes(3, VOTER), voter(1), learner(2, has_started=False)) == Note(NodeUid(2), LEARNER)


def test_a_promotion_and_a_removal_are_written_down_by_whoever_leads_then() -> None:
    assert step(nodes(3, VOTER, LEARNER), voter(1), voter(2)) == Note(NodeUid(2), VOTER)
    assert step(nodes(3, VOTER, VOTER, VOTER), voter(1), voter(3)) == Note(NodeUid(2), NONE)


def test_a_member_that_was_added_twice_votes_if_one_of_them_does() -> None:
    again = MemberState(member(2, is_learner=True, has_started=False), is_reached=False)
    assert step(nodes(2, VOTER, VOTER), voter(1), voter(2), again) is None


# -- promotion ---------------------------------------------------------------------------------------------------------


def test_a_learner_that_answers_is_promoted() -> None:
    assert step(nodes(3, VOTER, LEARNER), voter(1), learner(2)) == PromoteMember(20, NodeUid(2))


def test_a_learner_that_is_silent_is_waited_for_with_a_reason() -> None:
    for state, why in ((learner(2, has_started=False), "has not started"), (learner(2, is_reached=False), "not answer")):
        found = judged(nodes(3, VOTER, LEARNER), voter(1), state)
        assert found.step is None
        (reason,) = found.reasons
        assert (reason.code, reason.node_uid) == ("store_learner_pending", 2)
        assert why in reason.text
        assert "remove the node" in reason.remedy


# -- removal -----------------------------------------------------------------------------------------------------------


def test_the_member_of_a_node_without_a_record_is_removed() -> None:
    gone = removed(nodes(3, VOTER, VOTER, VOTER), 3)
    found = step(gone, voter(1), voter(2), voter(3))
    assert isinstance(found, Remove)
    assert (found.member_id, found.node_uid) == (30, 3)
    dead = step(gone, voter(1), voter(2), voter(3, is_reached=False))
    assert isinstance(dead, Remove)


def test_a_voter_stays_while_too_few_of_the_others_answer() -> None:
    gone = removed(nodes(3, VOTER, VOTER, VOTER), 3)
    found = judged(gone, voter(1), voter(2, is_reached=False), voter(3))
    assert found.step is None
    (reason,) = found.reasons
    assert (reason.code, reason.node_uid) == ("no_quorum", 3)
    five = removed(nodes(5, VOTER, VOTER, VOTER, VOTER, VOTER), 5)
    down = [voter(1), voter(2), voter(3), voter(4, is_reached=False), voter(5)]
    assert isinstance(step(five, *down), Remove)
    assert step(five, *down[:2], voter(3, is_reached=False), *down[3:]) is None


def test_the_last_voter_is_never_removed() -> None:
    assert step(removed(nodes(2, VOTER, LEARNER), 1), voter(1), learner(2, is_reached=False)) is None


def test_of_several_the_learner_goes_first_then_the_silent_one() -> None:
    builder = removed(removed(nodes(5, VOTER, VOTER, VOTER, VOTER, VOTER), 4), 5)
    found = step(builder, voter(1), voter(2), voter(3), voter(4), voter(5, is_reached=False))
    assert isinstance(found, Remove)
    assert found.member_id == 50
    found = step(builder, voter(1), voter(2), voter(3), voter(4, is_reached=False), learner(5))
    assert isinstance(found, Remove)
    assert found.member_id == 50


def test_a_voter_that_waits_does_not_keep_a_learner_from_leaving_or_voting() -> None:
    builder = removed(nodes(3, VOTER, VOTER, LEARNER), 2)
    silent = judged(builder, voter(1, is_reached=False), voter(2), learner(3))
    assert silent.step == PromoteMember(30, NodeUid(3)), "one more voter makes the removal possible"
    assert [r.code for r in silent.reasons] == ["no_quorum"]


def test_a_node_that_is_being_removed_keeps_its_member_until_it_is_empty() -> None:
    builder = nodes(3, VOTER, VOTER, VOTER)
    all_three = (voter(1), voter(2), voter(3))
    running = builder.with_action(ActionName.REMOVE, 2, status=ActionStatus.RUNNING, phase="evacuating")
    assert step(running, *all_three) is None
    empty = builder.with_action(ActionName.REMOVE, 2, status=ActionStatus.RUNNING, phase=LEAVING_STORE)
    found = step(empty, *all_three)
    assert isinstance(found, Remove)
    assert (found.member_id, found.why) == (20, "node 2 is being removed")
    ended = builder.with_action(ActionName.REMOVE, 2, status=ActionStatus.CANCELLED, phase=LEAVING_STORE)
    assert step(ended, *all_three) is None


def test_a_node_that_is_off_loses_its_member_to_the_one_that_takes_its_place() -> None:
    three = (voter(1), voter(2), voter(3, is_reached=False))
    builder = nodes(4, VOTER, VOTER, VOTER, LEARNER).without_daemon(3).with_node_changed(4, replaces=NodeUid(3))
    assert not isinstance(step(builder, *three), Remove), "it may still run"
    off = builder.with_node_changed(3, declared_off=DeclaredOff(NOW, "admin@example.com"))
    found = step(off.with_node_changed(4, store_role=NONE), *three)
    assert isinstance(found, Remove)
    assert (found.member_id, found.why) == (30, "node 4 takes the place of node 3, which is off")
    alone = judged(
        off.with_node_changed(4, store_role=NONE), voter(1), voter(2, is_reached=False), voter(3, is_reached=False)
    )
    assert alone.step is None, "the store would lose its majority"


# -- strangers ---------------------------------------------------------------------------------------------------------


def test_a_new_member_of_no_node_is_given_time_and_then_removed() -> None:
    """Its join may be under way; given up, it would keep every other newcomer out."""
    builder = nodes(2, VOTER)
    stray = learner(9, has_started=False)
    assert step(builder, voter(1), stray, unknown_s=UNKNOWN_KEPT.total_seconds() - 1) is None
    found = step(builder, voter(1), stray, unknown_s=UNKNOWN_KEPT.total_seconds())
    assert isinstance(found, Remove)
    assert (found.member_id, found.node_uid) == (90, None)


def test_members_of_an_operator_stay() -> None:
    builder = nodes(2, VOTER)
    named = MemberState(member(9, name="backup", is_learner=True), is_reached=True)
    future = MemberState(member(9, name="node-9"), is_reached=True)
    for state in (named, future, MemberState(member(9, name="node-09"), is_reached=False)):
        assert step(builder, voter(1), state, unknown_s=10**6) is None
        assert strangers(builder.view, [state]) == frozenset()


def test_who_is_who() -> None:
    view = removed(nodes(3, VOTER), 3).view
    assert node_of(member(2), view) == 2
    assert node_of(member(3), view) == 3, "it was a node"
    assert node_of(member(4), view) is None, "no node had this number yet"
    assert node_of(member(2, has_started=False), view) == 2, "by its address"
    assert node_of(member(9, has_started=False), view) is None
    six = StoreMember(1, "", ("https://[fd00::2]:2380", "not an address"), (), True)
    assert node_of(six, view) is None
    assert node_of(six, nodes(1).with_node_changed(1, address="fd00::2").view) == 1


def test_only_voters_are_silent_for_the_quorum() -> None:
    view = nodes(3, VOTER, VOTER, LEARNER).view
    states = (voter(1), voter(2, is_reached=False), learner(3, is_reached=False))
    assert unanswering_members(view, states) == {2}


def test_a_member_is_silent_after_some_looks_in_a_row_and_until_then_it_is_not_certain() -> None:
    one, two = NodeUid(1), NodeUid(2)
    silence = MemberSilence()
    assert silence.nodes == frozenset()
    for look in range(1, SILENT_LOOKS + 1):
        silence = silence.after([two])
        assert silence.nodes == (frozenset({two}) if look == SILENT_LOOKS else None)
    assert silence.after([one, two]).nodes is None
    assert silence.after([]).nodes == frozenset()
    assert silence.after([]).after([two]).nodes is None
