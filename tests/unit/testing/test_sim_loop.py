"""The simulated event loop: virtual time, and processes that die and freeze."""

import asyncio

from sim.loop import SimLoop, SimProcess


def sim_loop() -> SimLoop:
    return SimLoop()  # type: ignore[abstract]  # it has what the product uses of a loop, and no more


def test_time_is_virtual_and_ordered() -> None:
    loop = sim_loop()
    seen: list[str] = []
    loop.at(2.0, seen.append, "later")
    loop.at(1.0, seen.append, "sooner")
    loop.run_until(10.0)
    assert seen == ["sooner", "later"]
    assert loop.time() == 10.0


def test_a_killed_process_does_nothing_more_even_at_the_end() -> None:
    loop, process = sim_loop(), SimProcess("daemon")
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(5.0)
        finally:
            seen.append("finally")

    loop.start(process, work(), "work")
    loop.run_until(1.0)
    process.kill()
    loop.run_until(20.0)
    assert seen == []
    loop.end()


def test_a_thawed_process_continues_where_it_was() -> None:
    loop, process = sim_loop(), SimProcess("daemon")
    seen: list[float] = []

    async def work() -> None:
        await asyncio.sleep(1.0)
        seen.append(loop.time())

    loop.start(process, work(), "work")
    loop.run_until(0.5)
    process.freeze()
    loop.run_until(7.0)
    assert seen == []
    process.thaw(loop)
    loop.run_until(8.0)
    assert seen == [7.0]
    loop.end()


def test_a_loop_without_passing_time_is_noticed() -> None:
    loop = sim_loop()

    async def circle() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    loop.start(SimProcess("mad"), circle(), "circle")
    loop.run_until(1.0)
    assert loop.circle.endswith("the last one mad")
    loop.end()


def test_many_retrying_clients_are_tolerated_but_not_a_model_without_passing_time() -> None:
    busy = sim_loop()
    for number in range(10_000):
        busy.at(number * 0.0001, lambda: None)
    busy.run_until(1.0)
    assert busy.circle == ""

    mad, model = sim_loop(), SimProcess("mad")

    def again() -> None:
        mad.at(0.0, again, process=model)

    again()
    mad.run_until(1.0)
    assert mad.circle.endswith("the last one mad")
