"""One agent on a real store with records written by hand, for tests. Ends every process that its agents started."""

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from shardwright.agent.launch import read_record
from shardwright.agent.loop import Agent
from shardwright.clock import SystemClock
from shardwright.endpoint.protocol import EndpointSpec, HoldResult, LeaseTerms, ReleaseResult, Target
from shardwright.endpoint.tls import TlsAddress
from shardwright.errors import Transient
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import end, find_processes
from shardwright.model.cluster import Cluster, Node
from shardwright.model.codes import Code
from shardwright.model.database import Database, Endpoint, Persistence, ServerKind, ServerSecrets, Shard, SlotGroup
from shardwright.model.ids import DatabaseUid, EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.seen import EndpointProcessSeen, EndpointSeen, EndpointState, NodeSeen, ProcessSeen, ProcessState
from shardwright.server.binaries import ServerBinary
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import DeleteKey, PutKey, Transaction
from shardwright.store.sqlite import SqliteStore
from shardwright.tasks import spawn
from shardwright.trust.files import MemberFiles
from testkit.deadlines import until_async

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NODE = NodeUid(1)
SECRETS = ServerSecrets(DatabaseUid(1), "app-secret", "rep-secret", "obs-secret", "man-secret", "0123456789abcdef")
STAND_IN = [sys.executable, "-c", "import time; time.sleep(600)  # stand-in for an endpoint process"]


class RecordingEndpointProcess:
    """Records the specifications that it receives; for tests of the agent without the data path."""

    def __init__(self) -> None:
        self.served: list[EndpointSpec] = []
        self.answers = True

    async def status(self, suspects: Collection[EndpointUid] = ()) -> EndpointProcessSeen:
        seen = tuple(EndpointSeen(s.uid, EndpointState.LISTENING) for s in self.served)
        return EndpointProcessSeen(NODE, datetime.now(UTC), self.answers, endpoints=seen)

    async def serve(self, spec: EndpointSpec) -> None:
        self.served.append(spec)

    async def tell_lease(self, endpoint: EndpointUid, terms: LeaseTerms) -> None:
        raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, "not here")

    async def drop(self, endpoint: EndpointUid) -> None:
        raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, "not here")

    async def retire(self, endpoint: EndpointUid) -> None:
        raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, "not here")

    async def calm(self, endpoint: EndpointUid) -> None:
        raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, "not here")

    async def hold(self, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, "not here")

    async def release(self, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, "not here")


@dataclass
class World:
    """A directory, a store and a mirror, in which agents start and end."""

    directory: Path
    store: SqliteStore
    mirror: Mirror
    address: str
    endpoints: RecordingEndpointProcess = field(default_factory=RecordingEndpointProcess)
    remote: TlsAddress | None = None
    """Where its agents answer other machines."""
    certificate: MemberFiles | None = None
    """Of its agents and servers."""

    @property
    def node_directory(self) -> Path:
        return self.directory / "node"

    @property
    def news_socket(self) -> Path:
        return self.directory / "agent.sock"

    def shard_directory(self, uid: int) -> Path:
        return self.node_directory / "shards" / str(uid)

    async def put(self, *written: StoredRecord) -> None:
        operations = tuple(PutKey(keys.key_of(r), records.encode(r)) for r in written)
        assert (await self.store.transact(Transaction((), operations))).succeeded
        await self.mirror.fresh()

    async def delete(self, record: StoredRecord) -> None:
        assert (await self.store.transact(Transaction((), (DeleteKey(keys.key_of(record)),)))).succeeded
        await self.mirror.fresh()

    @asynccontextmanager
    async def agent(self) -> AsyncIterator["WatchedAgent"]:
        """An agent that runs and then dies; its processes keep running."""
        agent = WatchedAgent(self)
        task = spawn("test: agent", agent.run())
        try:
            yield agent
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def seen(self) -> NodeSeen | None:
        return self.mirror.view().node_seen.get(NODE)

    def process(self, uid: int) -> ProcessSeen | None:
        seen = self.seen()
        return next((p for p in seen.processes if p.shard_uid == uid), None) if seen else None

    async def until(self, is_so: Callable[[], bool], *, seconds: float = 20) -> float:
        """Wait; returns the duration. Shows the reported state if it takes too long."""
        return await until_async("what is waited for", is_so, seconds=seconds, state=lambda: f"seen: {self.seen()}")

    async def idle_turns(self, agent: "WatchedAgent", count: int = 3) -> None:
        """The number of agent turns, each started by a change in the store without news: they begin no work."""
        for _ in range(count):
            begun = agent.turns_begun
            await self.put(self.mirror.view().policy)
            await self.until(lambda begun=begun: len(agent.turns) > begun)  # type: ignore[misc]
            assert agent.turns[begun:] == [frozenset()] * len(agent.turns[begun:])

    async def until_state(self, uid: int, state: ProcessState, *, incarnation: int | None = None) -> ProcessSeen:
        def is_so() -> bool:
            seen = self.process(uid)
            return seen is not None and seen.state is state and incarnation in (None, seen.incarnation)

        await self.until(is_so)
        found = self.process(uid)
        assert found is not None
        return found


class WatchedAgent(Agent):
    """The agent and its work: for each turn, the work on shards that was in progress at its end."""

    def __init__(self, made: World) -> None:
        super().__init__(
            NODE,
            made.store,
            mirror=made.mirror,
            directory=made.node_directory,
            control=made.directory / "run" / "endpoint.sock",
            clock=SystemClock(),
            endpoint_command=STAND_IN,
            endpoint_process=made.endpoints,
            news_socket=made.news_socket,
            remote=made.remote,
            certificate=made.certificate,
        )
        self.turns_begun = 0
        self.turns: list[frozenset[str]] = []

    async def turn(self) -> float:
        self.turns_begun += 1
        try:
            return await super().turn()
        finally:
            names = (task.get_name() for task in asyncio.all_tasks())
            self.turns.append(frozenset(name for name in names if name.startswith("agent: shard ")))


@asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    """An empty cluster of one node, without an agent."""
    address = f"127.{random.randint(20, 60)}.{random.randint(1, 250)}.{random.randint(2, 250)}"
    store = await SqliteStore.open(directory / "store.db")
    mirror = Mirror(store)
    task = spawn("test: mirror", mirror.run())
    made = World(directory, store, mirror, address)
    try:
        await made.put(Cluster("test", NOW, address, 9443), Node(NODE, address, NOW, memory_bytes=1 << 30))
        yield made
    finally:
        await end_all(made)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()


async def end_all(made: World) -> None:
    """End the processes that the agents of a test left running: all with a working directory below the test's directory."""
    below = str(made.node_directory.resolve())
    for path in made.node_directory.glob("shards/*"):
        record = read_record(path)
        if record is not None and record.identity is not None:
            await end(record.identity, 0)
    if (endpoint := read_identity(made.node_directory / "endpoint.json")) is not None:
        await end(endpoint, 0)
    for process in await asyncio.to_thread(find_processes, lambda p: p.directory.startswith(below)):
        await end(process, 0)


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def database(binary: ServerBinary, **changes: object) -> Database:
    made = Database(DatabaseUid(1), "test", 12_000, 0, NOW, NOW, ServerKind(binary.kind), binary.version)
    return replace(made, **changes)  # type: ignore[arg-type]


def shard(port: int, uid: int = 1, **changes: object) -> Shard:
    made = Shard(ShardUid(uid), DatabaseUid(1), GroupUid("1:1"), NODE, port, NOW)
    return replace(made, **changes)  # type: ignore[arg-type]


def group(**changes: object) -> SlotGroup:
    return replace(SlotGroup(GroupUid("1:1"), DatabaseUid(1), 1), **changes)  # type: ignore[arg-type]


def endpoint(address: str, port: int) -> Endpoint:
    return Endpoint(EndpointUid("1:1"), DatabaseUid(1), address, port, (NODE,))


__all__ = ["NODE", "SECRETS", "Persistence", "World", "database", "endpoint", "free_port", "group", "shard", "world"]


Scenario = Callable[[World], Awaitable[None]]


def run(directory: Path, scenario: Scenario) -> None:
    async def whole() -> None:
        async with world(directory) as made:
            async with asyncio.timeout(90):
                await scenario(made)

    asyncio.run(whole())


async def started(made: World, binary: ServerBinary, **changes: object) -> tuple[Database, Shard]:
    """The records of one database with one shard, written to the store."""
    kept = database(binary, **changes)
    wanted = shard(free_port(made.address))
    await made.put(kept, SECRETS, group(), wanted)
    return kept, wanted
