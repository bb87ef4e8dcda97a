"""Values that take a long time to reach the replica: they break no link, and strict mode waits for them."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from shardwright.endpoint.protocol import CONFIRM_MAX_S
from shardwright.model.database import ServerKind
from tests.integration.endpoint_harness import World, endpoint_world, wait_until
from tests.integration.server_harness import attach, both_servers, loopback_address, running, server_settings

pytestmark = pytest.mark.server

MIB = 1024 * 1024


class SlowLink:
    """Forwards the traffic between a replica and its primary, with a limited rate in the primary's direction."""

    def __init__(self, address: str, port: int, *, bytes_per_s: int) -> None:
        self._target = (address, port)
        self._bytes_per_s = bytes_per_s
        self._listener = socket.create_server((loopback_address(), 0))
        self._sockets = [self._listener]
        self.address, self.port = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                replica, _ = self._listener.accept()
            except OSError:
                return
            try:
                primary = socket.create_connection(self._target)
            except OSError:  # the primary has ended before its replica
                replica.close()
                continue
            self._sockets += [replica, primary]
            threading.Thread(target=self._pass, args=(replica, primary, 0), daemon=True).start()
            threading.Thread(target=self._pass, args=(primary, replica, self._bytes_per_s), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, bytes_per_s: int) -> None:
        try:
            while data := source.recv(256 * 1024):
                target.sendall(data)
                if bytes_per_s:
                    time.sleep(len(data) / bytes_per_s)
        except OSError:
            pass  # one side has ended
        for end in (source, target):
            end.close()

    def close(self) -> None:
        for one in self._sockets:
            one.close()


@contextmanager
def slow_world(kind: ServerKind, directory: Path, *, bytes_per_s: int) -> Iterator[World]:
    """Strict mode, with a replica behind a slow link."""
    with endpoint_world(kind, directory) as world:
        link = SlowLink(world.primary.address, world.primary.port, bytes_per_s=bytes_per_s)
        try:
            world.replica.ask("REPLICAOF", link.address, link.port)
            wait_until(world.is_linked, timeout_s=20, state=world.replica.info)
            world.serve(is_strict=True)
            yield world
        finally:
            link.close()


@both_servers
def test_a_transfer_in_progress_is_awaited_and_so_are_small_writes_after_it(kind: ServerKind, tmp_path: Path) -> None:
    with slow_world(kind, tmp_path, bytes_per_s=6 * MIB) as world, world.connect() as client, world.connect() as other:
        other.ping()
        began = time.monotonic()
        took: dict[str, float] = {}

        def write_small() -> None:
            wait_until(lambda: int(world.primary.info()["master_repl_offset"]) > 16 * MIB)
            other.set("small", "1")
            took["small"] = time.monotonic() - began

        writer = threading.Thread(target=write_small)
        writer.start()
        client.set("large", b"x" * 20 * MIB)
        took["large"] = time.monotonic() - began
        writer.join()
        assert took.keys() == {"large", "small"}
        assert min(took.values()) > CONFIRM_MAX_S
        with world.replica.client("application") as replica:
            assert (replica.strlen("large"), replica.get("small")) == (20 * MIB, "1")


def test_a_replica_that_dies_while_it_receives_is_not_awaited(tmp_path: Path) -> None:
    with slow_world(ServerKind.VALKEY, tmp_path, bytes_per_s=2 * MIB) as world, world.connect(socket_timeout=20) as client:
        died: list[float] = []

        def kill() -> None:
            world.replica.kill()
            died.append(time.monotonic())

        killer = threading.Timer(CONFIRM_MAX_S + 0.5, kill)
        killer.start()
        with pytest.raises(redis.ResponseError, match="no replica has confirmed it"):
            client.set("large", b"x" * 20 * MIB)
        killer.join()
        assert 0 <= time.monotonic() - died[0] < CONFIRM_MAX_S + 1


@both_servers
def test_a_large_transaction_reaches_the_replica_over_the_same_link(kind: ServerKind, tmp_path: Path) -> None:
    """270 MiB: more than the servers buffer for a replica by default, and more than half of the data."""
    settings = server_settings(maxmemory_bytes=400 * MIB)
    with (
        running(kind, tmp_path / "a", settings=settings, is_open=True) as primary,
        running(kind, tmp_path / "b", settings=settings, shard_uid=2) as replica,
    ):
        attach(replica, primary)
        with primary.client("application", socket_timeout=60) as client:
            pipe = client.pipeline(transaction=True)
            for n in range(10):
                pipe.set(f"large:{n}", b"x" * 27 * MIB)
            assert pipe.execute() == [True] * 10
            wait_until(lambda: client.wait(1, 100) == 1, timeout_s=60, state=replica.info)
        with replica.client("application") as reader:
            assert [reader.strlen(f"large:{n}") for n in range(10)] == [27 * MIB] * 10
        assert (primary.info()["sync_full"], replica.info()["master_link_status"]) == ("1", "up")


@pytest.mark.slow
@both_servers
def test_strict_mode_confirms_300_mib_through_the_endpoint(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world, world.connect(socket_timeout=90, decode_responses=False) as client:
        world.serve(is_strict=True)
        full_syncs = world.primary.info()["sync_full"]
        began = time.monotonic()
        for turn in (b"x", b"y"):
            client.set("large", turn * 300 * MIB)
            print(f"{kind}: confirmed after {time.monotonic() - began:.1f} s")
        with world.replica.client("application") as replica:
            assert replica.strlen("large") == 300 * MIB
            assert replica.getrange("large", 0, 0) == "y"
        assert world.primary.info()["sync_full"] == full_syncs
