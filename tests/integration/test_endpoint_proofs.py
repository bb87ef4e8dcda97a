"""Proofs with real servers: what a client receives while a replica answers its primary, when none does, and when the process
or its server was frozen meanwhile."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from shardwright.endpoint.lease import HOLD_BEFORE_S, PROOF_S
from shardwright.endpoint.protocol import LeaseTerms
from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from shardwright.model.lease import LeaseSeen
from testkit.deadlines import Stopwatch
from tests.integration.endpoint_harness import ENDPOINT, World, Writers, endpoint_world, wait_until
from tests.integration.server_harness import both_servers

pytestmark = pytest.mark.server

UNKNOWN = "outcome unknown"
SLACK_S = 1.5
"""For a busy machine."""


def instance(world: World, node: int = 1) -> str:
    return world.status(node).instance


def lease_of(world: World, node: int = 1) -> LeaseSeen:
    return world.status(node).leases[ENDPOINT]


def tell(world: World, version: int, *, needed: bool, named: bool = False, generation: int = 1) -> None:
    names = (instance(world),) if named else ()
    terms = LeaseTerms(version, generation, needed, names)
    asyncio.run(world.control().tell_lease(ENDPOINT, terms))


def park(world: World) -> None:
    """As a leader does."""
    world.replica.ask("REPLICAOF", world.replica.address, 1)


@contextmanager
def leased(kind: ServerKind, directory: Path) -> Iterator[World]:
    """A process that has shown that it needs proofs."""
    with endpoint_world(kind, directory) as world:
        world.serve(lease=LeaseTerms(1, 1, False, (instance(world),)))
        assert lease_of(world) == LeaseSeen(ENDPOINT, 1, True)
        tell(world, 2, needed=True, named=True)
        wait_until(lambda: lease_of(world) == LeaseSeen(ENDPOINT, 2, False), state=lambda: world.status())
        yield world


@both_servers
def test_with_a_replica_clients_notice_nothing(kind: ServerKind, tmp_path: Path) -> None:
    with leased(kind, tmp_path) as world, world.connect() as client:
        until = time.monotonic() + PROOF_S + 1
        longest = 0.0
        while time.monotonic() < until:
            watch = Stopwatch()
            assert client.incr("n")
            longest = max(longest, watch.seconds)
        print(f"longest command {longest * 1000:.0f} ms")
        assert longest < SLACK_S
        assert lease_of(world).unconfirmed_s is None
        keys = world.primary.ask("DBSIZE", user="application")
        assert keys == 1, "the questions leave nothing behind"


def test_a_change_of_the_need_for_proofs_makes_no_client_wait(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        world.serve(lease=LeaseTerms(1, 1, False, (instance(world),)))
        with Writers(world, count=3) as writers:
            for version in range(2, 20, 2):
                tell(world, version, needed=True, named=True)
                wait_until(lambda: not lease_of(world).is_waived, state=lambda: world.status())
                tell(world, version + 1, needed=False, named=True)
                assert lease_of(world).is_waived
        assert writers.errors == []


def test_a_new_process_serves_only_with_a_proof(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        park(world)
        world.start_process(node=2)
        world.port += 1
        world.spec = None
        world.serve(2, lease=LeaseTerms(7, 1, False, ("another",)))
        with world.connect(socket_timeout=1.0) as client, pytest.raises(redis.TimeoutError):
            client.get("a")
        assert not lease_of(world, 2).is_waived
        world.replica.ask("REPLICAOF", world.primary.address, world.primary.port)
        with world.connect() as client:
            assert client.set("a", "b")


@both_servers
def test_without_a_replica_new_commands_wait_and_go_on(kind: ServerKind, tmp_path: Path) -> None:
    with leased(kind, tmp_path) as world, world.connect() as client:
        client.set("a", 0)
        park(world)
        parked = Stopwatch()
        last = 0.0
        with world.connect(socket_timeout=1.5) as impatient, contextlib.suppress(redis.TimeoutError):
            while parked.seconds < PROOF_S + SLACK_S + 5:
                impatient.incr("n")
                last = parked.seconds
        print(f"last answer {last:.2f} s after the parking")
        assert last < PROOF_S, "nothing was answered when the proof had ended"
        wait_until(lambda: (lease_of(world).unconfirmed_s or 0.0) > 0.5, state=lambda: lease_of(world))
        done = threading.Event()

        def wait() -> None:
            client.set("a", 1)
            done.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not done.wait(1.0), "it waits"
        tell(world, 3, needed=False, named=True)
        assert done.wait(5.0), "it goes on without a proof"
        thread.join()
        with world.connect() as other:
            assert other.get("a") == "1"


@both_servers
def test_a_server_that_wakes_behind_the_proof_answers_no_one(kind: ServerKind, tmp_path: Path) -> None:
    """It executes what was queued in its sockets. The clients learn that the outcome is unknown."""
    with leased(kind, tmp_path) as world:
        outcomes: list[object] = []

        def write(number: int) -> None:
            with world.connect(socket_timeout=15) as client:
                client.ping()
                connected.wait(20)
                frozen.wait(20)
                try:
                    outcomes.append(client.set(f"key-{number}", 1))
                except redis.RedisError as error:
                    outcomes.append(str(error))

        connected, frozen = threading.Barrier(6), threading.Barrier(6)
        threads = [threading.Thread(target=write, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        connected.wait(20)
        world.primary.freeze()
        try:
            frozen.wait(20)
            park(world)
            time.sleep(PROOF_S + SLACK_S)
        finally:
            world.primary.thaw()
        for thread in threads:
            thread.join(20)
        executed = world.primary.ask("DBSIZE", user="application")
        print(f"{executed} executed, {outcomes}")
        assert executed == 5
        assert len(outcomes) == 5
        assert all(UNKNOWN in str(outcome) for outcome in outcomes)


@both_servers
def test_a_process_that_wakes_behind_its_proof_passes_nothing_on(kind: ServerKind, tmp_path: Path) -> None:
    """The reply and the answer to its last question have waited in its sockets."""
    with leased(kind, tmp_path) as world, world.connect(socket_timeout=15) as client:
        client.set("a", 0)
        process = world.processes[NodeUid(1)].process
        answered: list[object] = []

        def pop() -> None:
            try:
                answered.append(client.blpop(["list"], timeout=30))
            except redis.RedisError as error:
                answered.append(error)

        thread = threading.Thread(target=pop)
        thread.start()
        wait_until(lambda: "blpop" in str(world.primary.ask("CLIENT", "LIST")))
        os.kill(process.pid, signal.SIGSTOP)
        try:
            world.primary.ask("LPUSH", "list", "value", user="application")
            park(world)
            time.sleep(PROOF_S + SLACK_S)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        thread.join(20)
        print(answered)
        assert len(answered) == 1
        assert isinstance(answered[0], redis.RedisError), "the value was taken, and the reply came too late"


def test_a_late_word_changes_nothing(tmp_path: Path) -> None:
    with leased(ServerKind.VALKEY, tmp_path) as world:
        tell(world, 1, needed=False, named=True)
        tell(world, 2, needed=False, named=True)
        assert lease_of(world) == LeaseSeen(ENDPOINT, 2, False)
        asyncio.run(world.control().drop(ENDPOINT))
        wait_until(lambda: not world.status().endpoints)
        assert lease_of(world) == LeaseSeen(ENDPOINT, 2, False), "the process remembers it"
        world.serve()
        assert lease_of(world) == LeaseSeen(ENDPOINT, 2, False)
        with world.connect() as client:
            assert client.set("a", "b"), "its first proof came at once"


def test_an_endpoint_that_is_not_served_can_be_told(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        asyncio.run(world.control().drop(ENDPOINT))
        wait_until(lambda: not world.status().endpoints)
        tell(world, 1, needed=False, named=True)
        assert lease_of(world) == LeaseSeen(ENDPOINT, 1, True)
        tell(world, 2, needed=True, named=True)
        assert lease_of(world) == LeaseSeen(ENDPOINT, 2, False), "it has no clients: it begins with a proof"


@both_servers
def test_a_handoff_with_the_proofs_given_up_has_no_errors(kind: ServerKind, tmp_path: Path) -> None:
    """The former primary attaches only after the release."""
    with leased(kind, tmp_path) as world, Writers(world, count=3) as writers:
        for _ in range(3):
            version = lease_of(world).version
            tell(world, version + 1, needed=False, named=True, generation=world.generation)
            result = world.hand_off()
            print(f"pause {result.pause_ms} ms")
            tell(world, version + 2, needed=True, named=True, generation=world.generation)
            wait_until(lambda: not lease_of(world).is_waived, state=lambda: world.status())
    assert writers.errors == []


def test_a_waiver_of_a_later_generation_does_not_open_the_former_primary(tmp_path: Path) -> None:
    """The leader reaches the process, whose target is outdated, before it has told it the new one."""
    with leased(ServerKind.VALKEY, tmp_path) as world:
        park(world)
        time.sleep(PROOF_S - HOLD_BEFORE_S + 0.5)
        tell(world, 3, needed=False, named=True, generation=2)
        with world.connect(socket_timeout=1.0) as client, pytest.raises(redis.TimeoutError):
            client.set("a", "lost")
        world.replica.ask("REPLICAOF", "NO", "ONE")
        world.serve(target=world.target(world.replica, 2))
        with world.connect() as client:
            assert client.set("a", "kept")
        with world.replica.client("application") as direct:
            assert direct.get("a") == "kept"
        assert world.primary.ask("EXISTS", "a", user="application") == 0


def test_a_reply_from_a_time_without_a_proof_is_not_passed_on_when_there_is_one_again(tmp_path: Path) -> None:
    """A slow client: the reply waits at the server's side of the process. Another server may have been the primary
    meanwhile, and this one again now."""
    with leased(ServerKind.VALKEY, tmp_path) as world, world.connect() as client, world.raw() as slow:
        client.set("big", "x" * 4_000_000)
        slow.sendall(b"AUTH %b\r\n" % world.password.encode() + b"GET big\r\n" * 20 + b"INCR n\r\n")
        wait_until(lambda: client.get("n") == "1", state=lambda: client.get("n"))
        park(world)
        time.sleep(PROOF_S + SLACK_S)
        world.replica.ask("REPLICAOF", world.primary.address, world.primary.port)
        wait_until(lambda: client.set("a", "b") is True)
        received = b""
        while data := slow.recv(1 << 20):
            received = received[-100:] + data
        assert not received.endswith(b":1\r\n")
