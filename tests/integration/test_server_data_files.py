"""A server that dies during a change of its database's persistence returns with its newest data."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from shardwright.model.database import AofPolicy, Persistence, ServerKind, SnapshotRule
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

SETTINGS = {
    persistence: server_settings(persistence, snapshot_rules=(SnapshotRule(3600, 1),)) for persistence in Persistence
}


def _set(server: RunningServer, key: str) -> None:
    server.ask("SET", key, "v", user="application")


def _keys(server: RunningServer) -> set[str]:
    answer = server.ask("KEYS", "*", user="application")
    assert isinstance(answer, list)
    return set(answer)


def _is_at_rest(server: RunningServer) -> bool:
    return server.info()["rdb_bgsave_in_progress"] == "0"


def _has_two_keys(server: RunningServer) -> bool:
    return server.info().get("db0", "").startswith("keys=2")


def _saved(server: RunningServer) -> None:
    server.ask("BGSAVE")
    wait_until(partial(_is_at_rest, server))


@both_servers
def test_killed_after_the_change_to_an_append_only_file_was_recorded(kind: ServerKind, tmp_path: Path) -> None:
    server = start_server(kind, tmp_path, settings=SETTINGS[Persistence.SNAPSHOT], is_open=True)
    try:
        _set(server, "k")
        _saved(server)
        server.kill()
        server = restart_server(server, settings=SETTINGS[Persistence.AOF], is_open=True)
        assert _keys(server) == {"k"}
        _set(server, "k2")
        server.kill()
        server = restart_server(server)
        assert _keys(server) == {"k", "k2"}
    finally:
        server.stop()


@both_servers
def test_data_from_a_snapshot_has_its_replication_history_and_data_from_an_append_only_file_does_not(
    kind: ServerKind, tmp_path: Path
) -> None:
    for persistence in (Persistence.SNAPSHOT, Persistence.AOF):
        directory = tmp_path / persistence
        server = start_server(kind, directory / "a", settings=SETTINGS[persistence], is_open=True)
        try:
            with running(kind, directory / "b", shard_uid=2) as replica:
                attach(replica, server)
                wait_until(partial(_is_at_rest, server))
                _set(server, "k")
                _saved(server)
                before = server.info()
                _set(server, "k2")
                wait_until(partial(_has_two_keys, replica))
                server.kill()
                server = restart_server(server, port=free_port(server.address))  # where the replica does not search
                after = server.info()
                if persistence is Persistence.AOF:
                    assert after["second_repl_offset"] == "-1"
                    continue
                assert after["master_replid2"] == before["master_replid"] == replica.info()["master_replid"]
                assert int(after["master_repl_offset"]) == int(after["second_repl_offset"]) - 1
                assert int(after["master_repl_offset"]) <= int(before["master_repl_offset"])
                assert int(replica.info()["slave_repl_offset"]) > int(after["master_repl_offset"])
        finally:
            server.stop()


@both_servers
def test_transactions_and_scripts_return_from_an_append_only_file(kind: ServerKind, tmp_path: Path) -> None:
    """Redis 7.0 loads the file as the default user, and skips each transaction that this user may not execute."""
    settings = server_settings(Persistence.AOF, aof_policy=AofPolicy.ALWAYS)
    server = start_server(kind, tmp_path, settings=settings, is_open=True)
    try:
        with server.client("application") as client:
            pipe = client.pipeline(transaction=True)
            pipe.set("one", 1)
            pipe.rpush("two", 2)
            pipe.execute()
            client.eval("redis.call('SET', KEYS[1], 3) redis.call('SET', KEYS[2], 4)", 2, "three", "four")
        server.kill()
        server = restart_server(server)
        assert _keys(server) == {"one", "two", "three", "four"}
    finally:
        server.stop()


@both_servers
def test_an_outdated_append_only_file_does_not_return(kind: ServerKind, tmp_path: Path) -> None:
    server = start_server(kind, tmp_path, settings=SETTINGS[Persistence.AOF], is_open=True)
    try:
        _set(server, "old")
        server.ask("CONFIG", "SET", "appendonly", "no")
        server.ask("DEL", "old", user="application")
        _set(server, "new")
        for path in (tmp_path / "appendonlydir").iterdir():
            os.utime(path, (time.time() - 100,) * 2)
        _saved(server)
        server.kill()
        server = restart_server(server)
        assert _keys(server) == {"new"}
    finally:
        server.stop()


@both_servers
def test_killed_before_the_first_snapshot_was_complete(kind: ServerKind, tmp_path: Path) -> None:
    server = start_server(kind, tmp_path, settings=SETTINGS[Persistence.AOF], is_open=True)
    try:
        _set(server, "k")
        server.kill()
        server = restart_server(server, settings=SETTINGS[Persistence.SNAPSHOT])
        assert _keys(server) == {"k"}
    finally:
        server.stop()


@pytest.mark.parametrize("kept", [Persistence.AOF, Persistence.SNAPSHOT])
@both_servers
def test_killed_before_it_learned_that_persistence_is_disabled(kind: ServerKind, kept: Persistence, tmp_path: Path) -> None:
    server = start_server(kind, tmp_path, settings=SETTINGS[kept], is_open=True)
    try:
        _set(server, "k")
        if kept is Persistence.SNAPSHOT:
            _saved(server)
        server.kill()
        server = restart_server(server, settings=SETTINGS[Persistence.DISABLED], kept=kept)
        assert _keys(server) == {"k"}
        server.ask("CONFIG", "SET", "appendonly", "no")
        server.kill()
        server = restart_server(server, kept=Persistence.DISABLED)
        assert _keys(server) == set()
    finally:
        server.stop()
