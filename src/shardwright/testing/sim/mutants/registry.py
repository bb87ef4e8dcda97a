"""The list of planted mistakes, and how one is planted and hunted. The mistakes themselves are in the modules beside it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from shardwright.testing.sim.checker import Violation
from shardwright.testing.sim.simulation import Simulation

Patch = tuple[Any, str, Any]


Make = Callable[[], Sequence[Patch]]
Situation = Callable[[Simulation], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake: what it replaces, by what. ``situation`` sets the trap that it walks into, where chance sets it too seldom;
    the right product walks through it unharmed (``tests/sim/test_mutants.py``)."""

    name: str
    patches: Make
    situation: Situation | None = None


MUTANTS: list[Mutant] = []


def mutant(make: Make) -> Make:
    """Register a mistake under its function's name."""
    MUTANTS.append(Mutant(make.__name__, make))
    return make


def mutant_in(situation: Situation) -> Callable[[Make], Make]:
    """Register a mistake that needs a situation."""

    def register(make: Make) -> Make:
        MUTANTS.append(Mutant(make.__name__, make, situation))
        return make

    return register


@contextmanager
def planted(chosen: Mutant) -> Iterator[None]:
    """The product with this mistake."""
    patches = [(owner, name, owner.__dict__[name], wrong) for owner, name, wrong in chosen.patches()]
    try:
        for owner, name, _, wrong in patches:
            setattr(owner, name, wrong)
        yield
    finally:
        for owner, name, right, _ in patches:
            setattr(owner, name, right)


def hunt(chosen: Mutant, seeds: range) -> tuple[int, Violation] | None:
    """The first seed that notices the mistake, and how; None when none does. Raises AssertionError when the mistake was
    written for other code: then it breaks the product instead of being a mistake."""
    for seed in seeds:
        with planted(chosen):
            simulation = Simulation(seed)
            try:
                if chosen.situation is not None:
                    chosen.situation(simulation)
                simulation.press()
                simulation.rest()
            except Violation as e:
                if e.name == "defect":
                    raise AssertionError(f"{chosen.name} fits the product no more: {e}") from e
                return seed, e
            finally:
                simulation.end()
    return None
