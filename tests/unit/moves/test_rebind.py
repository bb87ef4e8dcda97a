"""A rebind's next step, from what is seen."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from shardwright.model.commands import DropEndpoint, PassEndpoint
from shardwright.model.database import Endpoint
from shardwright.model.event import Event
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.move import MoveState
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, ProcessIdentity
from shardwright.model.view import Put
from shardwright.moves.rebind import RULES, RebindRule, RebindStep, Situation, Source, TargetState, source_state, step_of
from testkit.builders import NOW, ClusterBuilder
from tests.unit.moves.moving import (
    decide,
    move_after,
    rebind,
    replicated,
)


def with_endpoint_states(builder: ClusterBuilder, states: dict[int, EndpointState]) -> ClusterBuilder:
    seen = {
        NodeUid(node): EndpointProcessSeen(
            NodeUid(node), NOW, answers=True, endpoints=(EndpointSeen(EndpointUid("1:1"), state, 1, connections=2),)
        )
        for node, state in states.items()
    }
    return ClusterBuilder(replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, **seen}))


def test_an_endpoint_is_passed_then_recorded_then_done() -> None:
    builder, move = replicated(), rebind(MoveState.HANDOFF)
    before = with_endpoint_states(builder, {1: EndpointState.LISTENING, 3: EndpointState.ABSENT})
    assert [type(c) for c in decide(before, move).commands] == [PassEndpoint]
    passed = with_endpoint_states(builder, {1: EndpointState.DRAINING, 3: EndpointState.LISTENING})
    bound = next(w.record for w in decide(passed, move).writes if isinstance(w, Put))
    assert isinstance(bound, Endpoint)
    assert bound.nodes == (3,)
    draining = passed.with_records(bound)
    assert [type(c) for c in decide(draining, move).commands] == [PassEndpoint]
    ended = with_endpoint_states(draining, {1: EndpointState.ABSENT, 3: EndpointState.LISTENING})
    assert move_after(decide(ended, move)).state is MoveState.DONE


def test_a_source_that_was_told_to_listen_again_still_passes_its_connections() -> None:
    """The leader ended a hold there by what it had seen before: clients were cut off when the rebind counted it as left."""
    builder = with_endpoint_states(replicated(), {1: EndpointState.BIND_FAILED, 3: EndpointState.LISTENING})
    bound = replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NodeUid(3),))
    builder = builder.with_records(bound)
    assert [type(c) for c in decide(builder, rebind(MoveState.HANDOFF)).commands] == [PassEndpoint]
    empty = EndpointSeen(EndpointUid("1:1"), EndpointState.BIND_FAILED, 1)
    left = with_source(builder, EndpointProcessSeen(NodeUid(1), NOW, answers=True, endpoints=(empty,)))
    assert move_after(decide(left, rebind(MoveState.HANDOFF))).state is MoveState.DONE


def test_an_endpoint_process_that_was_started_anew_has_nothing_to_pass() -> None:
    builder = with_endpoint_states(replicated(), {1: EndpointState.ABSENT, 3: EndpointState.ABSENT})
    bound = next(w.record for w in decide(builder, rebind(MoveState.HANDOFF)).writes if isinstance(w, Put))
    assert bound.nodes == (3,)  # type: ignore[union-attr]


def with_source(builder: ClusterBuilder, seen: EndpointProcessSeen) -> ClusterBuilder:
    return ClusterBuilder(replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, NodeUid(1): seen}))


def test_a_silent_source_may_still_have_its_clients_and_only_one_that_has_ended_is_passed_over() -> None:
    builder = with_endpoint_states(replicated(), {3: EndpointState.ABSENT})
    move = rebind(MoveState.HANDOFF)
    silent = with_source(builder, EndpointProcessSeen(NodeUid(1), NOW, answers=False))
    assert decide(silent, move, later_s=60).writes == ()
    ended = with_source(builder, EndpointProcessSeen(NodeUid(1), NOW, answers=False, has_ended=True))
    bound = next(w.record for w in decide(ended, move).writes if isinstance(w, Put))
    assert bound.nodes == (3,)  # type: ignore[union-attr]


def test_clients_that_could_not_be_passed_on_are_named_in_an_event() -> None:
    builder = with_endpoint_states(replicated(), {3: EndpointState.LISTENING})
    bound = replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NodeUid(3),))
    left = EndpointSeen(EndpointUid("1:1"), EndpointState.DRAINING, 1, ended=("10.0.0.9:5 nightly-job EVAL",))
    passed = with_source(builder.with_records(bound), EndpointProcessSeen(NodeUid(1), NOW, answers=True, endpoints=(left,)))
    decision = decide(passed, rebind(MoveState.HANDOFF))
    assert move_after(decision).state is MoveState.DONE
    (event,) = [w.record for w in decision.writes if isinstance(w, Put) and isinstance(w.record, Event)]
    assert "10.0.0.9:5 nightly-job EVAL" in event.text


def test_an_endpoint_does_not_wait_for_a_node_that_is_gone() -> None:
    """A daemon that only died is back sooner; behind that the action chooses another node."""
    builder = with_endpoint_states(replicated(), {1: EndpointState.LISTENING}).without_daemon(3)
    silent = EndpointProcessSeen(NodeUid(3), NOW, answers=False)
    builder = ClusterBuilder(
        replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, NodeUid(3): silent})
    )
    waiting = decide(builder, rebind(MoveState.HANDOFF), later_s=9)
    assert waiting.writes == ()
    ended = move_after(decide(builder, rebind(MoveState.HANDOFF), later_s=11))
    assert (ended.state, [r.code for r in ended.reasons]) == (MoveState.FAILED, ["node_down"])
    assert decide(builder.with_daemon(3), rebind(MoveState.HANDOFF), later_s=11).writes == ()


def test_a_source_that_falls_silent_while_it_passes_an_endpoint_on_is_waited_for() -> None:
    """Its silence passed for an endpoint that it does not know any more: the move was done with clients still there."""
    builder = with_endpoint_states(replicated(), {1: EndpointState.DRAINING, 3: EndpointState.LISTENING})
    builder = builder.with_records(replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NodeUid(3),)))
    move = rebind(MoveState.HANDOFF)

    def source(seen: EndpointProcessSeen | None) -> ClusterBuilder:
        processes = {k: v for k, v in builder.view.endpoint_processes.items() if k != NodeUid(1)}
        return ClusterBuilder(
            replace(builder.view, endpoint_processes=processes if seen is None else {**processes, NodeUid(1): seen})
        )

    silent = EndpointProcessSeen(NodeUid(1), NOW, answers=False)
    for waiting in (source(silent), source(None)):
        assert decide(waiting, move, later_s=60).writes == ()
    members = {uid: node for uid, node in builder.view.nodes.items() if uid != NodeUid(1)}
    removed = ClusterBuilder(replace(source(silent).view, nodes=members))
    for left in (source(replace(silent, has_ended=True)), source(replace(silent, answers=True)), removed):
        assert move_after(decide(left, move)).state is MoveState.DONE


@pytest.mark.parametrize("bound_to", [1, 3])
def test_an_endpoint_whose_nodes_are_both_gone_is_given_up(bound_to: int) -> None:
    """It was bound to the dead target and waited there without end; now whoever asked looks for another node."""
    builder = replicated().without_daemon(1).without_daemon(3)
    silent = {NodeUid(n): EndpointProcessSeen(NodeUid(n), NOW, answers=False) for n in (1, 3)}
    builder = ClusterBuilder(replace(builder.view, endpoint_processes={**builder.view.endpoint_processes, **silent}))
    endpoint = builder.view.endpoints[EndpointUid("1:1")]
    builder = builder.with_records(replace(endpoint, nodes=(NodeUid(bound_to),)))
    assert decide(builder, rebind(MoveState.HANDOFF), later_s=9).writes == ()
    ended = move_after(decide(builder, rebind(MoveState.HANDOFF), later_s=11))
    assert (ended.state, [r.code for r in ended.reasons]) == (MoveState.FAILED, ["node_down"])


@pytest.mark.parametrize("at_source", [EndpointState.LISTENING, EndpointState.DRAINING, EndpointState.ABSENT])
@pytest.mark.parametrize("bound_to", [1, 3])
def test_an_endpoint_whose_target_dies_is_the_sources_again(at_source: EndpointState, bound_to: int) -> None:
    """It waited without end when the target's node died: recorded there, or passed on in part and not yet recorded."""
    builder = with_endpoint_states(replicated(), {1: at_source}).without_daemon(3)
    silent = EndpointProcessSeen(NodeUid(3), NOW, answers=False)
    processes = {**builder.view.endpoint_processes, NodeUid(3): silent}
    builder = ClusterBuilder(replace(builder.view, endpoint_processes=processes))
    builder = builder.with_records(replace(builder.view.endpoints[EndpointUid("1:1")], nodes=(NodeUid(bound_to),)))
    assert decide(builder, rebind(MoveState.HANDOFF), later_s=9).writes == ()
    decision = decide(builder, rebind(MoveState.HANDOFF), later_s=11)
    ended = move_after(decision)
    assert [w.record.nodes for w in decision.writes if isinstance(w.record, Endpoint)] == ([(1,)] if bound_to == 3 else [])
    assert (ended.state, ended.reasons[0].code) == (MoveState.FAILED, "node_down")


def situations() -> Iterator[Situation]:
    for source, target in product(Source, TargetState):
        for marks in product((False, True), repeat=4):
            yield Situation(source, target, *marks)


def test_every_situation_has_a_row_and_every_row_a_situation() -> None:
    applied = {next(rule for rule in RULES if rule.matches(found)) for found in situations()}
    assert applied == set(RULES)
    assert {step_of(found)[0] for found in situations()} == set(RebindStep)


def test_the_document_shows_the_table() -> None:
    shown = (Path(__file__).parents[3] / "docs" / "architecture.md").read_text()
    assert "\n".join(row(rule) for rule in RULES) in shown


def row(rule: RebindRule) -> str:
    """A row of the table as the document shows it."""
    source = "any" if rule.source is None else " or ".join(rule.source)
    source += "; its node was removed" if rule.is_source_member is False else ""
    source += "; cancelled" if rule.is_cancel_wanted else ""
    source += "; on another machine" if rule.is_far else ""
    target = "any" if rule.target is None else " or ".join(rule.target)
    bound = "any" if rule.is_bound is None else "target" if rule.is_bound else "source"
    return f"| {source} | {target} | {bound} | {rule.step.replace('_', ' ')} | {rule.why} |"


def test_a_source_that_may_have_connections_is_never_passed_over() -> None:
    """The endpoint is recorded at its target only when clients reach it there, or when none is left at its source."""
    for found in situations():
        if found.is_far:
            continue
        step, _ = step_of(found)
        has_nothing = found.source in (Source.OUT, Source.ENDED)
        if step is RebindStep.BIND:
            assert not found.is_bound
            assert found.target is TargetState.SERVES or (has_nothing and found.target is TargetState.COMING)
        if step is RebindStep.DONE:
            assert found.is_bound
            assert found.target is TargetState.SERVES
            assert has_nothing or found.source is Source.BARRED or not found.is_source_member


def test_an_endpoint_is_given_back_only_to_a_source_that_answers() -> None:
    for found in situations():
        step, _ = step_of(found)
        if step is RebindStep.GIVE_BACK:
            assert found.is_bound
            assert found.target is TargetState.LOST
            assert found.source not in (Source.ENDED, Source.SILENT)
        if step is RebindStep.CANCEL:
            assert found.is_cancel_wanted
            assert not found.is_bound


def test_a_source_is_what_its_process_says() -> None:
    uid = EndpointUid("1:1")
    silent = EndpointProcessSeen(NodeUid(1), NOW, answers=False)
    assert source_state(None, uid) is Source.SILENT
    assert source_state(silent, uid) is Source.SILENT
    assert source_state(replace(silent, has_ended=True), uid) is Source.ENDED
    expected = {
        (EndpointState.ABSENT, 0): Source.OUT,
        (EndpointState.LISTENING, 0): Source.SERVES,
        (EndpointState.LISTENING, 2): Source.SERVES,
        (EndpointState.DRAINING, 0): Source.OUT,
        (EndpointState.DRAINING, 2): Source.PASSES,
        (EndpointState.BIND_FAILED, 0): Source.BARRED,
        (EndpointState.BIND_FAILED, 2): Source.PASSES,
    }
    for (state, connections), source in expected.items():
        seen = EndpointSeen(uid, state, 1, connections=connections)
        assert source_state(replace(silent, answers=True, endpoints=(seen,)), uid) is source


# -- between machines ----------------------------------------------------------------------------------------------------


def on_machines(builder: ClusterBuilder, **machines: str) -> ClusterBuilder:
    """Nodes whose daemons reported these machines, by ``node1`` and so on."""
    seen = dict(builder.view.node_seen)
    for name, machine in machines.items():
        uid = NodeUid(int(name.removeprefix("node")))
        seen[uid] = replace(seen[uid], daemon=ProcessIdentity(1, "boot", 1, "python3", "/", machine))
    return ClusterBuilder(replace(builder.view, node_seen=seen))


def test_between_machines_the_target_serves_beside_the_source_which_then_closes() -> None:
    listening = EndpointState.LISTENING
    far = {"node1": "one", "node3": "two"}
    move = rebind(MoveState.HANDOFF)
    began = on_machines(with_endpoint_states(replicated(), {1: listening, 3: EndpointState.ABSENT}), **far)
    (bound,) = decide(began, move).writes
    assert isinstance(bound.record, Endpoint)
    assert bound.record.nodes == (3,)
    recorded = began.with_records(bound.record)
    assert decide(recorded, move).commands == (), "the source serves its clients until the target does"
    both = on_machines(with_endpoint_states(recorded, {1: listening, 3: listening}), **far)
    assert decide(both, move).commands == (DropEndpoint(NodeUid(1), EndpointUid("1:1")),)
    closed = on_machines(with_endpoint_states(recorded, {1: EndpointState.ABSENT, 3: listening}), **far)
    assert move_after(decide(closed, move)).state is MoveState.DONE


def test_on_one_machine_and_where_the_machine_is_not_known_the_connections_are_passed() -> None:
    began = with_endpoint_states(replicated(), {1: EndpointState.LISTENING, 3: EndpointState.ABSENT})
    for near in (began, on_machines(began, node1="one"), on_machines(began, node1="one", node3="one")):
        assert [type(c) for c in decide(near, rebind(MoveState.HANDOFF)).commands] == [PassEndpoint]


def test_nothing_is_passed_between_machines() -> None:
    for found in situations():
        if found.is_far:
            assert step_of(found)[0] is not RebindStep.PASS
