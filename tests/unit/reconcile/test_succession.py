"""The tables of the succession: total, without a row that nothing reaches, and safe."""

from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from itertools import product
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import pytest

from shardwright.reconcile.succession import (
    COMPARISON,
    FAILOVER,
    START,
    TABLES,
    Choice,
    Chosen,
    Committed,
    ComparisonFacts,
    Failover,
    FailoverFacts,
    Heir,
    Start,
    StartFacts,
    Table,
)

Facts = TypeVar("Facts")


def every(kind: type[Facts]) -> Iterator[Facts]:
    """All combinations of facts."""
    values: list[tuple[object, ...]] = []
    for hint in get_type_hints(kind).values():
        (known,) = [one for one in get_args(hint) if one is not NoneType]
        values.append(tuple(known) if issubclass(known, StrEnum) else (False, True))
    return (kind(*combination) for combination in product(*values))


def facts_of(table: Table[Any, Any]) -> list[Any]:
    return list(every(type(table.rules[0].when)))


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.title)
def test_a_table_is_total_and_each_of_its_rows_is_reached(table: Table[Any, Any]) -> None:
    reached = [table.rules.index(table.rule(facts)) for facts in facts_of(table)]
    assert set(reached) == set(range(len(table.rules)))


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.title)
def test_a_table_gives_every_answer_and_prints_every_row(table: Table[Any, Any]) -> None:
    assert {rule.does for rule in table.rules} == set(type(table.rules[0].does).__members__.values())
    assert all(rule.why for rule in table.rules)
    assert [len(row) for row in table.rows()] == [len(table.columns) + 2] * len(table.rules)


def test_a_row_is_printed_with_what_it_does_not_ask_for() -> None:
    assert FAILOVER.rows()[1] == ("any", "yes", "no", "any", "any", "any", FAILOVER.rules[1].does, FAILOVER.rules[1].why)


def test_a_replica_is_promoted_only_after_it_was_seen_to_outlive_its_primary() -> None:
    for facts in every(FailoverFacts):
        if FAILOVER.rule(facts).does is Failover.PROMOTE:
            assert facts.is_observed
            assert facts.heir is not Heir.NONE
            assert facts.is_final or not facts.is_strict


def test_without_strict_mode_an_unmarked_replica_takes_over_only_from_a_dead_node_when_no_other_may_hold_more() -> None:
    for facts in every(FailoverFacts):
        if facts.heir is Heir.FOLLOWER and not facts.is_strict and FAILOVER.rule(facts).does is Failover.PROMOTE:
            assert facts.is_node_dead
            assert not facts.has_silent


def test_a_group_does_not_start_over_while_a_silent_replica_may_hold_everything() -> None:
    for facts in every(FailoverFacts):
        if FAILOVER.rule(facts).does is Failover.START_OVER:
            assert not facts.has_silent


def test_a_committed_primary_with_data_gives_way_only_to_a_copy_that_holds_more_and_waits_for_one_that_may() -> None:
    for facts in every(ComparisonFacts):
        if facts.committed is Committed.FILLED:
            chosen = Choice.WAIT_FOR_COPIES if facts.has_silent else Choice.COMMITTED
            assert COMPARISON.rule(facts).does is (Choice.AHEAD if facts.is_exceeded else chosen)


def test_an_empty_primary_is_chosen_only_when_no_copy_holds_data_and_none_is_pending() -> None:
    for facts in every(ComparisonFacts):
        if facts.committed is Committed.EMPTY and COMPARISON.rule(facts).does is Choice.COMMITTED:
            assert not facts.has_pending
            assert not facts.has_data


def test_a_primary_that_may_come_back_is_waited_for() -> None:
    for facts in every(ComparisonFacts):
        if facts.committed is Committed.AWAITED:
            assert COMPARISON.rule(facts).does is Choice.WAIT


def test_a_primary_that_cannot_start_gives_way_only_to_a_copy_that_was_in_sync() -> None:
    for facts in every(ComparisonFacts):
        if facts.committed is Committed.LOST:
            assert COMPARISON.rule(facts).does is (Choice.IN_SYNC if facts.has_in_sync else Choice.WAIT)


def test_what_the_comparison_chose_is_opened_whatever_else_could_be_promoted() -> None:
    for facts in every(StartFacts):
        if not facts.has_kept and facts.chosen is Chosen.OTHER:
            assert START.rule(facts).does is Start.OPEN


def test_copies_that_were_set_aside_are_compared_before_anything_is_opened() -> None:
    for facts in every(StartFacts):
        assert (START.rule(facts).does is Start.TAKE_BACK) is facts.has_kept


def test_a_surviving_replica_comes_before_an_operators_choice_and_that_before_the_strict_rule() -> None:
    def does(**facts: bool) -> Start:
        return START.rule(StartFacts(has_kept=False, chosen=Chosen.NONE, is_cut_reported=True, **facts)).does

    assert does(has_survivor=True, is_told=True, has_strict_heir=True) is Start.FAIL_OVER
    assert does(has_survivor=False, is_told=True, has_strict_heir=True) is Start.OBEY
    assert does(has_survivor=False, is_told=False, has_strict_heir=True) is Start.FAIL_OVER_STRICT
    assert does(has_survivor=False, is_told=False, has_strict_heir=False) is Start.WAIT


def test_an_operators_choice_waits_only_for_the_report_of_a_cut() -> None:
    for facts in every(StartFacts):
        if START.rule(facts).does is Start.AWAIT_REPORT:
            assert facts.is_told
            assert not facts.is_cut_reported
            assert START.rule(replace(facts, is_cut_reported=True)).does is Start.OBEY
