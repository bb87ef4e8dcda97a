"""Taking a node out."""

from dataclasses import replace
from datetime import timedelta

import pytest

from shardwright.actions.base import decide_action
from shardwright.model.action import ActionName, ActionStatus, RemoveParameters
from shardwright.model.cluster import ClusterKind
from shardwright.model.codes import Code
from shardwright.model.commands import YieldLeadership
from shardwright.model.database import ShardWanted
from shardwright.model.ids import DatabaseUid, GroupUid, MoveUid, NodeUid, ShardUid
from shardwright.model.move import Move, MoveState, Rebind
from shardwright.model.seen import ProcessState
from shardwright.model.store_member import StoreRole
from shardwright.model.trust import CertificateRole, IssuedCertificate
from shardwright.plan.store_members import LEAVING_STORE
from testkit.builders import MB, NOW, ClusterBuilder, cluster
from testkit.moves import relocation
from testkit.stepper import action_of, decide_once, run_action, step_moves

A = "action-1"
N1 = NodeUid(1)
PAIR = cluster(3, leader=2).with_database(on=((1, 2),))


def remove(builder: ClusterBuilder, *, waits: bool | None = None, **options: object) -> ClusterBuilder:
    builder = builder.with_action(ActionName.REMOVE, 1, RemoveParameters(wait_for_persistence=waits))
    return run_action(builder, A, now=NOW, **options)  # type: ignore[arg-type]


def result(builder: ClusterBuilder) -> tuple[str, str]:
    action = action_of(builder.view, A)
    return str(action.status), str(action.error_code)


def stuck_in_cleaning(builder: ClusterBuilder, *, waits: bool | None) -> ClusterBuilder:
    """Everything happens except that a move that cleans up never ends: its files are not yet in place."""
    builder = builder.with_action(ActionName.REMOVE, 1, RemoveParameters(wait_for_persistence=waits))
    for turn in range(40):
        now = NOW + timedelta(seconds=turn)
        builder = decide_once(builder, action_of(builder.view, A), now=now)
        waiting = [m for m in builder.view.live_moves() if m.state == MoveState.CLEANING and m.has_left]
        builder = step_moves(builder, now=now)
        for move in waiting:
            if builder.view.moves[move.uid].state == MoveState.DONE and action_of(builder.view, A).status == "running":
                builder = builder.with_records(move)
    return builder


def test_the_node_vanishes_with_all_that_is_recorded_about_it() -> None:
    builder = remove(PAIR)
    assert result(builder) == ("completed", "")
    view = builder.view
    assert set(view.nodes) == {2, 3}
    assert view.shards_on(N1) == []
    assert view.endpoints_on(N1) == []
    assert N1 not in view.node_seen
    assert view.removed_nodes[N1].retained_until - view.removed_nodes[N1].removed_at == timedelta(days=1)
    assert action_of(view, A).node_uid == 1, "the result stays readable"


def of_machines(*signers: int, leaving: int | None = None) -> ClusterBuilder:
    """Three machines. ``signers`` hold the authority's key."""
    view = PAIR.view
    assert view.cluster is not None
    nodes = [
        replace(node, is_signer=uid in signers, is_decommissioning=uid == leaving)
        for uid, node in sorted(view.nodes.items())
    ]
    return PAIR.with_records(replace(view.cluster, kind=ClusterKind.MACHINES), *nodes)


def test_the_only_node_with_the_authoritys_key_stays() -> None:
    builder = remove(of_machines(1))
    assert result(builder) == ("failed", "last_signer")
    assert not builder.view.nodes[N1].is_decommissioning
    (reason,) = action_of(builder.view, A).reasons
    assert (reason.node_uid, "ca-key.pem" in reason.remedy) == (1, True)
    assert result(remove(of_machines(1, 3, leaving=3))) == ("failed", "last_signer"), "the other one is about to leave"


def test_the_authoritys_key_keeps_no_node_if_another_has_it() -> None:
    assert result(remove(of_machines(1, 3))) == ("completed", "")
    assert result(remove(of_machines(3))) == ("completed", "")
    assert result(remove(of_machines())) == ("completed", "")


def test_it_is_marked_while_it_runs() -> None:
    builder = remove(PAIR, turns=3)
    assert builder.view.nodes[N1].is_decommissioning
    assert builder.view.nodes[N1].is_closed


def test_its_certificates_are_revoked_with_it() -> None:
    issued = IssuedCertificate("01", N1, CertificateRole.NODE, NOW, NOW + timedelta(days=90))
    builder = PAIR.with_records(issued, replace(issued, serial="02", node_uid=NodeUid(2)))
    found = remove(builder).view.issued_certificates
    assert {serial: one.revoked_at is not None for serial, one in found.items()} == {"01": True, "02": False}
    stays = remove(builder, turns=2).view.issued_certificates
    assert [one.revoked_at for one in stays.values()] == [None, None]


def test_snapshots_go_with_the_node() -> None:
    builder = run_action(PAIR.with_action(ActionName.MAINTENANCE_ON, 1), A, now=NOW)
    assert builder.view.snapshots
    builder = run_action(builder.with_action(ActionName.REMOVE, 1), "action-2", now=NOW)
    assert action_of(builder.view, "action-2").status == ActionStatus.COMPLETED
    assert builder.view.snapshots == {}


def test_without_room_nothing_moves_and_the_node_stays_closed() -> None:
    builder = cluster(2, leader=2).with_database(on=((1,),)).with_database(on=((1, 2),))
    builder = remove(builder.with_database(on=((2,),), memory_bytes=100 * MB))
    assert result(builder) == ("failed", "insufficient_resources")
    assert builder.view.moves == {}
    node = builder.view.nodes[N1]
    assert (node.is_closed, node.is_decommissioning) == (True, False)
    action = action_of(builder.view, A)
    assert [r.shard_uid for r in action.reasons] == [2]
    assert "add a node" in action.error_message


def test_the_last_node_stays() -> None:
    assert result(remove(cluster(1, leader=1))) == ("failed", "last_node")


def test_the_leaders_node_yields_first() -> None:
    builder = PAIR.with_leader(1).with_action(ActionName.REMOVE, 1)
    builder = run_action(builder, A, now=NOW, turns=2)
    assert decide_action(action_of(builder.view, A), builder.view, NOW).commands == (YieldLeadership(),)
    assert builder.view.moves == {}
    assert result(run_action(builder, A, now=NOW)) == ("completed", "")


def test_leadership_that_came_back_is_yielded_again_before_the_node_goes() -> None:
    builder = remove(PAIR, turns=4).with_leader(1)
    builder = run_action(builder, A, now=NOW)
    assert result(builder) == ("completed", "")
    assert builder.view.leadership is not None
    assert builder.view.leadership.node_uid != 1


def with_members(builder: ClusterBuilder, *voters: int) -> ClusterBuilder:
    for uid in voters:
        builder = builder.with_node_changed(uid, store_role=StoreRole.VOTER)
    return builder


def test_an_empty_node_with_a_member_of_the_store_stays_until_the_member_is_gone() -> None:
    """Its machine may be switched off as soon as it is no member of the cluster."""
    waiting = remove(with_members(PAIR, 1, 2, 3))
    action = action_of(waiting.view, A)
    assert (action.status, action.phase) == (ActionStatus.RUNNING, LEAVING_STORE)
    assert [r.code for r in action.reasons] == [Code.STORE_MEMBER_LEAVING]
    assert N1 in waiting.view.nodes
    done = run_action(waiting.with_node_changed(1, store_role=StoreRole.NONE), A, now=NOW)
    assert result(done) == ("completed", "")
    assert N1 not in done.view.nodes
    steps = [step.name for step in action_of(done.view, A).steps]
    assert steps.index("evacuate") < steps.index("leave_store") < steps.index("take_out")


def test_a_member_that_the_majority_needs_says_whom_it_waits_for() -> None:
    waiting = remove(with_members(PAIR, 1, 2, 3))
    silent = ClusterBuilder(waiting.view.changed(silent_members=frozenset({NodeUid(3)})))
    action = action_of(run_action(silent, A, now=NOW, turns=1).view, A)
    assert action.status is ActionStatus.RUNNING
    assert [(r.code, r.node_uid) for r in action.reasons] == [(Code.NO_QUORUM, None), (Code.NODE_AWAY, 3)]


def test_a_majority_is_not_judged_before_the_members_of_the_store_were_asked() -> None:
    waiting = remove(ClusterBuilder(with_members(PAIR, 1, 2, 3).view.changed(silent_members=None)), turns=5)
    action = action_of(waiting.view, A)
    assert (action.status, [r.code for r in action.reasons]) == (ActionStatus.STARTING, [Code.STORE_MEMBERS_UNKNOWN])
    asked = run_action(ClusterBuilder(waiting.view.changed(silent_members=frozenset())), A, now=NOW)
    assert action_of(asked.view, A).phase == LEAVING_STORE


def test_the_node_with_the_only_member_of_the_store_stays() -> None:
    builder = remove(with_members(PAIR, 1))
    assert result(builder) == ("failed", "no_quorum")
    assert "only member of the store" in action_of(builder.view, A).error_message


def test_nobody_else_could_lead() -> None:
    builder = PAIR.with_leader(1).without_daemon(2).without_daemon(3)
    assert result(remove(builder)) == ("failed", "no_other_leader")


@pytest.mark.parametrize(
    ("policy", "waits", "is_waiting"), [(False, None, False), (True, None, True), (True, False, False), (False, True, True)]
)
def test_persistence_is_waited_for_by_parameter_or_policy(policy: bool, waits: bool | None, is_waiting: bool) -> None:
    builder = stuck_in_cleaning(PAIR.with_policy(persistent_node_removal=policy), waits=waits)
    action = action_of(builder.view, A)
    if is_waiting:
        assert action.status == ActionStatus.RUNNING
        assert {r.code for r in action.reasons} == {"persistence_pending"}
    else:
        assert action.status == ActionStatus.COMPLETED
        assert not builder.view.live_moves(), "moves that only tidied up there ended with the node"


def test_a_dead_node_goes_when_live_copies_exist() -> None:
    builder = cluster(3, leader=2).with_database(on=((2, 1),)).with_dead_node(1)
    builder = remove(builder)
    assert result(builder) == ("completed", "")
    assert [s.node_uid for s in builder.view.shards.values()] == [2, 3]


def test_a_dead_node_with_the_only_copy_stays() -> None:
    builder = remove(cluster(3, leader=2).with_database(on=((1,),)).with_dead_node(1))
    assert result(builder) == ("failed", "no_live_copy")
    assert builder.view.moves == {}


def test_half_a_picture_is_no_verdict() -> None:
    builder = cluster(3, leader=2).with_database(on=((1,),))
    blind = remove(builder.without_server(1), turns=10)
    assert action_of(blind.view, A).status == ActionStatus.STARTING
    assert [r.code for r in action_of(blind.view, A).reasons] == ["not_observed"]
    assert result(run_action(blind.with_healthy_shard(1), A, now=NOW)) == ("completed", "")


def test_a_failure_keeps_the_node_closed_but_not_decommissioning() -> None:
    def fails(move: Move) -> bool:
        return isinstance(move, Rebind)

    builder = remove(PAIR, fails=fails)
    assert result(builder) == ("failed", "move_failed")
    node = builder.view.nodes[N1]
    assert (node.is_closed, node.is_decommissioning) == (True, False)
    assert "stays closed" in action_of(builder.view, A).error_message


def test_a_move_of_others_to_the_node_is_waited_for() -> None:
    builder = remove(PAIR, turns=3)
    stray = relocation(
        uid=MoveUid("repair-1"), action_uid=None, state=MoveState.SYNCING, database_uid=DatabaseUid(9),
        group_uid=GroupUid("9:1"), shard_uid=ShardUid(9), to_node=N1,
    )  # fmt: skip
    builder = builder.with_move(stray)
    for turn in range(30):
        builder = decide_once(builder, action_of(builder.view, A), now=NOW + timedelta(seconds=turn))
        builder = step_moves_except(builder, "repair-1")
    assert [r.code for r in action_of(builder.view, A).reasons] == ["group_busy"]


def test_a_process_that_still_runs_without_a_move_is_waited_for() -> None:
    """Its record says that it shall go; its agent has not ended it yet."""
    builder = remove(PAIR, turns=3)
    kept = replace(PAIR.view.shards[ShardUid(1)], uid=ShardUid(9), group_uid=GroupUid("9:1"), wanted=ShardWanted.GONE)
    builder = builder.with_records(kept).with_process(9, ProcessState.RUNNING)
    builder = run_action(builder, A, now=NOW)
    (reason,) = action_of(builder.view, A).reasons
    assert (reason.code, reason.shard_uid, reason.node_uid) == ("stopping", 9, 1)
    ended = builder.with_process(9, ProcessState.GONE)
    assert result(run_action(ended, A, now=NOW)) == ("completed", "")


def step_moves_except(builder: ClusterBuilder, uid: str) -> ClusterBuilder:
    stray = next(m for m in builder.view.live_moves() if m.uid == uid)
    without = {u: m for u, m in builder.view.moves.items() if u != uid}
    stepped = step_moves(ClusterBuilder(replace(builder.view, moves=without)), now=NOW)
    return stepped.with_move(stray)
