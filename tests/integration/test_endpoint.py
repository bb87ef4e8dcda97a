"""The endpoint process with real servers: what clients observe in normal operation and in a handoff."""

import socket
import time
from pathlib import Path

import pytest
import redis

from shardwright.model.database import ServerKind
from shardwright.model.ids import NodeUid
from shardwright.model.seen import EndpointState
from testkit.deadlines import Stopwatch
from tests.integration.endpoint_harness import ENDPOINT, World, Writers, endpoint_world, wait_until
from tests.integration.server_harness import both_servers

pytestmark = pytest.mark.server


def say(connection: socket.socket, line: bytes, until: bytes) -> bytes:
    """Send a line, and read until these bytes end the answer, or the connection ends."""
    connection.sendall(line)
    answer = b""
    while not answer.endswith(until) or not until:
        data = connection.recv(65536)
        if not data:
            return answer
        answer += data
    return answer


@both_servers
@pytest.mark.parametrize("protocol", [2, 3])
def test_ordinary_commands_are_forwarded(kind: ServerKind, tmp_path: Path, protocol: int) -> None:
    with endpoint_world(kind, tmp_path) as world, world.connect(protocol=protocol, db=3, client_name="me") as client:
        assert client.ping()
        assert client.set("a", "1")
        assert client.incr("a") == 2
        client.hset("h", mapping={"x": 1, "y": 2})
        assert client.hgetall("h") == {"x": "1", "y": "2"}
        assert client.client_getname() == "me"
        pipe = client.pipeline(transaction=False)
        for n in range(3000):
            pipe.rpush("list", n)
        assert pipe.execute()[-1] == 3000
        assert client.lrange("list", 0, -1) == [str(n) for n in range(3000)]
        big = "x" * 3_000_000
        client.set("big", big)
        assert client.get("big") == big
        with client.pipeline() as pipe:
            pipe.set("t", 1)
            pipe.incr("t")
            assert pipe.execute() == [True, 2]
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            client.incr("list")
        client.xadd("s", {"k": "v"})
        assert client.xread({"s": 0}, block=100)
        assert client.blpop(["none"], timeout=0.05) is None


@both_servers
def test_a_handoff_is_not_noticed(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world:
        with Writers(world, 4) as writers, world.connect(protocol=3, single_connection_client=True) as idle:
            idle.ping()
            for turn in range(6):
                wait_until(lambda: len(writers.acknowledged) == 4 or bool(writers.errors))
                result = world.hand_off()
                assert result.generation == turn + 2
                assert result.pause_ms > 0
            assert idle.ping()
        writers.check()
        print(f"{kind}: slowest call {writers.slowest_s * 1000:.1f} ms, {sum(writers.acknowledged.values())} writes")


@both_servers
def test_an_open_transaction_survives_a_handoff(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world, world.raw() as client:
        assert say(client, b"AUTH client-password\r\nSELECT 2\r\n", b"+OK\r\n+OK\r\n")
        assert say(client, b"MULTI\r\nINCR n\r\n", b"+QUEUED\r\n") == b"+OK\r\n+QUEUED\r\n"
        world.hand_off()
        assert say(client, b"INCR n\r\n", b"\n") == b"+QUEUED\r\n"
        world.hand_off()
        assert say(client, b"EXEC\r\nGET n\r\n", b"$1\r\n2\r\n") == b"*2\r\n:1\r\n:2\r\n$1\r\n2\r\n"
        assert world.primary.ask("CONFIG", "GET", "databases")
        assert b"db=2" in say(client, b"CLIENT INFO\r\n", b"\n")


@both_servers
def test_connection_state_survives_a_handoff(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world:
        client = world.connect(protocol=3, db=5, client_name="mover", single_connection_client=True)
        client.set("x", "1")
        before = client.client_info()
        world.hand_off()
        after = client.client_info()
        kept = [key for key in ("name", "db", "resp", "lib-name", "lib-ver", "user") if before.get(key) != after.get(key)]
        assert kept == []
        assert after["db"] == 5
        assert client.get("x") == "1"
        client.close()


@both_servers
def test_settings_of_a_transaction_survive_a_handoff(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world, world.raw() as client, world.raw() as tracker:
        say(client, b"AUTH client-password\r\n", b"+OK\r\n")
        say(tracker, b"AUTH client-password\r\n", b"+OK\r\n")
        say(client, b"MULTI\r\nCLIENT SETNAME mover\r\nSELECT 4\r\nSELECT 99\r\nGET k\r\nEXEC\r\n", b"$-1\r\n")
        say(tracker, b"HELLO 3\r\nMULTI\r\nCLIENT TRACKING ON\r\nGET k\r\nEXEC\r\n", b"_\r\n")
        world.hand_off()
        after = say(client, b"CLIENT INFO\r\n", b"\n")
        assert [word for word in (b"name=mover", b"db=4") if word not in after] == []
        assert tracker.recv(100) == b""  # it would no longer receive notifications


@both_servers
def test_refused_commands_go_to_the_new_primary(kind: ServerKind, tmp_path: Path) -> None:
    """The endpoint does not know the hold: the old primary refuses, and no client notices."""
    with endpoint_world(kind, tmp_path) as world:
        with Writers(world, 3) as writers, world.raw() as pipeline:
            say(pipeline, b"AUTH client-password\r\nSET p 0\r\n", b"+OK\r\n+OK\r\n")
            wait_until(lambda: len(writers.acknowledged) == 3)
            world.swap_roles(ends_clients=False)
            pipeline.sendall(b"SET p 1\r\nMULTI\r\nINCR p\r\nINCR p\r\nEXEC\r\nGET p\r\nINCR p\r\n")
            world.generation += 1
            world.release(world.target(world.primary, world.generation))
            expected = b"+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:2\r\n:3\r\n$1\r\n3\r\n:4\r\n"
            assert say(pipeline, b"", b":4\r\n") == expected
        writers.check()


@both_servers
def test_a_client_that_waits_for_a_hold_is_connected_ahead(kind: ServerKind, tmp_path: Path) -> None:
    """The connection exists before the hold ends, but nothing is sent over it earlier. An undo closes it."""

    def connections(world: World) -> int:
        listed = world.replica.ask("CLIENT", "LIST", "TYPE", "normal")
        assert isinstance(listed, str)
        return len(listed.splitlines())

    with endpoint_world(kind, tmp_path) as world, world.raw() as waiting, world.raw() as idle:
        for client in (waiting, idle):
            say(client, b"AUTH client-password\r\nSET k 1\r\n", b"+OK\r\n+OK\r\n")
        before = connections(world)
        assert world.hold().is_drained
        waiting.sendall(b"INCR k\r\n")
        wait_until(lambda: connections(world) == before + 1, state=lambda: (before, connections(world)))
        world.release(world.target(world.primary, world.generation))
        assert say(waiting, b"", b":2\r\n") == b":2\r\n"
        wait_until(lambda: connections(world) == before, state=lambda: (before, connections(world)))
        world.hold()
        waiting.sendall(b"INCR k\r\n")
        wait_until(lambda: connections(world) == before + 1)
        world.swap_roles()
        world.generation += 1
        world.release(world.target(world.primary, world.generation))
        assert say(waiting, b"", b":3\r\n") == b":3\r\n"
        assert say(idle, b"INCR k\r\n", b":4\r\n") == b":4\r\n"


@both_servers
def test_the_endpoint_releases_a_hold_by_itself(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world, world.connect(single_connection_client=True) as client:
        client.set("k", 1)
        assert world.hold().is_drained
        watch = Stopwatch()
        client.incr("k")
        assert watch.seconds > 1.2
        assert watch.is_within(3.0, clock_s=1.5), watch
        assert world.status().endpoint(ENDPOINT).generation == world.generation
        assert world.hold().was_held
        world.swap_roles()
        assert client.incr("k") == 3
        seen = world.status().endpoint(ENDPOINT)
        assert (seen.generation, seen.held_generation) == (world.generation + 1, None)
        late = world.hold()
        assert not late.was_held


def test_without_a_primary_commands_fail_after_a_while(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, world.connect(single_connection_client=True) as client:
        client.set("k", 1)
        world.primary.kill()
        watch = Stopwatch()
        with pytest.raises(redis.ResponseError, match="no primary is available"):
            client.get("k")
        assert watch.seconds > 3.5
        assert watch.is_within(5.5, clock_s=4.0), watch
        with world.raw() as other:
            reply = say(other, b"AUTH client-password\r\nMULTI\r\nSET a 1\r\nEXEC\r\n", b"errors.\r\n")
            assert reply.count(b"no primary is available") == 2
        world.replica.ask("REPLICAOF", "NO", "ONE")
        world.release(world.target(world.replica, 2))
        assert client.get("k") == "1"
        world.primary = world.replica


def test_a_lost_write_is_reported_once_and_never_repeated(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, world.raw() as client:
        say(client, b"AUTH client-password\r\nSET k 1\r\n", b"+OK\r\n+OK\r\n")
        world.primary.freeze()
        client.sendall(b"INCR k\r\nGET k\r\n")
        wait_until(lambda: world.status().totals["commands"] >= 4)
        world.primary.kill()
        world.replica.ask("REPLICAOF", "NO", "ONE")
        world.release(world.target(world.replica, 2))
        answer = say(client, b"", b"$1\r\n1\r\n")
        assert answer.startswith(b"-ERR shardwright: outcome unknown")
        assert answer.count(b"\r\n") == 3
        assert say(client, b"INCR k\r\n", b"\n") == b":2\r\n"
        world.primary = world.replica


def test_a_busy_command_is_named_and_delays_no_other_client(tmp_path: Path) -> None:
    """The hold ends with its answer: the leader may die, and the server may be too busy to be asked."""
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, world.raw() as client, world.raw() as other:
        say(other, b"AUTH client-password\r\n", b"+OK\r\n")
        say(client, b"AUTH client-password\r\nCLIENT SETNAME slowpoke\r\n", b"+OK\r\n+OK\r\n")
        world.primary.ask("CLIENT", "PAUSE", 600, "WRITE")
        client.sendall(b"SET secret value\r\n")
        wait_until(lambda: world.status().totals["commands"] >= 3)
        result = world.hold()
        assert (result.was_held, result.is_drained) == (True, False)
        assert result.busy[0].command == "SET"
        assert "slowpoke" in result.busy[0].client
        assert result.busy[0].since is not None
        assert world.status().endpoint(ENDPOINT).held_generation is None
        assert say(other, b"GET k\r\n", b"\r\n") == b"$-1\r\n"
        assert say(client, b"", b"\n") == b"+OK\r\n"


@both_servers
def test_state_that_cannot_be_moved_is_closed_cleanly(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world:
        lines = {
            "subscribed": (b"SUBSCRIBE c\r\n", b":1\r\n"),
            "watching": (b"WATCH k\r\n", b"+OK\r\n"),
            "tracking": (b"HELLO 3\r\nCLIENT TRACKING ON\r\n", b"+OK\r\n"),
            "blocked": (b"BLPOP none 0\r\n", b""),
            "ordinary": (b"SET k 1\r\n", b"+OK\r\n"),
        }
        clients = {name: world.raw() for name in lines}
        for name, (line, answer) in lines.items():
            say(clients[name], b"AUTH client-password\r\n", b"+OK\r\n")
            if answer:
                say(clients[name], line, answer)
            else:
                clients[name].sendall(line)
        wait_until(lambda: world.status().totals["commands"] >= 11)
        world.hand_off()
        for name, client in clients.items():
            if name == "ordinary":
                assert say(client, b"GET k\r\n", b"1\r\n") == b"$1\r\n1\r\n"
            else:
                assert client.recv(100) == b"", name  # FIN: no error, no reset
            client.close()


@both_servers
def test_logging_in(kind: ServerKind, tmp_path: Path) -> None:
    with endpoint_world(kind, tmp_path) as world:
        with world.raw() as client:
            assert say(client, b"GET a\r\n", b"\n") == b"-NOAUTH Authentication required.\r\n"
            assert say(client, b"HELLO 3\r\n", b"\n").startswith(b"-NOAUTH HELLO must")
            assert say(client, b"AUTH wrong\r\n", b"\n").startswith(b"-WRONGPASS")
            assert say(client, b"AUTH other client-password\r\n", b"\n").startswith(b"-WRONGPASS")
            assert say(client, b"HELLO 4\r\n", b"\n").startswith(b"-NOPROTO")
            hello = say(client, b"HELLO 3 AUTH default client-password SETNAME me\r\nPING\r\n", b"PONG\r\n")
            assert hello.startswith(b"%7\r\n$6\r\nserver\r\n")
            assert b"$4\r\nrole\r\n$6\r\nmaster\r\n" in hello
            assert say(client, b"CLIENT GETNAME\r\n", b"me\r\n") == b"$2\r\nme\r\n"
            assert say(client, b"CLIENT MAINT_NOTIFICATIONS ON\r\n", b"\n").startswith(b"-ERR unknown subcommand")
            assert say(client, b"CLIENT REPLY OFF\r\n", b"\n").startswith(b"-ERR CLIENT REPLY")
            assert say(client, b"MONITOR\r\n", b"\n").startswith(b"-NOPERM")
            assert say(client, b"CONFIG SET maxmemory 1\r\n", b"\n").startswith(b"-NOPERM")
            assert say(client, b"HELLO 2\r\nHGETALL none\r\n", b"*0\r\n").endswith(b"*0\r\n")
            world.serve(password="another")
            assert say(client, b"PING\r\n", b"\n") == b"+PONG\r\n"
            assert say(client, b"RESET\r\nPING\r\n", b"required.\r\n") == b"+RESET\r\n-NOAUTH Authentication required.\r\n"
            assert say(client, b"AUTH client-password\r\n", b"\n").startswith(b"-WRONGPASS")
            assert say(client, b"AUTH another\r\nQUIT\r\n", b"none") == b"+OK\r\n+OK\r\n"
        with world.raw() as client:
            assert say(client, b"*2\r\n$3\r\nGET\r\nfoo\r\n", b"none") == b"-ERR Protocol error: expected '$', got 'f'\r\n"
        with world.raw() as client:
            assert say(client, b"*1000\r\n", b"none").startswith(b"-ERR Protocol error: unauthenticated multibulk")


def test_a_slow_reader_loses_nothing_and_fills_nothing(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world, world.raw() as client:
        say(client, b"AUTH client-password\r\n", b"+OK\r\n")
        say(client, b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$100000\r\n" + b"x" * 100_000 + b"\r\n", b"+OK\r\n")
        client.setblocking(False)
        request, replies_wanted = b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n" * 1000, 1000
        sent = 0
        watch = Stopwatch()
        while sent < len(request) and watch.is_within(10):
            try:
                sent += client.send(request[sent:])
            except BlockingIOError:
                time.sleep(0.001)
        assert sent == len(request)
        client.settimeout(8)
        size = replies_wanted * (100_000 + len(b"$100000\r\n\r\n"))
        while size > 0:
            data = client.recv(1 << 20)
            assert data
            size -= len(data)
        assert size == 0
        assert say(client, b"PING\r\n", b"\n") == b"+PONG\r\n"
        assert world.status().totals["kept_bytes"] == 0


def test_killed_processes_disconnect_and_terminated_ones_close_cleanly(tmp_path: Path) -> None:
    with endpoint_world(ServerKind.VALKEY, tmp_path) as world:
        with world.raw() as client:
            say(client, b"AUTH client-password\r\nSET k 1\r\n", b"+OK\r\n+OK\r\n")
            world.processes[NodeUid(1)].process.kill()
            world.processes[NodeUid(1)].process.wait(5)
            assert client.recv(10) == b""
        world.start_process()  # replaces the socket of the dead process
        world.serve()
        wait_until(lambda: world.state() is EndpointState.LISTENING, state=world.status)
        with world.raw() as client:
            assert say(client, b"AUTH client-password\r\nGET k\r\n", b"1\r\n") == b"+OK\r\n$1\r\n1\r\n"
            world.processes[NodeUid(1)].process.terminate()
            assert client.recv(10) == b""
        assert world.processes[NodeUid(1)].process.wait(5) == 0
