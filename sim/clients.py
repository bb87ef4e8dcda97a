"""Clients' connections to endpoints, as far as stopping and passing connections depends on them.

A connection is stopped (sends nothing new) during a hold, a calm or a passing. Its commands in flight then take ``drain_s``
to finish. The writes of ``writers.py`` have connections of their own, which a passing finds separately.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from sim.world import World, WriteAttempt

if TYPE_CHECKING:
    from sim.served import Served

HOLD, CALM, PASSING = "hold", "calm", "passing"
"""The reason why a connection is stopped."""
ENDED = "the endpoint ended"
CONNECT_S = 0.5
"""Interval at which a client without a connection retries."""


@dataclass(slots=True, eq=False)
class Client:
    """One connection."""

    uid: int
    drain_s: float = 0.0
    """Time until its commands in flight finish when it sends nothing new. 0: it is idle, or its writes determine the time.
    Infinite: half a command, a command that does not end, or a reply that is not read."""
    is_tied: bool = False
    """It has state that cannot be passed to another process."""
    active_at: float = 0.0
    writes: list[WriteAttempt] = field(default_factory=list)
    """Writes that were sent over it and not answered yet."""
    served: "Served | None" = None
    is_gone: bool = False
    on_cut: Callable[[], None] | None = None
    stopped_at: float = inf
    _stops: set[str] = field(default_factory=set)

    def stop(self, why: str, now: float) -> None:
        """Send nothing new from now on."""
        if not self._stops:
            self.stopped_at = now
        self._stops.add(why)

    def resume(self, why: str) -> None:
        """Remove one reason for being stopped."""
        self._stops.discard(why)
        if not self._stops:
            self.stopped_at = inf

    def is_stopped_by(self, why: str) -> bool:
        """Whether it is stopped for one of these reasons."""
        return why in self._stops

    @property
    def is_frozen(self) -> bool:
        """Whether it is being passed, so that its bytes are not read."""
        return PASSING in self._stops

    @property
    def drained_at(self) -> float:
        """When nothing is in flight, except for its writes; infinite: never, or it is not stopped."""
        return self.stopped_at + self.drain_s if self.drain_s else -inf

    def answered(self, write: WriteAttempt) -> None:
        """One of its writes has ended."""
        if write in self.writes:
            self.writes.remove(write)


def cut(world: World, client: Client, why: str) -> None:
    """Its connection was ended. ``why`` is counted."""
    if client.is_gone:
        return
    client.is_gone = True
    client.served = None
    world.tally.clients[f"disconnected: {why}"] += 1
    for write in list(client.writes):
        world.writers.answered(write, None, why)
    if client.on_cut is not None:
        client.on_cut()


def leave(client: Client) -> None:
    """Close the connection."""
    client.is_gone = True
    if client.served is not None:
        client.served.forget_client(client)


class Pipeline:
    """A client that never waits for a reply: so much is in flight that a drain alone is not enough. It reconnects when its
    connection ends."""

    def __init__(self, world: World, uid: int, port: int, *, drain_s: float) -> None:
        self.world = world
        self.uid = uid
        self.port = port
        self.drain_s = drain_s
        self.is_over = False
        self._connect()

    def _connect(self) -> None:
        if self.is_over:
            return
        holders = self.world.holders_of(self.port)
        if not holders:
            self.world.loop.at(CONNECT_S, self._connect)
            return
        join(holders[0], Client(self.uid, self.drain_s, active_at=self.world.loop.now, on_cut=self._connect_later))

    def _connect_later(self) -> None:
        self.world.loop.at(CONNECT_S, self._connect)


class Talker(Client):
    """A client that writes, waits for the reply, and writes again. Its longest wait has a limit."""

    __slots__ = ("_number", "database_uid", "pause_s", "wait_max_s", "world")

    def __init__(self, world: World, uid: int, database_uid: int, *, pause_s: float, wait_max_s: float) -> None:
        super().__init__(uid, active_at=world.loop.now)
        self.world = world
        self.database_uid = database_uid
        self.pause_s = pause_s
        self.wait_max_s = wait_max_s
        self._number = 0

    def begin(self) -> None:
        """Start to write."""
        self.world.loop.at(self.pause_s, self._send)

    def _send(self) -> None:
        served = self.served
        if self.is_gone or served is None:
            return
        self._number += 1
        now = self.world.loop.now
        write = WriteAttempt(self.uid * 1_000_000 + self._number, self.database_uid, served, sent_at=now, client=self)
        write.hides_refusal = self._number % 3 == 0
        self.active_at = now
        self.writes.append(write)
        self.world.loop.at(0.0002, self._arrive, write)

    def _arrive(self, write: WriteAttempt) -> None:
        if write.served is not None and not write.is_answered:
            write.served.take(write)

    def answered(self, write: WriteAttempt) -> None:
        super().answered(write)
        waited_s = self.world.loop.now - write.sent_at
        if waited_s > self.wait_max_s:
            self.world.checker.fail("client_waits", f"write {write.number} waited {waited_s:.3f} s")
        self.world.loop.at(self.pause_s, self._send)


def join(served: "Served", client: Client) -> Client:
    """Connect."""
    client.served = served
    served.clients[client.uid] = client
    if served.gate.hold is not None:
        client.stop(HOLD, served.world.loop.now)
    return client
