"""Clients that are slow in every way, and processes that are late but alive: a move ends, and nothing is lost."""

import asyncio
import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from shardwright.endpoint.protocol import HOLD_TIMEOUT_S
from shardwright.endpoint.session import HEAVY_COMMANDS
from shardwright.errors import Transient
from shardwright.model.database import ServerKind
from shardwright.model.seen import EndpointState
from tests.integration.endpoint_harness import ENDPOINT, World, endpoint_world, wait_until
from tests.integration.server_harness import both_servers
from tests.integration.test_endpoint import say
from tests.integration.test_endpoint_passing import A, B, pass_all, pass_endpoint

pytestmark = pytest.mark.server

MIB = 1024 * 1024


def command(*arguments: bytes) -> bytes:
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(a), a) for a in arguments)


def known(world: World) -> socket.socket:
    client = world.raw()
    say(client, b"AUTH client-password\r\n", b"+OK\r\n")
    return client


def read(client: socket.socket, size: int) -> bytearray:
    """Read this many bytes."""
    found = bytearray()
    while len(found) < size:
        data = client.recv(min(MIB, size - len(found)))
        assert data, f"closed after {len(found)} of {size} bytes"
        found += data
    return found


def received(world: World, node: int) -> Callable[[], int]:
    return lambda: world.status(node).totals["bytes_in"]


def test_a_half_sent_large_command_is_passed_and_completed_elsewhere(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, known(world) as client, known(world) as other:
        world.start_process(B)
        value = os.urandom(20 * MIB)
        whole = command(b"SET", b"big", value)
        half = len(whole) // 2
        client.sendall(whole[:half])
        wait_until(lambda: received(world, A)() >= half)
        pass_all(world, A, B)
        assert world.status(A).endpoint(ENDPOINT).connections == 0
        client.sendall(whole[half:] + b"PING\r\n")
        assert say(client, b"", b"+PONG\r\n") == b"+OK\r\n+PONG\r\n"
        assert say(other, b"STRLEN big\r\n", b"\r\n") == b":%d\r\n" % len(value)
        other.sendall(b"GET big\r\n")
        expected = b"$%d\r\n%b\r\n" % (len(value), value)
        assert hashlib.sha256(read(other, len(expected))).digest() == hashlib.sha256(expected).digest()


def test_a_half_sent_command_whose_client_disconnects_delays_nothing(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        world.start_process(B)
        with known(world) as client:
            client.sendall(command(b"SET", b"big", bytes(20 * MIB))[: 10 * MIB])
            wait_until(lambda: received(world, A)() >= 10 * MIB)
            pass_all(world, A, B)
        wait_until(lambda: world.status(B).endpoint(ENDPOINT).connections == 0)
        wait_until(lambda: world.status(B).totals["kept_bytes"] == 0, state=lambda: world.status(B).totals)


@both_servers
def test_a_half_sent_command_survives_a_handoff(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world, known(world) as client:
        whole = command(b"SET", b"big", bytes(12 * MIB))
        client.sendall(whole[: 9 * MIB])
        wait_until(lambda: received(world, 1)() >= 9 * MIB)
        world.hand_off()
        client.sendall(whole[9 * MIB :])
        assert say(client, b"STRLEN big\r\n", b"\r\n:%d\r\n" % (12 * MIB)).startswith(b"+OK\r\n")


def test_unread_replies_are_passed(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, known(world) as writer, known(world) as lazy:
        world.start_process(B)
        value = os.urandom(12 * MIB)
        say(writer, command(b"SET", b"big", value), b"+OK\r\n")
        lazy.sendall(b"GET big\r\n" * 3 + b"ECHO end\r\n")
        wait_until(lambda: world.status(A).totals["bytes_out"] > MIB)
        pass_all(world, A, B)
        one = b"$%d\r\n%b\r\n" % (len(value), value)
        expected = hashlib.sha256(one * 3 + b"$3\r\nend\r\n").hexdigest()
        assert hashlib.sha256(read(lazy, len(one) * 3 + 9)).hexdigest() == expected
        assert say(lazy, b"PING\r\n", b"+PONG\r\n") == b"+PONG\r\n"


@pytest.mark.proof
def test_replies_to_clients_that_are_passed_repeatedly_are_complete(tmp_path: Path) -> None:
    """The source sends until its transport ends: bytes that it has sent by then must not be sent again."""
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, known(world) as writer:
        world.start_process(B)
        value = os.urandom(50 * MIB)
        say(writer, command(b"SET", b"big", value), b"+OK\r\n")
        whole = b"$%d\r\n%b\r\n" % (len(value), value)
        over = threading.Event()
        answers: list[bool] = []

        def take() -> None:
            with known(world) as client:
                while not over.is_set():
                    client.sendall(b"GET big\r\n")
                    answers.append(read(client, len(whole)) == whole)

        takers = [threading.Thread(target=take, daemon=True) for _ in range(3)]
        for taker in takers:
            taker.start()
        source, to = A, B
        wait_until(lambda: len(answers) >= 3, state=lambda: answers)
        for _ in range(20):
            pass_all(world, source, to)
            asyncio.run(world.control(source).drop(ENDPOINT))
            source, to = to, source
        over.set()
        for taker in takers:
            taker.join(20)
        assert answers == [True] * len(answers)


def test_steady_downloads_do_not_delay_a_move(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, known(world) as writer:
        world.start_process(B)
        value = bytes(20 * MIB)
        say(writer, command(b"SET", b"big", value), b"+OK\r\n")
        with downloads(world, 4, len(value)) as done:
            wait_until(lambda: sum(done) >= 8, timeout_s=30)
            began = time.monotonic()
            pass_all(world, A, B)
            assert time.monotonic() - began < 10
            count = sum(done)
            wait_until(lambda: sum(done) >= count + 8, timeout_s=30)
        assert world.status(A).endpoint(ENDPOINT).connections == 0
        assert world.status(A).endpoint(ENDPOINT).ended == ()


@contextmanager
def downloads(world: World, clients: int, size: int) -> Iterator[list[int]]:
    """Clients that fetch the large value repeatedly; counts the complete values of each. Fails if one could not fetch it."""
    stop = threading.Event()
    done = [0] * clients
    failures: list[BaseException] = []

    def fetch(number: int) -> None:
        try:
            with known(world) as client:
                while not stop.is_set():
                    client.sendall(b"GET big\r\n")
                    left = len(b"$%d\r\n" % size) + size + 2
                    while left:
                        data = client.recv(min(left, MIB))
                        assert data, "the connection was closed"
                        left -= len(data)
                    done[number] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=fetch, args=(n,), daemon=True) for n in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert failures == []


@both_servers
def test_a_long_pipeline_is_calmed_and_the_hold_finds_nothing_in_flight(kind: ServerKind, tmp_path: Path) -> None:
    count = 40_000
    script = b"for i = 1, 60 do redis.call('EXISTS', KEYS[1]) end redis.pcall('INCR', KEYS[1]) return 'OK'"
    with endpoint_world(kind, tmp_path) as world, known(world) as client, known(world) as other:
        sender = threading.Thread(target=client.sendall, args=(command(b"EVAL", script, b"1", b"n") * count,), daemon=True)
        sender.start()

        def is_held_with_nothing_in_flight() -> bool:
            """A leader tries again, too: on a busy machine 5,000 scripts may take longer than a calm lasts."""
            asyncio.run(world.control(A).calm(ENDPOINT))
            assert say(other, b"SET k 1\r\n", b"\r\n") == b"+OK\r\n"  # only connections with much in flight wait
            return world.hold().is_drained

        wait_until(lambda: world.status().totals["commands"] > 5000)
        wait_until(is_held_with_nothing_in_flight)
        world.hand_off()
        expected = len(b"$2\r\nOK\r\n") * count
        while expected:
            expected -= len(client.recv(min(expected, MIB)))
        sender.join(10)
        assert say(other, b"GET n\r\n", b"\r\n%d\r\n" % count) == b"$5\r\n%d\r\n" % count


def test_a_calm_ends_by_itself_without_a_hold(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, known(world) as client:
        client.sendall(b'EVAL "for i = 1, 30000000 do end" 0\r\n' + b"ECHO 1\r\n" * HEAVY_COMMANDS)
        wait_until(lambda: world.status().totals["commands"] > HEAVY_COMMANDS)
        asyncio.run(world.control(A).calm(ENDPOINT))
        assert world.status().totals["held"] == 0
        client.sendall(b"PING\r\n")
        assert say(client, b"", b"+PONG\r\n") == b"$-1\r\n" + b"$1\r\n1\r\n" * HEAVY_COMMANDS + b"+PONG\r\n"


def test_a_late_process_does_not_count_as_ended_and_ignores_holds_and_drops_of_disconnected_callers(
    tmp_path: Path,
) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, known(world) as client:
        say(client, b"SET k 1\r\n", b"+OK\r\n")
        process = world.processes[A].process
        old, new = world.target(world.primary, 1), world.target(world.replica, 2)
        control = world.control(A, call_timeout_s=0.1)
        os.kill(process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(Transient) as late:
                asyncio.run(control.hold(ENDPOINT, old, new))
            assert time.monotonic() - began >= HOLD_TIMEOUT_S * 0.9
            assert late.value.code == "endpoint_process_silent"
            with pytest.raises(Transient):
                asyncio.run(control.drop(ENDPOINT))
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert say(client, b"GET k\r\n", b"1\r\n") == b"$1\r\n1\r\n"
        assert world.status().endpoint(ENDPOINT).held_generation is None
        process.kill()
        process.wait(5)
        with pytest.raises(Transient) as ended:
            asyncio.run(control.hold(ENDPOINT, old, new))
        assert ended.value.code == "endpoint_process_ended"
        assert asyncio.run(control.status()).has_ended


@pytest.mark.proof
def test_commands_that_never_end_are_ended_and_named(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, known(world) as client, known(world) as other:
        world.start_process(B)
        say(client, b"CLIENT SETNAME nightly\r\n", b"+OK\r\n")
        client.sendall(b'EVAL "while true do end" 0\r\n')
        wait_until(lambda: world.status(A).endpoint(ENDPOINT).busy != ())
        (busy,) = world.status(A).endpoint(ENDPOINT).busy
        assert busy.command == "EVAL"
        assert "nightly" in busy.client
        pass_all(world, A, B, timeout_s=30)
        assert world.state(A) is EndpointState.DRAINING
        assert len(world.status(A).endpoint(ENDPOINT).ended) == 1
        assert b"outcome unknown" in say(client, b"", b"never")  # an error, then FIN
        with world.primary.client("application") as direct:
            direct.execute_command("SCRIPT", "KILL")
        wait_until(lambda: say(other, b"SET k 1\r\n", b"\r\n") == b"+OK\r\n")  # the script ends at its next check


def test_a_busy_client_hardly_waits_beside_thousands_of_idle_ones(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, ExitStack() as stack, known(world) as busy:
        world.start_process(B)
        for _ in range(1500):
            stack.enter_context(known(world))
        waits: list[float] = []
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                began = time.monotonic()
                say(busy, b"INCR n\r\n", b"\r\n")
                waits.append(time.monotonic() - began)

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        wait_until(lambda: len(waits) > 50)
        passing = threading.Thread(target=pass_all, args=(world, A, B), kwargs={"timeout_s": 60}, daemon=True)
        before = len(waits)
        passing.start()
        passing.join(60)
        stop.set()
        writer.join(10)
        assert pass_endpoint(world, A, B).remaining == 0
        # Frozen after all of the idle connections, it waited for half a second; the machine may be busy, too.
        assert max(waits[before:]) < 0.4, sorted(waits[before:])[-5:]
        wait_until(lambda: world.status(B).endpoint(ENDPOINT).connections == 1501, state=lambda: world.status(B))


@both_servers
def test_a_new_client_can_end_a_script_that_does_not_end(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world, known(world) as endless:
        for server in (world.primary, world.replica):
            server.ask("CONFIG", "SET", "busy-reply-threshold", "200")
        endless.sendall(b'EVAL "while true do end" 0\r\n')
        wait_until(lambda: world.status().totals["commands"] >= 2)
        with world.raw() as newcomer:
            say(newcomer, b"AUTH client-password\r\n", b"+OK\r\n")
            busy = say(newcomer, b"PING\r\n", b"\r\n")
            assert busy.startswith(b"-BUSY "), busy
            aborted = say(newcomer, b"MULTI\r\nSET k 1\r\nEXEC\r\n", b"previous errors.\r\n")
            assert aborted.startswith(b"-BUSY ")
            assert say(newcomer, b"GET k\r\nSCRIPT KILL\r\n", b"+OK\r\n") == busy + b"+OK\r\n"
            wait_until(lambda: say(newcomer, b"SET k 2\r\n", b"\r\n") == b"+OK\r\n")  # the script ends at its next check
            assert b"killed" in say(endless, b"", b"\r\n").lower()
            assert say(newcomer, b"GET k\r\n", b"\r\n2\r\n") == b"$1\r\n2\r\n"
