"""Starts real servers for tests, with the product's own configuration file, on their own loopback addresses.

For every test that needs a server process. Ends exactly the processes that it started, by pid.
"""

import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shardwright.errors import Rejected
from shardwright.model.database import AofPolicy, Persistence, ServerKind, ServerSecrets, SnapshotRule
from shardwright.model.ids import DatabaseUid, ShardUid
from shardwright.server.binaries import find_server
from shardwright.server.config import ServerFile, render_config
from shardwright.server.files import prepare_directory
from shardwright.server.network import TlsFiles
from shardwright.server.protocol import ServerSettings, ServerTarget
from testkit.deadlines import until

START_TIMEOUT_S = 20.0

SECRETS = ServerSecrets(
    database_uid=DatabaseUid(1),
    application="test-application",
    replication="test-replication",
    observation="test-observation",
    management="test-management",
    hash_seed="0123456789abcdef",
)

both_servers = pytest.mark.parametrize("kind", list(ServerKind))
"""Runs a test once per kind of server; ``start_server`` skips it, naming the server, if that kind is missing."""


@dataclass
class RunningServer:
    """A server process of a test."""

    file: ServerFile
    process: "subprocess.Popen[bytes]" = field(repr=False)
    config_path: Path

    @property
    def kind(self) -> ServerKind:
        return self.file.kind

    @property
    def address(self) -> str:
        return self.file.address

    @property
    def port(self) -> int:
        return self.file.port

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def directory(self) -> Path:
        return Path(self.file.directory)

    @property
    def target(self) -> ServerTarget:
        """The target with which an adapter reaches it."""
        file = self.file
        uses_tls = file.tls is not None
        return ServerTarget(file.shard_uid, file.incarnation, file.address, file.port, file.secrets, uses_tls)

    @contextmanager
    def client(self, user: str = "management", **options: object) -> "Iterator[redis.Redis]":
        """A redis-py client that is logged in as one of the server's users, without retries."""
        arguments: dict[str, object] = {
            "username": user,
            "password": getattr(self.file.secrets, user),
            "decode_responses": True,
            "socket_timeout": 10,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
            **_with_certificate(self.file.tls),
            **options,
        }
        client = redis.Redis(host=self.address, port=self.port, **arguments)  # type: ignore[arg-type]
        try:
            yield client
        finally:
            client.close()

    def ask(self, *command: str | int, user: str = "management") -> object:
        """Execute one command on its own connection. Returns the server's answer."""
        with self.client(user) as client:
            client.response_callbacks.clear()
            return client.execute_command(*command)

    def info(self) -> dict[str, str]:
        """INFO by name, values as text."""
        from shardwright.server.parse import info_fields

        with self.client("management") as client:
            client.set_response_callback("INFO", lambda text, **_: info_fields(text))
            answer: dict[str, str] = client.execute_command("INFO")
            return answer

    def unfence(self) -> None:
        """Lift the fence."""
        self.ask("CONFIG", "SET", "min-replicas-to-write", "0")

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """SIGTERM and reap; SIGKILL if it takes too long."""
        if self.process.poll() is None:
            self.thaw()
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()


def _with_certificate(files: TlsFiles | None) -> dict[str, object]:
    if files is None:
        return {}
    shown = {"ssl_certfile": files.certificate, "ssl_keyfile": files.key, "ssl_ca_certs": files.authority}
    return {"ssl": True, "ssl_check_hostname": False, **shown}


def loopback_address() -> str:
    """A loopback address that another test is unlikely to use."""
    return f"127.{random.randint(64, 250)}.{random.randint(1, 250)}.{random.randint(1, 250)}"


def free_port(address: str) -> int:
    """A port that is now free on that address."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def server_settings(
    persistence: Persistence = Persistence.DISABLED,
    *,
    maxmemory_bytes: int = 0,
    eviction_policy: str = "noeviction",
    aof_policy: AofPolicy = AofPolicy.EVERY_SECOND,
    snapshot_rules: tuple[SnapshotRule, ...] = (),
) -> ServerSettings:
    """The settings of a test's server."""
    return ServerSettings(maxmemory_bytes, eviction_policy, persistence, aof_policy, snapshot_rules)


def start_server(
    kind: ServerKind,
    directory: Path,
    *,
    settings: ServerSettings | None = None,
    secrets: ServerSecrets = SECRETS,
    shard_uid: int = 1,
    incarnation: int = 1,
    address: str | None = None,
    port: int | None = None,
    is_open: bool = False,
    tls: TlsFiles | None = None,
) -> RunningServer:
    """Start a server and wait until it answers. ``directory`` is created if necessary; it contains the server's files.
    ``is_open``: lift the fence with which every server starts. Skips the test if the machine has no such server."""
    try:
        binary = find_server(kind)
    except Rejected as missing:
        pytest.skip(f"{kind}: {missing.text}")
    directory.mkdir(parents=True, exist_ok=True)
    address = address or loopback_address()
    file = ServerFile(
        kind=kind,
        version=binary.version,
        shard_uid=ShardUid(shard_uid),
        incarnation=incarnation,
        address=address,
        port=port or free_port(address),
        directory=str(directory),
        log_file=str(directory / "server.log"),
        settings=settings or server_settings(),
        secrets=secrets,
        tls=tls,
    )
    return _launched(file, binary.path, kept=file.settings.persistence, is_open=is_open)


def restart_server(
    server: RunningServer,
    *,
    port: int | None = None,
    is_open: bool = False,
    settings: ServerSettings | None = None,
    kept: Persistence | None = None,
) -> RunningServer:
    """Start an ended server again with the same files; on the same port unless another one is given, and with other settings
    if the database's settings were changed meanwhile. ``kept``: the persistence last applied to it; None: that of its
    start."""
    assert server.process.poll() is not None, "it still runs"
    file = replace(
        server.file,
        port=port or server.port,
        incarnation=server.file.incarnation + 1,
        settings=settings or server.file.settings,
    )
    kept = kept or server.file.settings.persistence
    return _launched(file, find_server(server.kind).path, kept=kept, is_open=is_open)


def _launched(file: ServerFile, path: str, *, kept: Persistence, is_open: bool) -> RunningServer:
    starts_with_aof = prepare_directory(Path(file.directory), file.settings.persistence, kept=kept)
    file = replace(file, starts_with_aof=starts_with_aof)
    config_path = Path(file.directory) / "server.conf"
    config_path.touch(mode=0o600)
    config_path.write_text(render_config(file))
    with (Path(file.directory) / "output.log").open("ab") as output:
        process = subprocess.Popen(
            [path, str(config_path)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    server = RunningServer(file, process, config_path)
    try:
        wait_until(lambda: _answers(server), what=lambda: _log_tail(server), seconds=START_TIMEOUT_S)
        if is_open:
            server.unfence()
    except BaseException:
        server.stop()
        raise
    return server


@contextmanager
def running(kind: ServerKind, directory: Path, **options: object) -> Iterator[RunningServer]:
    """``start_server``, and end the server afterwards."""
    server = start_server(kind, directory, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()


def attach(replica: RunningServer, primary: RunningServer, *, seconds: float = 20.0) -> None:
    """Make one server a replica of the other, and wait until it has the same replication stream."""
    replica.ask("REPLICAOF", primary.address, primary.port)
    wait_until(
        lambda: replica.info().get("master_link_status") == "up",
        what=lambda: f"{replica.info()}\n{_log_tail(replica)}\n{_log_tail(primary)}",
        seconds=seconds,
    )


def wait_until(
    holds: Callable[[], bool], *, what: Callable[[], object] = lambda: "no detail", seconds: float = 10.0
) -> None:
    """Poll until the condition holds; otherwise fail with ``what``."""
    until("what is waited for", holds, seconds=seconds, state=what, poll_s=0.01)


def _answers(server: RunningServer) -> bool:
    if server.process.poll() is not None:
        pytest.fail(f"the server ended with {server.process.returncode}:\n{_log_tail(server)}")
    try:
        return bool(server.ask("PING")) and server.info().get("loading") == "0"
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.BusyLoadingError):
        return False


def _log_tail(server: RunningServer) -> str:
    texts = []
    for name in ("output.log", "server.log"):
        path = server.directory / name
        if path.exists():
            texts.append(path.read_text(errors="replace")[-3000:])
    return "\n".join(texts)
