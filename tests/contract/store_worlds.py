"""What the store's contract suite needs from a backend: to open it, repeatedly, and to let the time of leases pass.

Another backend joins the suite with its own world in ``WORLDS``.
"""

import asyncio
import itertools
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from shardwright.store.etcd import EtcdStore
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import Store, WatchBatch
from shardwright.store.sqlite import SqliteStore
from testkit.etcd import EtcdCluster, require_etcd


class ManualClock:
    """Time that passes only on request; also a boot clock."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.boot = "first"
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def boot_id(self) -> str:
        return self.boot

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self.seconds + seconds, woken))
        if seconds > 0:
            await woken.wait()

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        for due, woken in self._sleepers:
            if due <= self.seconds:
                woken.set()
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].is_set()]


class WallManualClock(ManualClock):
    """The same as the shell's ``Clock``, whose ``now`` is a date."""

    def now(self) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(self.seconds, UTC)


class World(ABC):
    """One store for one test."""

    @abstractmethod
    async def open(self) -> Store:
        """Open a store; all opened stores access the same data."""

    @abstractmethod
    async def pass_time(self, seconds: float, *, ends_leases: bool = False) -> None:
        """Let time pass for leases. ``ends_leases``: those that are due have ended afterwards."""

    @abstractmethod
    async def close(self) -> None:
        """Close everything that was opened."""


class MemoryWorld(World):
    def __init__(self, directory: Path) -> None:
        del directory
        self._clock = WallManualClock()
        self._store = MemoryStore(self._clock)

    async def open(self) -> Store:
        return self._store

    async def pass_time(self, seconds: float, *, ends_leases: bool = False) -> None:
        self._clock.advance(seconds)

    async def close(self) -> None:
        await self._store.close()


class SqliteWorld(World):
    def __init__(self, directory: Path) -> None:
        self._path = directory / "store.db"
        self._clock = ManualClock()
        self._stores: list[SqliteStore] = []

    async def open(self) -> Store:
        store = await SqliteStore.open(self._path, boot=self._clock)
        self._stores.append(store)
        return store

    async def pass_time(self, seconds: float, *, ends_leases: bool = False) -> None:
        self._clock.advance(seconds)

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


LEASE_LATENESS_S = 1.0
"""etcd looks for ended leases every half a second."""


class EtcdWorld(World):
    """One member; its time cannot be turned forward."""

    members = 1
    is_encrypted = False

    def __init__(self, directory: Path) -> None:
        require_etcd()
        self._etcd = EtcdCluster(directory / "etcd", count=self.members, tls=self.is_encrypted)
        self._stores: list[EtcdStore] = []
        self._first = itertools.count()

    async def open(self) -> Store:
        if not self._stores:
            await self._etcd.start(*self._etcd.members)
        store = await EtcdStore.open(self._etcd.settings(first=next(self._first)))
        self._stores.append(store)
        return store

    async def pass_time(self, seconds: float, *, ends_leases: bool = False) -> None:
        await asyncio.sleep(seconds + (LEASE_LATENESS_S if ends_leases else 0.0))

    async def close(self) -> None:
        for store in self._stores:
            await store.close()
        await self._etcd.stop(*self._etcd.members)


class EtcdOfThreeWorld(EtcdWorld):
    """Three members, with certificates; each store that is opened asks another one."""

    members = 3
    is_encrypted = True


WORLDS: dict[str, Callable[[Path], World]] = {
    "memory": MemoryWorld,
    "sqlite": SqliteWorld,
    "etcd": EtcdWorld,
    "etcd-of-three": EtcdOfThreeWorld,
}


def on_every_backend(*, takes_time: bool = False) -> pytest.MarkDecorator:
    """Runs a test once for each backend. ``takes_time``: it lets time pass for leases, which is real time on etcd."""

    def marks(name: str) -> list[pytest.MarkDecorator]:
        is_long = name == "etcd-of-three" or (name == "etcd" and takes_time)
        return [pytest.mark.proof] if is_long else []

    return pytest.mark.parametrize("backend", [pytest.param(name, marks=marks(name)) for name in sorted(WORLDS)])


SCENARIO_S = 60.0
"""With the start of an etcd, and with real time for its leases."""


def run(backend: str, scenario: Callable[[World], Awaitable[None]]) -> None:
    """Run one scenario on a fresh store, with a deadline."""

    async def main() -> None:
        with tempfile.TemporaryDirectory() as directory:
            world = WORLDS[backend](Path(directory))
            try:
                async with asyncio.timeout(SCENARIO_S):
                    await scenario(world)
            finally:
                await world.close()

    asyncio.run(main())


class Watcher:
    """Collects the batches of a watch."""

    def __init__(self) -> None:
        self.batches: list[WatchBatch] = []
        self.error: Exception | None = None
        self.arrived = asyncio.Event()

    async def until(self, revision: int) -> list[WatchBatch]:
        """All batches so far, as soon as this revision has arrived."""
        try:
            async with asyncio.timeout(5):
                while not (self.batches and self.batches[-1].revision >= revision):
                    self.arrived.clear()
                    await self.arrived.wait()
        except TimeoutError as e:
            raise AssertionError(f"revision {revision} did not arrive: {self.batches}, {self.error!r}") from e
        return self.batches

    async def until_error(self) -> Exception:
        async with asyncio.timeout(5):
            while self.error is None:
                self.arrived.clear()
                await self.arrived.wait()
        return self.error

    def keys(self) -> list[tuple[int, str, bytes | None]]:
        return [
            (batch.revision, change.key, None if change.current is None else change.current.value)
            for batch in self.batches
            for change in batch.changes
        ]


@asynccontextmanager
async def watching(store: Store, prefix: str, from_revision: int) -> AsyncIterator[Watcher]:
    """A watch in the background."""
    watcher = Watcher()

    async def collect() -> None:
        try:
            async for batch in store.watch(prefix, from_revision=from_revision):
                watcher.batches.append(batch)
                watcher.arrived.set()
        except Exception as e:
            watcher.error = e
            watcher.arrived.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(collect())
        try:
            yield watcher
        finally:
            task.cancel()


SECONDS = timedelta(seconds=1)
