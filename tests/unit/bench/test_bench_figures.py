import math

import pytest

from bench.figures import Figure, PartResult, at_least, at_most, percentile, spread, tidy


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(n) for n in range(1, 101)]
    assert percentile(values, 99) == 99
    assert percentile(values, 50) == 50
    assert percentile(values, 100) == 100
    assert percentile([7.0], 1) == 7


def test_with_fifty_values_the_99th_percentile_is_the_largest() -> None:
    assert percentile([float(n) for n in range(50)], 99) == 49


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_spread_ignores_missing_values() -> None:
    found = spread([3.0, math.nan, 1.0, 2.0])
    assert (found.count, found.p50, found.max) == (3, 2.0, 3.0)


def test_no_values_have_no_spread() -> None:
    found = spread([])
    assert found.count == 0
    assert found.as_json() == {"count": 0, "p50": None, "p99": None, "max": None}


@pytest.mark.parametrize(("value", "expected"), [(1.23456, 1.235), (123456.0, 123500.0), (math.nan, None), (math.inf, None)])
def test_results_have_few_digits_and_only_valid_json_values(value: float, expected: float | None) -> None:
    assert tidy(value) == expected


def test_ratios_are_the_products_figure_divided_by_the_other() -> None:
    figure = Figure("pause", "ms", 6.0, 600.0, "FAILOVER", 3.0, "by hand")
    assert figure.to_peer == 0.01
    assert figure.to_floor == 2.0


def test_without_a_floor_there_is_no_ratio() -> None:
    figure = Figure("pause", "ms", 6.0)
    assert math.isnan(figure.to_floor)
    assert math.isnan(Figure("pause", "ms", 6.0, floor=0.0).to_floor)
    assert figure.as_json() == {"name": "pause", "unit": "ms", "ours": 6.0}


def test_goals_state_their_limit_and_whether_it_is_met() -> None:
    assert at_most(20.0, 20, "ms").is_met
    assert not at_most(20.1, 20, "ms").is_met
    assert at_least(0.6, 0.6, "").is_met
    assert not at_least(0.59, 0.6, "").is_met
    assert at_least(0.6, 0.6, "").text == "≥ 0.6"
    assert not at_most(math.nan, 20, "ms").is_met


def test_the_json_of_a_part_contains_everything() -> None:
    part = PartResult(
        "handoff", [Figure("pause", "ms", 6.0, goal=at_most(6.0, 20, "ms"))], troubles=["1 lost writes"], seconds=1.26
    )
    found = part.as_json()
    assert found["figures"] == [{"name": "pause", "unit": "ms", "ours": 6.0, "goal": "≤ 20 ms", "is_met": True}]
    assert found["troubles"] == ["1 lost writes"]
    assert found["seconds"] == 1.3
