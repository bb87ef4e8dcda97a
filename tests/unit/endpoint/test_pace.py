"""Sharing the loop: bytes beyond a slice wait their turn, in order. Unless they are few, nothing more is read meanwhile."""

import asyncio
from collections.abc import Callable
from itertools import count

import uvloop

from shardwright.endpoint.pace import DIRECT_SLICE_S, SLICE_BYTES, Inflow, LoopPace


class Taker:
    """Takes bytes, records them, and shows whether its socket would be read."""

    def __init__(self, pace: LoopPace, *, is_cheap: Callable[[int], bool] = lambda size: False) -> None:
        self.taken: list[bytes] = []
        self.reads: list[bool] = []
        self.inflow = Inflow(pace, self.taken.append, is_cheap=is_cheap, reading=self._reading)

    def _reading(self) -> None:
        self.reads.append(self.inflow.may_read)


def _run(test: Callable[[LoopPace], None]) -> None:
    async def run() -> None:
        test(LoopPace(asyncio.get_running_loop()))
        for _ in range(200):
            await asyncio.sleep(0)

    uvloop.run(run())


def test_few_bytes_are_taken_at_once() -> None:
    def test(pace: LoopPace) -> None:
        taker = Taker(pace)
        taker.inflow.put(b"abc")
        assert (taker.taken, taker.reads) == ([b"abc"], [])

    _run(test)


def test_many_bytes_are_taken_in_slices_and_in_order() -> None:
    takers: list[Taker] = []
    data = bytes(range(256)) * 1024

    def test(pace: LoopPace) -> None:
        takers.append(Taker(pace))
        takers[0].inflow.put(data)
        takers[0].inflow.put(b"end")
        assert (takers[0].taken, takers[0].reads) == ([], [False])

    _run(test)
    assert b"".join(takers[0].taken) == data + b"end"
    assert max(map(len, takers[0].taken)) == SLICE_BYTES
    assert takers[0].reads == [False, True]


def test_one_small_chunk_is_kept_without_stopping_the_reading_and_a_second_one_stops_it() -> None:
    takers: list[Taker] = []

    def test(pace: LoopPace) -> None:
        while pace.has_time():
            pass
        takers.extend(Taker(pace) for _ in range(2))
        for taker in takers:
            taker.inflow.put(b"a")
        takers[1].inflow.put(b"b")
        takers[1].inflow.put(b"c")
        assert [taker.taken for taker in takers] == [[], []]
        assert [taker.inflow.is_empty for taker in takers] == [False, False]
        assert [taker.reads for taker in takers] == [[], [False]]

    _run(test)
    assert [taker.taken for taker in takers] == [[b"a"], [b"a", b"b", b"c"]]
    assert [taker.reads for taker in takers] == [[], [False, True]]
    assert all(taker.inflow.is_empty for taker in takers)


def test_the_middle_of_a_large_value_is_not_split() -> None:
    def test(pace: LoopPace) -> None:
        taker = Taker(pace, is_cheap=lambda size: True)
        taker.inflow.put(bytes(10 * SLICE_BYTES))
        assert len(taker.taken) == 1

    _run(test)


def test_the_rest_is_what_was_not_taken() -> None:
    def test(pace: LoopPace) -> None:
        taker = Taker(pace)
        taker.inflow.put(b"a" * (SLICE_BYTES + 1))
        taker.inflow._resume()
        assert b"".join(taker.inflow.take_rest()) == b"a"
        assert taker.inflow.is_empty

    _run(test)


def test_a_pass_works_for_at_most_two_slices_and_the_next_one_again() -> None:
    clock = iter(count())
    slices: list[int] = []

    def work(pace: LoopPace) -> int:
        return next(turn for turn in range(1000) if not pace.has_time())

    async def run() -> None:
        pace = LoopPace(asyncio.get_running_loop(), lambda: next(clock) * DIRECT_SLICE_S / 10)
        for _ in range(5):
            slices.append(work(pace))
            assert not pace.has_time()
            await asyncio.sleep(0)

    uvloop.run(run())
    assert len(slices) == 5
    assert all(10 <= turns <= 20 for turns in slices), slices


def test_every_pass_of_a_quiet_loop_has_time() -> None:
    now = 0.0

    async def run() -> None:
        nonlocal now
        pace = LoopPace(asyncio.get_running_loop(), lambda: now)
        for _ in range(5):
            assert pace.has_time()
            await asyncio.sleep(0)
            now += 1.0

    uvloop.run(run())
