"""What the leader does about a wish for another leader."""

from dataclasses import replace

from shardwright.actions.leader_change import LOOK_AGAIN, decide_leader_change
from shardwright.model.action import ActionStatus
from shardwright.model.cluster import Leadership
from shardwright.model.commands import YieldLeadership
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event
from shardwright.model.ids import NodeUid
from shardwright.model.leader_change import LeaderChange
from testkit.builders import NOW, ClusterBuilder, cluster

WISH = LeaderChange(NodeUid(2), 5, NOW, "admin@example.com")


def led(node: int, *, term: int = 5, wish: LeaderChange = WISH) -> ClusterBuilder:
    builder = cluster(3).with_records(wish)
    return ClusterBuilder(builder.view.changed(leadership=Leadership(NodeUid(node), term)))


def ended(decision: Decision) -> tuple[ActionStatus, str, str]:
    """The result, its text, and the kind of the event."""
    change, event = (write.record for write in decision.writes)
    assert isinstance(change, LeaderChange)
    assert isinstance(event, Event)
    assert (change.ended_at, event.by) == (NOW, "admin@example.com")
    assert decision.commands == ()
    return change.status, change.error_message, event.kind


def decided(builder: ClusterBuilder) -> Decision:
    return decide_leader_change(builder.view, NOW)


def test_the_leader_of_the_same_term_yields() -> None:
    assert decided(led(1)) == Decision(commands=(YieldLeadership(),), wake_at=NOW + LOOK_AGAIN)


def test_the_wanted_daemon_notes_that_it_leads() -> None:
    for term in (5, 6):
        assert ended(decided(led(2, term=term))) == (ActionStatus.COMPLETED, "", "leader_changed")


def test_a_later_leader_does_not_yield_again() -> None:
    """Otherwise two daemons would take turns as long as the wanted one fails to win."""
    status, text, kind = ended(decided(led(3, term=6)))
    assert (status, kind) == (ActionStatus.FAILED, "leader_change_failed")
    assert "node 3 leads" in text
    assert ended(decided(led(1, wish=replace(WISH, term=0))))[0] is ActionStatus.FAILED, "nobody led at the request"


def test_nobody_yields_to_a_daemon_that_is_gone() -> None:
    for builder in (led(1).without_daemon(2), led(1, wish=replace(WISH, node_uid=NodeUid(9)))):
        status, text, _ = ended(decided(builder))
        assert status is ActionStatus.FAILED
        assert "no running daemon" in text


def test_there_is_nothing_to_do_without_a_wish_a_leader_or_after_the_end() -> None:
    assert decide_leader_change(cluster(3, leader=1).view, NOW) is NOTHING
    assert decide_leader_change(led(1).view.changed(leadership=None), NOW) is NOTHING
    for status in ActionStatus:
        if status.is_terminal:
            assert decided(led(1, wish=replace(WISH, status=status))) is NOTHING
