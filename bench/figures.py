"""Pure: medians, percentiles and ratios, and the shape of what a part of the benchmark reports.

Called by every part and by the report. Reads no clock and prints nothing.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

DIGITS = 4
"""Significant digits in the JSON; more would only show noise."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How values are spread. All are NaN when there are no values."""

    count: int
    p50: float
    p99: float
    max: float

    def as_json(self) -> dict[str, float | int | None]:
        """For the results file; None instead of NaN."""
        return {"count": self.count, "p50": tidy(self.p50), "p99": tidy(self.p99), "max": tidy(self.max)}


def spread(values: Sequence[float]) -> Spread:
    """The spread of some values; NaN among them is left out."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return Spread(0, math.nan, math.nan, math.nan)
    return Spread(len(known), statistics.median(known), percentile(known, 99), max(known))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of all values do not exceed (nearest rank). ValueError: no values."""
    if not values:
        raise ValueError("no values")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(0, rank - 1)]


def median(values: Sequence[float]) -> float:
    """The median; NaN when there are no values."""
    return spread(values).p50


def tidy(value: float) -> float | None:
    """Rounded to a few significant digits; None for NaN and infinity, which JSON does not have."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be."""

    text: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of ours beside the same of a peer and of a floor (what is possible at all); None if there is none."""

    name: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str = ""
    floor: float | None = None
    floor_name: str = ""
    goal: Goal | None = None

    @property
    def to_peer(self) -> float:
        """Ours divided by the peer's; NaN when there is none."""
        return _ratio(self.ours, self.peer)

    @property
    def to_floor(self) -> float:
        """Ours divided by the floor; NaN when there is none."""
        return _ratio(self.ours, self.floor)

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        found: dict[str, Any] = {"name": self.name, "unit": self.unit, "ours": tidy(self.ours)}
        if self.peer is not None:
            found |= {"peer": tidy(self.peer), "peer_name": self.peer_name, "to_peer": tidy(self.to_peer)}
        if self.floor is not None:
            found |= {"floor": tidy(self.floor), "floor_name": self.floor_name, "to_floor": tidy(self.to_floor)}
        if self.goal is not None:
            found |= {"goal": self.goal.text, "is_met": self.goal.is_met}
        return found


@dataclass(slots=True)
class PartResult:
    """What one part found."""

    name: str
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """Whatever else goes into the results file."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know to read the figures right."""
    troubles: list[str] = field(default_factory=list)
    """Lost writes, errors, disconnects, or why the part could not run: any of them fails the run, a slow figure never."""
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "seconds": round(self.seconds, 1),
            "figures": [f.as_json() for f in self.figures],
            "details": self.details,
            "notes": self.notes,
            "troubles": self.troubles,
        }


def at_most(ours: float, limit: float, unit: str) -> Goal:
    """The goal not to exceed a limit."""
    return Goal(f"≤ {limit:g} {unit}".strip(), ours <= limit)


def at_least(ours: float, limit: float, unit: str) -> Goal:
    """The goal to reach a limit."""
    return Goal(f"≥ {limit:g} {unit}".strip(), ours >= limit)


def _ratio(ours: float, other: float | None) -> float:
    return math.nan if other is None or other == 0 else ours / other
