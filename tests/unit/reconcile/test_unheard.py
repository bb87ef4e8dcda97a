"""The only replica of a strict database of which nobody hears: when it is rebuilt sooner than others, and when not."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Role, Shard
from shardwright.model.event import Event
from shardwright.model.ids import GroupUid, NodeUid, ShardUid
from shardwright.model.move import MoveState, Relocation
from shardwright.model.parking import Parking
from shardwright.model.reason import Grade
from shardwright.model.seen import EndpointProcessSeen, Health, ProcessState, ReplicaSeen, Sighting
from shardwright.reconcile.reach import UNHEARD_AFTER, is_unheard
from shardwright.reconcile.repair import STRICT_GRACE_S, decide_repair
from testkit.builders import NOW, ClusterBuilder, cluster

GROUP, PRIMARY, REPLICA = GroupUid("1:1"), ShardUid(1), ShardUid(2)
SILENT_SINCE = NOW - UNHEARD_AFTER
SILENT_REPLICA = ReplicaSeen("127.0.0.2", 20002, "online", 900, lag_s=5)


def unheard(*, nodes: int = 4, is_strict: bool = True, since: datetime = SILENT_SINCE) -> ClusterBuilder:
    """Nothing on node 2, with the replica, has answered the leader since then, and the primary has not heard of the replica
    either. Its daemon still holds its lease."""
    builder = cluster(nodes=nodes).with_database(on=((1, 2),), is_strict=is_strict)
    for node in range(1, nodes + 1):
        builder = heard(builder, node, silent_since=since if node == 2 else None)
    builder = builder.with_server(PRIMARY, replicas=(SILENT_REPLICA,))
    return builder.with_server(REPLICA, health=Health.TIMEOUT, unanswered_since=since)


def heard(builder: ClusterBuilder, node: int, *, silent_since: datetime | None) -> ClusterBuilder:
    """What the leader hears of the endpoint process of a node."""
    process = EndpointProcessSeen(NodeUid(node), NOW, answers=silent_since is None, silent_since=silent_since)
    processes = {**builder.view.endpoint_processes, NodeUid(node): process}
    return ClusterBuilder(replace(builder.view, endpoint_processes=processes))


def is_lost(builder: ClusterBuilder, now: datetime = NOW) -> bool:
    return is_unheard(builder.view, builder.view.shards[REPLICA], now)


def noted(builder: ClusterBuilder) -> ClusterBuilder:
    """The decision that the copy is missing is committed."""
    decision = decide_repair(builder.view, NOW)
    assert [w.record.uid for w in decision.writes if isinstance(w.record, Shard)] == [REPLICA]
    return builder.with_writes(*decision.writes)


def moves(builder: ClusterBuilder, now: datetime = NOW) -> list[Relocation]:
    return [w.record for w in decide_repair(builder.view, now).writes if isinstance(w.record, Relocation)]


# -- the judgment --------------------------------------------------------------------------------------------------------


def test_a_replica_of_which_nobody_hears_is_lost() -> None:
    assert is_lost(unheard())


@pytest.mark.parametrize("health", [Health.TIMEOUT, Health.UNREACHABLE, Health.REFUSED])
def test_how_its_machine_is_silent_does_not_matter(health: Health) -> None:
    assert is_lost(unheard().with_server(REPLICA, health=health))


def test_not_before_the_time_is_over() -> None:
    """A machine that is paused for four seconds and wakes."""
    assert not is_lost(unheard(since=SILENT_SINCE + timedelta(seconds=0.1)))
    assert not is_lost(unheard(since=NOW - timedelta(seconds=4)))


def test_not_in_default_mode() -> None:
    """Nobody waits for its confirmation."""
    assert not is_lost(unheard(is_strict=False))


REPLICA_HEARD: dict[str, dict[str, Any]] = {
    "it answers": {"health": Health.OK, "unanswered_since": None},
    "it loads": {"health": Health.LOADING, "unanswered_since": None},
    "its machine answers": {"machine_heard_since": SILENT_SINCE},
    "it was not asked again": {"at": SILENT_SINCE + timedelta(seconds=2)},
}


@pytest.mark.parametrize("what", REPLICA_HEARD)
def test_not_when_its_machine_is_heard(what: str) -> None:
    assert not is_lost(unheard().with_server(REPLICA, **REPLICA_HEARD[what]))


@pytest.mark.parametrize("state", [ProcessState.UNKNOWN, ProcessState.ABSENT])
def test_not_when_no_agent_has_reported_it(state: ProcessState) -> None:
    """It may be about to start."""
    assert not is_lost(unheard().with_process(REPLICA, state))


@pytest.mark.parametrize("silent_since", [None, SILENT_SINCE + timedelta(seconds=1)])
def test_not_while_the_endpoint_process_of_its_node_is_heard(silent_since: datetime | None) -> None:
    assert not is_lost(heard(unheard(), 2, silent_since=silent_since))


def test_not_when_that_process_was_not_asked_yet() -> None:
    builder = unheard()
    processes = {uid: seen for uid, seen in builder.view.endpoint_processes.items() if uid != 2}
    assert not is_lost(ClusterBuilder(replace(builder.view, endpoint_processes=processes)))


PRIMARYS_WORD: dict[str, tuple[dict[str, Any], bool]] = {
    "has heard it lately": ({"replicas": (replace(SILENT_REPLICA, lag_s=2),)}, False),
    "has not heard it for three seconds": ({"replicas": (replace(SILENT_REPLICA, lag_s=3),)}, True),
    "had its clock set back": ({"replicas": (replace(SILENT_REPLICA, lag_s=-3600),)}, False),
    "feeds it a full sync": ({"replicas": (replace(SILENT_REPLICA, state="send_bulk", lag_s=60),)}, False),
    "does not say": ({"replicas": (replace(SILENT_REPLICA, lag_s=None),)}, False),
    "hears another one": ({"replicas": (SILENT_REPLICA, replace(SILENT_REPLICA, port=1, lag_s=0))}, False),
    "has dropped its link": ({"replicas": ()}, True),
    "said so a while ago": ({"at": NOW - timedelta(seconds=1.1)}, False),
    "does not answer": ({"health": Health.TIMEOUT, "unanswered_since": NOW}, False),
    "is a replica": ({"role": Role.REPLICA}, False),
}


@pytest.mark.parametrize("word", PRIMARYS_WORD)
def test_the_primary_must_say_that_it_hears_no_replica(word: str) -> None:
    """A leader that is cut off from the replica alone believes the primary."""
    changes, expected = PRIMARYS_WORD[word]
    assert is_lost(unheard().with_server(PRIMARY, **changes)) is expected


def test_a_leader_that_slept_looks_again_before_it_decides() -> None:
    """Its last looks are as old as its sleep: the copy may have been back for long."""
    builder, woken_at = unheard(since=NOW - timedelta(seconds=3)), NOW + timedelta(seconds=60)
    assert not is_lost(builder, woken_at)
    assert is_lost(builder.with_server(PRIMARY, at=woken_at), woken_at), "the primary still hears no replica"


def test_not_when_half_of_the_nodes_are_silent() -> None:
    """The leader may be the one that is cut off. If they have died, they will be away."""
    assert is_lost(heard(unheard(nodes=5), 3, silent_since=NOW))
    assert not is_lost(heard(unheard(nodes=4), 3, silent_since=NOW))
    assert not is_lost(unheard(nodes=2))


def test_not_the_primary_itself() -> None:
    builder = unheard()
    group = replace(builder.view.groups[GROUP], primary=REPLICA)
    assert not is_lost(builder.with_records(group))
    assert not is_lost(builder.with_records(replace(group, primary=None)))


def test_not_while_the_group_starts() -> None:
    builder = unheard()
    assert not is_lost(builder.with_records(replace(builder.view.groups[GROUP], phase=GroupPhase.STARTING)))


def test_a_former_primary_that_was_cut_off_is_lost_to_its_successor() -> None:
    """After a failover: nothing follows the new primary, and the old one may serve behind the cut."""
    builder = unheard().with_server(PRIMARY, replicas=())
    process = builder.view.processes[REPLICA]
    assert process.state is ProcessState.RUNNING
    assert is_lost(builder.with_sighting(REPLICA, Sighting.NONE))


def test_a_shard_without_records_is_not_judged() -> None:
    builder = unheard()
    shard = builder.view.shards[REPLICA]
    assert not is_unheard(builder.view.changed(groups={}), shard, NOW)
    assert not is_unheard(builder.view.changed(databases={}), shard, NOW)
    assert not is_unheard(builder.view.changed(servers={}), shard, NOW)


# -- the rebuild ---------------------------------------------------------------------------------------------------------


def test_it_is_rebuilt_as_soon_as_its_loss_is_on_record() -> None:
    (move,) = moves(noted(unheard()))
    assert (move.action_uid, move.shard_uid, move.from_node) == (None, REPLICA, 2)
    assert move.to_node in (3, 4)


def test_the_lost_copy_stays_on_record() -> None:
    builder = noted(unheard())
    decision = decide_repair(builder.view, NOW)
    assert {type(w.record) for w in decision.writes} == {Relocation, Event}
    assert builder.with_writes(*decision.writes).view.shards[REPLICA].missing_since == NOW


def test_it_waits_for_the_grace_period_when_it_was_heard_again_meanwhile() -> None:
    """Then it is coming back."""
    back = noted(unheard()).with_server(REPLICA, health=Health.OK, unanswered_since=None, is_link_up=False)
    assert moves(back) == []
    assert len(moves(back, NOW + timedelta(seconds=STRICT_GRACE_S))) == 1


def test_a_copy_that_is_sound_again_is_forgotten_and_its_rebuild_withdrawn() -> None:
    builder = noted(unheard())
    (move,) = moves(builder)
    back = builder.with_move(replace(move, state=MoveState.SYNCING)).with_healthy_shard(REPLICA)
    first = decide_repair(back.view, NOW)
    assert [w.record.missing_since for w in first.writes if isinstance(w.record, Shard)] == [None]
    assert [m.is_cancel_wanted for m in moves(back.with_writes(*first.writes))] == [True]


def test_rebuilds_stay_within_the_limit_of_full_syncs() -> None:
    builder = noted(unheard()).with_policy(max_slave_full_syncs=1)
    for _ in range(2):
        builder = builder.with_database(on=((1, 2),), is_strict=True)
    for uid in (3, 5):
        builder = builder.with_server(uid, replicas=())
        builder = builder.with_server(uid + 1, health=Health.TIMEOUT, unanswered_since=SILENT_SINCE)
    begun = []
    for _ in range(10):
        decision = decide_repair(builder.view, NOW)
        begun += [w.record for w in decision.writes if isinstance(w.record, Relocation)]
        builder = builder.with_writes(*decision.writes)
    assert len(begun) == 1


def test_another_silent_node_gets_no_copy() -> None:
    """It may have died together with the first one."""
    builder = noted(unheard(nodes=5))
    (first,) = moves(builder)
    (other,) = moves(heard(builder, first.to_node, silent_since=NOW))
    assert other.to_node not in (2, first.to_node)


def test_without_any_other_node_it_says_so_and_waits() -> None:
    builder = noted(unheard(nodes=5))
    closed = builder.with_node_changed(3, is_closed=True).with_node_changed(4, is_closed=True)
    silent = heard(closed, 5, silent_since=NOW)
    decision = decide_repair(silent.view, NOW)
    assert decision.writes == ()
    assert (Code.NODE_DOWN, Grade.SOFT_LIMIT, 5) in [(r.code, r.grade, r.node_uid) for r in decision.reasons]
    assert decision.wake_at is not None
    assert [m.to_node for m in moves(silent.without_daemon(2))] == [5], "by now it would be away, if it had died too"


def test_not_while_a_copy_takes_over() -> None:
    builder = noted(unheard())
    group = replace(builder.view.groups[GROUP], parking=Parking(PRIMARY, 1, NOW))
    assert moves(builder.with_records(group)) == []


@pytest.mark.parametrize(("policy", "is_rebuilt"), [(True, True), (False, False)])
def test_the_policy_decides_whether_it_is_rebuilt_at_all(policy: bool, is_rebuilt: bool) -> None:
    assert bool(moves(noted(unheard()).with_policy(slave_ha=policy))) is is_rebuilt
