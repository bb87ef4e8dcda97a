"""The target and the holds of an endpoint; every request may be late or repeated."""

import itertools
from dataclasses import replace

import pytest

from shardwright.endpoint.gate import Change, Gate, is_same_server
from shardwright.endpoint.protocol import EndpointSpec, Target
from shardwright.endpoint.words import NOT_PLAIN, NOT_PLAIN_WHEN_STRICT
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid

A, B, C = (Target(ShardUid(n), n, "127.0.0.1", 1000 + n, f"run-{n}") for n in (1, 2, 3))


def gate(target: Target | None = B) -> Gate:
    return Gate(EndpointSpec(EndpointUid("1:1"), DatabaseUid(1), "db", "127.0.0.1", 10_000, target))


def held(old: Target = B, new: Target = C) -> Gate:
    made = gate(old)
    assert made.begin_hold(old, new, 5.0) is Change.HELD
    return made


def test_a_gate_without_a_target_is_closed_until_it_gets_one() -> None:
    closed = gate(None)
    assert (closed.is_open, closed.generation) == (False, -1)
    assert closed.serve(replace(closed.spec, target=A)) is Change.MOVED
    assert (closed.is_open, closed.generation) == (True, 1)


@pytest.mark.parametrize(("target", "change"), [(None, Change.NONE), (A, Change.NONE), (B, Change.NONE), (C, Change.MOVED)])
def test_a_specification_moves_an_open_gate_only_forward(target: Target | None, change: Change) -> None:
    made = gate()
    flow = made.flow
    assert made.serve(replace(made.spec, target=target)) is change
    assert made.target == (C if change is Change.MOVED else B)
    assert (made.flow != flow) == (change is Change.MOVED)


def test_a_restarted_process_of_the_same_generation_is_followed() -> None:
    made = gate()
    restarted = replace(B, run_id="another")
    assert made.serve(replace(made.spec, target=restarted)) is Change.MOVED
    assert made.target == restarted


@pytest.mark.parametrize(("target", "change"), [(A, Change.NONE), (replace(B, port=9), Change.NONE), (C, Change.MOVED)])
def test_a_specification_ends_a_hold_only_by_its_target(target: Target, change: Change) -> None:
    made = held()
    assert made.serve(replace(made.spec, target=target)) is change
    assert made.is_open == (change is Change.MOVED)


def test_settings_apply_whatever_happens_to_the_target() -> None:
    made = held()
    assert made.not_plain is NOT_PLAIN
    assert made.serve(replace(made.spec, target=A, password="new", is_strict=True)) is Change.NONE
    assert (made.spec.password, made.not_plain) == ("new", NOT_PLAIN_WHEN_STRICT)


def test_a_repeated_or_later_hold_counts_from_the_first_beginning() -> None:
    made = held()
    flow = made.flow
    assert made.begin_hold(B, C, 6.0) is Change.NONE
    assert made.flow == flow
    later = replace(C, generation=9)
    assert made.begin_hold(B, later, 7.0) is Change.HELD
    assert made.hold is not None
    assert (made.hold.since, made.hold.new) == (5.0, later)
    assert made.begin_hold(B, C, 8.0) is Change.NONE, "an older one"


def test_an_ended_hold_does_not_return() -> None:
    made = held()
    made.release(C)
    assert made.begin_hold(B, C, 6.0) is Change.NONE
    assert made.begin_hold(C, replace(B, generation=3), 6.0) is Change.NONE
    assert made.is_open


@pytest.mark.parametrize(
    ("target", "change"),
    [
        (C, Change.MOVED),
        (replace(A, generation=4), Change.MOVED),
        (B, Change.MOVED),
        (replace(B, generation=4), Change.MOVED),
        (A, Change.NONE),
        (replace(B, generation=1), Change.NONE),
        (replace(A, generation=2), Change.NONE),
    ],
)
def test_a_hold_ends_forward_or_by_an_undo_but_by_nothing_older(target: Target, change: Change) -> None:
    made = held()
    assert made.release(target) is change
    assert made.target == (target if change is Change.MOVED else B)
    assert made.is_open == (change is Change.MOVED)


def test_a_release_without_a_hold_moves_only_to_a_higher_generation() -> None:
    made = gate()
    assert made.release(replace(A, generation=2)) is Change.NONE
    assert made.release(C) is Change.MOVED
    assert made.release(C) is Change.NONE


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({}, True),
        ({"generation": 9}, True),
        ({"shard_uid": ShardUid(9)}, True),
        ({"run_id": ""}, True),
        ({"run_id": "other"}, False),
        ({"port": 9}, False),
        ({"address": "127.0.0.9"}, False),
    ],
)
def test_a_connection_stays_if_the_same_process_answers(changes: dict[str, object], is_same: bool) -> None:
    other = replace(B, **changes)  # type: ignore[arg-type]
    assert is_same_server(B, other) is is_same_server(other, B) is is_same


def test_no_target_equals_only_no_target() -> None:
    assert is_same_server(None, None)
    assert not is_same_server(None, A)
    assert not is_same_server(A, None)


def test_no_order_of_requests_lowers_the_generation_except_an_undo() -> None:
    requests = [(name, target) for name in ("serve", "hold", "release") for target in (A, B, C)]
    for order in itertools.product(requests, repeat=3):
        made = gate(A)
        for name, target in order:
            before, hold = made.generation, made.hold
            match name:
                case "serve":
                    made.serve(replace(made.spec, target=target))
                case "hold":
                    made.begin_hold(made.target or A, target, 1.0)
                case _:
                    made.release(target)
            assert made.generation >= before, (order, hold)
            assert made.hold is None or made.hold.new.generation > made.generation
