"""Pure: what one failover showed, as a line of JSON, and the sums of many.

A failover is complete in itself: its writers began before it and were checked after it. So runs can be added up, one after
the other or side by side.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Way(StrEnum):
    """How a machine is lost."""

    CUT = "cut"
    """Nothing passes to or from it."""
    KILL = "kill"
    """Its power fails."""
    FREEZE = "freeze and wake"
    CUT_AND_FREEZE = "cut, freeze and wake"


class Side(StrEnum):
    """What has lost its primary."""

    STRICT = "strict"
    DEFAULT = "default"
    SENTINEL = "sentinel"


@dataclass(frozen=True, slots=True)
class Failover:
    """One primary that was lost with its machine, as its clients saw it."""

    side: Side
    way: Way
    gap_s: float
    """The longest time without an acknowledgement, of a client that finds the primary by asking."""
    acknowledged: int
    """By all its clients, those on the lost machine included."""
    lost: int
    """Of these, how many are not in the data afterwards."""
    behind: int
    """Of the lost ones, how many were acknowledged after the new primary had acknowledged its first write."""
    errors: int
    """Seen by the client that asks and repeats nothing."""
    beside_until_s: float | None = None
    """The last lost acknowledgement on the lost machine, in seconds before the first one of the new primary; None: there is
    none."""


def line_of(failover: Failover) -> str:
    """As JSON, without a line feed."""
    return json.dumps(asdict(failover))


def failover_of(line: str) -> Failover:
    """From a line of JSON. Raises ValueError."""
    try:
        found: dict[str, Any] = json.loads(line)
        return Failover(**{**found, "side": Side(found["side"]), "way": Way(found["way"])})
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"this is no failover: {line[:200]!r}") from e


def gaps_of(failovers: Iterable[Failover], side: Side, way: Way | None) -> list[float]:
    """The gaps of one side; ``way`` None: of every way."""
    return [each.gap_s for each in failovers if each.side is side and way in (None, each.way)]


def is_broken(failovers: Sequence[Failover]) -> bool:
    """Whether a promise failed: strict mode has lost an acknowledged write, or default mode one behind the promotion."""
    strict = any(each.lost for each in failovers if each.side is Side.STRICT)
    return strict or any(each.behind for each in failovers if each.side is Side.DEFAULT)
