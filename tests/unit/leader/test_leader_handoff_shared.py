"""A handoff of an endpoint that several nodes serve: each process is held, released and named in the evidence."""

from dataclasses import replace

from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.database import ProxyPolicy
from shardwright.model.ids import NodeUid
from tests.unit.leader.leader_fakes import ENDPOINT, World, hand_off, ready, reasons


def shared() -> World:
    """Nodes 1 and 3 serve the endpoint."""
    builder = ready().with_database_changed(1, proxy_policy=ProxyPolicy.ALL_NODES)
    endpoint = replace(builder.view.endpoints[ENDPOINT], nodes=(NodeUid(1), NodeUid(3)))
    return World(builder.with_records(endpoint).view)


def test_every_process_that_serves_is_held_and_released_and_named_in_the_evidence() -> None:
    made = shared()
    steps = hand_off(made)
    assert steps[:6] == [
        "node 1:calm",
        "node 3:calm",
        "commit: SlotGroup, Move, Endpoint",
        "node 1:hold",
        "node 3:hold",
        "1:pause_writes",
    ]
    assert {"node 1:release to 2", "node 3:release to 2"} <= set(steps)
    evidence = made.move.evidence
    assert evidence is not None
    assert (evidence.held_nodes, evidence.not_held_nodes, evidence.not_released_nodes) == ((1, 3), (), ())


def test_one_late_process_among_several_undoes_the_attempt_for_all() -> None:
    made = shared()
    made.fails["node 3:hold"] = Transient(Code.ENDPOINT_PROCESS_SILENT, "late")
    steps = hand_off(made)
    assert "1:pause_writes" not in steps
    assert {"node 1:release to 1", "node 3:release to 1"} <= set(steps)
    assert reasons(made) == ["endpoint_process_late"]


def test_one_ended_process_among_several_is_passed_over() -> None:
    made = shared()
    made.nodes[NodeUid(3)].has_ended = True
    assert "2:promote" in hand_off(made)
    evidence = made.move.evidence
    assert evidence is not None
    assert (evidence.held_nodes, evidence.not_held_nodes, evidence.not_released_nodes) == ((1,), (3,), ())


def test_a_process_that_does_not_answer_the_release_is_named() -> None:
    made = shared()
    made.fails["node 3:release to 2"] = Transient(Code.ENDPOINT_PROCESS_SILENT, "late")
    hand_off(made)
    evidence = made.move.evidence
    assert evidence is not None
    assert evidence.not_released_nodes == (3,)
