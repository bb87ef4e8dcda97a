"""The table of crash points names all existing points; a sample of them is struck."""

import re
from pathlib import Path

import pytest

from sim.crash_points import SCENARIOS, Scenario, Strike, points_of, strike, strikes_of
from sim.simulation import quiet

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "crash-points.md"


@pytest.mark.usefixtures("product_log")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_the_table_names_every_point(scenario: Scenario) -> None:
    quiet()
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"\n## {scenario.name}\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| (com[a-z]+: .*?) \| \d", section, re.M))
    assert set(points_of(scenario)) - listed == set(), "run make crash-points"


@pytest.mark.proof
@pytest.mark.usefixtures("product_log")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_a_sample_of_strikes_ends_well(scenario: Scenario) -> None:
    quiet()
    chosen: list[Strike] = strikes_of(points_of(scenario))[::17]
    failed = {one: found.failure for one in chosen if (found := strike(scenario.name, one)) is not None and found.failure}
    assert failed == {}
