"""A node that was away while the cluster key was changed asks the others for it, over real TLS, before its daemon starts."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from shardwright.agent.answers import AgentAnswers
from shardwright.clock import SystemClock
from shardwright.endpoint.tls import TlsAddress, TlsListener
from shardwright.errors import Permanent, Transient
from shardwright.key_file import KeyFile, new_key, read_sealing
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.node.founding import Place, members_store, settings_of
from shardwright.node.missing_keys import fetch_missing_keys
from shardwright.node.places import trust_files
from shardwright.node.settings import Directories, NodeSettings
from shardwright.store import keys, records
from shardwright.store.memory import MemoryStore
from shardwright.store.protocol import PutKey, Transaction
from shardwright.store.seal import ClusterKey, Sealing
from shardwright.trust.certificates import issued_record
from shardwright.trust.contexts import server_context
from shardwright.trust.files import own_key, write_credentials
from shardwright.trust.keys import key_text
from testkit.builders import NOW
from testkit.certificates import Members, members

ONE, TWO = NodeUid(1), NodeUid(2)
HERE = "127.0.0.1"
OLD, NEW = new_key(), new_key()
PLACE = "users/00000001"


@dataclass
class World:
    """Node 2 returns. The store has one value under the new key; node 1 is where the test says."""

    settings: NodeSettings
    sealing: Sealing
    store: MemoryStore
    authority: Members

    async def put(self, key: str, value: bytes) -> None:
        await self.store.transact(Transaction((), (PutKey(key, value),)))

    @property
    def file(self) -> KeyFile:
        return KeyFile(self.settings.directories.cluster_key)

    async def fetch(self) -> None:
        await fetch_missing_keys(self.settings, self.sealing, self.store)

    @asynccontextmanager
    async def node_one(self, *held: ClusterKey, revoked: frozenset[str] = frozenset()) -> AsyncIterator[None]:
        """It answers with these keys."""
        unused: Any = None
        answers = AgentAnswers(
            news=unused,
            is_current_term=unused,
            is_own=unused,
            endpoint_process=unused,
            checks=unused,
            sealing=Sealing(held, secrets.token_bytes),
        )
        own = server_context(self.authority.member(ONE, HERE))
        place = TlsAddress(HERE, self.settings.ports.agent, lambda: own, lambda: revoked)
        listener = TlsListener(place, answers.serve_remote, name="test: agent")
        listener.open()
        try:
            yield
        finally:
            await listener.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


def run(directory: Path, scenario: Callable[[World], Awaitable[None]], *, nodes: tuple[NodeUid, ...] = (ONE, TWO)) -> None:
    async def whole() -> None:
        own = Directories(directory / "etc", directory / "lib", directory / "run", directory / "log")
        place = Place((ip_address(HERE),), directories=own)
        settings = settings_of(TWO, place, members_store(place, ("https://127.0.0.9:2379",)))
        settings = replace(settings, ports=replace(settings.ports, agent=free_port()))
        authority, files = members(), trust_files(own)
        shown = authority.member(TWO, HERE, key=key_text(own_key(files)))
        write_credentials(files, authority.signer.authority.text, {CertificateRole.NODE: shown.chain})
        file = KeyFile(own.cluster_key)
        file.change(lambda _: (OLD,))
        world = World(settings, read_sealing(file.path), MemoryStore(SystemClock()), authority)
        for uid in nodes:
            await world.put(f"{keys.NODES}{uid:08d}", records.encode(Node(uid, HERE, NOW)))
        issued = issued_record(shown.certificate)
        await world.put(keys.key_of(issued), records.encode(issued))
        await world.put(PLACE, Sealing((NEW,), secrets.token_bytes).seal(PLACE, b"{}"))
        async with asyncio.timeout(60):
            await scenario(world)
        await world.store.close()

    asyncio.run(whole())


def test_the_key_is_fetched_and_kept_beside_the_old_one(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.node_one(NEW):
            await world.fetch()
        assert world.file.read() == world.sealing.keys == (OLD, NEW)
        item = await world.store.get(PLACE)
        assert item is not None
        assert world.sealing.open(PLACE, item.value) == b"{}"
        await world.fetch()  # Nobody answers any more, and nobody is asked.

    run(tmp_path, scenario)


def test_it_is_waited_for_while_a_node_does_not_answer(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(Transient) as waiting:
            await world.fetch()
        assert waiting.value.code is Code.CLUSTER_KEY_AWAITED
        assert NEW.uid in waiting.value.text
        assert "node 1" in waiting.value.text
        assert world.file.read() == (OLD,)

    run(tmp_path, scenario)


def test_a_key_that_no_node_has_needs_an_operator(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.node_one(OLD):
            with pytest.raises(Permanent) as refused:
                await world.fetch()
        assert refused.value.code is Code.SECRET_KEY_MISSING

    run(tmp_path, scenario)


def test_a_node_that_is_alone_asks_nobody(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(Permanent) as refused:
            await world.fetch()
        assert (refused.value.code, "no other node" in refused.value.text) == (Code.SECRET_KEY_MISSING, True)

    run(tmp_path, scenario, nodes=(TWO,))


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        (world.file.path.parent / "cluster.key.new").mkdir()
        async with world.node_one(NEW):
            with pytest.raises(Permanent) as refused:
                await world.fetch()
        assert refused.value.code is Code.CLUSTER_KEY_UNUSABLE
        assert str(world.file.path) in refused.value.text
        assert world.sealing.keys == (OLD,), "what is not on the disk is not used"

    run(tmp_path, scenario)
