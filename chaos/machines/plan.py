"""The schedule of a run on machines, decided by the seed before the run begins. Pure.

One fault of a machine at a time: strict mode promises nothing for two machines at once. The next fault waits until every
database has its copies again, so the times are the earliest ones.
"""

import random
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What happens to a machine."""

    CUT_OFF = "cut_off"
    """It and the other nodes do not hear each other; clients reach all of them."""
    MUTE = "mute"
    """The others hear nothing of it."""
    DEAF = "deaf"
    """It hears nothing of the others."""
    SLOW = "slow"
    """Everything to and from it arrives late."""
    FREEZE = "freeze"
    """No process of it runs, and its kernel answers: a paused guest."""
    REBOOT = "reboot"
    """Its power fails, and it boots at once."""
    POWER_OFF = "power_off"
    """Its power fails, and it boots later."""
    CUT_AND_REBOOT = "cut_and_reboot"
    """It serves its clients behind a cut, then its power fails."""


class Request(StrEnum):
    """A planned action that runs beside the faults."""

    MAINTENANCE = "maintenance"
    """On, or off for a node in maintenance."""
    STEP_DOWN = "step_down"


LASTS_S = {
    Fault.CUT_OFF: (2.0, 30.0),
    Fault.MUTE: (2.0, 20.0),
    Fault.DEAF: (2.0, 20.0),
    Fault.SLOW: (3.0, 15.0),
    Fault.FREEZE: (1.0, 25.0),
    Fault.REBOOT: (0.0, 0.0),
    Fault.POWER_OFF: (5.0, 30.0),
    Fault.CUT_AND_REBOOT: (5.0, 15.0),
}
_WEIGHTS = {
    Fault.CUT_OFF: 4,
    Fault.MUTE: 2,
    Fault.DEAF: 2,
    Fault.SLOW: 2,
    Fault.FREEZE: 4,
    Fault.REBOOT: 2,
    Fault.POWER_OFF: 2,
    Fault.CUT_AND_REBOOT: 2,
}
DELAYS_S = (0.02, 0.1, 0.4)
FAULT_GAP_S = (1.0, 6.0)
REQUEST_GAP_S = (4.0, 20.0)


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault. ``pick`` chooses the machine; ``delay_s`` is for SLOW."""

    after_s: float
    """The pause before it, from the end of the last one."""
    fault: Fault
    pick: int
    lasts_s: float
    delay_s: float

    def __str__(self) -> str:
        return f"{self.fault} for {self.lasts_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Wish:
    """One request."""

    after_s: float
    request: Request
    pick: int


def strikes(seed: int, count: int) -> tuple[Strike, ...]:
    """The first faults of a seed, in order."""
    rng = random.Random(f"faults of machines {seed}")
    kinds = list(Fault)
    found = []
    for _ in range(count):
        fault = rng.choices(kinds, [_WEIGHTS[kind] for kind in kinds])[0]
        after_s, lasts_s = rng.uniform(*FAULT_GAP_S), rng.uniform(*LASTS_S[fault])
        found.append(Strike(after_s, fault, rng.randrange(1 << 16), lasts_s, rng.choice(DELAYS_S)))
    return tuple(found)


def wishes(seed: int, count: int) -> tuple[Wish, ...]:
    """The first requests of a seed, in order."""
    rng = random.Random(f"requests on machines {seed}")
    kinds = [Request.MAINTENANCE, Request.MAINTENANCE, Request.STEP_DOWN]
    return tuple(Wish(rng.uniform(*REQUEST_GAP_S), rng.choice(kinds), rng.randrange(1 << 16)) for _ in range(count))
