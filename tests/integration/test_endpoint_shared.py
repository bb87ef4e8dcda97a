"""An endpoint that several processes serve, each at an address of its own: handoffs hold all of them, and one that retires
closes each connection behind a reply."""

import asyncio
import select
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import redis

from shardwright.endpoint.protocol import RETIRE_IDLE_S, RETIRE_S
from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from shardwright.model.seen import EndpointState
from tests.integration.endpoint_harness import ENDPOINT, PASSWORD, World, Writers, endpoint_world, wait_until
from tests.integration.server_harness import loopback_address

pytestmark = pytest.mark.server

A, B = 1, 2
HANDOFFS = 5


def serve_twice(world: World) -> World:
    """A second process serves the endpoint at an address of its own; the world as its clients see it."""
    world.start_process(B)
    other = replace(world, address=loopback_address())
    other.serve(B, address=other.address)
    wait_until(lambda: world.state(B) is EndpointState.LISTENING)
    return other


def hand_off_all(world: World) -> float:
    """A whole handoff, like a leader: hold all processes, swap the roles, release all. The longest hold in ms."""
    old, new = world.target(world.primary, world.generation), world.target(world.replica, world.generation + 1)

    async def hold() -> list[bool]:
        found = await asyncio.gather(*(world.control(n).hold(ENDPOINT, old, new) for n in (A, B)))
        return [one.was_held and one.is_drained for one in found]

    assert asyncio.run(hold()) == [True, True]
    world.swap_roles()
    world.generation += 1
    target = world.target(world.primary, world.generation)

    async def release() -> float:
        found = await asyncio.gather(*(world.control(n).release(ENDPOINT, target) for n in (A, B)))
        return max(one.pause_ms for one in found)

    pause_ms = asyncio.run(release())
    wait_until(world.is_linked)
    return pause_ms


def progress(writers: Writers) -> int:
    return sum(writers.acknowledged.values())


def have_passed(writers: tuple[Writers, ...], before: tuple[int, ...]) -> bool:
    return all(progress(one) > was for one, was in zip(writers, before, strict=True))


@pytest.mark.parametrize("kind", list(ServerKind))
def test_writers_of_both_processes_notice_no_handoff(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world:
        other = serve_twice(world)
        with Writers(world, count=2) as at_a, Writers(other, count=2, db=1) as at_b:
            for _ in range(HANDOFFS):
                done = progress(at_a), progress(at_b)
                hand_off_all(world)
                wait_until(partial(have_passed, (at_a, at_b), done), state=lambda: (at_a.errors, at_b.errors))
        assert not at_b.errors, at_b.errors
        at_a.check()
        with other.connect(db=1) as client:
            stored = {name: int(client.get(name)) for name in at_b.acknowledged}
        assert stored == at_b.acknowledged
        assert world.generation == 1 + HANDOFFS


class Asker(threading.Thread):
    """Writes and waits for each reply, with a pause between them, until its connection ends."""

    def __init__(self, world: World, number: int, *, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.socket = world.raw()
        self.number, self.pause_s = number, pause_s
        self.sent = self.answered = 0
        self.has_seen_the_end = False
        """The end of the connection was there when the last reply was."""

    def run(self) -> None:
        self.socket.sendall(b"AUTH %b\r\n" % PASSWORD.encode())
        assert self.socket.recv(64) == b"+OK\r\n"
        while True:
            time.sleep(self.pause_s)
            self.socket.sendall(b"INCR asker:%d\r\n" % self.number)
            self.sent += 1
            if not self.socket.recv(64):
                break
            self.answered += 1
            if self._is_over():
                self.has_seen_the_end = True
                break
        self.socket.close()

    def _is_over(self) -> bool:
        readable, _, _ = select.select([self.socket], [], [], 0)
        return bool(readable)


def test_a_busy_client_of_a_retiring_process_gets_the_reply_of_every_command_that_ran(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        other = serve_twice(world)
        askers = [Asker(world, number, pause_s=0.001 * number) for number in range(6)]
        for asker in askers:
            asker.start()
        wait_until(lambda: all(asker.answered > 20 for asker in askers))
        asyncio.run(world.control(A).retire(ENDPOINT))
        with pytest.raises(ConnectionRefusedError):
            world.raw()
        for asker in askers:
            asker.join(RETIRE_S + 5)
        with other.connect() as client:
            ran = [int(client.get(f"asker:{asker.number}") or 0) for asker in askers]
        assert [asker.answered for asker in askers] == ran, "a command ran, and its client got no reply"
        wait_until(lambda: world.status(A).endpoint(ENDPOINT).connections == 0)
        assert world.state(A) is EndpointState.DRAINING


def test_the_last_reply_and_the_end_of_the_connection_arrive_together(tmp_path: Path) -> None:
    """Otherwise a client could send its next command in between. The process is busy with other clients meanwhile."""
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        serve_twice(world)
        askers = [Asker(world, number, pause_s=0.0) for number in range(20)]
        for asker in askers:
            asker.start()
        wait_until(lambda: all(asker.answered > 5 for asker in askers))
        asyncio.run(world.control(A).retire(ENDPOINT))
        for asker in askers:
            asker.join(RETIRE_S + 5)
        assert [asker.number for asker in askers if not asker.has_seen_the_end] == []


def test_idle_clients_go_last_and_a_transaction_may_finish(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, ExitStack() as closing:
        other = serve_twice(world)
        idle = closing.enter_context(world.connect(single_connection_client=True))
        open_one = closing.enter_context(world.raw())
        idle.ping()
        open_one.sendall(b"AUTH %b\r\nMULTI\r\nSET t 1\r\n" % PASSWORD.encode())
        received = b""
        while received.count(b"\r\n") < 3:
            received += open_one.recv(256)
        began = time.monotonic()
        asyncio.run(world.control(A).retire(ENDPOINT))
        wait_until(lambda: world.status(A).endpoint(ENDPOINT).connections == 1)
        assert time.monotonic() - began >= RETIRE_IDLE_S * 0.9
        open_one.sendall(b"EXEC\r\n")
        assert open_one.recv(256) == b"*1\r\n+OK\r\n"
        assert open_one.recv(256) == b""
        with pytest.raises(redis.ConnectionError):
            idle.ping()
        with other.connect() as client:
            assert client.get("t") == "1"


def test_a_process_that_is_told_to_serve_again_keeps_its_clients(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, world.connect(single_connection_client=True) as client:
        client.ping()
        asyncio.run(world.control(A).retire(ENDPOINT))
        world.serve(A)
        assert world.state(A) is EndpointState.LISTENING
        time_s = time.monotonic() + RETIRE_IDLE_S * 1.5
        while time.monotonic() < time_s:
            assert client.ping()
        assert world.status(A).endpoint(ENDPOINT).connections == 1
        assert world.status(NodeUid(A)).answers
