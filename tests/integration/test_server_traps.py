"""Server behavior that a manager must know: each trap, and how the product's configuration or order of commands avoids
it."""

import socket
import threading
from pathlib import Path

import pytest
import redis

from shardwright.model.database import Persistence, ServerKind
from shardwright.model.seen import ServerSeen
from shardwright.server.parse import parse_info
from tests.integration.server_harness import (
    RunningServer,
    attach,
    both_servers,
    free_port,
    restart_server,
    running,
    server_settings,
    start_server,
    wait_until,
)

pytestmark = pytest.mark.server


def _seen(server: RunningServer) -> ServerSeen:
    from datetime import UTC, datetime

    with server.client("observation") as client:
        client.set_response_callback("INFO", lambda text, **_: text)
        text = client.execute_command("INFO")
    return parse_info(text, shard_uid=server.file.shard_uid, incarnation=1, at=datetime.now(UTC))


def _set(server: RunningServer, key: str, value: str = "v") -> None:
    server.ask("SET", key, value, user="application")


@both_servers
def test_a_server_starts_fenced_and_opens_on_command(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:
        assert _seen(server).is_fenced
        with pytest.raises(redis.exceptions.ResponseError, match="NOREPLICAS"):
            _set(server, "k")
        server.unfence()
        assert not _seen(server).is_fenced
        _set(server, "k")


_HIDES_ITS_REFUSAL = "redis.pcall('INCR', KEYS[1]) return 'OK'"


@both_servers
@pytest.mark.parametrize("ends_clients_first", [False, True])
def test_a_postponed_script_hides_its_servers_demotion_unless_its_client_has_ended(
    kind: ServerKind, tmp_path: Path, ends_clients_first: bool
) -> None:
    with (
        running(kind, tmp_path / "a", is_open=True) as old,
        running(kind, tmp_path / "b", shard_uid=2, is_open=True) as new,
        old.client("application") as client,
    ):
        answers: list[object] = []

        def ask() -> None:
            try:
                answers.append(client.eval(_HIDES_ITS_REFUSAL, 1, "n"))
            except redis.exceptions.ConnectionError as ended:
                answers.append(type(ended))

        client.ping()
        old.ask("CLIENT", "PAUSE", "60000", "WRITE")
        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: "cmd=eval" in str(old.ask("CLIENT", "LIST")))
        if ends_clients_first:
            assert old.ask("CLIENT", "KILL", "USER", "application") == 1
        attach(old, new)
        old.ask("CLIENT", "UNPAUSE")
        asking.join(10)
        assert answers == [redis.exceptions.ConnectionError if ends_clients_first else "OK"]
        wait_until(lambda: _seen(old).is_link_up)
        assert _seen(old).keys == 0


@both_servers
def test_a_postponed_script_hides_the_fence_under_which_the_pause_expires(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, is_open=True) as server, server.client("application") as client:
        server.ask("CLIENT", "PAUSE", "1000", "WRITE")
        server.ask("CONFIG", "SET", "min-replicas-to-write", "4096")
        assert client.eval(_HIDES_ITS_REFUSAL, 1, "n") in ("OK", b"OK")
        assert _seen(server).keys == 0
        with pytest.raises(redis.exceptions.ResponseError, match="NOREPLICAS"):
            client.incr("n")


@both_servers
def test_the_fence_is_visible_on_a_replica_too(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path / "a", is_open=True) as primary, running(kind, tmp_path / "b", shard_uid=2) as replica:
        attach(replica, primary)
        assert (_seen(primary).is_fenced, _seen(replica).is_fenced) == (False, True)
        replica.unfence()
        assert not _seen(replica).is_fenced


@both_servers
def test_a_paused_server_that_is_demoted_applies_nothing_until_the_pause_ends(kind: ServerKind, tmp_path: Path) -> None:
    with (
        running(kind, tmp_path / "a", is_open=True) as paused,
        running(kind, tmp_path / "b", shard_uid=2, is_open=True) as primary,
    ):
        attach(primary, paused)
        wait_until(lambda: _seen(primary).is_link_up)
        paused.ask("CLIENT", "PAUSE", "60000", "WRITE")
        primary.ask("REPLICAOF", "NO", "ONE")
        attach(paused, primary)
        _set(primary, "k")
        wait_until(lambda: int(paused.info()["slave_read_repl_offset"]) >= _seen(primary).offset)
        after = _seen(paused)
        assert (after.is_link_up, after.keys) == (True, 0)
        assert after.offset < _seen(primary).offset  # the offset contains what it has applied, not what it has read
        paused.ask("CLIENT", "UNPAUSE")
        wait_until(lambda: _seen(paused).keys == 1, what=lambda: _seen(paused))


@both_servers
def test_a_lag_of_zero_silently_opens_the_fence(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:
        server.ask("CONFIG", "SET", "min-replicas-max-lag", "0")
        _set(server, "k")
        assert not _seen(server).is_fenced  # and the product notices that the server is open


@both_servers
def test_a_promoted_server_keeps_its_fence(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path / "a", is_open=True) as old, running(kind, tmp_path / "b", shard_uid=2) as new:
        attach(new, old)
        new.ask("REPLICAOF", "NO", "ONE")
        assert _seen(new).is_fenced
        with pytest.raises(redis.exceptions.ResponseError, match="NOREPLICAS"):
            _set(new, "k")


@both_servers
def test_the_offset_moves_despite_a_pause_and_a_fence(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path / "a", is_open=True) as primary, running(kind, tmp_path / "b", shard_uid=2) as replica:
        primary.ask("CONFIG", "SET", "repl-ping-replica-period", "1")
        attach(replica, primary)
        primary.ask("CLIENT", "PAUSE", "60000", "WRITE")
        primary.ask("CONFIG", "SET", "min-replicas-to-write", "9999")
        before = _seen(primary).offset
        wait_until(lambda: _seen(primary).offset > before)  # the server's own PINGs
        primary.ask("CLIENT", "UNPAUSE")


@both_servers
def test_a_temporary_fence_is_lost_in_a_restart_but_the_products_is_in_the_file(kind: ServerKind, tmp_path: Path) -> None:
    server = start_server(kind, tmp_path, is_open=True)
    try:
        server.ask("CONFIG", "SET", "min-replicas-to-write", "5")
        server.kill()
        server = restart_server(server, port=free_port(server.address))
        assert server.ask("CONFIG", "GET", "min-replicas-to-write") == ["min-replicas-to-write", "9999"]
        assert _seen(server).is_fenced
    finally:
        server.stop()


@both_servers
def test_replicas_show_the_address_that_they_announce(kind: ServerKind, tmp_path: Path) -> None:
    with (
        running(kind, tmp_path / "a", is_open=True) as primary,
        running(kind, tmp_path / "b", shard_uid=2, address="127.0.0.2") as second,
        running(kind, tmp_path / "c", shard_uid=3, address="127.0.0.3") as third,
    ):
        attach(second, primary)
        attach(third, primary)
        found = {(replica.address, replica.port) for replica in _seen(primary).replicas}
        assert found == {("127.0.0.2", second.port), ("127.0.0.3", third.port)}


@both_servers
def test_a_primary_without_persistence_that_restarts_on_its_port_empties_its_replica(
    kind: ServerKind, tmp_path: Path
) -> None:
    with running(kind, tmp_path / "b", shard_uid=2) as replica:
        primary = start_server(kind, tmp_path / "a", is_open=True)
        try:
            _set(primary, "k")
            attach(replica, primary)
            assert _seen(replica).keys == 1
            primary.kill()
            primary = restart_server(primary)  # although it is fenced
            wait_until(lambda: _seen(replica).is_link_up and _seen(replica).keys == 0, what=lambda: _seen(replica))
        finally:
            primary.stop()


@both_servers
def test_on_a_new_port_it_cannot(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path / "b", shard_uid=2) as replica:
        primary = start_server(kind, tmp_path / "a", is_open=True)
        try:
            _set(primary, "k")
            attach(replica, primary)
            old_port = primary.port
            primary.kill()
            wait_until(lambda: not _seen(replica).is_link_up)
            primary = restart_server(primary, port=free_port(primary.address))
            assert primary.port != old_port
            # It still tries the old port in vain; a refused attempt is visible as the time since the link went down.
            wait_until(lambda: int(replica.info()["master_link_down_since_seconds"]) >= 2)
            assert (_seen(replica).keys, _seen(replica).is_link_up) == (1, False)
            assert _seen(primary).keys == 0
        finally:
            primary.stop()


@both_servers
@pytest.mark.parametrize("had_data", [False, True])
def test_a_copy_without_persistence_leaves_no_file_and_loads_none(kind: ServerKind, had_data: bool, tmp_path: Path) -> None:
    replica = start_server(kind, tmp_path / "b", shard_uid=2, is_open=True)
    try:
        if had_data:
            _set(replica, "older")  # then the new stream is loaded from a file
        with running(kind, tmp_path / "a", is_open=True) as primary:
            _set(primary, "k")
            attach(replica, primary)
            assert _seen(replica).keys == 1
        replica.stop()
        files = sorted(path.name for path in replica.directory.iterdir())
        assert files == ["output.log", "server.conf", "server.log"]
        replica = restart_server(replica, port=free_port(replica.address))
        assert _seen(replica).keys == 0
    finally:
        replica.stop()


@both_servers
@pytest.mark.parametrize("persistence", [Persistence.AOF, Persistence.SNAPSHOT])
def test_a_copy_with_persistence_has_its_data_after_a_clean_stop(
    kind: ServerKind, persistence: Persistence, tmp_path: Path
) -> None:
    from shardwright.model.database import SnapshotRule

    settings = server_settings(persistence, snapshot_rules=(SnapshotRule(3600, 1),))
    server = start_server(kind, tmp_path, settings=settings, is_open=True)
    try:
        _set(server, "k")
        server.stop()
        server = restart_server(server, port=free_port(server.address))
        assert _seen(server).keys == 1
    finally:
        server.stop()


def test_a_scan_continues_on_another_copy(tmp_path: Path) -> None:
    kind = ServerKind.VALKEY  # Redis has no such setting: there a SCAN must start again
    with running(kind, tmp_path / "a", is_open=True) as primary, running(kind, tmp_path / "b", shard_uid=2) as replica:
        wanted = {f"key:{number}" for number in range(2000)}
        with primary.client("application") as client:
            client.execute_command("MSET", *(part for key in sorted(wanted) for part in (key, "v")))
        attach(replica, primary)
        found: set[str] = set()
        cursor, server = "0", primary
        while True:
            with server.client("application") as client:
                client.set_response_callback("SCAN", lambda answer, **_: answer)
                cursor, keys = client.execute_command("SCAN", cursor, "COUNT", "50")
            found.update(keys)
            if len(found) > 1000:
                server = replica
            if cursor == "0":
                break
        assert server is replica
        assert found == wanted


@both_servers
def test_a_loaded_script_is_not_replicated(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path / "a", is_open=True) as old, running(kind, tmp_path / "b", shard_uid=2) as new:
        digest = old.ask("SCRIPT", "LOAD", "return 1", user="application")
        attach(new, old)
        new.ask("REPLICAOF", "NO", "ONE")
        with pytest.raises(redis.exceptions.NoScriptError):
            new.ask("EVALSHA", str(digest), "0", user="application")


@both_servers
def test_commands_of_ended_connections_that_a_pause_has_postponed_are_dropped(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, is_open=True) as server:
        failures: list[Exception] = []

        def write() -> None:
            try:
                _set(server, "late")
            except redis.exceptions.ConnectionError as error:
                failures.append(error)

        server.ask("CLIENT", "PAUSE", "60000", "WRITE")
        writer = threading.Thread(target=write)
        writer.start()
        wait_until(lambda: server.info()["blocked_clients"] == "1", what=server.info)
        assert server.ask("CLIENT", "KILL", "USER", "application") == 1
        writer.join(10)
        assert failures
        server.ask("CLIENT", "UNPAUSE")
        assert _seen(server).keys == 0


@both_servers
def test_ending_the_older_sessions_keeps_the_calling_one(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server, _raw(server) as old, _raw(server) as new:
        new.sendall(b"CLIENT KILL USER management SKIPME yes\r\n")
        assert new.recv(100) == b":1\r\n"
        new.sendall(b"PING\r\n")
        assert new.recv(100) == b"+PONG\r\n"
        assert old.recv(100) == b""


@both_servers
@pytest.mark.parametrize("who_sends_first", ["new", "old"])
def test_unread_commands_of_an_ended_session(kind: ServerKind, who_sends_first: str, tmp_path: Path) -> None:
    """The server is stopped, both sessions write into its socket buffers, then it wakes. It may read either one first
    (Valkey does not keep their order), so the older command may still be executed; but after the answer to CLIENT KILL
    nothing changes. Hence a successor observes only after that answer."""
    with running(kind, tmp_path) as server, _raw(server) as old, _raw(server) as new:
        ending = b"CLIENT KILL USER management SKIPME yes\r\n"
        server.freeze()
        try:
            late = b"REPLICAOF 127.0.0.1 1\r\n"
            for sender, command in (
                [(new, ending), (old, late)] if who_sends_first == "new" else [(old, late), (new, ending)]
            ):
                sender.sendall(command)
        finally:
            server.thaw()
        assert new.recv(100) == b":1\r\n"
        role = server.info()["role"]
        assert {server.info()["role"] for _ in range(50)} == {role}


def _raw(server: RunningServer) -> socket.socket:
    connection = socket.create_connection((server.address, server.port), timeout=10)
    connection.sendall(b"AUTH management test-management\r\n")
    assert connection.recv(100) == b"+OK\r\n"
    return connection
