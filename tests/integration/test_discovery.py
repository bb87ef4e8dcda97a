"""The discovery service on real sockets, with redis-py's own Sentinel client."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import redis
from redis.sentinel import MasterNotFoundError, Sentinel

from shardwright.discovery import server
from shardwright.discovery.server import Discovery
from shardwright.model.database import ProxyPolicy
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.view import ClusterView
from testkit.builders import cluster
from testkit.deadlines import until

ENDPOINT = EndpointUid("1:1")
PORT = 10_001


def served(*nodes: int) -> ClusterView:
    """The database ``orders``, which these nodes serve."""
    builder = cluster(nodes=3).with_database("orders", on=((1, 2),), proxy_policy=ProxyPolicy.ALL_NODES)
    return builder.with_records(replace(builder.view.endpoints[ENDPOINT], nodes=tuple(map(NodeUid, nodes)))).view


@dataclass
class Records:
    """Stands for the daemon's mirror."""

    view: ClusterView
    subscribers: list[Callable[[Collection[str]], None]] = field(default_factory=list)

    def subscribe(self, call: Callable[[Collection[str]], None]) -> Callable[[], None]:
        self.subscribers.append(call)
        return lambda: self.subscribers.remove(call)


class Running:
    """A service of node 1 in a loop of its own."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.records = Records(served(1, 2))
        self.address = address
        self._loop = asyncio.new_event_loop()
        self.service = Discovery(
            NodeUid(1), [address], port, view=lambda: self.records.view, subscribe=self.records.subscribe
        )
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._task = self._loop.create_task(self.service.run())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def listens(self) -> bool:
        return self.service.port != 0

    def change(self, view: ClusterView) -> None:
        def do() -> None:
            self.records.view = view
            for call in self.records.subscribers:
                call([f"endpoints/{ENDPOINT}"])

        self._loop.call_soon_threadsafe(do)

    def stop(self) -> None:
        assert self._task is not None
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    def sentinel(self, **options: Any) -> Sentinel:
        return Sentinel([(self.address, self.service.port)], socket_timeout=5, **options)

    def client(self, **options: Any) -> "redis.Redis":
        return redis.Redis(self.address, self.service.port, decode_responses=True, socket_timeout=5, **options)


@pytest.fixture
def running(loopback_base: Callable[[], str]) -> Iterator[Running]:
    found = Running(loopback_base())
    try:
        until("it listens", found.listens, seconds=5)
        yield found
    finally:
        found.stop()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_sentinel_client_finds_the_database_and_follows_it(running: Running, protocol: int) -> None:
    sentinel = running.sentinel(sentinel_kwargs={"protocol": protocol})
    assert sentinel.discover_master("orders") == ("127.0.0.1", PORT)
    assert sentinel.discover_slaves("orders") == []
    with pytest.raises(MasterNotFoundError):
        sentinel.discover_master("unknown")
    running.change(served(2, 3))
    until("it names another node", lambda: sentinel.discover_master("orders") == ("127.0.0.2", PORT), seconds=5)
    for one in sentinel.sentinels:
        one.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_subscriber_is_told_that_the_database_has_moved(running: Running, protocol: int) -> None:
    with contextlib.closing(running.client(protocol=protocol)) as client, client.pubsub() as subscription:
        subscription.subscribe("+switch-master")
        assert subscription.get_message(timeout=5)["type"] == "subscribe"
        running.change(served(2, 3))
        told = subscription.get_message(timeout=5)
        assert told is not None
        assert told["data"] == f"orders 127.0.0.1 {PORT} 127.0.0.2 {PORT}"


def test_many_commands_at_once_and_what_is_no_command(running: Running) -> None:
    with socket.create_connection((running.address, running.service.port), 5) as raw:
        raw.sendall(b"PING\r\n*1\r\n$4\r\nPING\r\n*3\r\n$8\r\nSENTINEL\r\n$6\r\nmaster\r\n$7\r\nunkn")
        answers = raw.makefile("rb")
        assert [answers.readline() for _ in range(2)] == [b"+PONG\r\n", b"+PONG\r\n"]
        raw.sendall(b"own\r\n")
        assert answers.readline() == b"-ERR No such master with that name\r\n"
        raw.sendall(b"*1\r\n!4\r\n")
        assert b"Protocol error" in answers.readline()
        assert answers.readline() == b"", "the connection ends"
        answers.close()


def test_too_many_clients_are_refused_and_idle_ones_end(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CLIENTS_MAX", 1)
    monkeypatch.setattr(server, "IDLE_S", 2.0)
    place = running.address, running.service.port
    with socket.create_connection(place, 5) as first, socket.create_connection(place, 5) as second:
        first.sendall(b"PING\r\n")
        assert first.recv(100) == b"+PONG\r\n"
        assert second.recv(100) == b"-ERR max number of clients reached\r\n"
        assert first.recv(1) == b"", "it was idle for too long"


def test_a_port_in_use_is_awaited(loopback_base: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LISTEN_AGAIN_S", 0.05)
    address = loopback_base()
    with socket.socket() as other:
        other.bind((address, 0))
        other.listen()
        waiting = Running(address, other.getsockname()[1])
    try:
        until("it listens", waiting.listens, seconds=10)
        with contextlib.closing(waiting.client()) as client:
            assert client.ping()
    finally:
        waiting.stop()
