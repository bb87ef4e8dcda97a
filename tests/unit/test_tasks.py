"""A pause that can be ended early: by a signal before it or during it; otherwise it ends after its time. Work with the right
of way, and the work that gives way to it."""

import asyncio

from shardwright.tasks import Polls, RightOfWay, Wake
from testkit.deadlines import until_async


def test_a_signal_before_the_pause_ends_it_at_once() -> None:
    async def run() -> None:
        wake = Wake()
        wake.set()
        await asyncio.wait_for(wake.wait(60.0), 5.0)
        assert wake.is_set()
        wake.clear()
        assert not wake.is_set()

    asyncio.run(run())


def test_a_signal_during_the_pause_ends_it() -> None:
    async def run() -> None:
        wake = Wake()
        asyncio.get_running_loop().call_soon(wake.set)
        await asyncio.wait_for(wake.wait(60.0), 5.0)

    asyncio.run(run())


def test_a_pause_without_a_signal_ends_by_itself_repeatedly() -> None:
    async def run() -> None:
        wake = Wake()
        await wake.wait(0.001)
        await wake.wait(0.0)
        await wake.wait(-1.0)
        assert not wake.is_set()

    asyncio.run(run())


def test_a_cancelled_pause_leaves_no_task_behind() -> None:
    async def run() -> None:
        wake = Wake()
        task = asyncio.ensure_future(wake.wait(60.0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        wake.set()
        await wake.wait(60.0)

    asyncio.run(run())


def test_all_give_way_until_the_last_work_with_the_right_of_way_has_ended() -> None:
    async def run() -> None:
        right_of_way, passed = RightOfWay(), []

        async def other(name: str) -> None:
            await right_of_way.give_way(60.0)
            passed.append(name)

        await other("before")
        right_of_way.begin("a")
        right_of_way.begin("b")
        waiting = [asyncio.ensure_future(other(name)) for name in ("first", "second")]
        await asyncio.sleep(0)
        right_of_way.end("a")
        right_of_way.end("a")
        await asyncio.sleep(0)
        assert passed == ["before"]
        right_of_way.end("b")
        await asyncio.wait_for(asyncio.gather(*waiting), 5.0)
        assert sorted(passed[1:]) == ["first", "second"]
        assert not right_of_way.is_taken()

    asyncio.run(run())


def test_giving_way_lasts_no_longer_than_its_limit_and_may_be_cancelled() -> None:
    async def run() -> None:
        right_of_way = RightOfWay()
        right_of_way.begin("a")
        await asyncio.wait_for(right_of_way.give_way(0.001), 5.0)
        task = asyncio.ensure_future(right_of_way.give_way(60.0))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        right_of_way.end("a")

    asyncio.run(run())


def test_a_followed_item_is_polled_repeatedly_and_at_once_when_poked() -> None:
    async def run() -> None:
        looks: list[str] = []

        async def poll(key: str) -> None:
            looks.append(key)

        polls = Polls("test", poll, lambda key: 0.001 if key == "often" else 3600.0)
        polls.follow(["often", "seldom"])
        await until_async("looks", lambda: looks.count("often") >= 5, seconds=20)
        assert looks.count("seldom") == 1
        polls.poke("seldom")
        polls.poke("unknown")
        await until_async("a poll", lambda: looks.count("seldom") >= 2, seconds=20)
        polls.follow(["seldom", "new"])
        await until_async("a poll", lambda: "new" in looks, seconds=20)
        await asyncio.sleep(0)
        count = looks.count("often")
        for _ in range(100):
            await asyncio.sleep(0)
        assert looks.count("often") == count
        await polls.close()

    asyncio.run(run())


def test_a_begun_poll_is_completed_when_its_item_is_dropped_and_not_begun_twice_when_it_returns() -> None:
    async def run() -> None:
        going, running, finished = asyncio.Event(), 0, 0

        async def poll(key: int) -> None:
            nonlocal running, finished
            running += 1
            assert running == 1
            await going.wait()
            running -= 1
            finished += 1

        polls: Polls[int] = Polls("test", poll, lambda key: 3600.0)
        polls.follow([1])
        await asyncio.sleep(0)
        polls.follow([])
        polls.follow([1])
        await asyncio.sleep(0)
        polls.follow([])
        going.set()
        await until_async("its end", lambda: finished == 1, seconds=20)
        assert (running, finished) == (0, 1)
        await polls.close()

    asyncio.run(run())


def test_closing_ends_a_poll_that_does_not_end() -> None:
    async def run() -> None:
        async def poll(key: int) -> None:
            await asyncio.Event().wait()

        polls: Polls[int] = Polls("test", poll, lambda key: 0.0)
        polls.follow(range(3))
        await asyncio.sleep(0)
        await asyncio.wait_for(polls.close(), 5.0)

    asyncio.run(run())
