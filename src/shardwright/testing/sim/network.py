"""Requests between simulated processes: they take time, get lost, and reach a receiver whose sender has died meanwhile.

A *place* is a node, or the store. Partitions are between places, in one direction each. What a frozen receiver was sent
waits in its socket; what was sent before the sender froze is on its way.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from shardwright.testing.sim.loop import PROCESS, SimLoop, SimProcess

STORE = 0
"""The store's place; nodes have their uids."""
NORMAL_S = 0.0005
Answer = Callable[[Any], None]
"""What gives a request its reply."""


class NoReply(Exception):
    """Nothing came back in time. ``was_sent`` False: it certainly was not executed."""

    def __init__(self, *, was_sent: bool) -> None:
        super().__init__("no reply")
        self.was_sent = was_sent


class Refused(Exception):
    """Nobody listens there."""


class Network:
    """See the module's text."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.cuts: set[tuple[int, int]] = set()
        self.slow_until: dict[int, float] = {}
        self.on_their_way: list[Callable[[], None]] = []
        """Messages that arrive only when ``let_arrive`` says so: a retransmission, a router's queue."""

    def passes(self, source: int, target: int) -> bool:
        """Whether what ``source`` sends reaches ``target``. A place always reaches itself."""
        return source == target or (source, target) not in self.cuts

    def latency(self, source: int, target: int) -> float:
        """Seconds one way."""
        base = NORMAL_S * (0.5 + self.rng.random())
        now = self.loop.now
        if self.slow_until and max(self.slow_until.get(source, 0.0), self.slow_until.get(target, 0.0)) > now:
            return base + self.rng.random() * 0.3
        return base

    def let_arrive(self) -> None:
        """What was kept back on its way arrives now."""
        arriving, self.on_their_way = self.on_their_way, []
        for arrive in arriving:
            arrive()

    async def call(
        self,
        source: int,
        target: int,
        receiver: Callable[[], SimProcess | None],
        execute: Callable[[Answer], None],
        *,
        timeout_s: float,
        is_kept_back: bool = False,
    ) -> Any:
        """Send a request and wait for its reply.

        ``receiver`` finds who listens when the request arrives (None: nobody, Refused); ``execute`` runs there and calls its
        argument with the reply, now or later, or never. Raises NoReply, Refused, and whatever exception the reply is.
        """
        loop = self.loop
        future: asyncio.Future[Any] = loop.create_future()
        caller = PROCESS.get()
        if caller is not None and not caller.runs:
            # It died or froze between two awaits: it goes no further, or only when it is thawed.
            await asyncio.sleep(0)

        def answer(value: Any) -> None:
            if self.passes(target, source):
                loop.at(self.latency(target, source), _settle, future, value, process=caller)

        def arrive() -> None:
            process = receiver()
            if process is None or not process.is_alive:
                answer(Refused())
                return
            if process.is_frozen:
                loop.at(0.0, execute, answer, process=process)
                return
            execute(answer)

        timer = loop.at(timeout_s, _time_out, future, process=caller)
        if is_kept_back:
            self.on_their_way.append(arrive)
        elif self.passes(source, target):
            loop.at(self.latency(source, target), arrive)
        try:
            return await future
        finally:
            timer.cancel()


def _time_out(future: "asyncio.Future[Any]") -> None:
    _settle(future, NoReply(was_sent=True))


def _settle(future: "asyncio.Future[Any]", value: Any) -> None:
    if future.done():
        return
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)
