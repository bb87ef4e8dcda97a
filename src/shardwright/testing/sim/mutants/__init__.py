"""Mistakes that one could make, planted one by one: the simulation must notice each of them within a few seeds.

Each mutant replaces a piece of the product by a wrong one for as long as it is tried, as somebody might have written it who
did not know the trap: see ``handoffs``, ``endpoints``, ``successors``, ``roles``, ``plans``; ``situations`` and
``client_situations`` have what some of them need.
"""

from shardwright.testing.sim.mutants import endpoints, handoffs, plans, roles, successors
from shardwright.testing.sim.mutants.registry import MUTANTS, Mutant, Situation, hunt

RIGHT = Mutant("the_right_product", lambda: ())
SITUATIONS = tuple(dict.fromkeys(m.situation for m in MUTANTS if m.situation is not None))
"""The right product walks through every one of them."""

__all__ = [
    "MUTANTS",
    "RIGHT",
    "SITUATIONS",
    "Mutant",
    "Situation",
    "endpoints",
    "handoffs",
    "hunt",
    "plans",
    "roles",
    "successors",
]
