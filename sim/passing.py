"""Passes an endpoint from one simulated process to another, as ``endpoint/passing.py`` does with sockets.

The product's own ``endpoint/departures.py`` decides the order. A packed connection is at neither process until it is
adopted; it is taken back if the other process does not accept it in time.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from shardwright.endpoint.departures import ConnectionStatus, Departures, Orders
from shardwright.endpoint.gate import Change
from sim.clients import ENDED, HOLD, PASSING, Client, cut

if TYPE_CHECKING:
    from sim.endpoints import SimEndpointProcess
    from sim.served import Served

PASS_S = 0.0003
"""Time to pack, offer and adopt one connection."""
ANSWER_TIMEOUT_S = 1.0


class Passing:
    """Passes one endpoint."""

    def __init__(self, source: "Served", to: "SimEndpointProcess", other: "Served") -> None:
        self.source = source
        self.to = to
        self.other = other
        self.passed = 0
        self.failure = ""
        self.is_over = False
        self._leaving: dict[int, Client] = {}
        self._frozen: dict[int, Client] = {}
        self.packed: list[Client] = []
        self._departures = Departures((), now=0.0)
        self._looks = 0

    def begin(self) -> None:
        """Pass the listener at once, with a hold; then every connection in its turn."""
        source, other = self.source, self.other
        target, hold = source.gate.target, source.gate.hold
        other.lapse()
        other.gate.apply_settings(source.gate.spec)
        if target is not None and not other.gate.precedes_hold(target):
            other.release(target)
        other.lease_changed()
        if source.is_listening or not source.world.holders_of(other.gate.spec.port, other.gate.spec.address):
            other.is_listening = True
        other.is_draining = False
        if hold is not None and other.gate.begin_hold(hold.old, hold.new, hold.since) is Change.HELD:
            other.stop_clients()
            other.self_release.schedule()
        source.is_listening = False
        source.is_draining = True
        clients = sorted(source.all_clients(), key=lambda c: c.active_at, reverse=True)
        self._leaving = {c.uid: c for c in clients}
        self._departures = Departures(self._leaving, now=source.world.loop.now)
        self.check()

    def stop(self, failure: str = "") -> None:
        """Continue the remaining connections in this process."""
        self.is_over = True
        self.failure = failure
        for client in list(self._frozen.values()):
            self._thaw(client)
        self.source.flush()

    def ended(self) -> None:
        """The source has ended, and the connections in transit with it."""
        self.is_over = True
        for client in self.packed:
            cut(self.source.world, client, ENDED)

    def _at(self, delay: float, call: Callable[..., object], *args: object) -> None:
        self.source.world.loop.at(delay, call, *args, process=self.source.owner.process)

    def check(self) -> None:
        """Check whether a connection is quiet or due."""
        self._looks += 1
        if self.is_over or self.packed:
            return
        if self._departures.is_over:
            self.is_over = True
            return
        now = self.source.world.loop.now
        orders = self._departures.next(now, self._status_of)
        for uid in orders.end:
            self._end(self._leaving.pop(uid))
        for uid in orders.thaw:
            self._thaw(self._leaving[uid])
        if orders.thaw:
            self.source.flush()
        if orders.passes:
            self._pack(orders)
            return
        self._freeze(orders)
        due = [c.drained_at for c in self._frozen.values() if c.drained_at > now]
        if any(self._is_quiet(c) for c in self._frozen.values()):
            due.append(now)
        if orders.wake_at is not None:
            due.append(orders.wake_at)
        self._at(max(0.0, min(due, default=now) - now), self._check_if_last, self._looks)

    def _check_if_last(self, looks: int) -> None:
        if looks == self._looks:
            self.check()

    def _freeze(self, orders: Orders) -> None:
        for uid in orders.freeze:
            client = self._frozen[uid] = self._leaving[uid]
            client.stop(PASSING, self.source.world.loop.now)

    def _thaw(self, client: Client) -> None:
        self._frozen.pop(client.uid, None)
        client.resume(PASSING)

    def _status_of(self, uid: int) -> ConnectionStatus | None:
        client = self._leaving[uid]
        if client.is_gone or (uid < 0 and not client.writes):
            del self._leaving[uid]
            self._frozen.pop(uid, None)
            return None
        return ConnectionStatus(is_quiet=self._is_quiet(client), is_tied=client.is_tied and not client.is_frozen)

    def _is_quiet(self, client: Client) -> bool:
        is_in = not any(w in self.source.in_flight for w in client.writes)
        return client.is_frozen and is_in and client.drained_at <= self.source.world.loop.now

    def _end(self, client: Client) -> None:
        self.source.forget_client(client)
        cut(self.source.world, client, "could not be passed on")

    # -- in transit ----------------------------------------------------------------------------------------------------

    def _pack(self, orders: Orders) -> None:
        self.packed = [self._leaving.pop(uid) for uid in orders.passes]
        for client in self.packed:
            self._frozen.pop(client.uid, None)
            self.source.forget_client(client)
        needs_s = PASS_S * len(self.packed) + self.to.late_s
        self._at(min(needs_s, ANSWER_TIMEOUT_S), self._offered, orders)

    def _offered(self, orders: Orders) -> None:
        world, to = self.source.world, self.to
        packed, self.packed = self.packed, []
        own, its = self.source.owner.node_uid, to.node_uid
        takes = to.process.runs and not self.other.is_ended and to.late_s < ANSWER_TIMEOUT_S
        if not (takes and world.network.passes(own, its) and world.network.passes(its, own)):
            self._adopt(packed, self.source)
            self.stop("the other process does not take it")
            return
        self._adopt(packed, self.other)
        self.passed += len(packed)
        self._freeze(orders)
        self.check()

    def _adopt(self, packed: list[Client], served: "Served") -> None:
        for client in packed:
            if client.is_gone:
                continue
            client.resume(HOLD)
            client.resume(PASSING)
            served.adopt(client)
