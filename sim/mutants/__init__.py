"""Plausible mistakes, planted one by one: the simulation must notice each of them within a few seeds.

Each mutant temporarily replaces a part of the product with wrong code, as an author might have written it who did not know
the trap: see ``handoffs``, ``endpoints``, ``successors``, ``roles``, ``machines``, ``parking``, ``leases``, ``plans``,
``repairs``, ``strictness`` and ``shared``. The other modules contain the situations that some of them need.
"""

from sim.mutants import (
    endpoints,
    handoffs,
    leases,
    machines,
    parking,
    plans,
    repairs,
    roles,
    shared,
    strictness,
    successors,
)
from sim.mutants.registry import MUTANTS, Mutant, Situation, hunt

RIGHT = Mutant("the_right_product", lambda: ())
SITUATIONS = tuple(dict.fromkeys(m.situation for m in MUTANTS if m.situation is not None))
"""The unchanged product passes all of them."""

__all__ = [
    "MUTANTS",
    "RIGHT",
    "SITUATIONS",
    "Mutant",
    "Situation",
    "endpoints",
    "handoffs",
    "hunt",
    "leases",
    "machines",
    "parking",
    "plans",
    "repairs",
    "roles",
    "shared",
    "strictness",
    "successors",
]
