"""Plans before anything moves: dry run, plan id, explanation."""

import time
from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.api.schemas.v1.plans import explanation_json, preview_json
from shardwright.api.services import node_actions
from shardwright.api.services.explain import Explanation, Verdict, explain
from shardwright.api.services.intent import with_sightings
from shardwright.api.services.preview import Preview, PreviewOutcome, preview
from shardwright.errors import Rejected
from shardwright.model.action import ActionName, ActionStatus
from shardwright.model.database import GroupPhase, ServerKind
from shardwright.model.ids import ActionUid, DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import MoveKind
from shardwright.model.reason import Grade
from shardwright.model.seen import Health, Sighting
from shardwright.model.view import ClusterView
from testkit.builders import GB, MB, NOW, ClusterBuilder, cluster
from testkit.stepper import action_of, run_action
from tests.unit.api.api_looks import look_at

N1 = NodeUid(1)


def previewed(view: ClusterView, word: str = "maintenance_on") -> Preview:
    seen = look_at(view)
    intent = node_actions.start(seen, N1, word, b"", uid=ActionUid("a"))
    return preview(intent.answer, seen.view, intent.writes, NOW)


def explained(view: ClusterView, word: str = "maintenance_on") -> Explanation:
    return explain(look_at(view), N1, word)


def pair() -> ClusterBuilder:
    return cluster(4).with_database(on=((1, 2),)).with_database(on=((1,),)).with_endpoints_seen()


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_plan_contains_time_pause_copies_and_memory() -> None:
    found = preview_json(previewed(pair().view))
    assert found["status"] == "possible"
    assert [m["order"] for m in found["moves"]] == list(range(1, len(found["moves"]) + 1))
    assert found["seconds"] > 0
    assert found["pause_ms"] > 0
    copies = {g["group"]: (g["before"], g["during"], g["after"], g["if_node_off"]) for g in found["groups"]}
    assert copies == {"1:1": (2, 2, 2, 2), "2:1": (1, 1, 1, 1)}
    assert all(t["provisioned_after"] > t["provisioned_before"] and t["peak"] >= t["data"] for t in found["targets"])
    assert {w["code"] for w in found["warnings"]} >= {"single_copy", "scripts_not_passed_on"}


def test_a_plan_warns_about_old_servers() -> None:
    builder = cluster(3).with_database(on=((1,),), server_kind=ServerKind.REDIS, server_version="7.0.15")
    codes = {w.code for w in previewed(builder.view).forecast.warnings}
    assert codes >= {"scan_cursors", "sync_buffers_at_primary"}


def test_replicas_that_stay_do_not_count_while_the_node_is_off() -> None:
    builder = cluster(3).with_database(on=((2, 1),))
    seen = look_at(builder.view)
    intent = node_actions.start(seen, N1, "maintenance_on", b'{"evict_ha_replica": false}', uid=ActionUid("a"))
    found = preview(intent.answer, seen.view, intent.writes, NOW)
    # Nothing has to move: the preview ends at once.
    assert found.moves == ()
    assert found.action.status is ActionStatus.COMPLETED


def test_the_plan_id_identifies_the_plan_and_its_premises() -> None:
    view = pair().view
    plan_uid = previewed(view).plan_uid
    assert previewed(view).plan_uid == plan_uid
    later = replace(look_at(view), now=NOW + timedelta(minutes=1))
    intent = node_actions.start(later, N1, "maintenance_on", b"", uid=ActionUid("b"))
    assert preview(intent.answer, view, intent.writes, later.now).plan_uid == plan_uid, "time alone does not change a plan"
    busier = ClusterBuilder(view).with_server(1, used_memory_bytes=60 * MB).view
    assert previewed(busier).plan_uid == plan_uid, "sizes change all the time"
    assert previewed(view, "remove").plan_uid != plan_uid
    drifted = ClusterBuilder(view).with_node_changed(3, is_closed=True).with_node_changed(4, is_closed=True).view
    assert previewed(drifted).plan_uid != plan_uid


def test_a_start_with_a_plan_id_follows_the_plan_exactly() -> None:
    view = pair().view
    found = previewed(view)
    intent = node_actions.start_planned(
        look_at(view), N1, "maintenance_on", b"", uid=ActionUid("a"), plan_uid=found.plan_uid
    )
    assert intent.answer.plan_uid == found.plan_uid
    builder = ClusterBuilder(view.with_writes(intent.writes))
    # A new plan would choose other targets: the planned targets are now the fuller ones.
    planned = {m.subject: m.to_node for m in found.moves if m.kind is MoveKind.RELOCATE}
    fuller = {uid: replace(n, memory_bytes=n.memory_bytes // 2) for uid, n in view.nodes.items() if uid in planned.values()}
    builder = run_action(builder.with_records(*fuller.values()), "a", now=NOW)
    moves = [m for m in builder.view.moves.values() if m.kind is MoveKind.RELOCATE]
    assert action_of(builder.view, "a").status is ActionStatus.COMPLETED
    assert {m.shard_uid: m.to_node for m in moves} == planned


def test_a_start_with_an_outdated_plan_is_refused() -> None:
    found = previewed(pair().view)
    drifted = pair().with_node_changed(3, is_closed=True).with_node_changed(4, is_closed=True).view
    with pytest.raises(Rejected) as error:
        node_actions.start_planned(look_at(drifted), N1, "maintenance_on", b"", uid=ActionUid("a"), plan_uid=found.plan_uid)
    assert error.value.code == "plan_outdated"


# -- obstacles -------------------------------------------------------------------------------------------------------


def test_a_node_with_a_dead_daemon_keeps_the_servers_that_leave() -> None:
    found = previewed(pair().without_daemon(1).view, "remove")
    assert found.moves
    assert found.outcome is PreviewOutcome.BLOCKED
    assert {(r.code, r.remedy) for r in found.obstacles} == {("stopping", "start the daemon of node 1")}
    assert preview_json(found)["status"] == "blocked"
    told = explained(pair().without_daemon(1).view, "remove")
    assert (told.verdict, told.remedy) == (Verdict.BLOCKED, "start the daemon of node 1")
    assert explanation_json(told)["possible"] is False


@pytest.mark.parametrize("is_known", [True, False])
def test_the_plan_for_a_dead_node_with_a_replica(is_known: bool) -> None:
    """Its agent no longer reports deaths: only the leader's observations show whether its server has ended."""
    builder = cluster(4).with_database(on=((2, 1),)).with_endpoints_seen().without_daemon(1)
    builder = builder.with_server(2, health=Health.REFUSED, is_link_up=False)
    if is_known:
        builder = builder.with_server(2, sighting=Sighting.ENDED)
    found = previewed(with_sightings(builder.view), "remove")
    assert [m.kind for m in found.moves] == [MoveKind.RELOCATE]
    assert found.outcome is (PreviewOutcome.POSSIBLE if is_known else PreviewOutcome.BLOCKED)


def test_a_group_that_waits_for_the_data_of_a_dead_node() -> None:
    builder = cluster(4).with_database(on=((1, 2),)).with_endpoints_seen().with_dead_node(1)
    group = builder.view.groups[GroupUid("1:1")]
    found = previewed(builder.with_records(replace(group, phase=GroupPhase.STARTING)).view, "remove")
    waited = [r for r in found.obstacles if r.code == "failover_pending"]
    assert found.outcome is PreviewOutcome.BLOCKED
    assert waited[0].remedy.startswith("start the daemon of node 1")
    assert "waits for the data of shard 1" in waited[0].text


def test_the_only_daemon_cannot_yield_the_leadership() -> None:
    seen = look_at(cluster(3).with_database(on=((1, 2),)).with_endpoints_seen().without_daemon(2).without_daemon(3).view)
    body = b'{"demote_node": true, "shards_only": true}'
    intent = node_actions.start(seen, N1, "enslave_node", body, uid=ActionUid("a"))
    found = preview(intent.answer, seen.view, intent.writes, NOW)
    assert [m.kind for m in found.moves] == [MoveKind.HANDOFF]
    assert found.outcome is PreviewOutcome.BLOCKED
    assert [(r.code, r.remedy) for r in found.obstacles] == [("leadership_not_yielded", "start the daemon of another node")]


def test_shards_that_stay_make_the_action_fail() -> None:
    builder = cluster(3).with_database(on=((1,),)).with_database(on=((1,),), memory_bytes=9 * GB).with_endpoints_seen()
    found = previewed(builder.view)
    assert found.moves
    assert found.outcome is PreviewOutcome.PARTLY


def test_temporary_reasons_do_not_block_a_plan() -> None:
    assert previewed(pair().view).outcome is PreviewOutcome.POSSIBLE
    assert previewed(cluster(3).view).outcome is PreviewOutcome.COMPLETED
    assert previewed(pair().view, "enslave_node").outcome is PreviewOutcome.FAILED


# -- the explanation ---------------------------------------------------------------------------------------------------


def test_a_feasible_action() -> None:
    found = explained(pair().view)
    assert (found.verdict, found.blocks, found.remedy) == (Verdict.YES, (), "")
    assert explanation_json(found)["possible"] is True


def test_nothing_to_do() -> None:
    assert explained(cluster(3).view).verdict is Verdict.NOTHING_TO_DO


def test_a_live_action_is_a_reason_but_not_an_error() -> None:
    builder = pair().with_action(ActionName.MAINTENANCE_ON, 1, status=ActionStatus.RUNNING)
    codes = [b.code for b in explained(builder.view, "remove").blocks]
    assert "node_action_in_progress" in codes


def test_a_missing_replica_is_named_with_its_remedy() -> None:
    found = explained(pair().view, "enslave_node")
    assert found.verdict is Verdict.NO
    assert [(b.code, b.grade, b.count) for b in found.blocks] == [("no_replica", Grade.CONFIGURATION, 1)]
    assert "enable replication of database 2" in found.remedy


def test_missing_memory_is_added_up_and_unsuitable_racks_are_named() -> None:
    builder = cluster(0)
    for rack in ("a", "b", "a"):
        builder = builder.with_node(rack=rack, memory_bytes=4 * GB)
    for _ in range(2):
        builder = builder.with_database(on=((1, 2),), memory_bytes=3 * GB, is_rack_aware=True)
    builder = builder.with_node_changed(3, memory_bytes=GB)
    found = explained(builder.view, "remove")
    assert found.verdict is Verdict.NO
    assert [(b.code, b.count) for b in found.blocks] == [("insufficient_memory", 2)]
    assert found.remedy.startswith("add 3.0 GB outside rack b"), found.remedy


def test_a_lost_quorum_names_the_absent_nodes() -> None:
    found = explained(pair().without_daemon(3).without_daemon(4).view)
    assert found.verdict is Verdict.NO
    assert "start the daemon of node 3" in found.remedy
    assert {b.code for b in found.blocks} == {"no_quorum", "node_away"}


@pytest.mark.parametrize("word", [None, "explode"])
def test_an_action_is_required(word: str | None) -> None:
    with pytest.raises(Rejected) as error:
        explain(look_at(), N1, word)
    assert error.value.code == "invalid_action"


def test_a_thousand_nodes_take_less_than_a_second() -> None:
    builder = cluster(0)
    nodes = 1000
    small = cluster(3).with_database(on=((1, 2),)).view
    node, database = small.nodes[N1], small.databases[DatabaseUid(1)]
    view = replace(
        builder.view,
        nodes={NodeUid(n): replace(node, uid=NodeUid(n)) for n in range(1, nodes + 1)},
        daemons={NodeUid(n): small.daemons[N1] for n in range(1, nodes + 1)},
    )
    groups, shards, servers, processes, databases = {}, {}, {}, {}, {}
    group = next(iter(small.groups.values()))
    for number in range(1, 5001):
        uid = DatabaseUid(number)
        databases[uid] = replace(database, uid=uid)
        own = replace(group, uid=f"{number}:1", database_uid=uid, primary=ShardUid(2 * number))  # type: ignore[arg-type]
        groups[own.uid] = own
        for offset, shard in enumerate(small.shards.values()):
            new = ShardUid(2 * number + offset)
            at = NodeUid((number * 7 + offset * 501) % nodes + 1)
            shards[new] = replace(shard, uid=new, database_uid=uid, group_uid=own.uid, node_uid=at)
            servers[new] = replace(small.servers[shard.uid], shard_uid=new)
            processes[new] = replace(small.processes[shard.uid], shard_uid=new)
    view = replace(view, groups=groups, shards=shards, servers=servers, processes=processes, databases=databases)
    view.shards_on(N1)
    seen = look_at(view)
    began = time.process_time()
    found = explain(seen, N1, "maintenance_on")
    took = time.process_time() - began
    assert found.verdict is Verdict.YES
    assert took < 1.0, took
