"""An endpoint at virtual addresses: it listens there whether or not the machine has them, and closes the clients of one that
is about to go, each behind a reply."""

import socket
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import redis

from shardwright.endpoint.protocol import RETIRE_S, VirtualPlace
from shardwright.model.database import ServerKind
from shardwright.model.seen import VirtualState
from tests.integration.endpoint_harness import ENDPOINT, PASSWORD, World, endpoint_world, wait_until
from tests.integration.server_harness import loopback_address

pytestmark = pytest.mark.server

ELSEWHERE = "192.0.2.9"
"""Of no machine (RFC 5737)."""


def states(world: World) -> dict[str, VirtualState]:
    return {one.address: one.state for one in world.status().endpoint(ENDPOINT).virtual}


def shows(world: World, address: str, state: VirtualState) -> bool:
    return states(world).get(address) is state


def wait_for(world: World, address: str, state: VirtualState, *, timeout_s: float = 10.0) -> None:
    wait_until(partial(shows, world, address, state), timeout_s=timeout_s, state=lambda: states(world))


def client_at(world: World, address: str) -> "redis.Redis":
    """Repeats as redis-py does by default."""
    return redis.Redis(address, world.port, password=PASSWORD, socket_timeout=8)


class Asker(threading.Thread):
    """Increments a counter over one connection until it ends."""

    def __init__(self, world: World, address: str, number: int) -> None:
        super().__init__(daemon=True)
        self.connection = client_at(world, address).connection_pool.get_connection()
        self.key = f"asker:{number}"
        self.answered = 0

    def run(self) -> None:
        try:
            while True:
                self.connection.send_command("INCR", self.key)
                self.connection.read_response()
                self.answered += 1
        except redis.RedisError:
            self.connection.disconnect()


def test_it_listens_at_addresses_that_the_machine_does_not_have(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        virtual = loopback_address()
        world.serve(virtual=(VirtualPlace(virtual), VirtualPlace(ELSEWHERE)))
        wait_until(lambda: states(world) == {virtual: VirtualState.LISTENING, ELSEWHERE: VirtualState.LISTENING})
        with client_at(world, virtual) as client:
            assert client.ping()
        world.serve(virtual=(VirtualPlace(ELSEWHERE),))
        wait_until(lambda: states(world) == {ELSEWHERE: VirtualState.LISTENING})
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((virtual, world.port), timeout=5)


def test_clients_of_an_address_that_goes_get_every_reply_and_are_served_until_the_end(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        virtual = loopback_address()
        world.serve(virtual=(VirtualPlace(virtual),))
        wait_for(world, virtual, VirtualState.LISTENING)
        idle, own = client_at(world, virtual), world.connect()
        assert idle.ping()
        assert own.ping()
        askers = [Asker(world, virtual, number) for number in range(4)]
        for asker in askers:
            asker.start()
        wait_until(lambda: all(asker.answered > 20 for asker in askers))
        world.serve(virtual=(VirtualPlace(virtual, is_closing=True),))
        assert not shows(world, virtual, VirtualState.LISTENING)
        # Busy ones are closed at once, and served again as long as the idle one is there.
        with client_at(world, virtual) as back:
            assert back.ping()
        for asker in askers:
            asker.join(RETIRE_S)
        wait_for(world, virtual, VirtualState.LEFT)
        ran = [int(own.get(asker.key) or 0) for asker in askers]
        assert [asker.answered for asker in askers] == ran, "a command ran, and its client got no reply"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((virtual, world.port), timeout=5)
        world.serve(virtual=(VirtualPlace(virtual),))
        wait_for(world, virtual, VirtualState.LISTENING)
        assert idle.ping(), "it connects again"


def test_clients_stay_when_the_address_stays_after_all(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        virtual = loopback_address()
        world.serve(virtual=(VirtualPlace(virtual),))
        wait_for(world, virtual, VirtualState.LISTENING)
        connection = client_at(world, virtual).connection_pool.get_connection()
        world.serve(virtual=(VirtualPlace(virtual, is_closing=True),))
        world.serve(virtual=(VirtualPlace(virtual),))
        time.sleep(1.5)  # Longer than idle clients of an address that goes may stay.
        connection.send_command("PING")
        assert connection.read_response() == b"PONG"


def test_a_blocked_client_does_not_keep_the_address_for_ever(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        virtual = loopback_address()
        world.serve(virtual=(VirtualPlace(virtual),))
        wait_for(world, virtual, VirtualState.LISTENING)
        connection = client_at(world, virtual).connection_pool.get_connection()
        connection.send_command("BLPOP", "nothing", 0)
        world.serve(virtual=(VirtualPlace(virtual, is_closing=True),))
        wait_for(world, virtual, VirtualState.LEFT, timeout_s=RETIRE_S + 5)
        with pytest.raises(redis.ConnectionError):
            connection.read_response()


def test_an_occupied_port_of_one_address_is_named_and_taken_when_it_is_free(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        virtual = loopback_address()
        with socket.socket() as taken:
            taken.bind((virtual, world.port))
            taken.listen()
            world.serve(virtual=(VirtualPlace(virtual),))
            wait_for(world, virtual, VirtualState.BIND_FAILED)
            assert f"{virtual}:{world.port}" in world.status().endpoint(ENDPOINT).text
        wait_for(world, virtual, VirtualState.LISTENING)
