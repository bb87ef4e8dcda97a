"""Which nodes may go into maintenance at the same time."""

from datetime import timedelta

import pytest

from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.model.reason import Grade
from shardwright.model.store_member import StoreRole
from shardwright.model.view import ClusterView
from shardwright.plan.quorum import Voters, quorum_refusals, returning_voters, unknown_voters, voters_of
from testkit.builders import NOW, ClusterBuilder, cluster


def refused(builder: ClusterBuilder, uid: str = "action-1") -> list[str]:
    return [r.code for r in quorum_refusals(builder.view, builder.view.actions[ActionUid(uid)], voters_of(builder.view))]


@pytest.mark.parametrize(("nodes", "is_allowed"), [(1, False), (2, False), (3, True), (4, True), (5, True)])
def test_one_node_may_go_when_a_majority_of_all_members_remains(nodes: int, is_allowed: bool) -> None:
    builder = cluster(nodes).with_action(ActionName.MAINTENANCE_ON, 1)
    assert (refused(builder) == []) == is_allowed


def test_a_small_cluster_is_told_what_it_takes() -> None:
    builder = cluster(2).with_action(ActionName.MAINTENANCE_ON, 1)
    reason = quorum_refusals(builder.view, builder.view.actions[ActionUid("action-1")], voters_of(builder.view))[0]
    assert "at least three nodes" in reason.text
    assert reason.remedy == "add a node"


def test_nodes_that_are_down_or_in_maintenance_count_as_absent() -> None:
    builder = cluster(3).with_action(ActionName.MAINTENANCE_ON, 1)
    assert refused(builder.without_daemon(2)) == ["no_quorum", "node_away"]
    assert refused(builder.with_node_changed(2, is_quorum_only=True)) == ["no_quorum", "node_away"]
    five = cluster(5).with_action(ActionName.MAINTENANCE_ON, 1).without_daemon(2)
    assert refused(five) == []
    assert refused(five.with_node_changed(3, is_quorum_only=True)) == ["no_quorum", "node_away", "node_away"]


def test_the_node_itself_counts_once() -> None:
    builder = cluster(3).with_action(ActionName.MAINTENANCE_ON, 1)
    assert refused(builder.without_daemon(1).with_node_changed(1, is_quorum_only=True)) == []


def test_of_two_that_wait_only_the_older_counts() -> None:
    builder = cluster(3).with_action(ActionName.MAINTENANCE_ON, 1)
    builder = builder.with_action(ActionName.MAINTENANCE_ON, 2, created_at=NOW + timedelta(seconds=1))
    assert refused(builder, "action-1") == []
    assert refused(builder, "action-2") == ["no_quorum", "node_away"]


def test_one_that_has_passed_counts_whatever_its_age() -> None:
    builder = cluster(3).with_action(ActionName.MAINTENANCE_ON, 1)
    builder = builder.with_action(ActionName.REMOVE, 2, created_at=NOW + timedelta(seconds=1), status=ActionStatus.RUNNING)
    assert refused(builder, "action-1") == ["no_quorum", "node_away"]


def test_an_ended_action_does_not_count() -> None:
    builder = cluster(3).with_action(ActionName.MAINTENANCE_ON, 2, status=ActionStatus.FAILED)
    assert refused(builder.with_action(ActionName.MAINTENANCE_ON, 1), "action-2") == []


def test_a_removal_must_leave_a_majority_of_those_who_are_members_behind_it() -> None:
    builder = cluster(4).with_action(ActionName.REMOVE, 1)
    assert refused(builder) == []
    assert refused(builder.without_daemon(2)) == []
    two_away = builder.without_daemon(2).with_node_changed(3, is_quorum_only=True)
    reasons = quorum_refusals(two_away.view, two_away.view.actions[ActionUid("action-1")], voters_of(two_away.view))
    assert [(r.code, r.node_uid) for r in reasons] == [("no_quorum", None), ("node_away", 2), ("node_away", 3)]
    assert "1 of 3 members would be available; a majority needs 2" in reasons[0].text
    assert reasons[0].remedy == "start the daemon of node 2"


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_small_cluster_may_shrink_as_long_as_all_of_it_is_there(nodes: int) -> None:
    builder = cluster(nodes).with_action(ActionName.REMOVE, 1)
    assert (refused(builder) == []) == (nodes > 1)


def test_a_node_that_is_away_already_takes_no_vote_along() -> None:
    builder = cluster(3).with_action(ActionName.REMOVE, 1).without_daemon(2).without_daemon(3)
    assert refused(builder) == ["no_quorum", "node_away", "node_away"]
    assert refused(builder.without_daemon(1)) == []
    assert refused(builder.with_node_changed(1, is_quorum_only=True)) == []


def test_a_node_that_may_go_back_into_maintenance_counts_as_absent() -> None:
    builder = cluster(3).with_action(ActionName.MAINTENANCE_ON, 1)
    for was_quorum_only, found in ((True, ["no_quorum", "node_away"]), (False, [])):
        running = builder.with_action(
            ActionName.MAINTENANCE_OFF, 2, status=ActionStatus.RUNNING, was_quorum_only=was_quorum_only
        )
        assert refused(running) == found


# -- members of the store vote -------------------------------------------------------------------------------------------


def members(nodes: int, *voters: int) -> ClusterBuilder:
    """Nodes of which some run a member of the store that votes."""
    builder = cluster(nodes)
    for uid in voters:
        builder = builder.with_node_changed(uid, store_role=StoreRole.VOTER)
    return builder


@pytest.mark.parametrize("name", [ActionName.MAINTENANCE_ON, ActionName.REMOVE])
def test_a_member_may_go_while_a_majority_of_the_members_remains(name: ActionName) -> None:
    builder = members(5, 1, 2, 3).with_action(name, 1)
    assert refused(builder) == []
    assert refused(builder.without_daemon(2)) == ["no_quorum", "node_away"]
    assert refused(builder.without_daemon(4).without_daemon(5)) == [], "they do not vote"


@pytest.mark.parametrize("name", [ActionName.MAINTENANCE_ON, ActionName.REMOVE])
def test_a_node_without_a_member_costs_no_vote(name: ActionName) -> None:
    builder = cluster(5).with_action(name, 4).without_daemon(2).without_daemon(5)
    assert refused(builder) == ["no_quorum", "node_away", "node_away"], "in a store that is a file, it votes"
    builder = members(5, 1, 2, 3).with_action(name, 4).without_daemon(2).without_daemon(5)
    assert refused(builder) == []
    assert refused(builder.with_node_changed(4, store_role=StoreRole.LEARNER)) == [], "a learner does not vote"


@pytest.mark.parametrize("name", [ActionName.MAINTENANCE_ON, ActionName.REMOVE])
def test_a_member_that_does_not_answer_counts_as_absent_although_its_node_is_there(name: ActionName) -> None:
    builder = members(5, 1, 2, 3).with_action(name, 1)
    silent = ClusterBuilder(builder.view.changed(silent_members=frozenset({NodeUid(3)})))
    reasons = quorum_refusals(silent.view, silent.view.actions[ActionUid("action-1")], voters_of(silent.view))
    assert [(r.code, r.node_uid) for r in reasons] == [("no_quorum", None), ("node_away", 3)]
    assert "does not answer" in reasons[1].text
    in_maintenance = silent.with_node_changed(3, is_quorum_only=True)
    assert refused(in_maintenance) == ["no_quorum", "node_away"], "it counts once"


def unknown(builder: ClusterBuilder, uid: str = "action-1") -> list[str]:
    view = builder.view
    return [r.code for r in unknown_voters(view, view.actions[ActionUid(uid)], voters_of(view))]


@pytest.mark.parametrize("name", [ActionName.MAINTENANCE_ON, ActionName.REMOVE])
def test_before_the_members_were_asked_nothing_is_said_about_their_majority(name: ActionName) -> None:
    builder = members(5, 1, 2, 3).with_action(name, 1)
    unasked = ClusterBuilder(builder.view.changed(silent_members=None))
    assert (refused(unasked), unknown(unasked)) == ([], ["store_members_unknown"])
    assert unknown(builder) == [], "all of them have answered"
    assert refused(unasked.without_daemon(2)) == ["no_quorum", "node_away"], "whatever they will answer"


def test_the_members_need_not_be_asked_where_they_do_not_count() -> None:
    unasked = ClusterBuilder(members(5, 1, 2, 3).view.changed(silent_members=None))
    assert unknown(unasked.with_action(ActionName.MAINTENANCE_ON, 4)) == [], "it does not vote"
    assert unknown(unasked.with_action(ActionName.REMOVE, 1).without_daemon(1)) == [], "it casts no vote"
    file = ClusterBuilder(cluster(3).view.changed(silent_members=None))
    assert unknown(file.with_action(ActionName.MAINTENANCE_ON, 1)) == []


def test_a_store_with_fewer_than_three_members_is_told_what_it_takes() -> None:
    builder = members(5, 1).with_action(ActionName.MAINTENANCE_ON, 1)
    (reason,) = quorum_refusals(builder.view, builder.view.actions[ActionUid("action-1")], voters_of(builder.view))
    assert "at least three members of the store" in reason.text


@pytest.mark.parametrize("is_down", [True, False])
def test_the_only_member_never_goes(is_down: bool) -> None:
    builder = members(3, 1).with_action(ActionName.REMOVE, 1)
    builder = builder.without_daemon(1) if is_down else builder.with_node_changed(1, is_quorum_only=True)
    assert refused(builder) == ["no_quorum"]


def test_a_member_in_maintenance_still_votes_so_its_removal_costs_a_vote() -> None:
    builder = members(5, 1, 2, 3).with_action(ActionName.REMOVE, 1).with_node_changed(1, is_quorum_only=True)
    assert refused(builder) == []
    assert refused(builder.without_daemon(2)) == ["no_quorum", "node_away"]
    assert refused(builder.without_daemon(2).without_daemon(1)) == [], "it is away: it casts no vote that could be lost"


def test_the_voters_of_a_view() -> None:
    view = cluster(3).view
    assert voters_of(view) == Voters(frozenset(view.nodes))
    two = members(3, 1, 2).with_node_changed(3, store_role=StoreRole.LEARNER).view
    assert voters_of(two) == Voters(frozenset({NodeUid(1), NodeUid(2)}), "members of the store", are_members=True)


def test_a_node_whose_presence_is_missing_for_a_moment_counts_as_absent_and_is_not_let_go_as_down() -> None:
    """The leader does not judge it to be away yet."""
    builder = cluster(3).with_action(ActionName.REMOVE, 1).without_daemon(1).without_daemon(2)
    action = builder.view.actions[ActionUid("action-1")]
    unsure = builder.view.changed(away=frozenset())
    assert [r.code for r in quorum_refusals(unsure, action, voters_of(unsure))] == ["no_quorum", "node_away"]
    sure = builder.view.changed(away=frozenset({NodeUid(1)}))
    assert quorum_refusals(sure, action, voters_of(sure)) == ()


def test_a_refusal_waits_for_nodes_that_were_there_a_moment_ago() -> None:
    """As after an interruption of the store, in which every daemon lost its lease."""
    builder = cluster(3).with_action(ActionName.MAINTENANCE_ON, 1).without_daemon(2)
    action = builder.view.actions[ActionUid("action-1")]

    def waits(view: ClusterView) -> list[tuple[str, int | None]]:
        assert quorum_refusals(view, action, voters_of(view)), "it is no permission"
        return [(r.grade, r.node_uid) for r in returning_voters(view, action, voters_of(view))]

    assert waits(builder.view) == [], "a daemon that does not lead judges no absence"
    assert waits(builder.view.changed(away=frozenset({NodeUid(2)}))) == []
    assert waits(builder.view.changed(away=frozenset())) == [(Grade.SOFT_LIMIT, 2)]
    ended = builder.view.changed(away=frozenset({NodeUid(2)}), returning=frozenset({NodeUid(2)}))
    assert waits(ended) == [(Grade.SOFT_LIMIT, 2)]
    in_maintenance = builder.with_node_changed(3, is_quorum_only=True).view.changed(away=frozenset())
    assert waits(in_maintenance) == [], "the refusal would hold with it, too"


@pytest.mark.parametrize("name", [ActionName.MAINTENANCE_ON, ActionName.REMOVE])
def test_an_action_waits_for_a_new_member_of_the_store_to_vote(name: ActionName) -> None:
    builder = cluster(3).with_action(name, 1)
    for uid, role in ((1, StoreRole.VOTER), (2, StoreRole.VOTER), (3, StoreRole.LEARNER)):
        builder = builder.with_node_changed(uid, store_role=role)
    action = builder.view.actions[ActionUid("action-1")]

    def waits(view: ClusterView) -> list[tuple[str, int | None]]:
        return [(r.code, r.node_uid) for r in returning_voters(view, action, voters_of(view))]

    silent = builder.without_daemon(2).view.changed(away=frozenset({NodeUid(2)}))
    if name is ActionName.MAINTENANCE_ON:
        assert quorum_refusals(builder.view, action, voters_of(builder.view)), "two voters cannot spare one"
        assert waits(builder.view) == [("store_learner_pending", 3)]
    assert waits(silent) == [], "the refusal would hold with it, too"
    alone = builder.with_node_changed(2, store_role=StoreRole.NONE).view
    if name is ActionName.REMOVE:
        assert quorum_refusals(alone, action, voters_of(alone)), "it is the only member"
        assert waits(alone) == [("store_learner_pending", 3)]
