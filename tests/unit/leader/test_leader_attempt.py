"""The judgments of a handoff about what it finds: may it begin, has the candidate caught up, does the fence hold."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.endpoint.protocol import SELF_RELEASE_S, ReleaseResult
from shardwright.leader.attempt import (
    CATCH_UP_S,
    Attempt,
    attempt_of,
    evidence_of,
    fence_failure,
    has_reached,
    lag_reason,
    new_intent,
    next_look_s,
    silent_reasons,
    with_passed_on,
)
from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Handoff, Role
from shardwright.model.ids import EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, Health, ServerSeen
from shardwright.model.view import Delete
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP = GroupUid("1:1")
OLD, NEW = ShardUid(1), ShardUid(2)
ENDPOINT = EndpointUid("1:1")


def ready() -> ClusterBuilder:
    return cluster(3).with_database(on=((1, 2),)).with_endpoints_seen()


def intent_of(builder: ClusterBuilder) -> Handoff | None:
    return new_intent(builder.view, GROUP, OLD, NEW, term=7, now=NOW)


def attempt() -> Attempt:
    view, intent = ready().view, intent_of(ready())
    assert intent is not None
    return attempt_of(view, view.groups[GROUP], intent)


def test_an_intent_names_the_next_generation_and_the_two_processes() -> None:
    builder = ready()
    restarted = builder.with_records(replace(builder.view.shards[NEW], incarnation=4))
    assert intent_of(restarted) == Handoff(OLD, NEW, 2, 7, NOW, 1, 4)


def without_shard(builder: ClusterBuilder, uid: ShardUid) -> ClusterBuilder:
    return builder.with_writes(Delete(builder.view.shards[uid]))


HINDRANCES: dict[str, Callable[[ClusterBuilder], ClusterBuilder]] = {
    "it starts": lambda b: b.with_records(replace(b.view.groups[GROUP], phase=GroupPhase.STARTING)),
    "another handoff is pending": lambda b: b.with_records(
        replace(b.view.groups[GROUP], handoff=Handoff(OLD, NEW, 2, 1, NOW))
    ),
    "another shard is the primary": lambda b: b.with_records(replace(b.view.groups[GROUP], primary=NEW)),
    "the old primary has no record": lambda b: without_shard(b, OLD),
    "the candidate has no record": lambda b: without_shard(b, NEW),
    "the group has no record": lambda b: b.with_writes(Delete(b.view.groups[GROUP])),
}


@pytest.mark.parametrize("hindrance", HINDRANCES)
def test_a_handoff_does_not_begin_when(hindrance: str) -> None:
    assert intent_of(HINDRANCES[hindrance](ready())) is None


def test_an_attempt_knows_both_targets_and_the_processes_that_forward_to_the_old_primary() -> None:
    found = attempt()
    assert (found.old_target.shard_uid, found.old_target.generation, found.old_target.address) == (OLD, 1, "127.0.0.1")
    assert (found.new_target.shard_uid, found.new_target.generation, found.new_target.address) == (NEW, 2, "127.0.0.2")
    assert found.endpoints == ((ENDPOINT, (NodeUid(1),)),)


def seen(uid: ShardUid, **changes: object) -> ServerSeen:
    return replace(ready().view.servers[uid], **changes)  # type: ignore[arg-type]


def test_only_a_replica_reaches_an_offset() -> None:
    assert has_reached(seen(NEW, offset=1000), 1000)
    assert has_reached(seen(NEW, offset=1001), 1000)
    assert not has_reached(seen(NEW, offset=999), 1000)
    assert not has_reached(seen(NEW, offset=1000, role=Role.PRIMARY), 1000), "its offset is its own stream's"


def test_the_candidate_is_looked_at_less_often_the_longer_it_lags_and_not_forever() -> None:
    pauses = [next_look_s(waited) for waited in (0.0, 0.01, 0.1, 1.0)]
    assert pauses == pytest.approx([0.001, 0.001, 0.005, 0.05])
    assert next_look_s(CATCH_UP_S + 0.001) is None


def test_a_candidate_that_lags_is_named_with_both_offsets() -> None:
    reason = lag_reason(Code.REPLICA_LAGS, "it lags", seen(NEW, offset=7), 9)
    assert (reason.code, reason.text) == ("replica_lags", "it lags: 7 of 9")


def test_a_fence_holds_on_a_primary_that_shows_it_and_in_time_only() -> None:
    fenced = seen(OLD, is_fenced=True)
    assert fence_failure(fenced, held_s=0.01) is None
    late = fence_failure(fenced, held_s=SELF_RELEASE_S)
    assert late is not None
    assert late.code == "endpoint_process_late", "the endpoints have let go by themselves"
    for unsure in (seen(OLD, is_fenced=False), seen(OLD, is_fenced=True, role=Role.REPLICA)):
        failure = fence_failure(unsure, held_s=0.01)
        assert failure is not None
        assert failure.code == "fence_failed"


def process(node: int, *, answers: bool = True, has_ended: bool = False, serves: bool = False) -> EndpointProcessSeen:
    endpoints = (EndpointSeen(ENDPOINT, EndpointState.LISTENING),) if serves else ()
    return EndpointProcessSeen(NodeUid(node), NOW, answers=answers, has_ended=has_ended, endpoints=endpoints)


def test_a_silent_endpoint_process_is_named_unless_it_has_ended() -> None:
    reasons = silent_reasons([process(1), process(2, answers=False), process(3, answers=False, has_ended=True)])
    assert [(r.code, r.node_uid) for r in reasons] == [("endpoint_process_late", 2)]


def test_a_process_that_was_passed_the_endpoint_is_held_too() -> None:
    found = with_passed_on(((ENDPOINT, (NodeUid(1),)),), [process(2, serves=True), process(3)])
    assert found == ((ENDPOINT, (1, 2)),)


def test_the_evidence_names_both_servers_and_what_writers_waited() -> None:
    found = attempt()
    found.before, found.fenced, found.candidate = seen(OLD), seen(OLD, offset=81), seen(NEW, offset=81)
    found.fence_ms, found.not_held = 1.23456, (NodeUid(3),)
    found.releases = [ReleaseResult(2.0, 3, 2), ReleaseResult(4.5678, 1, 2), ReleaseResult(0.0, 0, 2)]
    found.began_at, found.released_at = NOW, NOW + timedelta(milliseconds=5)
    after = ServerSeen(NEW, 1, NOW, Health.OK, run_id="run-2", replication_id="new", second_replication_id="replication-1:1")
    evidence = evidence_of(found, after, "handoff")
    assert (evidence.generation, evidence.from_shard, evidence.to_shard) == (2, OLD, NEW)
    assert (evidence.from_run_id, evidence.to_run_id) == ("run-1", "run-2")
    assert (evidence.fenced_offset, evidence.promoted_offset) == (81, 81)
    assert (evidence.replication_id_before, evidence.second_replication_id) == ("replication-1:1", "replication-1:1")
    assert (evidence.fence_ms, evidence.pause_ms, evidence.held_commands) == (1.235, 4.568, 4)
    assert (evidence.finished_by, evidence.not_held_nodes) == ("handoff", (3,))


def test_the_evidence_of_a_recovery_has_what_the_new_primary_says() -> None:
    after = ServerSeen(NEW, 1, NOW, Health.OK, second_offset=78)
    evidence = evidence_of(attempt(), after, "recovery")
    assert (evidence.fenced_offset, evidence.promoted_offset) == (-1, 77)
    assert (evidence.replication_id_before, evidence.pause_ms, evidence.held_commands) == ("", None, 0)
