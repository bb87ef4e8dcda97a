"""The lease keeper: a thread of its own holds the lease, and the main loop hears of every change."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from shardwright.clock import SystemClock
from shardwright.leader.candidate import LEASE_TTL
from shardwright.leader.election import Held, LeaseKeeper
from shardwright.model.cluster import DaemonPresence
from shardwright.model.codes import Code
from shardwright.model.ids import LeaseId, NodeUid
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import StoreReplaced, StoreUnavailable
from testkit.builders import NOW
from testkit.deadlines import until_async

PRESENCE = DaemonPresence(NodeUid(1), 101, 1, "boot", 0, "0.1.0", "https://127.0.0.1:9443", NOW)


class HangingClock(SystemClock):
    """A clock whose pauses are short, and that has gone on while the keeper's thread hung."""

    def __init__(self) -> None:
        self.hung_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.hung_s

    async def sleep(self, seconds: float) -> None:
        await super().sleep(min(seconds, 0.001))


class ReplaceableStore(MemoryStore):
    """Answers, once it is told to, that another store is in its place."""

    is_replaced = False

    async def renew(self, lease: LeaseId) -> None:
        if self.is_replaced:
            raise StoreReplaced(Code.STORE_REPLACED, "another id")
        await super().renew(lease)

    async def revoke(self, lease: LeaseId) -> None:
        if self.is_replaced:
            raise StoreReplaced(Code.STORE_REPLACED, "another id")
        await super().revoke(lease)


class Told:
    """A keeper in its first daemon, and what the main loop heard."""

    def __init__(self, clock: HangingClock) -> None:
        self.words: list[str] = []
        self.stores = 0
        self.fails = 0
        self.opened = ReplaceableStore(SystemClock())
        self.keeper = LeaseKeeper(
            self.open_store,
            PRESENCE,
            clock=clock,
            on_gained=lambda held: self.words.append(f"gained {held.term}"),
            on_lost=lambda: self.words.append("lost"),
        )

    async def open_store(self) -> Any:
        self.stores += 1
        if self.stores <= self.fails:
            raise StoreUnavailable(Code.STORE_CLOSED, "not yet")
        self.opened = ReplaceableStore(SystemClock())
        return self.opened


def run(scenario: Callable[[Told, HangingClock], Awaitable[None]]) -> Told:
    async def main() -> Told:
        clock = HangingClock()
        told = Told(clock)
        try:
            async with asyncio.timeout(30):
                await scenario(told, clock)
        finally:
            await told.keeper.stop()
        return told

    return asyncio.run(main())


async def gained(told: Told, known: Held | None = None) -> Held:
    while True:
        held = await told.keeper.wait_change(known)
        if held is not None:
            # The keeper tells the latest state only: what ends before it was told is not told at all.
            is_told = partial(told.words.__contains__, f"gained {held.term}")
            await until_async("the gain is told", is_told, seconds=20, state=lambda: str(told.words))
            return told.keeper.leadership or held  # It may have been renewed meanwhile.
        known = None


def test_a_keeper_that_never_started_leads_nothing_and_yields_nothing() -> None:
    async def scenario(told: Told, clock: HangingClock) -> None:
        assert not told.keeper.is_leader()
        await told.keeper.yield_leadership()

    assert run(scenario).words == []


def test_a_daemon_is_present_when_its_keeper_has_started_and_leads_when_it_is_alone() -> None:
    async def scenario(told: Told, clock: HangingClock) -> None:
        await told.keeper.start()
        held = await gained(told)
        assert held.term == 1
        assert told.keeper.is_leader()
        assert told.keeper.leadership == held

    assert run(scenario).words == ["gained 1", "lost"], "also a stop is told"


def test_every_loss_is_told_before_the_next_gain() -> None:
    async def scenario(told: Told, clock: HangingClock) -> None:
        await told.keeper.start()
        first = await gained(told)
        await told.keeper.yield_leadership()
        assert (await gained(told, first)).term == 2

    assert run(scenario).words == ["gained 1", "lost", "gained 2", "lost"]


def test_a_leadership_ends_by_the_clock_also_when_the_thread_hangs() -> None:
    async def scenario(told: Told, clock: HangingClock) -> None:
        await told.keeper.start()
        held = await gained(told)
        clock.hung_s = (LEASE_TTL + timedelta(seconds=1)).total_seconds()
        assert not held.is_valid(clock.monotonic())
        assert told.keeper.leadership != held

    run(scenario)


@pytest.mark.parametrize("failures", [1])
def test_a_keeper_that_fails_begins_again(failures: int) -> None:
    async def scenario(told: Told, clock: HangingClock) -> None:
        told.fails = failures
        await told.keeper.start()
        assert (await gained(told)).term == 1
        assert told.stores == failures + 1

    run(scenario)


def test_a_replaced_store_ends_the_leadership_and_gets_no_new_lease() -> None:
    async def scenario(told: Told, clock: HangingClock) -> None:
        await told.keeper.start()
        await gained(told)
        told.opened.is_replaced = True
        with pytest.raises(StoreReplaced, match="another id"):
            await told.keeper.ended()
        assert told.keeper.leadership is None
        assert told.stores == 1, "opening it again would begin a lease in the other store"

    assert run(scenario).words == ["gained 1", "lost"]
