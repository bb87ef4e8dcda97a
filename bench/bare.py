"""Bare servers: the same programs with the same settings as the product's, started by hand, with no manager.

The floor and the peers run on these. They keep data in a directory of their own and are gone when the ``with`` ends.
"""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.wire import Connection
from shardwright.model.database import AofPolicy, Persistence, ServerSecrets
from shardwright.model.ids import DatabaseUid, ShardUid
from shardwright.server.binaries import ServerBinary
from shardwright.server.config import ServerFile, render_config
from shardwright.server.protocol import ServerSettings

START_S = 20.0
STOP_S = 10.0
_LOGIN = (re.compile(r"^user default .*$", re.MULTILINE), "user default reset on nopass ~* &* +@all")
"""The only difference to the product's configuration: our clients do not log in."""


class BareFailed(Exception):
    """A bare server did not do what it should; the text says what."""


@dataclass(slots=True)
class BareServer:
    """One running server. ``control`` is a connection for commands by hand."""

    address: str
    port: int
    process: subprocess.Popen[bytes]
    control: Connection

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def offset(self) -> int:
        """Its replication offset: of a primary what it has written, of a replica what it has applied."""
        found = self.control.info("replication")
        return int(found["slave_repl_offset"] if found["role"] == "slave" else found["master_repl_offset"])

    def follow(self, primary: "BareServer") -> None:
        """Become its replica."""
        self.control.call("REPLICAOF", primary.address, primary.port)

    def is_in_sync(self) -> bool:
        """Whether it is a replica that holds what its primary held."""
        found = self.control.info("replication")
        return found["role"] == "slave" and found["master_link_status"] == "up" and found["master_sync_in_progress"] == "0"


class BareServers:
    """Starts servers on one loopback address, on consecutive ports. Use as a context manager."""

    def __init__(self, binary: ServerBinary, *, address: str, port_first: int = 21_000) -> None:
        self._binary = binary
        self._address = address
        self._port_next = port_first
        self._directory = Path(tempfile.mkdtemp(prefix="shardwright-bench-"))
        self._running: list[BareServer] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in list(self._running):
            self.stop(server)
        shutil.rmtree(self._directory, ignore_errors=True)

    def start(self, *, memory_bytes: int) -> BareServer:
        """An empty writable server without persistence. Raises BareFailed."""
        port = self._port_next
        self._port_next += 1
        directory = self._directory / str(port)
        directory.mkdir(mode=0o700)
        configuration = directory / "server.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration(directory, port, memory_bytes))
        with (directory / "server.out").open("wb") as output:
            # A session of its own, as the agent gives each server: the kernel shares out processor time by session.
            command = [self._binary.path, str(configuration)]
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=directory, start_new_session=True)
        try:
            control = _connect(self._address, port, process)
        except BaseException:
            process.kill()
            process.wait()
            raise
        server = BareServer(self._address, port, process, control)
        self._running.append(server)
        control.call("CONFIG", "SET", "min-replicas-to-write", 0)
        return server

    def stop(self, server: BareServer) -> None:
        """End a server and forget its data."""
        server.control.close()
        server.process.kill()
        server.process.wait(STOP_S)
        self._running.remove(server)
        shutil.rmtree(self._directory / str(server.port), ignore_errors=True)

    def _configuration(self, directory: Path, port: int, memory_bytes: int) -> str:
        text = render_config(
            ServerFile(
                kind=self._binary.kind,
                version=self._binary.version,
                shard_uid=ShardUid(port),
                incarnation=1,
                address=self._address,
                port=port,
                directory=str(directory),
                log_file=str(directory / "server.log"),
                settings=ServerSettings(
                    maxmemory_bytes=memory_bytes,
                    eviction_policy="volatile-lru",
                    persistence=Persistence.DISABLED,
                    aof_policy=AofPolicy.EVERY_SECOND,
                    snapshot_rules=(),
                ),
                secrets=ServerSecrets(DatabaseUid(1), "bench", "bench", "bench", "bench", "0123456789abcdef"),
            )
        )
        return opened(text)


def opened(configuration: str) -> str:
    """The product's configuration with the one difference. Raises BareFailed when it has no default user to open."""
    text, count = _LOGIN[0].subn(_LOGIN[1], configuration)
    if count != 1:
        raise BareFailed("the rendered configuration has changed: it has no default user to open")
    return text


def _connect(address: str, port: int, process: subprocess.Popen[bytes]) -> Connection:
    deadline = time.monotonic() + START_S
    while True:
        try:
            connection = Connection(address, port)
            connection.call("PING")
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise BareFailed(f"a server on {address}:{port} did not start (status {process.poll()})") from None
            time.sleep(0.01)
            continue
        return connection


def wait_for(what: str, is_done: Callable[[], bool], *, timeout_s: float = 30.0, poll_s: float = 0.002) -> None:
    """Poll until it is done. Raises BareFailed when that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > deadline:
            raise BareFailed(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(poll_s)
