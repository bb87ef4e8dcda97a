"""Nodes of a cluster of machines in tests: founded and joined by the product's own code, with directories and a loopback
address of their own. Their members of the store are real processes; their APIs run in threads of the test.

No daemon runs: ``commit`` writes what the first daemon would write. Every program that is started here is ended here.
"""

import asyncio
import os
import secrets
import ssl
import tempfile
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from shardwright.api.app import create_app
from shardwright.api.certificate import ApiCertificate
from shardwright.api.deps import ApiContext
from shardwright.api.machines import Machines
from shardwright.api.server import ApiServer, serve
from shardwright.api.services.check import Checks
from shardwright.api.services.figures import Figures
from shardwright.clock import SystemClock
from shardwright.key_file import read_sealing
from shardwright.machine.processes import end, is_running, server_environment, spawn_process
from shardwright.model.ids import NodeUid
from shardwright.model.seen import ProcessIdentity
from shardwright.model.store_member import MemberState, StoreMember
from shardwright.model.trust import CertificateRole
from shardwright.model.view import ClusterView
from shardwright.node.admitting import machines_of
from shardwright.node.etcd_config import NAME as ETCD_NAME
from shardwright.node.founding_file import NAME as FOUNDING_NAME
from shardwright.node.founding_file import StoreAnswer, found_cluster
from shardwright.node.init import Founded, InitOptions, found
from shardwright.node.join import Joined, JoinOptions, join
from shardwright.node.preflight import Machine, PlaceOptions, look_at_machine
from shardwright.node.settings import Directories, NodeSettings
from shardwright.store import keys
from shardwright.store.members import Members
from shardwright.store.mirror import Mirror
from shardwright.store.open import open_store
from shardwright.store.protocol import DeleteKey, Transaction
from shardwright.store.settings import EtcdSettings
from shardwright.tasks import spawn
from shardwright.trust.authority import read_authority
from shardwright.trust.contexts import trusting_context
from shardwright.trust.files import TrustFiles
from shardwright.trust.tokens import read_address
from testkit.etcd import PATIENT, require_etcd
from tests.integration.api_harness import Agents

ADMIN, PASSWORD = "admin@example.com", "correct horse battery"
Result = TypeVar("Result")


def directories_in(folder: Path) -> Directories:
    return Directories(folder / "etc", folder / "state", folder / "run", folder / "log")


def place_in(folder: Path, address: str, **changes: Any) -> PlaceOptions:
    return replace(PlaceOptions(address=address, memory_bytes=1 << 30, directories=directories_in(folder)), **changes)


def machine(name: str, **changes: Any) -> Machine:
    """This machine under another name, as if it were one of its own."""
    return replace(look_at_machine(), machine_id=name, **changes)


def found_in(folder: Path, address: str, **changes: Any) -> Founded:
    """``init`` in that directory."""
    options = replace(InitOptions(place_in(folder, address), admin_email=ADMIN), **changes)
    environment = {"SHARDWRIGHT_ADMIN_PASSWORD": PASSWORD}
    return found(options, machine("machine-1"), environment, credentials=folder / "home/cluster.json", now=datetime.now(UTC))


def join_in(folder: Path, address: str, line: str, *, name: str = "", **changes: Any) -> Joined:
    """``join`` in that directory, with the words of a join line."""
    words = line.split()
    host, port = read_address(words[2])
    options = JoinOptions(host, port, words[4], words[6], place_in(folder, address, **changes))
    return join(options, machine(name or folder.name), say=lambda _: None, now=lambda: datetime.now(UTC))


class Etcds:
    """Members of the store, each started with the file that ``init`` or ``join`` has written."""

    def __init__(self) -> None:
        self._running: list[ProcessIdentity] = []

    def __enter__(self) -> "Etcds":
        return self

    def __exit__(self, *_: object) -> None:
        for identity in self._running:
            asyncio.run(end(identity, 0.0))

    def start(self, settings: NodeSettings) -> ProcessIdentity:
        """Start the node's member; it is ready some time later."""
        file = settings.directories.configuration / ETCD_NAME
        log = settings.directories.log / "etcd.log"
        command = ["etcd", "--config-file", str(file)]
        identity = spawn_process(command, directory=settings.directories.state, output=log, environment=server_environment())
        self._running.append(identity)
        return identity

    def state(self, settings: NodeSettings) -> str:
        """For a failed test."""
        log = settings.directories.log / "etcd.log"
        runs = [is_running(identity) for identity in self._running]
        return f"{runs} {log.read_text()[-3000:] if log.exists() else ''}"


def store_of(settings: NodeSettings) -> EtcdSettings:
    place = settings.store
    return EtcdSettings(place.endpoints, place.authority, place.certificate, place.key, PATIENT)


async def commit(settings: NodeSettings) -> StoreAnswer | None:
    """What the first daemon does. Waits for the store."""
    async with asyncio.timeout(30):
        while True:
            try:
                store = await open_store(store_of(settings))
            except Exception as e:
                if "unsuitable" in str(e):
                    raise
                await asyncio.sleep(0.1)
                continue
            try:
                return await found_cluster(settings.directories.configuration / FOUNDING_NAME, store)
            finally:
                await store.close()


@dataclass
class MembersByGateway:
    """The members of a node's store, asked over its gateway."""

    settings: NodeSettings
    pending: bool = False

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        place = self.settings.store
        context = ssl.create_default_context(cafile=str(place.authority))
        assert place.certificate is not None
        context.load_cert_chain(place.certificate, place.key)
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=10) as client:
            answer = await client.post(f"{place.endpoints[0]}/v3/cluster/member/{path}", json=body)
        assert answer.is_success, answer.text
        return dict(answer.json())

    async def members(self) -> tuple[StoreMember, ...]:
        return tuple(_member(one) for one in (await self._post("list", {}))["members"])

    async def states(self) -> tuple[MemberState, ...]:
        raise NotImplementedError

    async def add_learner(self, peer_url: str) -> StoreMember:
        for member in await self.members():
            if peer_url in member.peer_urls:
                return member
        return _member((await self._post("add", {"peerURLs": [peer_url], "isLearner": True}))["member"])

    async def promote(self, member_id: int) -> bool:
        raise NotImplementedError

    async def remove(self, member_id: int) -> None:
        raise NotImplementedError

    async def close(self) -> None: ...


def _member(found: dict[str, Any]) -> StoreMember:
    return StoreMember(
        int(found["ID"]),
        found.get("name", ""),
        tuple(found.get("peerURLs", ())),
        tuple(found.get("clientURLs", ())),
        bool(found.get("isLearner", False)),
    )


@dataclass
class NodeApi:
    """The API of a node, over TLS with the node's own certificate, on its store. A context manager."""

    settings: NodeSettings
    members: Members | None = None
    change: Callable[[Machines], Machines] = lambda given: given
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> "NodeApi":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="node api under test")
        self._thread.start()
        try:
            self.run(self._start())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.run(self._stop())
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _start(self) -> None:
        configuration = self.settings.directories.configuration
        self.store = await open_store(store_of(self.settings))
        self.mirror = Mirror(self.store, sealing=read_sealing(configuration / "cluster.key"))
        self._mirroring = spawn("mirror under test", self.mirror.run())
        await self.mirror.ready()
        context = ApiContext(
            store=self.store,
            mirror=self.mirror,
            clock=SystemClock(),
            node_uid=NodeUid(self.settings.node_uid),
            is_leader=lambda: True,
            new_uid=lambda: str(uuid.uuid4()),
            random_text=lambda: secrets.token_hex(4),
            figures=Figures(Agents(self.mirror.view()), clock=SystemClock()),
            checks=Checks(Agents(self.mirror.view()), clock=SystemClock()),
            machines=self.change(machines_of(self.settings, self.mirror.sealing).with_members(self.members)),
        )
        files = TrustFiles(configuration)
        host, port = str(self.settings.address), self.settings.ports.api
        shown = ApiCertificate(files.certificate(CertificateRole.API), files.key)
        await asyncio.to_thread(shown.load)
        self._server: ApiServer = await serve(create_app(context), [host], port, shown.context)

    async def _stop(self) -> None:
        await self._server.stop()
        self._mirroring.cancel()
        await asyncio.gather(self._mirroring, return_exceptions=True)
        await self.store.close()
        await self._loop.shutdown_default_executor()

    @contextmanager
    def client(self, *, is_admin: bool = True) -> Any:
        authority = read_authority(TrustFiles(self.settings.directories.configuration).authority.read_bytes())
        auth = (ADMIN, PASSWORD) if is_admin else None
        url = f"https://{self.settings.address}:{self.settings.ports.api}"
        with httpx.Client(base_url=url, verify=trusting_context(authority), auth=auth, trust_env=False, timeout=30) as http:
            yield http

    def view(self) -> ClusterView:
        async def fresh() -> ClusterView:
            await self.mirror.fresh()
            return self.mirror.view()

        return self.run(fresh())

    def token(self) -> str:
        """The join line."""
        with self.client() as http:
            answer = http.post("/v1/nodes/tokens")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["join_line"])


class First:
    """The first node of a cluster. Its store runs."""

    def __init__(self, folder: Path, address: str, etcds: Etcds) -> None:
        self.folder = folder
        self.etcds = etcds
        self.network = address.rpartition(".")[0]
        self.founded = found_in(folder / "one", address)
        self.settings = self.founded.settings
        etcds.start(self.settings)
        assert asyncio.run(commit(self.settings)) is StoreAnswer.COMMITTED

    def address(self, number: int) -> str:
        return f"{self.network}.{number}"


@contextmanager
def running_first() -> Iterator[First]:
    """A cluster of one node, with an address that no other process of tests has."""
    require_etcd()
    number = os.getpid()
    # A short path: those of sockets are limited.
    with tempfile.TemporaryDirectory(prefix="node-") as folder, Etcds() as etcds:
        yield First(Path(folder), f"127.{32 + number // 250 % 32}.{1 + number % 250}.1", etcds)


@contextmanager
def running_api(first: First) -> Iterator[NodeApi]:
    """Its API. Afterwards the cluster has one node and no token again."""
    with NodeApi(first.settings) as running:
        yield running
        view = running.view()
        gone = [node for uid, node in view.nodes.items() if uid != 1] + [*view.join_tokens.values()]
        operations = tuple(DeleteKey(keys.key_of(record)) for record in gone)
        running.run(running.store.transact(Transaction((), operations)))
