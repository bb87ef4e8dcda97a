"""Servers accept every configuration file of the product, and every server user can do exactly what it needs."""

from pathlib import Path

import pytest
import redis

from shardwright.model.database import Persistence, ServerKind, SnapshotRule
from shardwright.server.config import MIB, settings_commands
from tests.integration.server_harness import RunningServer, attach, both_servers, running, server_settings

pytestmark = pytest.mark.server

RULES = (SnapshotRule(3600, 1), SnapshotRule(300, 100))

FORBIDDEN = [
    *("REPLICAOF NO ONE", "SLAVEOF NO ONE", "FAILOVER", "PSYNC ? -1", "SYNC", "REPLCONF listening-port 1", "ROLE"),
    *("CONFIG GET masterauth", "CONFIG SET min-replicas-to-write 0", "CONFIG REWRITE", "CONFIG RESETSTAT"),
    *("CLIENT PAUSE 1", "CLIENT UNPAUSE", "CLIENT KILL USER management", "CLIENT UNBLOCK 1", "CLIENT NO-EVICT on"),
    *("ACL SETUSER application +@all", "ACL DELUSER management", "ACL LIST", "ACL GETUSER management", "ACL USERS"),
    *("ACL LOAD", "ACL SAVE", "ACL LOG", "ACL DRYRUN management PING"),
    *("BGSAVE", "SAVE", "BGREWRITEAOF", "LASTSAVE", "SHUTDOWN NOSAVE"),
    *("MIGRATE 127.0.0.1 1 k 0 1", "RESTORE-ASKING k 0 x", "MODULE LIST", "MODULE LOAD /x", "MONITOR"),
    *("CLUSTER RESET", "CLUSTER MEET 127.0.0.1 1", "CLUSTER FAILOVER", "CLUSTER REPLICATE x", "CLUSTER FORGET x"),
    *("SLOWLOG RESET", "LATENCY RESET", "SCRIPT DEBUG YES", "PFSELFTEST", "PFDEBUG ENCODING k"),
]
ALLOWED = [
    *("PING", "INFO", "COMMAND COUNT", "CLIENT LIST", "CLIENT INFO", "CLIENT ID", "CLIENT GETNAME", "CLIENT SETNAME x"),
    *("CLIENT TRACKING off", "SLOWLOG GET", "SLOWLOG LEN", "LATENCY LATEST", "LATENCY DOCTOR"),
    *("LATENCY HISTORY x", "LATENCY HISTOGRAM", "MEMORY USAGE k", "MEMORY STATS", "OBJECT ENCODING k", "LOLWUT", "WAIT 0 1"),
    *("SET k v", "GET k", "EVAL return(1) 0", "FUNCTION LIST", "SCRIPT EXISTS x", "PUBLISH c m", "ACL WHOAMI", "FLUSHALL"),
    *("DBSIZE", "SCAN 0", "KEYS *", "SORT k2", "SELECT 3", "RESET", "CLIENT REPLY ON", "SWAPDB 0 1"),
]
ALLOWED_BY_KIND = {
    ServerKind.VALKEY: ["CLIENT NO-TOUCH off", "COMMANDLOG GET 1 slow", "COMMANDLOG LEN slow"],
    ServerKind.REDIS: [],
}


@both_servers
@pytest.mark.parametrize("persistence", list(Persistence))
def test_the_file_is_accepted_whatever_the_directory_is_called(
    kind: ServerKind, persistence: Persistence, tmp_path: Path
) -> None:
    settings = server_settings(persistence, maxmemory_bytes=64 * MIB, snapshot_rules=RULES)
    with running(kind, tmp_path / 'a "strange\\ $(name) é #1', settings=settings) as server:
        assert server.info()["min_slaves_good_slaves"] == "0"
        assert server.ask("CONFIG", "GET", "dir") == ["dir", server.file.directory]
        assert server.info()["aof_enabled"] == ("1" if persistence == Persistence.AOF else "0")


@both_servers
def test_settings_at_run_time_equal_those_of_the_file(kind: ServerKind, tmp_path: Path) -> None:
    def stated(server: RunningServer) -> list[object]:
        names = ("save", "appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "repl-backlog-size")
        return [server.ask("CONFIG", "GET", name) for name in names]

    with running(kind, tmp_path / "changed") as changed:
        for persistence in (
            Persistence.AOF,
            Persistence.SNAPSHOT,
            Persistence.DISABLED,
            Persistence.SNAPSHOT,
            Persistence.AOF,
        ):
            settings = server_settings(
                persistence, maxmemory_bytes=320 * MIB, eviction_policy="allkeys-lru", snapshot_rules=RULES
            )
            for command in settings_commands(settings) * 2:
                assert changed.ask(*command) == "OK"
            with running(kind, tmp_path / f"{persistence}", settings=settings) as fresh:
                assert stated(changed) == stated(fresh)


@both_servers
def test_forbidden_commands_of_applications(kind: ServerKind, tmp_path: Path) -> None:
    script = "local r = redis.pcall(unpack(ARGV)); return type(r) == 'table' and r.err and 'REFUSED ' .. r.err or 'DONE'"
    library = f"#!lua name=l\nredis.register_function('f', function(keys, ARGV) {script} end)"
    with running(kind, tmp_path, is_open=True) as server, server.client("application") as client:
        client.execute_command("SET", "k", "v")
        client.execute_command("FUNCTION", "LOAD", library)
        for line in FORBIDDEN:
            command = line.split()
            with pytest.raises(redis.exceptions.ResponseError, match=r"permissions|MODULE command not allowed"):
                client.execute_command(*command)
            client.execute_command("MULTI")
            with pytest.raises(redis.exceptions.ResponseError):
                client.execute_command(*command)
            client.execute_command("DISCARD")
            for call in (("EVAL", script, "0"), ("FCALL", "f", "0")):
                answer = str(client.execute_command(*call, *command))
                assert answer.startswith("REFUSED"), (line, answer)
        info = server.info()
        assert (info["role"], info["rdb_saves"], info["aof_rewrites"]) == ("master", "0", "0")
        assert client.execute_command("GET", "k") == "v"


@both_servers
def test_allowed_commands_of_applications(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, is_open=True) as server:
        for line in [*ALLOWED, *ALLOWED_BY_KIND[kind]]:
            server.ask(*line.split(), user="application")


@both_servers
@pytest.mark.parametrize("user", ["application", "replication", "observation", "management"])
def test_debugging_is_disabled_for_every_user(kind: ServerKind, user: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server, pytest.raises(redis.exceptions.ResponseError, match="DEBUG command not allowed"):
        server.ask("DEBUG", "SLEEP", "0", user=user)


@both_servers
def test_there_is_no_access_without_a_login(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:
        for credentials in ({"username": None, "password": None}, {"username": "default", "password": ""}):
            with server.client(**credentials) as client, pytest.raises(redis.exceptions.AuthenticationError):
                client.execute_command("PING")
        with server.client("application", password="wrong") as client, pytest.raises(redis.exceptions.AuthenticationError):
            client.execute_command("PING")


@both_servers
@pytest.mark.parametrize(
    ("user", "refused"),
    [
        ("replication", ["GET k", "SET k v", "INFO", "CONFIG GET *", "REPLICAOF NO ONE", "CLIENT LIST"]),
        ("observation", ["GET k", "SET k v", "CONFIG GET *", "CLIENT LIST", "REPLICAOF NO ONE", "PSYNC ? -1"]),
        (
            "management",
            ["GET k", "SET k v", "FLUSHALL", "EVAL return(1) 0", "SHUTDOWN", "ACL LIST", "KEYS *"],
        ),
    ],
)
def test_the_other_users_can_do_only_what_they_need(kind: ServerKind, user: str, refused: list[str], tmp_path: Path) -> None:
    with running(kind, tmp_path, is_open=True) as server, server.client(user) as client:
        assert client.execute_command("PING")
        for line in refused:
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*line.split())


@both_servers
def test_a_replica_logs_in_as_the_replication_user(kind: ServerKind, tmp_path: Path) -> None:
    with (
        running(kind, tmp_path / "a", is_open=True) as primary,
        running(kind, tmp_path / "b", shard_uid=2) as replica,
    ):
        primary.ask("SET", "k", "v", user="application")
        attach(replica, primary)
        listed = str(primary.ask("CLIENT", "LIST", "TYPE", "replica"))
        assert "user=replication" in listed
        assert replica.ask("GET", "k", user="application") == "v"
