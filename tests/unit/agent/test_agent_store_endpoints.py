"""A daemon learns where the members of its store are: at once, after a change of their roles, and for its next start."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from shardwright.agent.store_endpoints import StoreEndpoints
from shardwright.clock import SystemClock
from shardwright.learned_file import FILE_BYTES_MAX, LearnedFile, Learning
from shardwright.model.cluster import Node
from shardwright.model.ids import NodeUid
from shardwright.model.store_member import StoreMember, StoreRole
from shardwright.store import keys, records
from shardwright.store.endpoints import EndpointBook, Learned
from shardwright.store.memory import MemoryStore
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import PutKey, Transaction
from shardwright.store.settings import EtcdSettings
from shardwright.tasks import spawn
from testkit.builders import cluster
from testkit.deadlines import until_async
from testkit.store_members import MemoryMembers

URLS = tuple(f"https://127.0.0.{n}:2379" for n in (1, 2, 3))
ONE, TWO, THREE = URLS
SETTINGS = EtcdSettings((ONE,), Path("ca.pem"), Path("store.pem"), Path("node-key.pem"), cluster_id="7")


class Counted(MemoryMembers):
    """Counts how often it is asked."""

    asked = 0

    async def members(self) -> tuple[StoreMember, ...]:
        self.asked += 1
        return await super().members()


class World:
    """A daemon on node 2, whose settings name the first member only."""

    def __init__(self, directory: Path) -> None:
        self.store = MemoryStore(SystemClock())
        self.mirror = Mirror(self.store)
        self.members = Counted((1,))
        self.book = EndpointBook(SETTINGS)
        self.file = LearnedFile(directory / "store-endpoints.json")
        learning = Learning(self.file, (TWO,), (ONE,))
        self.endpoints = StoreEndpoints(learning, self.members, self.book, mirror=self.mirror)

    @property
    def asked(self) -> list[str]:
        return list(map(str, self.book.endpoints))

    async def put(self, *nodes: Node) -> None:
        puts = tuple(PutKey(keys.key_of(node), records.encode(node)) for node in nodes)
        await self.store.transact(Transaction(operations=puts))

    async def until(self, what: str, condition: Callable[[], bool]) -> None:
        await until_async(what, condition, seconds=10, state=lambda: f"{self.asked}, {self.file.read()}", poll_s=0.005)


@asynccontextmanager
async def following(world: World) -> AsyncIterator[None]:
    tasks = [spawn("mirror", world.mirror.run()), spawn("store endpoints", world.endpoints.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await world.store.close()


def node(uid: int, role: StoreRole = StoreRole.NONE) -> Node:
    return replace(cluster(nodes=uid).view.nodes[NodeUid(uid)], store_role=role)


def run(scenario: Callable[[World], Awaitable[None]], directory: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await scenario(World(directory))

    asyncio.run(main())


def test_it_looks_at_once_and_when_a_role_has_changed(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.put(node(1, StoreRole.VOTER), node(2))
        async with following(world):
            await world.until("the only member is kept", lambda: world.file.read() == Learned("7", (ONE,)))
            assert world.asked == [ONE]
            await world.members.add_learner("https://127.0.0.2:2380")
            world.members.starts(2)
            await world.put(node(2, StoreRole.LEARNER))
            await world.until("the learner is last", lambda: world.asked == [ONE, TWO])
            await world.members.promote(world.members.found[-1].id)
            await world.put(node(2, StoreRole.VOTER))
            await world.until("the own member is first", lambda: world.asked == [TWO, ONE])
            await world.members.remove(1)
            await world.put(node(1))
            await world.until("the file follows", lambda: world.file.read() == Learned("7", (TWO,)))
            assert world.asked == [TWO, ONE], "what is configured is never dropped"

    run(scenario, tmp_path)


def test_other_changes_of_a_node_ask_nothing(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.put(node(1, StoreRole.VOTER))
        async with following(world):
            await world.until("it has looked", lambda: world.file.read() is not None)
            await world.put(replace(node(1, StoreRole.VOTER), rack="another"))
            await world.mirror.fresh()
            await world.put(node(2, StoreRole.VOTER))
            await world.until("a role has changed", lambda: world.members.asked > 1)
            assert world.members.asked == 2, "the rack is none of its concern"

    run(scenario, tmp_path)


def test_without_an_answer_everything_stays(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.members.is_cut = True
        await world.put(node(1, StoreRole.VOTER))
        async with following(world):
            await world.until("it has asked", lambda: world.members.asked == 1)
            assert (world.asked, world.file.read()) == ([ONE], None)
            world.members.is_cut = False
            world.members.found += MemoryMembers((3,)).found
            await world.put(node(3, StoreRole.VOTER))
            await world.until("it goes on", lambda: world.asked == [ONE, THREE])

    run(scenario, tmp_path)


def test_a_file_that_cannot_be_written_changes_nothing_for_the_clients(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.members.found += MemoryMembers((2,)).found
        with pytest.raises(FileNotFoundError):
            await world.endpoints.look()
        assert world.asked == [TWO, ONE]
        world.file.path.parent.mkdir()
        await world.endpoints.look()
        assert world.file.read() == Learned("7", (TWO, ONE)), "the next look writes it"

    run(scenario, tmp_path / "missing")


def test_what_is_kept_is_written_once_and_is_the_owners(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        await world.endpoints.look()
        before = world.file.path.stat()
        await world.endpoints.look()
        assert world.file.path.stat().st_ino == before.st_ino, "nothing has changed"
        assert before.st_mode & 0o777 == 0o600
        world.members.found = []
        await world.endpoints.look()
        assert world.file.read() == Learned("7", (ONE,)), "an empty answer teaches nothing"
        world.file.forget()
        world.file.forget()
        assert world.file.read() is None

    run(scenario, tmp_path)


def test_a_broken_file_is_nothing(tmp_path: Path) -> None:
    file = LearnedFile(tmp_path / "store-endpoints.json")
    for content in (b"{", b"x" * (FILE_BYTES_MAX + 1)):
        file.path.write_bytes(content)
        assert file.read() is None
    assert LearnedFile(tmp_path).read() is None, "a directory"
