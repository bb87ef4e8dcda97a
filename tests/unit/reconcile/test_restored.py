"""Slot groups whose records come from a backup: the servers went on, so the record follows the copy that leads."""

from dataclasses import replace

from shardwright.model.cluster import DeclaredOff
from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Role, Shard, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind
from shardwright.model.ids import EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.seen import Health, ProcessState, Sighting
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.database import decide_database
from shardwright.reconcile.group import decide_group
from shardwright.reconcile.serving import decide_serving
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, FIRST, SECOND = GroupUid("1:1"), ShardUid(1), ShardUid(2)


def restored(*, unsurveyed: tuple[int, ...] = ()) -> ClusterBuilder:
    """Shard 1 on node 1 is the primary on record, and leads; shard 2 on node 2 follows it."""
    builder = cluster(nodes=3).with_database(on=((1, 2),))
    group = replace(
        builder.view.groups[GROUP],
        phase=GroupPhase.STARTING,
        generation=1001,
        starting_since=NOW,
        is_restored=True,
    )
    for node in unsurveyed:
        builder = builder.with_node_changed(node, awaits_survey=True)
    return builder.with_records(group)


def swapped(builder: ClusterBuilder) -> ClusterBuilder:
    """The role was handed over after the backup: shard 2 leads."""
    port = builder.view.shards[SECOND].port
    builder = builder.with_server(2, role=Role.PRIMARY, is_link_up=False, primary_address="", primary_port=0)
    return builder.with_server(
        1, role=Role.REPLICA, is_link_up=True, primary_address=builder.view.nodes[NodeUid(2)].servers_at, primary_port=port
    )


def decide(view: ClusterView) -> Decision:
    return decide_group(view.groups[GROUP], view, NOW)


def opened(decision: Decision) -> list[ShardUid | None]:
    records = [write.record for write in decision.writes if isinstance(write, Put)]
    return [r.primary for r in records if isinstance(r, SlotGroup) and r.phase is GroupPhase.SERVING]


def codes(decision: Decision) -> list[str]:
    return [reason.code for reason in decision.reasons]


def test_a_group_continues_with_the_copy_that_leads_without_a_command() -> None:
    decision = decide(restored().view)
    assert opened(decision) == [FIRST]
    assert decision.commands == ()
    (group,) = [w.record for w in decision.writes if isinstance(w.record, SlotGroup)]
    assert (group.generation, group.is_restored) == (1002, False), "endpoints follow it"


def test_the_role_on_record_is_not_believed() -> None:
    decision = decide(swapped(restored()).view)
    assert opened(decision) == [SECOND]
    (event,) = [w.record for w in decision.writes if isinstance(w.record, Event)]
    assert event.kind is EventKind.GROUP_FOUND
    assert "in the backup it was shard 1" in event.text


def test_nothing_is_decided_before_every_machine_has_spoken() -> None:
    for builder in (restored(unsurveyed=(2,)), swapped(restored(unsurveyed=(3,)))):
        decision = decide(builder.view)
        assert opened(decision) == []
        assert decision.commands == ()
        assert codes(decision) == [Code.SURVEY_AWAITED]
        assert "follow-restore" in decision.reasons[0].remedy
        (noted,) = [w.record for w in decision.writes]
        assert isinstance(noted, SlotGroup)
        assert noted.waits_for == decision.reasons, "`status` shows why it waits"
        again = builder.with_writes(*decision.writes)
        assert decide(again.view).writes == (), "noted once"


def test_a_machine_that_is_declared_off_is_not_waited_for() -> None:
    builder = swapped(restored(unsurveyed=(1,))).without_daemon(1).with_sighting(1, Sighting.OFF)
    builder = builder.with_process(1, ProcessState.UNKNOWN).with_server(1, health=Health.TIMEOUT, unanswered_since=NOW)
    assert codes(decide(builder.view)) == [Code.SURVEY_AWAITED]
    off = builder.with_node_changed(1, declared_off=DeclaredOff(NOW, "admin@example.com"))
    assert opened(decide(off.view)) == [SECOND]


def test_a_copy_that_does_not_answer_may_lead() -> None:
    for health in (Health.TIMEOUT, Health.LOADING, Health.UNKNOWN):
        decision = decide(restored().with_server(2, health=health).view)
        assert opened(decision) == []
        assert decision.reasons


def test_an_operator_may_decide_instead() -> None:
    builder = restored().with_server(2, health=Health.TIMEOUT)
    told = builder.with_records(replace(builder.view.groups[GROUP], start_from=FIRST))
    assert opened(decide(told.view)) == [FIRST]


def test_two_histories_are_left_to_an_operator() -> None:
    both = restored().with_server(2, role=Role.PRIMARY, is_link_up=False)
    decision = decide(both.view)
    assert (opened(decision), codes(decision)) == ([], [Code.SEVERAL_LEAD])
    told = both.with_records(replace(both.view.groups[GROUP], start_from=SECOND))
    assert opened(decide(told.view)) == [SECOND]


def test_an_empty_leader_beside_data_is_left_to_an_operator() -> None:
    decision = decide(restored().with_server(1, keys=0).view)
    assert (opened(decision), codes(decision)) == ([], [Code.SEVERAL_LEAD])
    assert opened(decide(restored().with_server(1, keys=0).with_server(2, keys=0).view)) == [FIRST]


def test_without_a_leader_all_copies_are_started_before_one_is_chosen() -> None:
    down = restored().with_dead_shard(1).with_dead_shard(2)
    started = [w.record for w in decide(down.view).writes if isinstance(w.record, Shard)]
    assert [(shard.uid, shard.incarnation) for shard in started] == [(FIRST, 2), (SECOND, 2)]
    half = restored().with_server(1, is_fenced=True).with_dead_shard(2)
    assert opened(decide(half.view)) == [], "the one that has ended may have been the last primary"
    both = restored().with_server(1, is_fenced=True).with_server(2, role=Role.PRIMARY, is_fenced=True)
    assert opened(decide(both.view)) == [FIRST], "compared as after any start"


def test_a_group_without_a_copy_never_begins_empty() -> None:
    builder = restored()
    gone = replace(builder.view, shards={}, servers={}, processes={})
    decision = decide(gone)
    assert (opened(decision), codes(decision)) == ([], [Code.COPIES_NOT_FOUND])
    database = replace(gone.databases[gone.groups[GROUP].database_uid])
    assert decide_database(database, gone, NOW).writes == ()


def test_copies_are_counted_only_when_the_group_is_open() -> None:
    builder = restored()
    uid = builder.view.groups[GROUP].database_uid
    status = type(builder.view.databases[uid].status).ACTIVE_CHANGE_PENDING
    changing = builder.with_database_changed(1, status=status, has_replica=False)
    decision = decide_database(changing.view.databases[uid], changing.view, NOW)
    assert (decision.writes, codes(decision)) == ((), [Code.GROUP_STARTING])


def test_endpoints_stay_where_they_are_until_the_group_is_open() -> None:
    view = restored().with_endpoints_seen().view
    (endpoint,) = view.endpoints.values()
    assert endpoint.uid == EndpointUid("1:1")
    stale = replace(endpoint, nodes=())
    assert decide_serving(stale, replace(view, endpoints={stale.uid: stale}), NOW).writes == ()


def test_the_replica_of_a_primary_that_is_declared_off_takes_over() -> None:
    """Nothing leads then: the rules of a start find the copy that holds the lost primary's data."""
    for state in (ProcessState.RUNNING, ProcessState.UNKNOWN):
        builder = restored(unsurveyed=(1,)).without_daemon(1).with_sighting(1, Sighting.OFF).with_process(1, state)
        builder = builder.with_server(1, health=Health.TIMEOUT, unanswered_since=NOW)
        builder = builder.with_server(2, is_link_up=False, link_down_s=5)
        off = builder.with_node_changed(1, declared_off=DeclaredOff(NOW, "admin@example.com"))
        decision = decide(off.view)
        assert opened(decision) == [SECOND], (state, decision)
