"""A pause that can be ended early: by a word before it, by one within it, or by its time."""

import asyncio

from shardwright.tasks import Wake


def test_a_word_before_the_pause_ends_it_at_once() -> None:
    async def run() -> None:
        wake = Wake()
        wake.set()
        await asyncio.wait_for(wake.wait(60.0), 5.0)
        assert wake.is_set()
        wake.clear()
        assert not wake.is_set()

    asyncio.run(run())


def test_a_word_within_the_pause_ends_it() -> None:
    async def run() -> None:
        wake = Wake()
        asyncio.get_running_loop().call_soon(wake.set)
        await asyncio.wait_for(wake.wait(60.0), 5.0)

    asyncio.run(run())


def test_a_pause_without_a_word_ends_by_itself_and_again() -> None:
    async def run() -> None:
        wake = Wake()
        await wake.wait(0.001)
        await wake.wait(0.0)
        await wake.wait(-1.0)
        assert not wake.is_set()

    asyncio.run(run())


def test_a_cancelled_pause_leaves_nothing_behind() -> None:
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
