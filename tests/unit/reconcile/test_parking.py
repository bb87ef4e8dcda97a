"""A strict database whose primary's machine is out of reach: when a copy takes over, and when none may."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shardwright.model.codes import Code
from shardwright.model.commands import Attach, Park
from shardwright.model.database import GroupPhase, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.parking import Parked, Parking
from shardwright.model.reason import Grade
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, Health, ProcessState, Sighting
from shardwright.model.view import ClusterView
from shardwright.reconcile.group import decide_group
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, PRIMARY, REPLICA, THIRD = GroupUid("1:1"), ShardUid(1), ShardUid(2), ShardUid(3)
HISTORY = "replication-1:1"
SILENT_SINCE = NOW - timedelta(seconds=3.2)
TERM = 1


def cut_off(*, copies: int = 2, is_strict: bool = True, silent_since: datetime = SILENT_SINCE) -> ClusterBuilder:
    """The primary's machine, node 1, answers no one. Its replicas have not heard of it, and neither have the endpoint
    processes of the other nodes."""
    builder = cluster(nodes=4, leader=2).with_database(
        on=(tuple(range(1, copies + 1)),), is_strict=is_strict, is_strict_everywhere=is_strict
    )
    settings = builder.view.databases[DatabaseUid(1)].settings_fingerprint
    builder = builder.with_records(*(replace(s, settings=settings) for s in builder.view.shards.values()))
    endpoint = next(iter(builder.view.endpoints.values()))
    builder = builder.with_records(replace(endpoint, nodes=tuple(NodeUid(n) for n in (1, 2, 3, 4))))
    builder = builder.with_server(
        PRIMARY, health=Health.TIMEOUT, unanswered_since=silent_since, replication_id="", replication_id_lately=HISTORY
    )
    for uid in range(2, copies + 1):
        builder = builder.with_server(uid, is_link_up=True, heard_primary_s=4, offset=1000 + uid)
    for node in (1, 2, 3, 4):
        builder = asked(builder, node, answers=node != 1, silent_s=3.0)
    return builder


def asked(builder: ClusterBuilder, node: int, *, answers: bool = True, silent_s: float | None) -> ClusterBuilder:
    """What the endpoint process of a node says of the database's server."""
    uid = next(iter(builder.view.endpoints))
    seen = EndpointSeen(uid, EndpointState.LISTENING, generation=1, server_silent_s=silent_s)
    process = EndpointProcessSeen(NodeUid(node), NOW, answers=answers, endpoints=(seen,) if answers else ())
    processes = {**builder.view.endpoint_processes, NodeUid(node): process}
    return ClusterBuilder(replace(builder.view, endpoint_processes=processes))


def decide(builder: ClusterBuilder) -> Decision:
    return decide_group(builder.view.groups[GROUP], builder.view, NOW)


def group_after(decision: Decision) -> SlotGroup | None:
    return next((w.record for w in decision.writes if isinstance(w.record, SlotGroup)), None)


def events(decision: Decision) -> list[EventKind]:
    return [w.record.kind for w in decision.writes if isinstance(w.record, Event)]


def parking(builder: ClusterBuilder, *parked: Parked, term: int = TERM) -> ClusterBuilder:
    group = replace(builder.view.groups[GROUP], parking=Parking(PRIMARY, term, NOW, parked))
    return builder.with_records(group)


def parked(uid: int, *, offset: int = 1000, history: str = HISTORY, incarnation: int = 1) -> Parked:
    return Parked(ShardUid(uid), incarnation, history, offset)


# -- the beginning -----------------------------------------------------------------------------------------------------


def test_it_begins_when_no_one_who_answers_hears_the_primary() -> None:
    decision = decide(cut_off())
    after = group_after(decision)
    assert after is not None
    assert after.parking == Parking(PRIMARY, TERM, NOW)
    assert (after.primary, after.generation, after.phase) == (PRIMARY, 1, GroupPhase.SERVING), "nothing else changes yet"
    assert events(decision) == [EventKind.FAILOVER_BEGUN]
    assert decision.commands == ()


@pytest.mark.parametrize("health", [Health.TIMEOUT, Health.UNREACHABLE, Health.REFUSED])
def test_how_its_machine_is_silent_does_not_matter(health: Health) -> None:
    assert group_after(decide(cut_off().with_server(PRIMARY, health=health))) is not None


def test_not_in_default_mode() -> None:
    assert group_after(decide(cut_off(is_strict=False))) is None


def test_not_while_an_endpoint_process_may_not_know_of_the_mode() -> None:
    """It was switched on while that process did not answer."""
    assert group_after(decide(cut_off().with_database_changed(1, is_strict_everywhere=False))) is None


def test_not_before_it_has_been_silent_for_three_seconds() -> None:
    since = NOW - timedelta(seconds=2.9)
    decision = decide(cut_off(silent_since=since))
    assert group_after(decision) is None
    assert decision.wake_at == since + timedelta(seconds=3)


def test_not_while_its_machine_answers() -> None:
    """It hangs, or executes a long script: that is no cut."""
    assert group_after(decide(cut_off().with_server(PRIMARY, machine_heard_since=SILENT_SINCE))) is None


@pytest.mark.parametrize("state", [ProcessState.UNKNOWN, ProcessState.ABSENT])
def test_not_without_a_process_that_could_be_looked_for(state: ProcessState) -> None:
    assert group_after(decide(cut_off().with_process(PRIMARY, state))) is None


def test_a_link_that_broke_late_does_not_prevent_it() -> None:
    """A server notices the silence of a frozen primary only after ten seconds; the leader may be newer than that."""
    builder = cut_off(silent_since=NOW - timedelta(seconds=20)).with_server(REPLICA, is_link_up=False, link_down_s=4)
    assert group_after(decide(builder)) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"heard_primary_s": 2},
        {"is_link_up": False, "link_down_s": 1},
        {"at": NOW - timedelta(seconds=1)},
    ],
    ids=["it hears it", "it lost it a second ago", "it was looked at too early"],
)
def test_not_while_a_replica_may_have_heard_of_it(changes: dict[str, Any]) -> None:
    decision = decide(cut_off().with_server(REPLICA, **changes))
    assert group_after(decision) is None
    reasons = [r for r in decision.reasons if r.code is Code.PRIMARY_OUT_OF_REACH]
    assert "shard 2" in reasons[0].text
    assert decision.wake_at == NOW + timedelta(seconds=0.1)


def test_a_replica_that_follows_another_server_is_no_witness() -> None:
    builder = cut_off(copies=3).with_server(THIRD, primary_port=1, heard_primary_s=0, is_link_up=False)
    assert group_after(decide(builder)) is not None


@pytest.mark.parametrize("silent_s", [None, 0.0, 1.0])
def test_not_while_an_endpoint_process_reaches_it_or_has_not_said(silent_s: float | None) -> None:
    decision = decide(asked(cut_off(), 3, silent_s=silent_s))
    assert group_after(decision) is None
    reasons = [r for r in decision.reasons if r.code is Code.PRIMARY_OUT_OF_REACH]
    assert "node 3" in reasons[0].text
    assert reasons[0].grade is Grade.SOFT_LIMIT


def test_an_endpoint_process_that_does_not_answer_is_no_witness() -> None:
    assert group_after(decide(asked(cut_off(), 3, answers=False, silent_s=None))) is not None


@pytest.mark.parametrize(
    "changes", [{"replication_id": "another"}, {"is_syncing": True}, {"role": Role.PRIMARY}, {"health": Health.TIMEOUT}]
)
def test_not_without_a_copy_that_could_take_over(changes: dict[str, Any]) -> None:
    decision = decide(cut_off().with_server(REPLICA, **changes))
    assert group_after(decision) is None


# -- while it lasts ----------------------------------------------------------------------------------------------------


def test_every_other_copy_is_parked() -> None:
    decision = decide(parking(cut_off(copies=3)))
    assert decision.commands == (Park(REPLICA), Park(THIRD))
    assert decision.writes == ()


def test_a_copy_that_is_to_go_is_parked_too() -> None:
    """The old copy of a move still follows the primary and confirms its writes."""
    builder = parking(cut_off(copies=3), parked(2))
    third = replace(builder.view.shards[THIRD], wanted=ShardWanted.GONE)
    decision = decide(builder.with_records(third))
    assert decision.commands == (Park(THIRD),)


def test_a_copy_that_has_ended_need_not_be_parked() -> None:
    builder = parking(cut_off(copies=3), parked(2)).with_dead_shard(THIRD)
    after = group_after(decide(builder))
    assert after is not None
    assert after.primary == REPLICA


def test_a_copy_out_of_reach_blocks_and_is_named() -> None:
    builder = parking(cut_off(copies=3), parked(2)).with_server(THIRD, health=Health.TIMEOUT)
    decision = decide(builder)
    assert (decision.writes, decision.commands) == ((), ())
    (reason,) = decision.reasons
    assert (reason.code, reason.grade) == (Code.PRIMARY_OUT_OF_REACH, Grade.HARD_LIMIT)
    assert "shard 3" in reason.text
    assert reason.remedy == "bring back node 1 or 3, or if the machine is off: shardwright node declare-off 3"


def test_a_restarted_copy_is_parked_again() -> None:
    builder = parking(cut_off(), parked(2))
    builder = builder.with_records(replace(builder.view.shards[REPLICA], incarnation=2))
    assert decide(builder).commands == (), "it does not answer yet"
    assert decide(builder.with_healthy_shard(2)).commands == (Park(REPLICA),)


def test_the_copy_with_the_highest_offset_takes_over() -> None:
    """Whatever the in-sync marks say: a copy without one may have confirmed the last write."""
    builder = parking(cut_off(copies=3), parked(2, offset=1000), parked(3, offset=1001))
    builder = builder.with_records(replace(builder.view.shards[THIRD], in_sync_generation=-1))
    decision = decide(builder)
    after = group_after(decision)
    assert after is not None
    assert (after.primary, after.generation, after.phase) == (THIRD, 2, GroupPhase.SERVING)
    assert after.parking is None
    shards = {w.record.uid: w.record for w in decision.writes if isinstance(w.record, Shard)}
    assert shards[THIRD].in_sync_generation == 2
    assert events(decision) == [EventKind.FAILOVER]


@pytest.mark.parametrize("other", [parked(3, offset=2000, history="another"), parked(3, offset=-1)])
def test_a_copy_of_another_history_or_without_whole_data_does_not_take_over(other: Parked) -> None:
    after = group_after(decide(parking(cut_off(copies=3), parked(2), other)))
    assert after is not None
    assert after.primary == REPLICA


def test_without_any_heir_it_waits_and_says_so() -> None:
    decision = decide(parking(cut_off(), parked(2, offset=-1)))
    assert (decision.writes, decision.commands) == ((), ())
    (reason,) = decision.reasons
    assert reason.code is Code.PRIMARY_OUT_OF_REACH
    assert reason.remedy == "repair node 1 or its network, or if its machine is off: shardwright node declare-off 1"


def test_it_is_withdrawn_when_the_primary_answers_again() -> None:
    builder = parking(cut_off(), parked(2)).with_server(
        PRIMARY, health=Health.OK, unanswered_since=None, role=Role.PRIMARY, replication_id=HISTORY
    )
    decision = decide(builder)
    after = group_after(decision)
    assert after is not None
    assert (after.primary, after.generation, after.parking) == (PRIMARY, 1, None)
    assert events(decision) == [EventKind.FAILOVER_WITHDRAWN]
    attached = decide(builder.with_writes(*decision.writes).with_server(REPLICA, primary_port=1, is_link_up=False))
    assert Attach(REPLICA, PRIMARY) in attached.commands


def test_it_is_withdrawn_when_the_database_is_strict_no_longer() -> None:
    """From then on, an endpoint process may answer writes that only the old primary has."""
    decision = decide(parking(cut_off(), parked(2)).with_database_changed(1, is_strict=False))
    after = group_after(decision)
    assert after is not None
    assert (after.primary, after.parking) == (PRIMARY, None)
    assert events(decision) == [EventKind.FAILOVER_WITHDRAWN]


def test_a_later_leader_parks_every_copy_again() -> None:
    builder = parking(cut_off(), parked(2)).with_leader(3, term=TERM + 1)
    after = group_after(decide(builder))
    assert after is not None
    assert after.parking == Parking(PRIMARY, TERM + 1, NOW)


def test_a_proof_of_the_primarys_end_leads_to_the_usual_failover() -> None:
    builder = parking(cut_off(), parked(2)).with_sighting(PRIMARY, Sighting.REBOOTED)
    noted = NOW - timedelta(seconds=1)
    primary = replace(builder.view.shards[PRIMARY], missing_since=noted, ended_since=noted)
    builder = builder.with_records(primary).with_server(REPLICA, primary_port=1, is_link_up=False, link_down_s=60)
    after = group_after(decide(builder))
    assert after is not None
    assert (after.primary, after.parking) == (REPLICA, None)


def test_a_group_that_starts_over_parks_no_more() -> None:
    builder = parking(cut_off()).with_sighting(PRIMARY, Sighting.REBOOTED).with_dead_shard(REPLICA)
    noted = NOW - timedelta(seconds=1)
    builder = builder.with_records(replace(builder.view.shards[PRIMARY], missing_since=noted, ended_since=noted))
    after = group_after(decide(builder))
    assert after is not None
    assert (after.phase, after.parking) == (GroupPhase.STARTING, None)


def test_without_a_leader_on_record_nothing_is_decided() -> None:
    """A leader that has just lost its lease."""
    for builder in (cut_off(), parking(cut_off(), parked(2))):
        view: ClusterView = replace(builder.view, leadership=None)
        assert decide_group(view.groups[GROUP], view, NOW).writes == ()
