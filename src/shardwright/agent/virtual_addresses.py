"""Keeps the virtual addresses of this node on its interfaces: those that the records give it, and no others.

Its own task, beside the agent's turns. An address that another node has, and that is still here, would take the clients
back. So what the records do not give to this node is removed before anything else, and everything is removed when the store
has not confirmed the records for ``PROOF_S``: another node may have the address by then. The leader chooses the holder
(``reconcile/virtual_addresses.py``); ``machine/`` does what is decided here. Touches only addresses with our mark.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from shardwright.clock import Clock
from shardwright.machine import arp, virtual_addresses
from shardwright.machine.virtual_addresses import PlacedAddress
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from shardwright.model.virtual_address import HeldAddress, VirtualAddress
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import StoreError
from shardwright.tasks import Wake, spawn

PROOF_S = 10.0
"""So old may the store's word be that this node has an address. Long enough for an election of the store; the leader gives
the address to another node after a silence of some three seconds."""
ASK_EVERY_S = 2.0
"""Interval of the questions to the store while this node has an address."""
LOOK_S = 0.5
"""Interval of the looks at what is on the interfaces."""
ANNOUNCE_AT_S = (0.0, 0.05, 1.0, 5.0)
"""Times of the announcements of a new address. Twice, because a frame may be lost; later again, because a kernel ignores
news of an address within a second after the last."""
FAILURE_KEPT_S = 30.0
"""So long the leader is told of a failure, and gives the address to other nodes."""

_log = structlog.get_logger(__name__)


class Interfaces(Protocol):
    """What this machine does with addresses. The methods raise OSError."""

    def ours(self) -> list[PlacedAddress]: ...
    def add(self, placed: PlacedAddress) -> None: ...
    def remove(self, placed: PlacedAddress) -> None: ...
    def announce(self, address: str, interface: str) -> bool: ...
    def usable_interfaces(self) -> tuple[str, ...]: ...


class MachineInterfaces:
    """Those of this machine."""

    def ours(self) -> list[PlacedAddress]:
        return virtual_addresses.ours()

    def add(self, placed: PlacedAddress) -> None:
        virtual_addresses.add(placed)

    def remove(self, placed: PlacedAddress) -> None:
        virtual_addresses.remove(placed)

    def announce(self, address: str, interface: str) -> bool:
        return arp.announce(address, interface)

    def usable_interfaces(self) -> tuple[str, ...]:
        return virtual_addresses.usable_interfaces()


@dataclass(frozen=True, slots=True)
class Steps:
    """What is to be done with the interfaces, in this order."""

    remove: tuple[PlacedAddress, ...] = ()
    add: tuple[PlacedAddress, ...] = ()


def wanted_here(view: ClusterView, node_uid: NodeUid) -> tuple[VirtualAddress, ...]:
    """The addresses that the records give to this node. Pure."""
    found = sorted(view.virtual_addresses.items())
    return tuple(one for _, one in found if one.holder == node_uid) if node_uid in view.nodes else ()


def steps(wanted: Iterable[VirtualAddress], there: Collection[PlacedAddress]) -> Steps:
    """The difference between what is to be on the interfaces and what is. Pure."""
    placed = [PlacedAddress(one.address, one.prefix_length, one.interface) for one in wanted]
    return Steps(tuple(p for p in there if p not in placed), tuple(p for p in placed if p not in there))


class VirtualAddressKeeper:
    """See the module's text. ``on_change``: called when ``held`` has changed."""

    def __init__(self, node_uid: NodeUid, *, mirror: Mirror, clock: Clock, interfaces: Interfaces | None = None) -> None:
        self._node_uid = node_uid
        self._mirror = mirror
        self._clock = clock
        self._interfaces = interfaces or MachineInterfaces()
        self._wake = Wake()
        self._proven_at = clock.monotonic()
        """When the store was last asked with success. At first: when this began, so that a daemon that is merely restarted
        removes nothing."""
        self._is_known = False
        """Whether the store has confirmed the records since this began."""
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = 0.0
        self._announced: dict[str, tuple[int, asyncio.Task[None]]] = {}
        """By address: the generation that was announced last."""
        self._failed: dict[str, tuple[float, HeldAddress]] = {}
        self._said = ""
        self.held: tuple[HeldAddress, ...] = ()
        """For the agent's report."""
        self.on_change: Callable[[], None] = lambda: None

    async def run(self) -> None:
        """Eternal task. The addresses stay when it is cancelled: a daemon that is started again finds them."""
        end = self._mirror.subscribe(lambda _: self._wake.set())
        try:
            while True:
                try:
                    self.turn()
                except OSError as e:
                    self._complain(f"the interfaces cannot be read or changed: {e.strerror or e}")
                except Exception:
                    _log.exception("the look at the virtual addresses failed; a defect")
                await self._wake.wait(LOOK_S)
                self._wake.clear()
        finally:
            end()
            for task in (*(task for _, task in self._announced.values()), *([self._asking] if self._asking else [])):
                task.cancel()

    def usable_interfaces(self) -> tuple[str, ...]:
        """See ``NodeSeen.virtual_interfaces``. Raises OSError."""
        return self._interfaces.usable_interfaces()

    def turn(self) -> None:
        """Look once, and bring the interfaces in line. Raises OSError."""
        there = self._interfaces.ours()
        wanted = wanted_here(self._mirror.view(), self._node_uid) if self._mirror.revision else ()
        if there or wanted:
            self._ask()
        is_proven = self._clock.monotonic() - self._proven_at < PROOF_S
        if is_proven and not self._is_known:
            return  # The records are not known yet: what is there may be this node's.
        todo = steps(wanted if is_proven else (), there)
        for placed in todo.remove:
            self._interfaces.remove(placed)
            self._announced.pop(placed.address, None)
            why = "it is not this node's" if is_proven else "the store has not confirmed that it is this node's"
            _log.warning("removed a virtual address", address=placed.address, interface=placed.interface, reason=why)
        if is_proven:
            for one in wanted:
                self._hold(one, is_there=PlacedAddress(one.address, one.prefix_length, one.interface) not in todo.add)
        self._report(wanted if is_proven else ())

    def retire(self) -> None:
        """Remove all of them: the node is no member any more."""
        try:
            for placed in self._interfaces.ours():
                self._interfaces.remove(placed)
        except OSError as e:
            self._complain(f"the addresses of a removed node cannot be removed: {e.strerror or e}")

    # -- one address ---------------------------------------------------------------------------------------------------

    def _hold(self, one: VirtualAddress, *, is_there: bool) -> None:
        if not is_there:
            try:
                self._interfaces.add(PlacedAddress(one.address, one.prefix_length, one.interface))
            except OSError as e:
                failure = HeldAddress(one.address, one.generation, e.strerror or str(e))
                self._failed[one.address] = (self._clock.monotonic(), failure)
                self._complain(f"{one.address} cannot be added to {one.interface}: {failure.failure}")
                return
            _log.info("added a virtual address", address=one.address, interface=one.interface, generation=one.generation)
        self._failed.pop(one.address, None)
        known = self._announced.get(one.address)
        if known is None or known[0] != one.generation or not is_there:
            if known is not None:
                known[1].cancel()
            task = spawn(f"announce {one.address}", self._announce(one.address, one.interface))
            self._announced[one.address] = (one.generation, task)

    async def _announce(self, address: str, interface: str) -> None:
        at = 0.0
        for time_s in ANNOUNCE_AT_S:
            await self._clock.sleep(time_s - at)
            at = time_s
            if address not in self._announced:
                return
            try:
                self._interfaces.announce(address, interface)
            except OSError as e:
                self._complain(f"{address} cannot be announced on {interface}: {e.strerror or e}")

    # -- what the store says -------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        now = self._clock.monotonic()
        is_due = not self._is_known or now - self._asked_at >= ASK_EVERY_S
        if is_due and (self._asking is None or self._asking.done()):
            self._asked_at = now
            self._asking = spawn("confirm the virtual addresses", self._confirm(now))

    async def _confirm(self, asked_at: float) -> None:
        try:
            async with asyncio.timeout(PROOF_S):
                await self._mirror.fresh()
        except (StoreError, TimeoutError):
            return
        self._proven_at, self._is_known = asked_at, True
        self._wake.set()

    # -- reports -------------------------------------------------------------------------------------------------------

    def _report(self, wanted: Iterable[VirtualAddress]) -> None:
        now = self._clock.monotonic()
        self._failed = {a: found for a, found in self._failed.items() if now - found[0] < FAILURE_KEPT_S}
        good = [HeldAddress(one.address, one.generation) for one in wanted if one.address not in self._failed]
        held = tuple(sorted((*good, *(failure for _, failure in self._failed.values())), key=lambda h: h.address))
        if held != self.held:
            self.held = held
            self.on_change()

    def _complain(self, text: str) -> None:
        """Once for each text."""
        if text != self._said:
            self._said = text
            _log.error("a virtual address cannot be kept as the records say", reason=text)
