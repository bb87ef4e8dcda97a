"""What the agent does with the interfaces. A store and interfaces in memory; time passes when the test says so."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from shardwright.agent.virtual_addresses import FAILURE_KEPT_S, PROOF_S, VirtualAddressKeeper, steps, wanted_here
from shardwright.clock import SystemClock
from shardwright.machine.virtual_addresses import PlacedAddress
from shardwright.model.cluster import Cluster, ClusterKind, Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.version import CLUSTER_VERSION
from shardwright.model.virtual_address import HeldAddress, VirtualAddress
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, StoreUnavailable, Transaction
from shardwright.tasks import spawn
from testkit.builders import cluster
from testkit.deadlines import until_async

NOW = datetime.now(UTC)
TWO, THREE = NodeUid(2), NodeUid(3)
CLUSTER = Cluster("c", NOW, "10.0.0.1", 9443, cluster_version=CLUSTER_VERSION, kind=ClusterKind.MACHINES)
MINE = VirtualAddress("10.0.0.9", 24, "eth0", NOW, holder=TWO, generation=1)
THEIRS = replace(MINE, address="10.0.0.8", holder=THREE)
PLACED = PlacedAddress("10.0.0.9", 24, "eth0")
OTHER = PlacedAddress("10.0.0.8", 24, "eth0")


class Interfaces:
    """In memory."""

    def __init__(self) -> None:
        self.there: list[PlacedAddress] = []
        self.announced: list[str] = []
        self.failure: OSError | None = None

    def ours(self) -> list[PlacedAddress]:
        return list(self.there)

    def add(self, placed: PlacedAddress) -> None:
        if self.failure is not None:
            raise self.failure
        self.there.append(placed)

    def remove(self, placed: PlacedAddress) -> None:
        self.there.remove(placed)

    def announce(self, address: str, interface: str) -> bool:
        self.announced.append(address)
        return True

    def usable_interfaces(self) -> tuple[str, ...]:
        return ("eth0",)


class LaterClock(SystemClock):
    """The system's, with time that the test adds."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


class CutOffStore(MemoryStore):
    """A store that does not answer while it is cut off."""

    is_cut_off = False

    async def revision(self) -> int:
        if self.is_cut_off:
            raise StoreUnavailable(Code.STORE_UNAVAILABLE, "cut off")
        return await super().revision()


@dataclass
class World:
    store: CutOffStore
    mirror: Mirror
    keeper: VirtualAddressKeeper
    clock: LaterClock
    interfaces: Interfaces = field(default_factory=Interfaces)

    async def put(self, *written: StoredRecord) -> None:
        await self.store.transact(Transaction((), tuple(PutKey(keys.key_of(r), records.encode(r)) for r in written)))
        await self.mirror.fresh() if not self.store.is_cut_off else None

    async def settled(self, what: str, is_so: Callable[[], bool]) -> None:
        await until_async(what, is_so, seconds=10, state=lambda: f"{self.interfaces.there}, {self.keeper.held}")


def run(
    scenario: Callable[[World], Awaitable[None]],
    *,
    before: tuple[PlacedAddress, ...] = (),
    records: tuple[StoredRecord, ...],
) -> None:
    async def whole() -> None:
        clock, interfaces = LaterClock(), Interfaces()
        interfaces.there = list(before)
        store = CutOffStore(SystemClock())
        mirror = Mirror(store)
        keeper = VirtualAddressKeeper(TWO, mirror=mirror, clock=clock, interfaces=interfaces)
        world = World(store, mirror, keeper, clock, interfaces)
        mirroring = spawn("mirror", mirror.run())
        await mirror.ready()
        await world.put(CLUSTER, Node(TWO, "10.0.0.2", NOW), *records)
        keeping = spawn("keeper", keeper.run())
        try:
            await scenario(world)
        finally:
            for task in (keeping, mirroring):
                task.cancel()
            await asyncio.gather(keeping, mirroring, return_exceptions=True)

    asyncio.run(whole())


def test_only_what_the_records_give_to_this_node_is_wanted() -> None:
    view = cluster(3).with_records(MINE, THEIRS).view
    assert wanted_here(view, TWO) == (MINE,)
    assert wanted_here(view, NodeUid(9)) == ()


def test_the_difference_is_removed_first() -> None:
    assert steps([MINE], [PLACED]) == steps([], [])
    found = steps([MINE], [OTHER, replace(PLACED, interface="eth1")])
    assert (found.remove, found.add) == ((OTHER, replace(PLACED, interface="eth1")), (PLACED,))


def test_it_adds_announces_and_reports_its_own_and_removes_those_of_others() -> None:
    async def scenario(world: World) -> None:
        await world.settled("mine is there alone", lambda: world.interfaces.there == [PLACED])
        await world.settled("it was announced twice", lambda: world.interfaces.announced[:2] == ["10.0.0.9"] * 2)
        assert world.keeper.held == (HeldAddress("10.0.0.9", 1),)
        await world.put(replace(MINE, holder=THREE, generation=2))
        await world.settled("it is gone", lambda: world.interfaces.there == [] and world.keeper.held == ())

    run(scenario, before=(OTHER,), records=(MINE, THEIRS))


def test_a_restarted_daemon_leaves_its_own_and_announces_it() -> None:
    async def scenario(world: World) -> None:
        await world.settled("it is reported", lambda: world.keeper.held == (HeldAddress("10.0.0.9", 1),))
        assert world.interfaces.there == [PLACED]

    run(scenario, before=(PLACED,), records=(MINE,))


def test_without_the_stores_word_it_goes_after_ten_seconds_and_returns_with_it() -> None:
    async def scenario(world: World) -> None:
        await world.settled("it is there", lambda: world.interfaces.there == [PLACED])
        world.store.is_cut_off = True
        world.clock.ahead_s = PROOF_S - 3
        world.keeper.turn()
        assert world.interfaces.there == [PLACED]
        world.clock.ahead_s = PROOF_S + 1
        world.keeper.turn()
        assert (world.interfaces.there, world.keeper.held) == ([], ())
        world.store.is_cut_off = False
        await world.settled("it is back", lambda: world.interfaces.there == [PLACED])

    run(scenario, records=(MINE,))


def test_a_daemon_that_never_reached_the_store_removes_all_after_ten_seconds() -> None:
    interfaces, clock = Interfaces(), LaterClock()
    interfaces.there = [PLACED]

    async def scenario() -> None:
        keeper = VirtualAddressKeeper(TWO, mirror=Mirror(MemoryStore(clock)), clock=clock, interfaces=interfaces)
        keeper.turn()
        assert interfaces.there == [PLACED]
        clock.ahead_s = PROOF_S
        keeper.turn()
        assert interfaces.there == []

    asyncio.run(scenario())


def test_a_failure_is_reported_for_a_while() -> None:
    async def scenario(world: World) -> None:
        world.interfaces.failure = OSError(1, "Operation not permitted")
        await world.put(MINE)
        failed = (HeldAddress("10.0.0.9", 1, "Operation not permitted"),)
        await world.settled("the failure is reported", lambda: world.keeper.held == failed)
        await world.put(replace(MINE, holder=THREE, generation=2))
        world.keeper.turn()
        assert world.keeper.held == failed, "the leader must not give it back at once"
        world.clock.ahead_s = FAILURE_KEPT_S + 1
        world.keeper.turn()
        assert not world.keeper.held

    run(scenario, records=())


@pytest.mark.parametrize("before", [(), (PLACED, OTHER)])
def test_a_removed_node_has_none(before: tuple[PlacedAddress, ...]) -> None:
    interfaces = Interfaces()
    interfaces.there = list(before)
    clock = SystemClock()

    async def scenario() -> None:
        VirtualAddressKeeper(TWO, mirror=Mirror(MemoryStore(clock)), clock=clock, interfaces=interfaces).retire()

    asyncio.run(scenario())
    assert interfaces.there == []
