"""A real API server for tests: TLS on its own loopback address, a real SQLite store, records written by hand.

It runs in a thread with its own event loop, so that synchronous clients (httpx, curl, the typed PyPI client) work unchanged.
There is no leader: ``end_action`` and similar functions write what a leader would write.
"""

import asyncio
import secrets
import tempfile
import threading
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shardwright.api.app import create_app
from shardwright.api.certificate import ApiCertificate
from shardwright.api.deps import ApiContext
from shardwright.api.server import ApiServer, serve
from shardwright.api.services.check import Checks
from shardwright.api.services.figures import Figures
from shardwright.clock import SystemClock
from shardwright.model.account import ManagementRole, User
from shardwright.model.action import Action, ActionName, ActionStatus
from shardwright.model.check import NodeFacts
from shardwright.model.ids import ActionUid, NodeUid, UserUid
from shardwright.model.seen import NodeFigures, NodeSeen
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import NewsMark, NodeLink, NodeNews
from shardwright.passwords import hash_password
from shardwright.store import keys, records
from shardwright.store.keys import StoredRecord
from shardwright.store.members import Members
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import DeleteKey, Operation, PutKey, Transaction
from shardwright.store.sqlite import SqliteStore
from shardwright.tasks import RightOfWay, spawn
from testkit.builders import cluster

PASSWORD = "correct horse battery"
Result = TypeVar("Result")


@cache
def password_hash() -> str:
    """One slow hash for all users of all tests."""
    return hash_password(PASSWORD)


def users() -> list[User]:
    """One user of each role: ``<role>@example.com``."""
    now = datetime.now(UTC)
    return [
        User(UserUid(number), f"{role}@example.com", role.value, role, password_hash(), now, now)
        for number, role in enumerate(ManagementRole, start=1)
    ]


def default_view() -> ClusterView:
    """Three nodes; database 1 ``orders`` with a replica, database 2 ``cache`` without; Valkey 9.1.2 and Redis 7.0.15."""
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),)).with_database("cache", on=((2,),)).with_leader(1)
    view = builder.view
    found = (("valkey", "9.1.2"), ("redis", "7.0.15"))
    seen = {
        uid: replace(
            view.node_seen.get(uid, NodeSeen(uid, datetime.now(UTC))),
            servers=found,
            cores=4,
            memory_total_bytes=8 * 2**30,
            endpoint_process=next(p.identity for p in view.processes.values()),
            processes=tuple(p for p in view.processes.values() if view.shards[p.shard_uid].node_uid == uid),
            os_name="Debian GNU/Linux 12",
            hostname=f"host{uid}",
        )
        for uid in view.nodes
    }
    assert view.cluster is not None
    named = replace(view.cluster, options={"server_kind": "valkey", "server_version": "9.1.2"})
    counters = replace(view.counters, next_user=len(users()) + 1)
    figures = dict.fromkeys(view.nodes, NodeFigures(memory_free_bytes=6 * 2**30, uptime_s=1000))
    people = {user.uid: user for user in users()}
    return replace(view, node_seen=seen, figures=figures, cluster=named, counters=counters, users=people)


def operations_of(view: ClusterView) -> list[Operation]:
    """All records of a view, and their other keys."""
    found: list[StoredRecord] = [view.policy, view.counters]
    found += [record for record in (view.cluster, view.leadership) if record is not None]
    for table in (
        view.nodes,
        view.removed_nodes,
        view.snapshots,
        view.databases,
        view.secrets,
        view.groups,
        view.shards,
        view.endpoints,
        view.actions,
        view.moves,
        view.users,
        view.join_tokens,
        view.issued_certificates,
        view.daemons,
        view.node_seen,
        view.servers,
    ):
        found += table.values()
    operations: list[Operation] = [PutKey(keys.key_of(record), records.encode(record)) for record in found]
    for database in view.databases.values():
        uid = str(database.uid).encode()
        operations += [PutKey(keys.name_key(database.name), uid), PutKey(keys.port_key(database.port), uid)]
    operations += [PutKey(keys.email_key(user.email), str(user.uid).encode()) for user in view.users.values()]
    return operations


class Agents:
    """All agents of a cluster as far as an API asks them: they tell the figures of this view, and nothing of servers."""

    def __init__(self, view: ClusterView) -> None:
        self._view = view

    def link(self, node: NodeUid) -> NodeLink:
        return cast(NodeLink, Agent(self._view.figures.get(node, NodeFigures())))

    def close(self) -> None: ...


@dataclass(frozen=True)
class Agent:
    """One of them."""

    figures: NodeFigures

    async def news(self, since: NewsMark | None) -> NodeNews:
        return NodeNews(NewsMark("life", 1), datetime.now(UTC), 0.0, self.figures, ())

    async def check(self) -> NodeFacts:
        return NodeFacts(datetime.now(UTC), 0.0, "0.1.0", (("valkey", "9.1.2"),), 20_000, 1 << 40, 1 << 39)


class RunningApi:
    """A context manager. ``client()`` returns an HTTP client that trusts the server's certificate."""

    def __init__(
        self, view: ClusterView | None = None, *, node_uid: int = 1, leads: bool = True, members: Members | None = None
    ) -> None:
        self._view = default_view() if view is None else view
        self._node_uid = NodeUid(node_uid)
        self._leads = leads
        self._members = members
        self._folder = tempfile.TemporaryDirectory(prefix="api-")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-under-test")
        self.host = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{secrets.randbelow(250) + 2}"
        self.certificate = Path(self._folder.name) / "cert.pem"
        self.right_of_way = RightOfWay()

    def __enter__(self) -> "RunningApi":
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._folder.cleanup()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run work in the server's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        folder = Path(self._folder.name)
        key_file = folder / "key.pem"
        make_certificate(self.host, self.certificate, key_file)
        self.store = await SqliteStore.open(folder / "store.db")
        self.mirror = Mirror(self.store)
        self._mirror_task = spawn("mirror under test", self.mirror.run())
        await self.mirror.ready()
        await self._write(operations_of(self._view))
        context = ApiContext(
            store=self.store,
            mirror=self.mirror,
            clock=SystemClock(),
            node_uid=self._node_uid,
            is_leader=lambda: self._leads,
            new_uid=lambda: str(uuid.uuid4()),
            random_text=lambda: secrets.token_hex(4),
            figures=Figures(Agents(self._view), clock=SystemClock()),
            checks=Checks(Agents(self._view), clock=SystemClock()),
            right_of_way=self.right_of_way,
            members=self._members,
            api_certificate=self.certificate.read_bytes,
        )
        self.app = create_app(context)
        self.shown = ApiCertificate(self.certificate, key_file)
        self.shown.load()
        self.server: ApiServer = await serve(self.app, [self.host], 0, self.shown.context)
        self.url = f"https://{self.host}:{self.server.port}"

    async def _stop(self) -> None:
        await self.server.stop()
        self._mirror_task.cancel()
        await asyncio.gather(self._mirror_task, return_exceptions=True)
        await self.store.close()
        await self._loop.shutdown_default_executor()

    async def _write(self, operations: Sequence[Operation]) -> None:
        for start in range(0, len(operations), 100):
            result = await self.store.transact(Transaction((), tuple(operations[start : start + 100])))
            assert result.succeeded
            await self.mirror.reach(result.revision)

    # -- called by tests ---------------------------------------------------------------------------------------------

    def client(self, role: ManagementRole | None = ManagementRole.ADMIN, *, password: str = PASSWORD) -> httpx.Client:
        """A client of the user with that role; None: without credentials."""
        import ssl

        trusted = ssl.create_default_context(cafile=str(self.certificate))
        auth = None if role is None else (f"{role}@example.com", password)
        return httpx.Client(base_url=self.url, verify=trusted, auth=auth, timeout=15)

    def view(self) -> ClusterView:
        """The present records."""

        async def fresh() -> ClusterView:
            await self.mirror.fresh()
            return self.mirror.view()

        return self.run(fresh())

    def everything(self) -> dict[str, tuple[bytes, int]]:
        """All keys with their values and revisions, to show that nothing was changed."""

        async def read() -> dict[str, tuple[bytes, int]]:
            await self.mirror.fresh()
            return {item.key: (item.value, item.modify_revision) for item in self.mirror.range("")}

        return self.run(read())

    def bare(self, key: str) -> str | None:
        """The text at a key."""
        self.view()
        return self.mirror.bare(key)

    def put(self, *written: StoredRecord) -> None:
        """Write records like another part of the cluster."""
        self.write(*(PutKey(keys.key_of(record), records.encode(record)) for record in written))

    def write(self, *operations: Operation) -> None:
        """Write keys."""
        self.run(self._write(operations))

    def set_action(self, uid: str, status: ActionStatus, **changes: Any) -> Action:
        """Let an action advance like the leader; its locks are deleted at its end."""
        action = replace(self.view().actions[ActionUid(uid)], status=status, **changes)
        self.put(action)
        if status.is_terminal:
            self.write(DeleteKey(keys.node_lock_key(action.node_uid)))
            if action.name is ActionName.REMOVE:
                self.write(DeleteKey(keys.REMOVE_LOCK))
        return action


def make_certificate(address: str, certificate: Path, key_file: Path) -> None:
    """A self-signed certificate for one address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api under test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))


def ok(answer: httpx.Response) -> Any:
    """The JSON of an answer with status 200 and all headers that clients need."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content) > 0
    return answer.json()


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """The description in an error answer with that status and code, in the common shape of errors."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error_code", "description", "message"}
    assert body["error_code"] == code, body
    assert body["message"] == body["description"] != ""
    return str(body["description"])
