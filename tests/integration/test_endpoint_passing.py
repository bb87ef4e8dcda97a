"""An endpoint that is passed from one process to another keeps its listener and its connections."""

import asyncio
import os
import signal
import socket
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from shardwright.endpoint.protocol import PassResult
from shardwright.errors import Transient
from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from shardwright.model.seen import EndpointState
from tests.integration.endpoint_harness import ENDPOINT, World, Writers, endpoint_world, wait_until
from tests.integration.test_endpoint import say

pytestmark = pytest.mark.server

A, B = NodeUid(1), NodeUid(2)


def pass_endpoint(world: World, source: NodeUid, to: NodeUid) -> PassResult:
    return asyncio.run(world.nodes().link(source).pass_endpoint(ENDPOINT, to))


def pass_all(world: World, source: NodeUid, to: NodeUid, *, timeout_s: float = 20.0) -> None:
    def is_done() -> bool:
        try:
            return pass_endpoint(world, source, to).remaining == 0
        except Transient:
            return False

    wait_until(is_done, timeout_s=timeout_s, state=lambda: (world.status(source), world.status(to)))


def is_refused(world: World) -> bool:
    try:
        pass_endpoint(world, A, B)
    except Transient:
        return True
    return False


class Newcomers:
    """Opens a new connection for every command."""

    def __init__(self, world: World) -> None:
        self.world, self.count = world, 0
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Newcomers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    def are_beyond(self, count: int) -> bool:
        """Whether more connections than this were served, or one was not."""
        return self.count > count or bool(self.errors)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                with self.world.raw() as client:
                    assert say(client, b"AUTH client-password\r\nPING\r\n", b"PONG\r\n") == b"+OK\r\n+PONG\r\n"
                self.count += 1
        except BaseException as error:
            self.errors.append(error)


def test_no_client_notices_a_passed_endpoint(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        world.start_process(B)
        with Writers(world, 6, protocol=3) as writers, Newcomers(world) as newcomers:
            wait_until(lambda: len(writers.acknowledged) == 6)
            for source, to in ((A, B), (B, A), (A, B)):
                before = newcomers.count
                pass_all(world, source, to)
                assert world.state(source) is EndpointState.DRAINING
                assert world.state(to) is EndpointState.LISTENING
                asyncio.run(world.control(source).drop(ENDPOINT))
                wait_until(partial(newcomers.are_beyond, before + 5))
        assert newcomers.errors == []
        writers.check()
        assert world.status(B).totals["accepted"] > 6


def test_state_and_unread_bytes_are_passed(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, world.raw() as client, world.raw() as half:
        world.start_process(B)
        world.serve(B)
        assert world.state(B) is EndpointState.BIND_FAILED
        say(client, b"HELLO 3 AUTH default client-password SETNAME traveller\r\nSELECT 4\r\n", b"+OK\r\n")
        say(client, b"MULTI\r\nINCR n\r\n", b"+QUEUED\r\n")
        say(half, b"AUTH client-password\r\n", b"+OK\r\n")
        half.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nh\r\n$10\r\n01234")
        held = world.hold()
        assert held.is_drained
        client.sendall(b"INCR n\r\nEXEC\r\nCLIENT GETNAME\r\n")
        wait_until(lambda: world.status(A).totals["commands"] >= 8)
        pass_all(world, A, B)
        assert world.state(B) is EndpointState.LISTENING
        assert world.status(B).endpoint(ENDPOINT).held_generation == 2
        half.sendall(b"56789\r\n")
        world.release(world.target(world.primary, world.generation), B)
        assert say(client, b"", b"traveller\r\n") == b"+QUEUED\r\n*2\r\n:1\r\n:2\r\n$9\r\ntraveller\r\n"
        assert say(half, b"GET h\r\n", b"9\r\n") == b"+OK\r\n$10\r\n0123456789\r\n"
        assert b"db=4" in say(client, b"CLIENT INFO\r\n", b"\r\n")


def test_tied_connections_are_closed_and_busy_ones_follow(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        world.start_process(B)
        names = ("subscribed", "blocked", "busy", "watching")
        clients = {name: world.raw() for name in names}
        for client in clients.values():
            say(client, b"AUTH client-password\r\n", b"+OK\r\n")
        say(clients["subscribed"], b"SUBSCRIBE c\r\n", b":1\r\n")
        say(clients["watching"], b"WATCH k\r\n", b"+OK\r\n")
        clients["blocked"].sendall(b"BLPOP none 0\r\n")
        # Only when the server blocks it: a command that has not reached the server is passed like any other.
        wait_until(lambda: b"blocked_clients:1" in say(clients["busy"], b"INFO clients\r\nECHO end\r\n", b"end\r\n"))
        clients["busy"].sendall(b'EVAL "for i = 1, 30000000 do end return 7" 0\r\n')
        wait_until(lambda: world.status(A).totals["commands"] >= 8)
        first = pass_endpoint(world, A, B)
        assert first.remaining >= 1
        assert say(clients["watching"], b"MULTI\r\nSET k 1\r\nEXEC\r\n", b"*1\r\n+OK\r\n")
        assert say(clients["busy"], b"", b"\n") == b":7\r\n"
        pass_all(world, A, B)
        for name in ("subscribed", "blocked"):
            assert clients[name].recv(10) == b"", name
        for name in ("busy", "watching"):
            assert say(clients[name], b"GET k\r\n", b"1\r\n") == b"$1\r\n1\r\n", name
        for client in clients.values():
            client.close()


def test_a_destination_that_dies_or_hangs_loses_no_connection(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, Writers(world, 4) as writers:
        wait_until(lambda: len(writers.acknowledged) == 4)
        with pytest.raises(Transient):
            pass_endpoint(world, A, B)
        process = world.start_process(B).process
        os.kill(process.pid, signal.SIGSTOP)
        count = sum(writers.acknowledged.values())
        wait_until(lambda: is_refused(world))
        process.kill()
        wait_until(lambda: sum(writers.acknowledged.values()) > count + 20 or bool(writers.errors))
        assert world.state(A) is EndpointState.LISTENING
        process.wait(5)
        world.start_process(B)
        pass_all(world, A, B)
        assert writers.errors == []


def test_a_connection_in_transit_is_not_overlooked(tmp_path: Path) -> None:
    """The other process was late to adopt the last connection: this process reported that none was left, and was ended."""
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        process = world.start_process(B).process
        client = world.raw()
        say(client, b"AUTH client-password\r\nECHO 7\r\n", b"7\r\n")
        world.primary.freeze()  # the reply comes when this test wants it
        client.sendall(b"ECHO 8\r\n")
        wait_until(lambda: world.status(A).totals["commands"] >= 3)
        assert pass_endpoint(world, A, B).remaining == 1
        os.kill(process.pid, signal.SIGSTOP)
        try:
            world.primary.thaw()
            assert say(client, b"", b"8\r\n") == b"$1\r\n8\r\n"
            deadline = time.monotonic() + 0.6
            while time.monotonic() < deadline:
                assert world.status(A).endpoint(ENDPOINT).connections == 1
        finally:
            os.kill(process.pid, signal.SIGCONT)
        pass_all(world, A, B)
        assert say(client, b"PING\r\n", b"\n") == b"+PONG\r\n"
        client.close()


def test_a_port_in_use_is_retried(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        world.start_process(B)
        world.serve(B)
        seen = world.status(B).endpoint(ENDPOINT)
        assert seen.state is EndpointState.BIND_FAILED
        assert "cannot listen on" in seen.text
        asyncio.run(world.control(A).drop(ENDPOINT))
        wait_until(lambda: world.state(B) is EndpointState.LISTENING)
        with socket.create_connection((world.address, world.port)) as client:
            assert say(client, b"AUTH client-password\r\n", b"\n") == b"+OK\r\n"
        assert world.state(A) is EndpointState.ABSENT
        assert oct(os.stat(world.processes[B].path).st_mode)[-3:] == "600"
