"""What one failover showed is a line of a file, and many are added up."""

from dataclasses import replace

import pytest

from bench.failovers.record import Failover, Side, Way, failover_of, gaps_of, is_broken, line_of

FAILOVER = Failover(
    side=Side.DEFAULT, way=Way.CUT, gap_s=9.5, acknowledged=1000, lost=3, behind=0, errors=2, beside_until_s=1.25
)


def test_a_line_has_all_of_a_failover() -> None:
    for each in (FAILOVER, replace(FAILOVER, side=Side.SENTINEL, way=Way.CUT_AND_FREEZE, beside_until_s=None)):
        assert "\n" not in line_of(each)
        assert failover_of(line_of(each)) == each


@pytest.mark.parametrize("line", ["", "{}", '{"side": "strict"}', line_of(FAILOVER).replace("cut", "bite")])
def test_another_line_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="no failover"):
        failover_of(line)


def test_gaps_are_those_of_a_side_and_a_way() -> None:
    found = [FAILOVER, replace(FAILOVER, way=Way.KILL, gap_s=12.0), replace(FAILOVER, side=Side.STRICT, gap_s=8.0)]
    assert gaps_of(found, Side.DEFAULT, None) == [9.5, 12.0]
    assert gaps_of(found, Side.DEFAULT, Way.KILL) == [12.0]
    assert gaps_of(found, Side.SENTINEL, None) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"behind": 1}, True),
        ({"side": Side.STRICT}, True),
        ({"side": Side.STRICT, "lost": 0}, False),
        ({"side": Side.SENTINEL, "behind": 5}, False),
    ],
)
def test_what_breaks_a_promise(change: dict[str, object], expected: bool) -> None:
    assert is_broken([replace(FAILOVER, **change)]) is expected  # type: ignore[arg-type]
