"""What is forgotten, and what stays although it is old."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from shardwright.leader.retention import DELETIONS_AT_ONCE, decide_retention, surplus_events
from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.cluster import RemovedNode
from shardwright.model.ids import ActionUid, JoinTokenUid, MoveUid, NodeUid
from shardwright.model.leader_change import LeaderChange
from shardwright.model.move import Move, MoveState
from shardwright.model.trust import CLOCK_OFF_MAX, CertificateRole, IssuedCertificate, JoinToken
from shardwright.model.view import Delete
from testkit.builders import NOW, ClusterBuilder, cluster
from testkit.moves import handoff_move

KEPT = timedelta(days=7)
BARE = cluster(3).with_policy(action_retention_s=int(KEPT.total_seconds()))
NONE: frozenset[ActionUid] = frozenset()
FIRST = ActionUid("action-1")


def ended(*, at: datetime | None = NOW, status: ActionStatus = ActionStatus.COMPLETED, node: int = 1) -> ClusterBuilder:
    return BARE.with_action(ActionName.MAINTENANCE_ON, node, status=status, ended_at=at)


def move(uid: str, *, action: str | None = "action-1", **changes: object) -> Move:
    fields = {"uid": MoveUid(uid), "action_uid": None if action is None else ActionUid(action)}
    return handoff_move(**{**fields, "state": MoveState.DONE, "ended_at": NOW, **changes})


def forgotten(builder: ClusterBuilder, *, after: timedelta = KEPT, shown: frozenset[ActionUid] = NONE) -> list[object]:
    writes = decide_retention(builder.view, NOW + after, last_actions=shown).writes
    assert all(isinstance(write, Delete) for write in writes)
    return [getattr(write.record, "uid", None) for write in writes]


def test_an_ended_action_and_its_moves_are_forgotten_together_when_their_time_is_over() -> None:
    builder = ended().with_move(move("a-1")).with_move(move("a-2")).with_move(move("b-1", action="action-9"))
    assert forgotten(builder, after=KEPT - timedelta(seconds=1)) == []
    assert forgotten(builder) == ["a-1", "a-2", "action-1"]


def test_an_action_that_never_began_counts_from_its_creation() -> None:
    assert forgotten(ended(at=None, status=ActionStatus.CANCELLED)) == ["action-1"]
    late = ended(at=NOW + timedelta(hours=1))
    assert forgotten(late) == []


@pytest.mark.parametrize("status", list(ActionStatus))
def test_a_live_action_is_never_forgotten(status: ActionStatus) -> None:
    assert bool(forgotten(ended(status=status), after=10 * KEPT)) == status.is_terminal


def test_the_last_action_of_its_name_stays_as_long_as_its_node_is_shown() -> None:
    builder = ended()
    assert forgotten(builder, after=10 * KEPT, shown=frozenset({FIRST})) == []
    without = ClusterBuilder(builder.view.with_writes([Delete(builder.view.nodes[NodeUid(1)])]))
    assert forgotten(without, shown=frozenset({FIRST})) == ["action-1"]
    for retained, uids in ((KEPT + timedelta(seconds=1), []), (KEPT, ["action-1", 1])):
        removed = RemovedNode(NodeUid(1), NOW, NOW + retained)
        assert forgotten(without.with_records(removed), shown=frozenset({FIRST})) == uids


def test_a_move_of_no_action_is_forgotten_when_it_has_ended_long_ago() -> None:
    builder = BARE.with_move(move("r-1", action=None)).with_move(move("r-2", action=None, state=MoveState.SYNCING))
    builder = builder.with_move(move("r-3", action=None, ended_at=NOW + timedelta(seconds=1)))
    builder = builder.with_move(move("r-4", action=None, ended_at=None, state=MoveState.CANCELLED))
    assert forgotten(builder) == ["r-1", "r-4"]


def test_the_result_of_a_change_of_the_leader_is_forgotten_like_an_action() -> None:
    change = LeaderChange(NodeUid(1), 1, NOW, "admin@example.com")
    assert decide_retention(BARE.with_records(change).view, NOW + 10 * KEPT, last_actions=NONE).writes == ()
    ended = BARE.with_records(replace(change, status=ActionStatus.COMPLETED, ended_at=NOW))
    assert decide_retention(ended.view, NOW + KEPT - timedelta(seconds=1), last_actions=NONE).writes == ()
    (write,) = decide_retention(ended.view, NOW + KEPT, last_actions=NONE).writes
    assert isinstance(write, Delete)
    assert ended.view.with_writes([write]).leader_change is None


def test_an_expired_token_is_forgotten_whether_it_was_used_or_not() -> None:
    expires_at = NOW + timedelta(hours=24)
    token = JoinToken(JoinTokenUid("aaaaaaaa"), "hash", NOW, expires_at)
    builder = BARE.with_records(token, replace(token, uid=JoinTokenUid("bbbbbbbb"), used_by=NodeUid(2)))
    assert forgotten(builder, after=timedelta(hours=24) - timedelta(seconds=1)) == []
    assert forgotten(builder, after=timedelta(hours=24)) == ["aaaaaaaa", "bbbbbbbb"]


def test_a_certificate_is_forgotten_when_no_clock_accepts_it_any_more_also_a_revoked_one() -> None:
    """Before that, a deleted revocation would be a certificate that is valid again."""
    lifetime = timedelta(days=90)
    issued = IssuedCertificate("01", NodeUid(1), CertificateRole.NODE, NOW, NOW + lifetime)
    builder = BARE.with_records(issued, replace(issued, serial="02", revoked_at=NOW))
    late = lifetime + CLOCK_OFF_MAX
    assert decide_retention(builder.view, NOW + late, last_actions=NONE).writes == ()
    writes = decide_retention(builder.view, NOW + late + timedelta(seconds=1), last_actions=NONE).writes
    assert [w.record.serial for w in writes if isinstance(w.record, IssuedCertificate)] == ["01", "02"]


def test_a_bounded_number_is_forgotten_at_once_and_the_rest_later() -> None:
    builder = BARE
    for number in range(DELETIONS_AT_ONCE + 5):
        builder = builder.with_move(move(f"r-{number}", action=None))
    writes = decide_retention(builder.view, NOW + KEPT, last_actions=NONE).writes
    assert len(writes) == DELETIONS_AT_ONCE
    rest = ClusterBuilder(builder.view.with_writes(writes))
    assert len(forgotten(rest)) == 5


def test_the_oldest_events_go_when_there_are_too_many() -> None:
    events = [f"events/{number:03d}" for number in range(100)]
    assert surplus_events(events, limit=100) == []
    assert surplus_events(events, limit=97) == events[:3]
    assert len(surplus_events(events, limit=0)) == DELETIONS_AT_ONCE
