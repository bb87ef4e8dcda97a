"""Requests between simulated processes: they take time, get lost, and may reach a receiver after their sender has died.

A *place* is a node, or the store. A partition separates two places, in one direction. A frozen receiver finds requests in
its socket when it is thawed; requests that were sent before the sender froze are still in transit.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from sim.loop import PROCESS, Handle, SimLoop, SimProcess

STORE = 0
"""The store's place; the place of a node is its uid."""
NORMAL_S = 0.0005
AGENT, CONTROL, SERVER, REPLICATION = "agent", "control", "server", "replication"
"""Kinds of traffic that a firewall may drop alone: to agents, to endpoint processes, from leaders to servers, from replicas
to their primaries."""
Answer = Callable[[Any], None]
"""Sends the reply to a request."""


class NoReply(Exception):
    """No reply arrived in time. ``was_sent`` False: the request was certainly not executed."""

    def __init__(self, *, was_sent: bool) -> None:
        super().__init__("no reply")
        self.was_sent = was_sent


class Refused(Exception):
    """No process listens there."""


class Network:
    """See the module's docstring."""

    def __init__(self, loop: SimLoop, rng: random.Random) -> None:
        self.loop = loop
        self.rng = rng
        self.cuts: set[tuple[int, int]] = set()
        self.filters: set[tuple[int, int, str]] = set()
        """Cuts for one kind of traffic."""
        self.rejects: set[tuple[int, int, str]] = set()
        """Where a firewall refuses one kind of traffic in the name of the receiver."""
        self.off: set[int] = set()
        """Nodes whose machine is off: nothing there answers or refuses."""
        self.slow_until: dict[int, float] = {}
        self.in_transit: list[Callable[[], None]] = []
        """Messages that arrive only after ``let_arrive``, like a retransmission or a message in a router's queue."""

    def passes(self, source: int, target: int, kind: str = "") -> bool:
        """Whether a message of this kind from ``source`` reaches ``target``. A place always reaches itself."""
        if source == target:
            return True
        if (source, target) in self.cuts or (self.off and (target in self.off or source in self.off)):
            return False
        return not self.filters or (source, target, kind) not in self.filters

    def latency(self, source: int, target: int) -> float:
        """One-way latency in seconds."""
        base = NORMAL_S * (0.5 + self.rng.random())
        now = self.loop.now
        if self.slow_until and max(self.slow_until.get(source, 0.0), self.slow_until.get(target, 0.0)) > now:
            return base + self.rng.random() * 0.3
        return base

    def let_arrive(self) -> None:
        """Deliver the messages that were kept back."""
        arriving, self.in_transit = self.in_transit, []
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
        kind: str = "",
        is_kept_back: bool = False,
    ) -> Any:
        """Send a request and wait for its reply.

        ``receiver`` finds the listener when the request arrives (None: no listener, Refused). ``execute`` runs there and
        calls its argument with the reply, now, later, or never. Raises NoReply, Refused, or the exception that is the reply.
        """
        if (source, target, kind) in self.rejects:
            await asyncio.sleep(self.latency(source, target))
            raise Refused
        return await self._send(source, target, receiver, execute, timeout_s=timeout_s, kind=kind, is_kept_back=is_kept_back)

    async def _send(
        self,
        source: int,
        target: int,
        receiver: Callable[[], SimProcess | None],
        execute: Callable[[Answer], None],
        *,
        timeout_s: float,
        kind: str,
        is_kept_back: bool,
    ) -> Any:
        loop = self.loop
        future: asyncio.Future[Any] = loop.create_future()
        caller = PROCESS.get()
        if caller is not None and not caller.runs:
            # It died or froze between two awaits: it goes no further, or only after it is thawed.
            await asyncio.sleep(0)

        deadline = loop.now + timeout_s
        timer: Handle | None = None
        has_answered = False

        def may_be_silent() -> None:
            # Most calls are answered in time, and an unnecessary timer is a tenth of a call's cost.
            nonlocal timer
            if timer is None:
                timer = loop.at(max(0.0, deadline - loop.now), _time_out, future, process=caller)

        def under_way(delay: float) -> float:
            if loop.now + delay >= deadline:
                may_be_silent()
            return delay

        def answer(value: Any) -> None:
            nonlocal has_answered
            has_answered = True
            if self.passes(target, source, kind):
                loop.at(under_way(self.latency(target, source)), _settle, future, value, process=caller)
            else:
                may_be_silent()

        def arrive() -> None:
            process = receiver()
            if process is None or not process.is_alive:
                answer(Refused())
            elif process.is_frozen:
                may_be_silent()
                loop.at(0.0, execute, answer, process=process)
            else:
                execute(answer)
                if not has_answered:
                    may_be_silent()

        if is_kept_back:
            may_be_silent()
            self.in_transit.append(arrive)
        elif self.passes(source, target, kind):
            loop.at(under_way(self.latency(source, target)), arrive)
        else:
            may_be_silent()
        try:
            return await future
        finally:
            if timer is not None:
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
