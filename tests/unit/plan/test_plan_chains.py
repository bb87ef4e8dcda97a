"""Which items step aside: the least transfer, in an order in which every step has room."""

from shardwright.plan.chains import Item, Rearrangement, Room, SearchBudget, rearrange

GONE = Room(-1, 0, -1, 0)
"""The room that must be left."""


def room(memory: int, *, shards: int = 9, rack: str = "") -> Room:
    return Room(memory, shards, memory, shards, rack)


def solve(rooms: list[Room], items: list[Item], *, steps: int = 10_000) -> Rearrangement | None:
    return rearrange([*rooms, GONE], items, budget=SearchBudget(steps))


def test_nothing_steps_aside_when_there_is_room() -> None:
    found = solve(
        [room(5), room(3)], [Item(3, 2, 0, must_leave=True), Item(5, 2, 1, must_leave=True), Item(1, 0, 2, cost=1)]
    )
    assert found is not None
    assert found.targets == {1: 0, 0: 1}
    assert found.early == {0, 1}


def test_the_cheaper_one_steps_aside_first_and_the_other_waits() -> None:
    items = [Item(5, 2, 0, must_leave=True), Item(3, 0, 1, cost=30), Item(3, 0, 2, cost=20)]
    found = solve([room(2), room(4)], items)
    assert found is not None
    assert list(found.targets.items()) == [(2, 1), (0, 0)]
    assert found.early == {2}


def test_a_limit_of_shards_is_a_room_too() -> None:
    found = solve([room(9, shards=0), room(1)], [Item(5, 2, 0, must_leave=True), Item(1, 0, 1, cost=1)])
    assert found is not None
    assert found.targets == {1: 1, 0: 0}


def test_a_copy_of_the_same_group_steps_aside_too() -> None:
    items = [Item(5, 2, 0, must_leave=True), Item(5, 0, 0, cost=5)]
    found = solve([room(5), room(5, rack="b")], [*items, Item(5, 1, 1, cost=9)])
    assert found is not None
    assert found.targets == {0: 1}


def test_two_full_rooms_cannot_swap() -> None:
    # The leaving item fits only the first room, the one there only the second, and that one is full of what fits the first.
    items = [
        Item(2, 2, 0, must_leave=True, avoided=frozenset({1})),
        Item(4, 0, 1, cost=4),
        Item(2, 1, 2, cost=2, avoided=frozenset({0})),
    ]
    assert solve([room(0), room(2)], items) is None


def test_too_little_room_in_all_is_seen_at_once() -> None:
    budget = SearchBudget(100)
    assert rearrange([room(2), room(2), GONE], [Item(5, 2, 0, must_leave=True), Item(1, 0, 1)], budget=budget) is None
    assert budget.steps == 100


def test_steps_are_counted_and_bounded() -> None:
    items = [Item(7, 6, 0, must_leave=True), *(Item(3 + n % 3, n % 6, n + 1, cost=n) for n in range(18))]
    budget = SearchBudget(50)
    assert rearrange([*(room(2) for _ in range(6)), GONE], items, budget=budget) is None
    assert budget.steps == 0
