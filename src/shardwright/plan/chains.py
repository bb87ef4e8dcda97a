"""Chains: when filling nodes leaves a copy without a place, other copies step aside so that everything fits.

Called by ``assignment`` with plain numbers: rooms (nodes), items that must leave theirs, and items that may step aside. The
search places the items that must leave, lets a room run into debt, and settles the debt by ejecting items that were already
there, each at most once. It tries few ejections before many and keeps the solution that transfers the least. A number of
steps, not a time limit, bounds the search, so the result is deterministic. The module does not know records.
"""

from collections.abc import Sequence
from dataclasses import dataclass

STEPS_MAX = 40_000
"""Limit for all searches of one plan: about half a second."""
STEPS_TO_IMPROVE = 10_000
"""Spent on a cheaper solution after one was found."""
EJECTIONS_MAX = 8


@dataclass(frozen=True, slots=True)
class Room:
    """A node, as far as the search knows it. ``memory`` and ``shards`` count leaving items as free already."""

    memory: int
    """Free bytes; negative: the room accepts nothing."""
    shards: int
    memory_now: int
    """Free bytes now, without counting leaving items as free."""
    shards_now: int
    rack: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """A copy that must leave its room, or may leave it."""

    size: int
    """Bytes that it takes in its new room."""
    home: int
    """Index of its current room."""
    group: int
    """Items of one group are copies of one slot group."""
    must_leave: bool = False
    cost: int = 0
    """Bytes that its move transfers."""
    is_rack_aware: bool = False
    avoided: frozenset[int] = frozenset()
    """Rooms that it cannot use, regardless of the other items."""


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """Targets of the moving items, in an order in which every step has room."""

    targets: dict[int, int]
    """Target room of each moving item, in that order; the others stay."""
    early: frozenset[int]
    """Items that may start immediately and in parallel, without waiting for another item to leave."""


@dataclass(slots=True)
class SearchBudget:
    """Steps left for all searches of one plan."""

    steps: int = STEPS_MAX


def rearrange(rooms: Sequence[Room], items: Sequence[Item], *, budget: SearchBudget) -> Rearrangement | None:
    """The cheapest rearrangement that the search found; None if it found none."""
    needed = sum(i.size for i in items if i.must_leave)
    if needed > sum(max(0, r.memory) for r in rooms):
        return None
    search = _Search(rooms, items, budget.steps)
    found = search.run()
    budget.steps -= search.steps
    return found


class _Exhausted(Exception):
    """The steps are used up."""


class _Search:
    """The state of one search; every step undoes itself."""

    def __init__(self, rooms: Sequence[Room], items: Sequence[Item], steps_max: int) -> None:
        self.rooms = rooms
        self.items = items
        self.steps = 0
        self.steps_max = steps_max
        self.memory = [r.memory for r in rooms]
        self.shards = [r.shards for r in rooms]
        self.place: list[int | None] = [None if i.must_leave else i.home for i in items]
        self.is_fixed = [i.must_leave for i in items]
        """Whether the item has moved, or stays in this branch."""
        self.pending = sorted((n for n, i in enumerate(items) if i.must_leave), key=lambda n: (items[n].size, -n))
        self.siblings = _siblings(items)
        self.allowed = [_allowed(rooms, item) for item in items]
        """Rooms that an item may enter if it fits."""
        self.residents: list[list[int]] = [[] for _ in rooms]
        for number, item in enumerate(items):
            if not item.must_leave:
                self.residents[item.home].append(number)
        for found in self.residents:
            found.sort(key=lambda n: (-items[n].size, n))
        self.is_cut = False
        """Whether the limit on ejections cut off a branch."""
        self.best: Rearrangement | None = None
        self.best_cost = (0, 0)

    def run(self) -> Rearrangement | None:
        if not all(self.allowed[n] for n in self.pending):
            return None
        for depth in range(EJECTIONS_MAX + 1):
            self.is_cut = False
            try:
                self._step(depth, (0, 0))
            except _Exhausted:
                break
            if not self.is_cut:
                break
        return self.best

    # -- the search ------------------------------------------------------------------------------------------------------

    def _step(self, ejections: int, cost: tuple[int, int]) -> None:
        """Continue from here with this many ejections left. ``cost``: bytes and moves of the ejections so far."""
        if self.steps >= self.steps_max:
            raise _Exhausted
        self.steps += 1
        if self.best is not None and cost >= self.best_cost:
            return
        if self.pending:
            number = self.pending.pop()
            self._place(number, ejections, cost)
            self.pending.append(number)
            return
        debtor = self._debtor()
        if debtor is not None:
            self._relieve(debtor, ejections, cost)
        else:
            self._accept(cost)

    def _place(self, number: int, ejections: int, cost: tuple[int, int]) -> None:
        item = self.items[number]
        for room in self._candidates(number):
            evicted = self._conflicts(number, room)
            if evicted is None or len(evicted) > ejections:
                self.is_cut = self.is_cut or evicted is not None
                continue
            self.place[number] = room
            self.memory[room] -= item.size
            self.shards[room] -= 1
            for other in evicted:
                self._eject(other)
                cost = (cost[0] + self.items[other].cost, cost[1] + 1)
            if self._can_be_relieved(room, ejections - len(evicted)):
                self._step(ejections - len(evicted), cost)
            for other in reversed(evicted):
                self._return(other)
                cost = (cost[0] - self.items[other].cost, cost[1] - 1)
            self.shards[room] += 1
            self.memory[room] += item.size
            self.place[number] = None

    def _candidates(self, number: int) -> list[int]:
        """Rooms with space, the tightest first; then rooms that would run into debt, the smallest debt first."""
        memory, shards, size = self.memory, self.shards, self.items[number].size
        found = []
        for room in self.allowed[number]:
            left = memory[room] - size
            found.append((left < 0 or shards[room] < 1, abs(left), room))
        found.sort()
        return [room for _, _, room in found]

    def _conflicts(self, number: int, room: int) -> list[int] | None:
        """Copies of the same group that would have to leave the room or its rack; None if one of them cannot leave."""
        evicted = []
        for other in self.siblings[number]:
            there = self.place[other]
            if there is None or not self._collide(number, room, there):
                continue
            if self.is_fixed[other]:
                return None
            evicted.append(other)
        return evicted

    def _collide(self, number: int, room: int, other_room: int) -> bool:
        if room == other_room:
            return True
        return self.items[number].is_rack_aware and self.rooms[room].rack == self.rooms[other_room].rack

    def _can_be_relieved(self, room: int, ejections: int) -> bool:
        debt, surplus = -self.memory[room], -self.shards[room]
        if debt <= 0 and surplus <= 0:
            return True
        # A loop, because every second step of a search ends here.
        free = size = 0
        for number in self.residents[room]:
            if self.is_fixed[number]:
                continue
            if free == ejections:
                self.is_cut = True
                break
            free += 1
            size += self.items[number].size
        return free >= surplus and size >= debt

    def _debtor(self) -> int | None:
        worst, found = 0, None
        for room, memory in enumerate(self.memory):
            if self.rooms[room].memory < 0:
                continue
            if memory < worst or (self.shards[room] < 0 and found is None):
                worst, found = min(memory, 0), room
        return found

    def _relieve(self, room: int, ejections: int, cost: tuple[int, int]) -> None:
        stay: list[int] = []
        for number in self.residents[room]:
            if self.is_fixed[number]:
                continue
            if not self._can_be_relieved(room, ejections):
                break
            self._eject(number)
            self._step(ejections - 1, (cost[0] + self.items[number].cost, cost[1] + 1))
            self._return(number)
            # In the remaining branches it stays: no set of ejections is tried in two orders.
            self.is_fixed[number] = True
            stay.append(number)
        for number in stay:
            self.is_fixed[number] = False

    def _eject(self, number: int) -> None:
        item = self.items[number]
        self.place[number] = None
        self.is_fixed[number] = True
        self.memory[item.home] += item.size
        self.shards[item.home] += 1
        self.pending.append(number)

    def _return(self, number: int) -> None:
        item = self.items[number]
        self.pending.remove(number)
        self.shards[item.home] -= 1
        self.memory[item.home] -= item.size
        self.is_fixed[number] = False
        self.place[number] = item.home

    def _accept(self, cost: tuple[int, int]) -> None:
        targets = {n: room for n, room in enumerate(self.place) if room is not None and room != self.items[n].home}
        order = _order(self.rooms, self.items, self.siblings, targets)
        if order is None:
            return
        early = _early(self.rooms, self.items, self.siblings, order)
        self.best, self.best_cost = Rearrangement(order, early), cost
        self.steps_max = min(self.steps_max, self.steps + STEPS_TO_IMPROVE)
        if cost == (0, 0):
            raise _Exhausted


def _allowed(rooms: Sequence[Room], item: Item) -> list[int]:
    """Not its home, nor a room that it avoids or that takes nothing."""
    return [n for n, room in enumerate(rooms) if n != item.home and n not in item.avoided and room.memory >= 0]


def _siblings(items: Sequence[Item]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.group, []).append(number)
    return [[n for n in groups[item.group] if n != number] for number, item in enumerate(items)]


# -- the order of the moves ------------------------------------------------------------------------------------------------


class _Steps:
    """The rooms while the moves are executed one by one: a copy leaves its old room after it has arrived in the new one."""

    def __init__(
        self, rooms: Sequence[Room], items: Sequence[Item], siblings: Sequence[Sequence[int]], *, is_now: bool
    ) -> None:
        self.rooms = rooms
        self.items = items
        self.siblings = siblings
        self.memory = [r.memory_now if is_now else r.memory for r in rooms]
        self.shards = [r.shards_now if is_now else r.shards for r in rooms]
        self.place = [i.home for i in items]

    def has_room(self, number: int, room: int) -> bool:
        return self.memory[room] >= self.items[number].size and self.shards[room] >= 1

    def may_come(self, number: int, room: int) -> bool:
        for other in self.siblings[number]:
            there = self.place[other]
            same_rack = self.items[number].is_rack_aware and self.rooms[there].rack == self.rooms[room].rack
            if there == room or same_rack:
                return False
        return True

    def come(self, number: int, room: int, *, sign: int = 1) -> None:
        self.memory[room] -= sign * self.items[number].size
        self.shards[room] -= sign

    def leave(self, number: int, room: int, *, sign: int = 1) -> None:
        home = self.items[number].home
        self.memory[home] += sign * self.items[number].size
        self.shards[home] += sign
        self.place[number] = room if sign > 0 else home


def _order(
    rooms: Sequence[Room], items: Sequence[Item], siblings: Sequence[Sequence[int]], targets: dict[int, int]
) -> dict[int, int] | None:
    """The moves in an order in which each has room at its turn; None if there is no such order. Displaced copies go first
    where possible: only their moves free room for others."""
    steps = _Steps(rooms, items, siblings, is_now=False)
    numbers = sorted(targets, key=lambda n: (items[n].must_leave, -items[n].size, n))
    dead_ends: set[frozenset[int]] = set()
    done: list[int] = []

    def search() -> bool:
        if len(done) == len(numbers):
            return True
        key = frozenset(done)
        if key in dead_ends:
            return False
        for number in numbers:
            room = targets[number]
            if number in key or not steps.has_room(number, room) or not steps.may_come(number, room):
                continue
            steps.come(number, room)
            steps.leave(number, room)
            done.append(number)
            if search():
                return True
            done.pop()
            steps.leave(number, room, sign=-1)
            steps.come(number, room, sign=-1)
        dead_ends.add(key)
        return False

    return {n: targets[n] for n in done} if search() else None


def _early(
    rooms: Sequence[Room], items: Sequence[Item], siblings: Sequence[Sequence[int]], order: dict[int, int]
) -> frozenset[int]:
    """The items for ``Rearrangement.early``: even if all of them start at once, every later step still has room."""
    early: list[int] = []
    at_once = _Steps(rooms, items, siblings, is_now=True)
    groups: set[int] = set()
    for number, room in order.items():
        fits = at_once.has_room(number, room) and at_once.may_come(number, room)
        if fits and items[number].group not in groups and _holds(rooms, items, siblings, order, (*early, number)):
            at_once.come(number, room)
            early.append(number)
            groups.add(items[number].group)
    return frozenset(early)


def _holds(
    rooms: Sequence[Room],
    items: Sequence[Item],
    siblings: Sequence[Sequence[int]],
    order: dict[int, int],
    early: Sequence[int],
) -> bool:
    """Whether the order has room for every step even though some items have reserved theirs from the start."""
    steps = _Steps(rooms, items, siblings, is_now=False)
    for number in early:
        steps.come(number, order[number])
    for number, room in order.items():
        if number not in early:
            if not steps.has_room(number, room) or not steps.may_come(number, room):
                return False
            steps.come(number, room)
        steps.leave(number, room)
    return True


__all__ = ["Item", "Rearrangement", "Room", "SearchBudget", "rearrange"]
