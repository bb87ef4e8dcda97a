"""Where the commands of an endpoint go, and whether they may go now: every request can be late or repeated."""

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


def test_a_gate_without_a_target_is_closed_until_it_is_given_one() -> None:
    closed = gate(None)
    assert (closed.is_open, closed.generation) == (False, -1)
    assert closed.serve(replace(closed.spec, target=A)) is Change.MOVED
    assert (closed.is_open, closed.generation) == (True, 1)


@pytest.mark.parametrize(("target", "change"), [(None, Change.NONE), (A, Change.NONE), (B, Change.NONE), (C, Change.MOVED)])
def test_a_specification_moves_an_open_gate_forward_only(target: Target | None, change: Change) -> None:
    made = gate()
    flow = made.flow
    assert made.serve(replace(made.spec, target=target)) is change
    assert made.target == (C if change is Change.MOVED else B)
    assert (made.flow != flow) == (change is Change.MOVED)


def test_a_process_that_was_started_anew_under_the_same_generation_is_followed() -> None:
    made = gate()
    restarted = replace(B, run_id="another")
    assert made.serve(replace(made.spec, target=restarted)) is Change.MOVED
    assert made.target == restarted


@pytest.mark.parametrize(("target", "change"), [(A, Change.NONE), (replace(B, port=9), Change.NONE), (C, Change.MOVED)])
def test_a_specification_ends_a_hold_only_by_where_it_leads(target: Target, change: Change) -> None:
    made = held()
    assert made.serve(replace(made.spec, target=target)) is change
    assert made.is_open == (change is Change.MOVED)


def test_settings_hold_whatever_becomes_of_the_target() -> None:
    made = held()
    assert made.not_plain is NOT_PLAIN
    assert made.serve(replace(made.spec, target=A, password="new", is_strict=True)) is Change.NONE
    assert (made.spec.password, made.not_plain) == ("new", NOT_PLAIN_WHEN_STRICT)


def test_a_hold_that_is_begun_again_counts_from_its_beginning_and_a_later_one_too() -> None:
    made = held()
    flow = made.flow
    assert made.begin_hold(B, C, 6.0) is Change.NONE
    assert made.flow == flow
    later = replace(C, generation=9)
    assert made.begin_hold(B, later, 7.0) is Change.HELD
    assert made.hold is not None
    assert (made.hold.since, made.hold.new) == (5.0, later)
    assert made.begin_hold(B, C, 8.0) is Change.NONE, "an older one"


def test_a_hold_that_is_over_does_not_come_back() -> None:
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
def test_a_hold_ends_forward_or_by_an_undo_and_by_nothing_older(target: Target, change: Change) -> None:
    made = held()
    assert made.release(target) is change
    assert made.target == (target if change is Change.MOVED else B)
    assert made.is_open == (change is Change.MOVED)


def test_a_release_without_a_hold_moves_to_a_higher_generation_only() -> None:
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
def test_a_connection_stays_where_the_same_process_answers(changes: dict[str, object], is_same: bool) -> None:
    other = replace(B, **changes)  # type: ignore[arg-type]
    assert is_same_server(B, other) is is_same_server(other, B) is is_same


def test_no_target_is_the_same_as_none_only() -> None:
    assert is_same_server(None, None)
    assert not is_same_server(None, A)
    assert not is_same_server(A, None)


def test_whatever_is_asked_in_whatever_order_no_generation_is_given_back_but_by_an_undo() -> None:
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
