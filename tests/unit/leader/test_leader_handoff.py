"""The order of a handoff's steps, and what is undone when one of them fails."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest

from shardwright.endpoint.protocol import SELF_RELEASE_S
from shardwright.errors import LostLeadership, OutcomeUnknown, Permanent, Transient
from shardwright.leader.handoff import SETTLE_S
from shardwright.model.codes import Code
from shardwright.model.database import Role
from shardwright.model.ids import MoveUid, NodeUid
from shardwright.model.lease import Lease, Waiver
from shardwright.model.move import MoveState
from shardwright.model.seen import BusyCommand, EndpointSeen, EndpointState, Sighting
from shardwright.model.view import Put
from shardwright.nodes.protocol import ProcessLook
from testkit.moves import rebind
from tests.unit.leader.leader_fakes import ENDPOINT, GROUP, MOVE, NEW, OLD, World, hand_off, ready, reasons

UNKNOWN = OutcomeUnknown(Code.SERVER_NO_ANSWER, "no answer")
LET_GO = ["node 1:release to 1", "commit: SlotGroup, Move"]
UNDONE = ["1:unfence", *LET_GO]


def world() -> World:
    return World(ready().view)


def test_the_steps_of_a_handoff_come_in_this_order() -> None:
    made = world()
    assert hand_off(made) == [
        "node 1:calm",
        "commit: SlotGroup, Move",
        "node 1:hold",
        "1:pause_writes",
        "1:fence",
        "2:promote",
        "node 1:release to 2",
        "1:end_clients",
        "1:attach",
        "1:end_pause",
        "1:unfence",
        "commit: SlotGroup, Shard, Move, Event",
    ]
    group = made.view.groups[GROUP]
    assert (group.primary, group.generation, group.handoff) == (NEW, 2, None)
    evidence = made.move.evidence
    assert evidence is not None
    assert (evidence.fenced_offset, evidence.promoted_offset, evidence.finished_by) == (1000, 1000, "handoff")
    assert (evidence.pause_ms, evidence.held_commands, evidence.not_held_nodes) == (3.0, 2, ())


@pytest.mark.parametrize("fails", [None, "2:promote", "1:fence", "node 1:hold", "node 1:calm", "1:info"])
def test_the_daemon_gives_way_from_the_proof_to_the_release_and_no_longer(fails: str | None) -> None:
    made = world()
    seen: dict[str, bool] = {}

    def look(step: str) -> None:
        seen[step] = made.right_of_way.is_taken()

    if fails is not None:
        made.fails[fails] = Transient(Code.SERVER_UNREACHABLE, "away")
    before = ("1:info", "node 1:calm", "node 1:hold", "2:promote")
    for step in (*before, "1:end_clients"):
        made.on_step[step] = partial(look, step)
    with suppress(Transient):
        hand_off(made)
    assert seen["1:info"] is True
    assert all(seen.get(step, True) for step in before)
    assert seen.get("1:end_clients", False) is False
    assert not made.right_of_way.is_taken()


def test_what_the_intent_wakes_has_a_moment_before_the_clients_wait() -> None:
    made = world()
    at: dict[str, float] = {}

    def look(step: str) -> None:
        at[step] = made.clock.monotonic()

    for step in ("node 1:calm", "node 1:hold", "2:promote"):
        made.on_step[step] = partial(look, step)
    hand_off(made)
    assert at["node 1:hold"] - at["node 1:calm"] == pytest.approx(SETTLE_S)
    assert at["2:promote"] == at["node 1:hold"]


def leased() -> World:
    """The group's lease is in force, and the process of node 1 serves."""
    made = world()
    view = made.view.with_writes((Put(replace(made.view.groups[GROUP], lease=Lease(5, is_needed=True))),))
    processes = {uid: replace(seen, instance=f"i{uid}") for uid, seen in view.endpoint_processes.items()}
    return World(replace(view, endpoint_processes=processes))


def test_the_proofs_are_given_up_with_the_intent_and_the_processes_told_before_the_hold() -> None:
    made = leased()
    steps = hand_off(made)
    assert steps[:4] == ["node 1:calm", "commit: SlotGroup, Move", "node 1:lease 7", "node 1:hold"]
    assert made.view.groups[GROUP].lease == Lease(7, False, (Waiver(NodeUid(1), "i1"),))


def test_a_process_that_is_not_told_does_not_stop_a_handoff() -> None:
    """Its clients wait for a proof of the new primary."""
    made = leased()
    made.fails["node 1:lease 7"] = Transient(Code.ENDPOINT_PROCESS_SILENT, "late")
    assert hand_off(made)[-1] == "commit: SlotGroup, Shard, Move, Event"


def test_sessions_are_opened_before_anything_is_read() -> None:
    made = world()
    hand_off(made)
    assert made.steps[:2] == ["1:session", "2:session"]


def test_the_offset_is_read_behind_the_fence_and_compared_before_the_promotion() -> None:
    made = world()
    hand_off(made)
    fence, promote = made.steps.index("1:fence"), made.steps.index("2:promote")
    assert made.steps[fence : promote + 1] == ["1:fence", "1:info", "2:info", "2:promote"]


def test_nothing_happens_when_the_handoff_may_not_begin() -> None:
    made = world()
    asyncio.run(made.handoffs().hand_off(GROUP, NEW, OLD))
    assert made.steps == []


UNPROVEN: dict[str, tuple[Callable[[World], None], str]] = {
    "the primary is a replica": (lambda w: change(w, OLD, role=Role.REPLICA), "primary_not_primary"),
    "the primary is fenced": (lambda w: change(w, OLD, is_fenced=True), "primary_fenced"),
    "the link is down": (lambda w: change(w, NEW, is_link_up=False), "replica_link_down"),
    "the replica is syncing": (lambda w: change(w, NEW, is_syncing=True), "replica_syncing"),
    "the replica is of another history": (lambda w: change(w, NEW, replication_id="other"), "replication_id_differs"),
    "the replica lags": (lambda w: lag(w), "replica_lags"),
}


def change(made: World, uid: object, **changes: object) -> None:
    server = made.servers[uid]  # type: ignore[index]
    server.seen = replace(server.seen, **changes)  # type: ignore[arg-type]


def lag(made: World) -> None:
    change(made, OLD, offset=2000)
    made.servers[NEW].catches_up = False


@pytest.mark.parametrize("what", UNPROVEN)
def test_no_client_is_stopped_for_a_candidate_that_is_not_proven(what: str) -> None:
    made = world()
    prepare, code = UNPROVEN[what]
    prepare(made)
    assert hand_off(made) == ["commit: Move"]
    assert reasons(made) == [code]
    assert made.move.attempts == 1


def test_a_candidate_has_a_second_to_catch_up() -> None:
    made = world()
    lag(made)
    hand_off(made)
    assert 1.0 < made.clock.passed_s < 1.2
    assert made.steps.count("2:info") < 200, "the pauses grow: with the shortest there were a thousand"


def test_a_server_that_cannot_be_reached_is_noted() -> None:
    made = world()
    made.servers[NEW].is_reachable = False
    assert hand_off(made) == ["commit: Move"]
    assert reasons(made) == ["server_unreachable"]


def test_an_endpoint_process_that_is_late_is_not_passed_over() -> None:
    made = world()
    made.nodes[NodeUid(1)].answers = False
    assert hand_off(made) == ["commit: Move"]
    assert reasons(made) == ["endpoint_process_late"]


def test_a_move_that_was_cancelled_meanwhile_is_not_begun() -> None:
    made = world()
    cancelled = Put(replace(MOVE, is_cancel_wanted=True))
    made.on_step["node 1:calm"] = lambda: setattr(made, "view", made.view.with_writes((cancelled,)))
    with pytest.raises(Transient, match="cancelled"):
        hand_off(made)
    assert made.commands() == ["node 1:calm"]


def test_a_command_in_flight_ends_the_attempt_without_a_command_to_the_old_primary() -> None:
    """It may be busy with that command, and then would answer no undo either."""
    made = world()
    made.nodes[NodeUid(1)].busy = (BusyCommand("10.0.0.1:5", "EVAL"),)
    assert hand_off(made) == ["node 1:calm", "commit: SlotGroup, Move", "node 1:hold", *LET_GO]
    assert reasons(made) == ["client_command_busy"]
    assert made.view.groups[GROUP].handoff is None


def test_an_endpoint_process_that_is_late_with_its_hold_is_let_go() -> None:
    made = world()
    made.fails["node 1:hold"] = Transient(Code.ENDPOINT_PROCESS_SILENT, "late")
    assert hand_off(made)[-3:] == ["node 1:hold failed", *LET_GO]
    assert reasons(made) == ["endpoint_process_late"]


def test_clients_that_no_hold_stopped_are_cut_off_behind_the_fence() -> None:
    """The endpoint process has ended; one that is started in its place may send scripts, which the pause postpones."""
    made = world()
    made.nodes[NodeUid(1)].has_ended = True
    steps = hand_off(made)
    assert steps[1:5] == ["1:pause_writes", "1:fence", "1:end_clients", "2:promote"]
    evidence = made.move.evidence
    assert evidence is not None
    assert (evidence.not_held_nodes, evidence.pause_ms) == ((1,), None)


def test_a_process_to_which_a_rebind_has_passed_the_endpoint_is_held_too() -> None:
    passing = rebind(uid=MoveUid("r"), state=MoveState.HANDOFF)
    made = World(ready().with_move(passing).view)
    made.nodes[NodeUid(3)].endpoints[ENDPOINT] = EndpointSeen(ENDPOINT, EndpointState.LISTENING, generation=1)
    steps = hand_off(made)
    assert {"node 1:hold", "node 3:hold", "node 1:release to 2", "node 3:release to 2"} <= set(steps)
    silent = World(ready().with_move(passing).view)
    silent.nodes[NodeUid(3)].answers = False
    assert hand_off(silent)[-2:] == LET_GO
    assert reasons(silent) == ["endpoint_process_late"]


@pytest.mark.parametrize("step", ["1:pause_writes", "1:fence"])
@pytest.mark.parametrize("error", [UNKNOWN, Permanent(Code.SERVER_REFUSED, "refused")], ids=["unknown", "refused"])
def test_a_fence_that_fails_is_undone(step: str, error: Exception) -> None:
    made = world()
    made.fails[step] = error
    assert hand_off(made)[-3:] == UNDONE
    assert "2:promote" not in made.steps
    assert made.view.groups[GROUP].handoff is None
    assert not made.servers[OLD].seen.is_fenced


def test_a_fence_that_does_not_show_is_undone() -> None:
    made = world()
    made.servers[OLD].ignores = "fence"
    assert hand_off(made)[-3:] == UNDONE
    assert reasons(made) == ["fence_failed"]


def test_a_leader_that_stood_still_does_not_promote_when_the_endpoints_have_let_go() -> None:
    made = world()

    def stand_still() -> None:
        made.clock.passed_s += SELF_RELEASE_S

    made.on_step["1:pause_writes"] = stand_still
    assert hand_off(made)[-3:] == UNDONE
    assert reasons(made) == ["endpoint_process_late"]


def test_a_candidate_that_does_not_reach_the_offset_behind_the_fence_is_not_promoted() -> None:
    made = world()
    made.on_step["1:fence"] = lambda: lag(made)
    assert hand_off(made)[-3:] == UNDONE
    assert reasons(made) == ["replica_lags_fenced"]


def test_a_fence_that_cannot_be_lifted_leaves_the_intent_and_the_hold() -> None:
    made = world()
    made.fails = {"1:fence": UNKNOWN, "1:unfence": UNKNOWN}
    assert hand_off(made)[-2:] == ["1:fence failed", "1:unfence failed"]
    assert made.view.groups[GROUP].handoff is not None, "the next turn undoes it"


@pytest.mark.parametrize("plan", ["fails", "fails_after"])
def test_once_the_promotion_may_have_been_sent_nothing_goes_back_to_the_old_primary(plan: str) -> None:
    made = world()
    getattr(made, plan)["2:promote"] = UNKNOWN
    with pytest.raises(OutcomeUnknown):
        hand_off(made)
    promoted = next(i for i, step in enumerate(made.steps) if step.startswith("2:promote"))
    assert [s for s in made.steps[promoted + 1 :] if s != "2:info"] == []
    assert made.view.groups[GROUP].handoff is not None
    assert made.servers[OLD].seen.is_fenced


def test_a_promotion_that_does_not_show_releases_nothing() -> None:
    made = world()
    made.servers[NEW].ignores = "promote"
    with pytest.raises(Transient, match="does not report itself as a primary"):
        hand_off(made)
    assert not [s for s in made.steps if "release" in s]


def test_a_candidate_that_is_fenced_itself_is_opened_before_its_clients_come() -> None:
    made = world()
    made.on_step["2:promote"] = lambda: change(made, NEW, is_fenced=True)
    steps = hand_off(made)
    assert steps.index("2:promote") < steps.index("2:unfence") < steps.index("node 1:release to 2")


@pytest.mark.parametrize("step", ["1:end_clients", "1:attach", "1:end_pause", "1:unfence"])
def test_a_demotion_that_fails_is_left_to_the_reconciliation(step: str) -> None:
    made = world()
    made.fails[step] = UNKNOWN
    assert hand_off(made)[-2:] == [f"{step} failed", "commit: SlotGroup, Shard, Move, Event"]
    assert made.view.groups[GROUP].primary == NEW


@pytest.mark.parametrize("sighting", [Sighting.RUNS, Sighting.ENDED, Sighting.NONE])
def test_a_new_primary_that_a_client_occupies_at_once_does_not_delay_the_end(sighting: Sighting) -> None:
    """Unless its process may have ended: then the promotion may have been in vain."""
    made = world()
    made.nodes[made.view.shards[NEW].node_uid].sees = ProcessLook(sighting)
    made.on_step["1:unfence"] = lambda: made.fails.update({"2:info": UNKNOWN})
    if sighting is Sighting.RUNS:
        assert hand_off(made)[-1] == "commit: SlotGroup, Shard, Move, Event"
        assert (made.view.groups[GROUP].primary, made.view.groups[GROUP].handoff) == (NEW, None)
    else:
        with pytest.raises(OutcomeUnknown):
            hand_off(made)
        assert made.view.groups[GROUP].handoff is not None


def test_the_clients_of_the_old_primary_end_while_it_still_pauses() -> None:
    """A script that it has not executed yet would run on a replica, and its answer would hide that nothing was written."""
    made = world()
    paused: list[bool] = []
    made.on_step["1:end_clients"] = lambda: paused.append(made.servers[OLD].is_paused)
    hand_off(made)
    assert paused == [True]


def test_an_endpoint_process_that_misses_the_release_asks_by_itself() -> None:
    made = world()
    made.fails["node 1:release to 2"] = Transient(Code.ENDPOINT_PROCESS_SILENT, "late")
    assert hand_off(made)[-1] == "commit: SlotGroup, Shard, Move, Event"


@pytest.mark.parametrize("step", ["commit: SlotGroup, Move", "1:fence", "2:promote"])
def test_a_leader_that_has_lost_its_term_stops_immediately(step: str) -> None:
    made = world()
    made.fails[step] = LostLeadership("term 7 is over")
    with pytest.raises(LostLeadership):
        hand_off(made)
    assert not set(made.commands()) & {"node 1:release to 1", "node 1:release to 2", "1:unfence"}
