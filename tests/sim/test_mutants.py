"""The simulation notices planted mistakes, and the unchanged product passes the same traps."""

from dataclasses import replace

import pytest

from sim.mutants import MUTANTS, RIGHT, SITUATIONS, Mutant, Situation, hunt
from sim.simulation import quiet

pytestmark = pytest.mark.usefixtures("product_log")
QUICK = (
    "does_not_end_older_sessions",
    "does_not_check_the_lease",
    "restarts_an_empty_primary_in_place",
    "ends_the_pause_before_the_clients",
    "passes_connections_without_a_deadline",
    "continues_without_the_hold_of_a_late_process",
    "holds_only_one_process",
    "releases_only_one_process",
)


def test_there_are_many_mutants_and_each_replaces_existing_code() -> None:
    assert len(MUTANTS) >= 20
    for mutant in MUTANTS:
        for owner, name, wrong in mutant.patches():
            assert owner.__dict__[name] is not wrong, mutant.name


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name in QUICK], ids=lambda m: m.name)
def test_a_planted_mistake_is_noticed(mutant: Mutant) -> None:
    quiet()
    assert hunt(mutant, range(12)) is not None


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_planted_mistake_is_noticed(mutant: Mutant) -> None:
    quiet()
    assert hunt(mutant, range(60)) is not None


@pytest.mark.proof
@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
def test_the_unchanged_product_passes_every_situation(situation: Situation) -> None:
    quiet()
    assert hunt(replace(RIGHT, situation=situation), range(2)) is None
