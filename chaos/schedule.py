"""The schedule of a run, decided by the seed before the run begins.

Pure. The same seed and length give the same items at the same times. An item does not name a process, because the processes
are unknown beforehand. It contains a random number that chooses one of the candidates that the rules allow (``rules.py``) at
its time.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class ItemKind(StrEnum):
    """The kind of an item."""

    MAINTENANCE = "maintenance"
    """``maintenance_off`` of a node in maintenance, if there is one; otherwise ``maintenance_on``."""
    STEP_DOWN = "step_down"
    REMOVE = "remove"
    CANCEL_STOP = "cancel_stop"
    CANCEL_UNDO = "cancel_undo"
    TEND = "tend"
    """Reopen a node that a removal left closed; add a node in place of a removed one."""
    CREATE_DATABASE = "create_database"
    UPDATE_DATABASE = "update_database"
    DELETE_DATABASE = "delete_database"
    KILL_DAEMON = "kill_daemon"
    FREEZE_DAEMON = "freeze_daemon"
    KILL_LEADER = "kill_leader"
    FREEZE_LEADER = "freeze_leader"
    KILL_ENDPOINT = "kill_endpoint"
    FREEZE_ENDPOINT = "freeze_endpoint"
    KILL_REPLICA = "kill_replica"
    FREEZE_SERVER = "freeze_server"
    KILL_ONLY_COPY = "kill_only_copy"
    KILL_PRIMARY = "kill_primary"
    KILL_SUPERVISOR = "kill_supervisor"

    @property
    def is_fault(self) -> bool:
        """Whether it affects processes; the other kinds are requests to the API."""
        return self.startswith(("kill_", "freeze_"))


_WEIGHTS = {
    ItemKind.MAINTENANCE: 6,
    ItemKind.STEP_DOWN: 3,
    ItemKind.REMOVE: 2,
    ItemKind.CANCEL_STOP: 1,
    ItemKind.CANCEL_UNDO: 2,
    ItemKind.TEND: 3,
    ItemKind.CREATE_DATABASE: 2,
    ItemKind.UPDATE_DATABASE: 2,
    ItemKind.DELETE_DATABASE: 1,
    ItemKind.KILL_DAEMON: 3,
    ItemKind.FREEZE_DAEMON: 2,
    ItemKind.KILL_LEADER: 2,
    ItemKind.FREEZE_LEADER: 1,
    ItemKind.KILL_ENDPOINT: 2,
    ItemKind.FREEZE_ENDPOINT: 1,
    ItemKind.KILL_REPLICA: 3,
    ItemKind.FREEZE_SERVER: 3,
    ItemKind.KILL_ONLY_COPY: 2,
    ItemKind.KILL_PRIMARY: 2,
    ItemKind.KILL_SUPERVISOR: 1,
}
FREEZES_S = {
    ItemKind.FREEZE_DAEMON: (0.3, 8.0),
    ItemKind.FREEZE_LEADER: (0.3, 8.0),
    ItemKind.FREEZE_ENDPOINT: (0.2, 3.0),
    ItemKind.FREEZE_SERVER: (0.1, 4.0),
    ItemKind.KILL_SUPERVISOR: (0.2, 3.0),
}
"""Minimum and maximum time for which something is frozen or down; for a server always less than the policy's limit."""
REQUEST_GAP_S = (0.3, 4.0)
FAULT_GAP_S = (0.3, 3.5)
CANCEL_SOON = 0.25
"""Share of the node actions that are cancelled soon after their request."""
STRIKE_SOON = 0.5
"""Share of them in the middle of which something dies or freezes: their moves last a second, their handoffs less."""
STRIKES = (
    *(ItemKind.KILL_LEADER, ItemKind.FREEZE_LEADER, ItemKind.KILL_DAEMON, ItemKind.KILL_ENDPOINT, ItemKind.FREEZE_ENDPOINT),
    *(ItemKind.KILL_REPLICA, ItemKind.FREEZE_SERVER),
)
SOON_S = (0.05, 0.3, 1.0)
EVERY_FAULT = frozenset(kind for kind in ItemKind if kind.is_fault)
UNNOTICED = frozenset({ItemKind.FREEZE_ENDPOINT})
"""Faults during planned actions of which an ordinary client sees no error and no disconnect."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item. ``pick`` chooses among the allowed targets; ``lasts_s`` is the duration of a temporary fault."""

    at_s: float
    kind: ItemKind
    pick: int
    lasts_s: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.2f} s" if self.lasts_s else ""
        return f"{self.at_s:7.2f} {self.kind}#{self.pick}{lasts}"


def schedule(seed: int, *, seconds: float, faults: frozenset[ItemKind] = EVERY_FAULT) -> tuple[Item, ...]:
    """All items within this time, by time. ``faults``: the allowed kinds."""
    strikes = [kind for kind in STRIKES if kind in faults]
    asked = _items(random.Random(f"requests {seed}"), REQUEST_GAP_S, seconds, frozenset(ItemKind) - EVERY_FAULT, strikes)
    hit = _items(random.Random(f"faults {seed}"), FAULT_GAP_S, seconds, faults, strikes)
    return tuple(sorted([*asked, *hit], key=lambda item: item.at_s))


def _items(
    rng: random.Random, gap: tuple[float, float], seconds: float, allowed: frozenset[ItemKind], strikes: Sequence[ItemKind]
) -> list[Item]:
    kinds = [kind for kind in ItemKind if kind in allowed]
    weights = [_WEIGHTS[kind] for kind in kinds]
    items: list[Item] = []
    at = rng.uniform(*gap)
    while at < seconds:
        kind = rng.choices(kinds, weights)[0]
        items.append(_item(rng, at, kind))
        if kind in (ItemKind.MAINTENANCE, ItemKind.REMOVE, ItemKind.STEP_DOWN):
            if rng.random() < CANCEL_SOON:
                items.append(_soon(rng, at, (ItemKind.CANCEL_STOP, ItemKind.CANCEL_UNDO)))
            if rng.random() < STRIKE_SOON:
                items.append(_soon(rng, at, strikes))
        at += rng.uniform(*gap)
    return items


def _item(rng: random.Random, at: float, kind: ItemKind) -> Item:
    lasts = rng.uniform(*FREEZES_S[kind]) if kind in FREEZES_S else 0.0
    return Item(at, kind, rng.randrange(1 << 16), lasts)


def _soon(rng: random.Random, at: float, kinds: Sequence[ItemKind]) -> Item:
    return _item(rng, at + rng.choice(SOON_S) * rng.random(), rng.choice(kinds))
