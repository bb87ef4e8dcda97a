"""The list of planted mistakes, and the functions that plant and hunt one. The mistakes are in the other modules."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sim.checker import Violation
from sim.machines import Layout
from sim.simulation import Simulation

Patch = tuple[Any, str, Any]


Make = Callable[[], Sequence[Patch]]
Situation = Callable[[Simulation], None]
LAYOUTS: dict[Situation, Layout] = {}
"""The machines of situations that need several."""


def on_machines(layout: Layout) -> Callable[[Situation], Situation]:
    """Mark a situation that needs these machines."""

    def mark(situation: Situation) -> Situation:
        LAYOUTS[situation] = layout
        return situation

    return mark


@dataclass(frozen=True, slots=True)
class Mutant:
    """A mistake: the parts that it replaces, and their replacements. ``situation`` sets the trap for it if chance sets it
    too rarely; the unchanged product passes the situation (``tests/sim/test_mutants.py``)."""

    name: str
    patches: Make
    situation: Situation | None = None


MUTANTS: list[Mutant] = []


def mutant(make: Make) -> Make:
    """Register a mistake under the name of its function."""
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
    """Run the product with this mistake."""
    patches = [(owner, name, owner.__dict__[name], wrong) for owner, name, wrong in chosen.patches()]
    try:
        for owner, name, _, wrong in patches:
            setattr(owner, name, wrong)
        yield
    finally:
        for owner, name, right, _ in patches:
            setattr(owner, name, right)


def hunt(chosen: Mutant, seeds: range) -> tuple[int, Violation] | None:
    """The first seed that notices the mistake, and how; None: no seed. Raises AssertionError if the mistake no longer fits
    the product's code, because it then only breaks the product."""
    for seed in seeds:
        with planted(chosen):
            simulation = Simulation(seed, layout=None if chosen.situation is None else LAYOUTS.get(chosen.situation))
            try:
                if chosen.situation is not None:
                    chosen.situation(simulation)
                simulation.press()
                simulation.rest()
            except Violation as e:
                if e.name == "defect":
                    raise AssertionError(f"{chosen.name} no longer fits the product: {e}") from e
                return seed, e
            finally:
                simulation.end()
    return None
