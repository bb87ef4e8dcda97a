"""Runs a test's scenario with a real adapter and a term that the test can end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shardwright.clock import SystemClock
from shardwright.errors import LostLeadership
from shardwright.server.adapter import ServerAdapter
from shardwright.server.protocol import Servers
from testkit.deadlines import Stopwatch

Seen = TypeVar("Seen")


class Term:
    """A leader's term that a test can end, in the store and in the leader's own view."""

    def __init__(self) -> None:
        self.is_over_in_the_store = False
        self.is_believed = True
        self.checks = 0

    async def check(self) -> None:
        self.checks += 1
        if self.is_over_in_the_store:
            raise LostLeadership


def adapter(term: Term | None = None) -> ServerAdapter:
    term = term or Term()
    return ServerAdapter(check_term=term.check, is_leader=lambda: term.is_believed, clock=SystemClock())


def run(scenario: Callable[[ServerAdapter], Awaitable[None]], term: Term | None = None) -> None:
    """Run a scenario with an adapter, and close it."""

    async def whole() -> None:
        servers = adapter(term)
        _fits: Servers = servers
        try:
            await scenario(servers)
        finally:
            await servers.close()

    asyncio.run(whole())


async def until(observe: Callable[[], Awaitable[Seen]], holds: Callable[[Seen], bool]) -> Seen:
    """Observe until the condition holds; otherwise fail with the last observation."""
    watch = Stopwatch()
    while True:
        seen = await observe()
        if holds(seen):
            return seen
        assert watch.is_within(15), f"{seen} ({watch})"
        await asyncio.sleep(0.01)
