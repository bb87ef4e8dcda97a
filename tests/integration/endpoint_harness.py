"""A pair of real servers with endpoint processes in front of them, and manual handoffs. For tests of the endpoint
process."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shardwright.agent.launch import tls_files
from shardwright.endpoint.protocol import EndpointControl, EndpointSpec, HoldResult, ReleaseResult, Target
from shardwright.model.database import ServerKind
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid, ShardUid
from shardwright.model.seen import EndpointProcessSeen, EndpointState
from shardwright.nodes.local import LocalNodes
from shardwright.trust.files import MemberFiles
from testkit.certificates import Members
from testkit.deadlines import until
from tests.integration.server_harness import SECRETS, RunningServer, free_port, loopback_address, start_server

SOURCE = Path(__file__).parents[2] / "src"
ENDPOINT = EndpointUid("1:1")
PASSWORD = "client-password"


def wait_until(what: Callable[[], bool], *, timeout_s: float = 10.0, state: Callable[[], object] = lambda: "") -> None:
    """Poll; fail with the state at the deadline."""
    until("what is waited for", what, seconds=timeout_s, state=state, poll_s=0.005)


@dataclass
class Process:
    """One endpoint process."""

    node: NodeUid
    path: str
    log: Path
    process: "subprocess.Popen[bytes]" = field(repr=False)


@dataclass
class World:
    """Two servers and one endpoint."""

    directory: Path
    address: str
    port: int
    primary: RunningServer
    replica: RunningServer
    processes: dict[NodeUid, Process] = field(default_factory=dict)
    generation: int = 1
    spec: EndpointSpec | None = None
    password: str = PASSWORD
    certificate: MemberFiles | None = None
    """Of its endpoint processes; None: they have none."""

    def target(self, server: RunningServer, generation: int) -> Target:
        file, run_id = server.file, str(server.info()["run_id"])
        return Target(ShardUid(file.shard_uid), generation, file.address, file.port, run_id, file.tls is not None)

    # -- endpoint processes ----------------------------------------------------------------------------------------------

    def start_process(self, node: int = 1) -> Process:
        path = str(self.directory / f"e{node}.sock")
        log = self.directory / f"e{node}.log"
        command = [
            sys.executable,
            "-m",
            "shardwright.endpoint.main",
            "--node",
            str(node),
            "--control",
            path,
            "--log",
            str(log),
        ]
        if self.certificate is not None:
            command += ["--config", str(self._configured(self.certificate))]
        environment = os.environ | {"PYTHONPATH": str(SOURCE)}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        self.processes[NodeUid(node)] = Process(NodeUid(node), path, log, process)
        wait_until(lambda: self.status(node).answers, state=lambda: log.read_text() if log.exists() else "no log")
        return self.processes[NodeUid(node)]

    def _configured(self, files: MemberFiles) -> Path:
        path = self.directory / "endpoint.toml"
        where = f'address = "{self.address}"\nport = {free_port(self.address)}\n'
        shown = f'certificate = "{files.certificate}"\nkey = "{files.key}"\nauthority = "{files.authority}"\n'
        path.write_text(f"[control]\n{where}{shown}")
        return path

    def nodes(self, *, call_timeout_s: float = 3.0) -> LocalNodes:
        """With a long timeout, because tests may share a busy machine."""
        paths = {node: process.path for node, process in self.processes.items()}
        return LocalNodes(paths.get, call_timeout_s=call_timeout_s)

    def control(self, node: int = 1, *, call_timeout_s: float = 3.0) -> EndpointControl:
        return self.nodes(call_timeout_s=call_timeout_s).link(NodeUid(node)).endpoint_process

    def status(self, node: int = 1) -> EndpointProcessSeen:
        return asyncio.run(self.control(node).status())

    def serve(self, node: int = 1, **changes: object) -> None:
        if self.spec is None:
            self.spec = EndpointSpec(
                ENDPOINT,
                DatabaseUid(1),
                "test",
                self.address,
                self.port,
                self.target(self.primary, self.generation),
                password=self.password,
                application_secret=SECRETS.application,
            )
        self.spec = replace(self.spec, **changes)  # type: ignore[arg-type]
        asyncio.run(self.control(node).serve(self.spec))

    def state(self, node: int = 1) -> EndpointState:
        return self.status(node).endpoint(ENDPOINT).state

    def connect(self, **options: object) -> "redis.Redis":
        arguments: dict[str, object] = {
            "password": self.password or None,
            "decode_responses": True,
            "socket_timeout": 8,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            **options,
        }
        return redis.Redis(host=self.address, port=self.port, **arguments)  # type: ignore[arg-type]

    def raw(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection((self.address, self.port), timeout=8)

    # -- handoff ---------------------------------------------------------------------------------------------------------

    def hold(self, node: int = 1) -> HoldResult:
        old, new = self.target(self.primary, self.generation), self.target(self.replica, self.generation + 1)
        return asyncio.run(self.control(node).hold(ENDPOINT, old, new))

    def release(self, target: Target, node: int = 1) -> ReleaseResult:
        return asyncio.run(self.control(node).release(ENDPOINT, target))

    def swap_roles(self, *, ends_clients: bool = True) -> None:
        """Fence, compare, promote, demote, without a call to the endpoint. ``ends_clients``: like a leader."""
        old, new = self.primary, self.replica
        with old.client() as a, new.client() as b:
            a.execute_command("CLIENT", "PAUSE", 1000, "WRITE")
            a.execute_command("CONFIG", "SET", "min-replicas-to-write", 9999)
            mark = a.info("replication")["master_repl_offset"]
            wait_until(lambda: b.info("replication")["slave_repl_offset"] >= mark)
            b.execute_command("REPLICAOF", "NO", "ONE")
            if ends_clients:
                a.execute_command("CLIENT", "KILL", "USER", "application")
            a.execute_command("REPLICAOF", new.address, new.port)
            a.execute_command("CLIENT", "UNPAUSE")
            a.execute_command("CONFIG", "SET", "min-replicas-to-write", 0)
        self.primary, self.replica = new, old

    def hand_off(self, node: int = 1) -> ReleaseResult:
        """The whole handoff, like a leader."""
        held = self.hold(node)
        assert (held.was_held, held.is_drained) == (True, True), held
        self.swap_roles()
        self.generation += 1
        result = self.release(self.target(self.primary, self.generation), node)
        wait_until(lambda: self.replica.info().get("master_link_status") == "up")
        return result

    def is_linked(self) -> bool:
        info = self.replica.info()
        if info["role"] != "slave" or info["master_link_status"] != "up":
            return False
        primary = self.primary.info()  # a new link may still wait for the replica's first acknowledgment
        return "state=online" in primary.get("slave0", "") and info["slave_repl_offset"] == primary["master_repl_offset"]


@contextmanager
def endpoint_world(
    kind: ServerKind, directory: Path, *, password: str = PASSWORD, authority: Members | None = None
) -> Iterator[World]:
    """Linked and open servers, and one endpoint process that serves the primary. Everything is ended afterwards.
    ``authority``: all of them have its certificates and connect encrypted; None: in clear."""
    short = Path(tempfile.mkdtemp(prefix="sw-"))  # socket paths are short
    servers: list[RunningServer] = []
    world: World | None = None
    try:
        for uid, name in ((1, "a"), (2, "b")):
            at = loopback_address()
            tls = None if authority is None else tls_files(authority.files(directory / f"trust-{name}", uid, at))
            servers.append(start_server(kind, directory / name, shard_uid=uid, is_open=True, address=at, tls=tls))
        primary, replica = servers
        replica.ask("REPLICAOF", primary.address, primary.port)
        address = loopback_address()
        own = None if authority is None else authority.files(directory / "trust", 3, address)
        world = World(short, address, free_port(address), primary, replica, password=password, certificate=own)
        wait_until(world.is_linked, timeout_s=20)
        world.start_process()
        world.serve()
        wait_until(lambda: world.state() is EndpointState.LISTENING)
        yield world
    finally:
        for process in world.processes.values() if world else ():
            if process.process.poll() is None:
                process.process.terminate()
            process.process.wait(10)
        for server in servers:
            server.stop()
        shutil.rmtree(short, ignore_errors=True)


class Writers:
    """Threads that write numbered values until they are stopped, without retries, and record the acknowledged values."""

    def __init__(self, world: World, count: int = 4, **options: object) -> None:
        self.world = world
        self.acknowledged: dict[str, int] = {}
        self.errors: list[BaseException] = []
        self.slowest_s = 0.0
        self._options = options
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(count)]

    def __enter__(self) -> "Writers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _write(self, number: int) -> None:
        client = self.world.connect(single_connection_client=True, **self._options)
        try:
            turn = 0
            while not self._stop.is_set():
                turn += 1
                began = time.monotonic()
                client.set(f"writer:{number}", turn)
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.acknowledged[f"writer:{number}"] = turn
        except BaseException as error:
            self.errors.append(error)
        finally:
            client.close()

    def check(self) -> None:
        """Assert that there was no error and that every last acknowledged value is stored."""
        assert not self.errors, self.errors
        with self.world.connect() as client:
            for name, value in self.acknowledged.items():
                assert int(client.get(name)) == value, name
