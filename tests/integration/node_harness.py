"""A cluster of machines on this one: real ``shardwright-node`` processes with files, addresses and pids of their own.

Each node lives in a namespace of pids, because a node's machine is known by its pids. A real etcd with certificates is the
store. Ends what it starts: a namespace's processes end with its first one.
"""

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from shardwright.key_file import ensure_sealing
from shardwright.machine.processes import arguments_of, find_processes
from shardwright.model.account import ManagementRole, User
from shardwright.model.cluster import Cluster, Counters, Leadership, Node, Policy
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import NodeUid, UserUid
from shardwright.model.trust import CertificateRole
from shardwright.model.version import CLUSTER_VERSION
from shardwright.node.daemon_settings import founding_file
from shardwright.node.founding_file import write_founding
from shardwright.node.places import trust_files
from shardwright.node.settings import Directories, NodeSettings, StorePlace
from shardwright.node.settings_file import write_settings
from shardwright.nodes.paths import control_path
from shardwright.passwords import hash_password
from shardwright.server.binaries import all_servers
from shardwright.store import keys, records
from shardwright.store.etcd import EtcdStore
from shardwright.store.keys import StoredRecord
from shardwright.store.protocol import PutKey, Transaction
from shardwright.store.seal import Sealing
from shardwright.trust.authority import certificate_text
from shardwright.trust.certificates import Grant, certify, issued_record
from shardwright.trust.files import own_key, write_credentials, write_signer
from testkit.certificates import Members
from testkit.deadlines import Stopwatch, until_async
from testkit.etcd import EtcdCluster

EMAIL, PASSWORD = "admin@example.com", "correct horse battery"
SOURCES = Path(__file__).parents[2]
Json = dict[str, Any]


def require_namespaces() -> None:
    """Skip the test where no namespaces of pids can be made."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-pf", "--mount-proc", "true"], check=False).returncode:
        pytest.skip("no namespaces of pids: it needs root and util-linux")


@dataclass
class Machine:
    """One node with its files and its namespace. ``daemon``: the process that waits for it outside; None: not started."""

    settings: NodeSettings
    init: "subprocess.Popen[bytes] | None" = None
    daemon: "subprocess.Popen[bytes] | None" = None

    @property
    def uid(self) -> int:
        return self.settings.node_uid

    @property
    def address(self) -> str:
        return str(self.settings.address)

    @property
    def config(self) -> Path:
        return self.settings.directories.configuration / "node.toml"

    @property
    def log(self) -> Path:
        return self.settings.directories.log / "daemon.log"

    @property
    def output(self) -> Path:
        return self.settings.directories.log / "daemon.out"

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self.settings.ports.api}"

    def boot(self) -> None:
        """Make the namespace. Its first process reaps what is orphaned in it."""
        reaper = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: signal.pause()"
        line = ["unshare", "-pf", "--mount-proc", "--kill-child", sys.executable, "-c", reaper]
        self.init = subprocess.Popen(line, start_new_session=True)

    def command(self, *arguments: str) -> list[str]:
        """``shardwright-node`` in the namespace."""
        assert self.init is not None
        enter = ["nsenter", "-t", str(_only_child(self.init.pid)), "-p", "-m", "--"]
        return [*enter, sys.executable, "-m", "shardwright.node.main", "--config", str(self.config), *arguments]

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        self.output.parent.mkdir(parents=True, exist_ok=True)
        given = {**os.environ, "PYTHONPATH": f"{SOURCES / 'src'}:{SOURCES}", **(environment or {})}
        with self.output.open("ab") as output:
            self.daemon = subprocess.Popen(
                self.command(), env=given, stdout=output, stderr=output, cwd="/", start_new_session=True
            )

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A short command of the program."""
        given = {**os.environ, "PYTHONPATH": f"{SOURCES / 'src'}:{SOURCES}"}
        return subprocess.run(
            self.command(*arguments), env=given, capture_output=True, text=True, timeout=120, check=False, cwd="/"
        )

    def signal(self, number: int) -> None:
        """Signal the daemon."""
        assert self.daemon is not None
        os.kill(_only_child(self.daemon.pid), number)

    def end(self, *, kills: bool = False) -> int:
        """End the daemon, and wait. Returns its exit status; negative: the signal."""
        assert self.daemon is not None
        self.signal(signal.SIGKILL if kills else signal.SIGTERM)
        status = self.daemon.wait(60)
        self.daemon = None
        return status

    def power_off(self) -> None:
        """End everything in the namespace at once."""
        if self.init is None:
            return
        self.init.kill()  # --kill-child: the namespace's first process goes with it, and with that one all others.
        self.init.wait(20)
        if self.daemon is not None:
            self.daemon.wait(20)
        self.init = self.daemon = None

    def endpoint_process(self) -> int:
        """The host's pid of the endpoint process."""
        control = str(control_path(self.settings.directories.run, self.settings.node_uid))
        found = find_processes(lambda process: control in arguments_of(process.pid))
        assert len(found) == 1, found
        return found[0].pid

    def report(self) -> str:
        def tail(path: Path) -> str:
            return path.read_text(errors="replace")[-3000:] if path.exists() else f"no {path.name}"

        files = (self.output, self.log, self.settings.directories.endpoint / "endpoint.log")
        return "\n".join([f"--- node {self.uid}", *map(tail, files)])


def _only_child(pid: int) -> int:
    """The host's pid of the one process that ``unshare`` or ``nsenter`` has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(found) == 1, f"process {pid} has the children {found}"
    return int(found[0])


@dataclass
class MachineCluster:
    """Nodes on one etcd. An asynchronous context: the store runs, nodes are started by the test."""

    directory: Path
    base: str
    """Address of the first node: 127.x.y.1."""
    count: int = 3
    machines: list[Machine] = field(default_factory=list)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> "MachineCluster":
        require_namespaces()
        self.etcd = await self._stack.enter_async_context(EtcdCluster(self.directory / "etcd", tls=True))
        try:
            await asyncio.to_thread(self._write)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for machine in self.machines:
            await asyncio.to_thread(machine.power_off)
        await self._stack.aclose()

    @property
    def authority(self) -> Members:
        assert self.etcd.authority is not None
        return self.etcd.authority

    @property
    def sealing(self) -> Sealing:
        return ensure_sealing(self.machines[0].settings.directories.cluster_key)

    # -- files -------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        prefix = self.base.rpartition(".")[0]
        certificates: list[x509.Certificate] = []
        for number in range(1, self.count + 1):
            own = self.directory / f"n{number}"
            # The paths of sockets are short.
            run = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=f"n{number}-")))
            place = Directories(own / "etc", own / "lib", run, own / "log")
            files = trust_files(place)
            store = StorePlace(
                tuple(member.client_url for member in self.etcd.members),
                files.authority,
                files.certificate(CertificateRole.STORE),
                files.key,
            )
            address = f"{prefix}.{number}"
            settings = NodeSettings(NodeUid(number), (ip_address(address),), store, directories=place)
            certificates += self.certify(settings, at=datetime.now(UTC))
            machine = Machine(settings)
            machine.boot()
            self.machines.append(machine)
            write_settings(machine.config, settings)
        key = self.machines[0].settings.directories.cluster_key
        ensure_sealing(key)
        for machine in self.machines[1:]:
            shutil.copy2(key, machine.settings.directories.cluster_key)
        write_signer(trust_files(self.machines[0].settings.directories), self.authority.signer)
        first = [*self.first_records(), *map(issued_record, certificates)]
        write_founding(founding_file(self.machines[0].settings.directories), first, self.sealing)

    def certify(self, settings: NodeSettings, *, at: datetime) -> list[x509.Certificate]:
        """Write certificates for all roles, issued at that time."""
        files, signer = trust_files(settings.directories), self.authority.signer
        key, names, made = own_key(files), (str(settings.address),), []
        for role in CertificateRole:
            grant = Grant(role, settings.node_uid, names)
            made.append(certify(signer, key.public_key(), grant, serial=x509.random_serial_number(), now=at))
            chain = certificate_text(made[-1], signer.authority.certificate)
            write_credentials(files, signer.authority.text, {role: chain})
        return made

    def first_records(self) -> list[StoredRecord]:
        now, server = datetime.now(UTC), all_servers()[0]
        options: dict[str, object] = {"server_kind": str(server.kind), "server_version": server.version}
        user = User(UserUid(1), EMAIL, "admin", ManagementRole.ADMIN, hash_password(PASSWORD), now, now)
        return [
            Cluster("machines", now, self.base, self.machines[0].settings.ports.api, options, CLUSTER_VERSION),
            Policy(),
            Counters(next_node=self.count + 1, next_user=2),
            node_record(self.machines[0]),
            user,
            Event(now, EventKind.CLUSTER_CREATED, Severity.INFO, "a cluster was created"),
        ]

    # -- the store ---------------------------------------------------------------------------------------------------

    async def put(self, *written: StoredRecord) -> None:
        store = await EtcdStore.open(self.etcd.settings())
        operations = tuple(PutKey(key := keys.key_of(r), self.sealing.seal(key, records.encode(r))) for r in written)
        assert (await store.transact(Transaction((), operations))).succeeded
        await store.close()

    async def stored(self, prefix: str) -> list[StoredRecord | str]:
        store = await EtcdStore.open(self.etcd.settings())
        try:
            page = await store.range(prefix)
            return [records.decode(item.key, self.sealing.open(item.key, item.value)) for item in page.items]
        finally:
            await store.close()

    async def until_led_by_another(self, than: Machine) -> Machine:
        """Wait until another machine leads; returns it."""
        watch = Stopwatch()
        while (found := await self.leader()) is None or found is than:
            assert watch.is_within(60), self.report()
            await asyncio.sleep(0.05)
        return found

    async def leader(self) -> Machine | None:
        found = [record for record in await self.stored(keys.LEADER) if isinstance(record, Leadership)]
        return next((m for m in self.machines if found and m.uid == found[0].node_uid), None)

    # -- the API -----------------------------------------------------------------------------------------------------

    def client(self, machine: Machine) -> httpx.Client:
        files = trust_files(machine.settings.directories)
        trusted = ssl.create_default_context(cafile=str(files.authority))
        return httpx.Client(base_url=machine.url, verify=trusted, auth=(EMAIL, PASSWORD), timeout=20)

    async def ask(self, machine: Machine, method: str, path: str, body: Json | None = None) -> httpx.Response:
        def work() -> httpx.Response:
            with self.client(machine) as client:
                return client.request(method, path, json=body)

        return await asyncio.to_thread(work)

    async def until(self, what: str, is_so: Callable[[], Any], *, seconds: float = 60) -> float:
        return await until_async(what, is_so, seconds=seconds, state=self.report, poll_s=0.1)

    async def reached(self, machine: Machine, path: str, is_so: Callable[[Any], bool], *, seconds: float = 60) -> Any:
        """Ask until the answer is as wanted; returns it."""
        watch, last = Stopwatch(), ""
        while watch.is_within(seconds):
            try:
                answer = await self.ask(machine, "GET", path)
                last = f"{answer.status_code} {answer.text[:2000]}"
                if answer.status_code == 200 and is_so(answer.json()):
                    return answer.json()
            except httpx.HTTPError as e:
                last = repr(e)
            await asyncio.sleep(0.1)
        raise AssertionError(f"{path} of node {machine.uid}: {last}\n{self.report()}")

    def report(self) -> str:
        return "\n".join(machine.report() for machine in self.machines)


def node_record(machine: Machine) -> Node:
    return Node(NodeUid(machine.uid), machine.address, datetime.now(UTC), memory_bytes=4 << 30)


def events_of(lines: str) -> list[str]:
    """The sentences of a log."""
    return [str(json.loads(line).get("event", "")) for line in lines.splitlines() if line.startswith("{")]
