"""The runner of leaderships: a daemon that holds the leadership has a leader, or gives it up."""

import asyncio
from typing import Any

from shardwright.clock import SystemClock
from shardwright.leader.election import Held, LeaseKeeper
from shardwright.leader.probe import silent
from shardwright.model.cluster import DaemonPresence
from shardwright.model.ids import NodeUid
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.tasks import RightOfWay
from shardwright.wiring import LeadershipRunner
from testkit.builders import NOW
from testkit.deadlines import until_async

PRESENCE = DaemonPresence(NodeUid(1), 101, 1, "boot", 0, "0.1.0", "https://127.0.0.1:9443", NOW)


class HastyClock(SystemClock):
    """Its pauses are short."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.001))


class FailingOnce:
    """Leads, except in the first term: that leader fails."""

    def __init__(self, term: int, led: list[int]) -> None:
        self.term = term
        self.led = led

    async def run(self) -> None:
        if self.term == 1:
            raise RuntimeError("a defect")
        self.led.append(self.term)
        await asyncio.Event().wait()


async def no_backup(version: str) -> str:
    return ""


class Runner(LeadershipRunner):
    """Its leaders are those above."""

    def __init__(self, keeper: LeaseKeeper, store: MemoryStore, clock: SystemClock) -> None:
        access: Any = None
        mirror = Mirror(store, clock=clock)
        super().__init__(
            *(keeper, store, mirror),
            access=access,
            clock=clock,
            probe=silent,
            members=lambda: None,
            switch_off=None,
            back_up=no_backup,
            right_of_way=RightOfWay(),
        )
        self.led: list[int] = []

    def _leader(self, held: Held) -> Any:
        return FailingOnce(held.term, self.led)


def test_a_leadership_whose_leader_failed_is_given_up() -> None:
    """Its lease is renewed, so it would last, and no daemon would lead."""

    async def main() -> None:
        clock = HastyClock()

        async def opened() -> Any:
            return MemoryStore(clock)

        keeper = LeaseKeeper(opened, PRESENCE, clock=clock)
        runner = Runner(keeper, MemoryStore(clock), clock)
        await keeper.start()
        running = asyncio.ensure_future(runner.run())
        try:
            await until_async("a leader leads", lambda: runner.led == [2], seconds=10, state=lambda: str(keeper.leadership))
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await keeper.stop()

    asyncio.run(main())
