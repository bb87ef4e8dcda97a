"""The successor's table, and the proof that a candidate needs."""

import itertools
from dataclasses import replace

import pytest

from shardwright.model.database import Handoff, Role
from shardwright.model.ids import EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import MoveState
from shardwright.model.seen import BusyCommand, EndpointProcessSeen, EndpointSeen, EndpointState, Health, ServerSeen
from shardwright.moves import handoff_rules as rules
from shardwright.moves.handoff_rules import CandidateState, EndpointsState, OldPrimary, Recovery, recovery
from testkit import moves
from testkit.builders import NOW, cluster

ALL = list(itertools.product(OldPrimary, CandidateState, EndpointsState))


@pytest.mark.parametrize(("old", "candidate", "endpoints"), ALL)
def test_the_table_is_total(old: OldPrimary, candidate: CandidateState, endpoints: EndpointsState) -> None:
    what, why = recovery(old, candidate, endpoints)
    assert isinstance(what, Recovery)
    assert why


def test_every_rule_is_reached() -> None:
    reached = {recovery(*found)[1] for found in ALL}
    assert reached == {rule.why for rule in rules.RULES}


@pytest.mark.parametrize("endpoints", list(EndpointsState))
@pytest.mark.parametrize("old", [o for o in OldPrimary if o is not OldPrimary.WRITABLE])
def test_a_promoted_candidate_is_never_taken_back(old: OldPrimary, endpoints: EndpointsState) -> None:
    assert recovery(old, CandidateState.PRIMARY, endpoints)[0] is Recovery.FORWARD


@pytest.mark.parametrize("endpoints", list(EndpointsState))
@pytest.mark.parametrize("candidate", list(CandidateState))
def test_an_old_primary_that_was_demoted_never_just_gets_its_fence_lifted(
    candidate: CandidateState, endpoints: EndpointsState
) -> None:
    assert recovery(OldPrimary.REPLICA, candidate, endpoints)[0] is not Recovery.UNDO


@pytest.mark.parametrize(("old", "endpoints"), list(itertools.product(OldPrimary, EndpointsState)))
def test_an_unreachable_candidate_decides_nothing_unless_the_promotion_was_impossible(
    old: OldPrimary, endpoints: EndpointsState
) -> None:
    expected = Recovery.UNDO if old is OldPrimary.WRITABLE else Recovery.WAIT
    assert recovery(old, CandidateState.UNREACHABLE, endpoints)[0] is expected


@pytest.mark.parametrize("endpoints", list(EndpointsState))
def test_nothing_goes_forward_past_a_primary_that_may_be_writable_behind_its_silence(endpoints: EndpointsState) -> None:
    assert recovery(OldPrimary.UNREACHABLE, CandidateState.REPLICA, endpoints)[0] is Recovery.WAIT


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], EndpointsState.OLD),
        ([(4, None)], EndpointsState.OLD),
        ([(4, 5)], EndpointsState.HELD),
        ([(4, 5), (5, None)], EndpointsState.NEW),
        ([(6, None)], EndpointsState.NEW),
    ],
)
def test_endpoints_are_classified_by_the_furthest(seen: list[tuple[int, int | None]], expected: EndpointsState) -> None:
    states = [EndpointSeen(EndpointUid("1:1"), EndpointState.LISTENING, g, h) for g, h in seen]
    assert rules.endpoints_state(states, generation=5) is expected


@pytest.mark.parametrize(
    ("changes", "old", "candidate"),
    [
        ({}, OldPrimary.WRITABLE, CandidateState.PRIMARY),
        ({"is_fenced": True}, OldPrimary.FENCED, CandidateState.PRIMARY),
        ({"role": Role.REPLICA}, OldPrimary.REPLICA, CandidateState.REPLICA),
        ({"role": Role.REPLICA, "is_fenced": True}, OldPrimary.REPLICA, CandidateState.REPLICA),
        ({"role": None}, OldPrimary.UNREACHABLE, CandidateState.UNREACHABLE),
        ({"health": Health.TIMEOUT}, OldPrimary.UNREACHABLE, CandidateState.UNREACHABLE),
        ({"health": Health.LOADING}, OldPrimary.UNREACHABLE, CandidateState.UNREACHABLE),
        (None, OldPrimary.UNREACHABLE, CandidateState.UNREACHABLE),
    ],
)
def test_servers_are_classified_by_what_they_answer(
    changes: dict[str, object] | None, old: OldPrimary, candidate: CandidateState
) -> None:
    seen = None if changes is None else replace(_pair()[0], **changes)  # type: ignore[arg-type]
    assert rules.old_primary_state(seen, has_ended=False) is old
    assert rules.candidate_state(seen, has_ended=False) is candidate
    # That it has ended outweighs an answer from before.
    assert rules.old_primary_state(seen, has_ended=True) is OldPrimary.GONE
    assert rules.candidate_state(seen, has_ended=True) is CandidateState.GONE


def test_an_attempt_that_ends_early_names_who_kept_it() -> None:
    assert rules.busy_reason(()) is None
    busy = rules.busy_reason([BusyCommand(f"10.0.0.{n}:5", "EVAL") for n in range(9)])
    assert busy is not None
    assert busy.code == rules.BUSY_CODE
    assert "10.0.0.2" in busy.text
    assert "10.0.0.3" not in busy.text, "three are enough"
    late = rules.late_reason(NodeUid(7), "no answer")
    assert (late.code, late.node_uid, late.text) == (rules.LATE_CODE, 7, "no answer")
    assert "node 7" in late.remedy
    assert {late.code, busy.code, rules.too_late_reason().code} <= rules.PASSING_CODES


def _pair() -> tuple[ServerSeen, ServerSeen]:
    view = cluster(nodes=3).with_database(on=((1, 2),)).view
    return view.servers[ShardUid(1)], view.servers[ShardUid(2)]


def test_a_healthy_pair_is_proven() -> None:
    view = cluster(nodes=3).with_database(on=((1, 2),)).view
    primary, candidate = _pair()
    group, old = view.groups[GroupUid("1:1")], view.shards[ShardUid(1)]
    address = view.nodes[old.node_uid].address
    assert rules.unproven(group, old, address, primary=primary, candidate=candidate) == ()


@pytest.mark.parametrize(
    ("primary_changes", "candidate_changes", "code"),
    [
        ({"health": Health.TIMEOUT}, {}, "primary_unavailable"),
        ({"role": Role.REPLICA}, {}, "primary_not_primary"),
        ({"is_fenced": True}, {}, "primary_fenced"),
        ({}, {"health": Health.LOADING}, "replica_unavailable"),
        ({}, {"role": Role.PRIMARY}, "replica_not_attached"),
        ({}, {"primary_port": 1}, "replica_of_another"),
        ({}, {"primary_address": "127.9.9.9"}, "replica_of_another"),
        ({}, {"is_link_up": False}, "replica_link_down"),
        ({}, {"is_syncing": True}, "replica_syncing"),
        ({}, {"replication_id": "other"}, "replication_id_differs"),
        ({"keys": 3}, {"keys": 0}, "replica_empty"),
        ({}, {"is_fenced": True}, "replica_fenced"),
    ],
)
def test_each_missing_proof_is_named(
    primary_changes: dict[str, object], candidate_changes: dict[str, object], code: str
) -> None:
    view = cluster(nodes=3).with_database(on=((1, 2),)).view
    primary, candidate = _pair()
    group, old = view.groups[GroupUid("1:1")], view.shards[ShardUid(1)]
    reasons = rules.unproven(
        group,
        old,
        view.nodes[old.node_uid].address,
        primary=replace(primary, **primary_changes),  # type: ignore[arg-type]
        candidate=replace(candidate, **candidate_changes),  # type: ignore[arg-type]
    )
    assert [r.code for r in reasons] == [code]


def test_an_empty_replica_of_an_empty_primary_is_proven_and_a_pending_handoff_is_not() -> None:
    view = cluster(nodes=3).with_database(on=((1, 2),)).view
    primary, candidate = (replace(seen, keys=0) for seen in _pair())
    group, old = view.groups[GroupUid("1:1")], view.shards[ShardUid(1)]
    address = view.nodes[old.node_uid].address
    assert rules.unproven(group, old, address, primary=primary, candidate=candidate) == ()
    pending = replace(group, handoff=Handoff(ShardUid(1), ShardUid(2), 9, 1, NOW))
    codes = [r.code for r in rules.unproven(pending, old, address, primary=primary, candidate=candidate)]
    assert codes == ["handoff_pending"]


def test_bound_and_listening_nodes_are_held_once_each() -> None:
    assert rules.nodes_to_hold((NodeUid(2),), (NodeUid(2), NodeUid(1))) == (NodeUid(1), NodeUid(2))


def test_both_nodes_of_a_rebind_may_serve_the_endpoint() -> None:
    own, other = EndpointUid("1:1"), EndpointUid("2:1")
    rebind = moves.rebind(state=MoveState.HANDOFF, from_node=NodeUid(3), to_node=NodeUid(1))
    assert rules.nodes_of_rebinds([rebind], [own]) == (NodeUid(1), NodeUid(3))
    assert rules.nodes_of_rebinds([rebind], [other]) == ()
    for state in EndpointState:
        seen = EndpointProcessSeen(NodeUid(1), NOW, answers=True, endpoints=(EndpointSeen(own, state),))
        assert rules.serves(seen, own) is (state in (EndpointState.LISTENING, EndpointState.DRAINING))
        assert not rules.serves(seen, other)
