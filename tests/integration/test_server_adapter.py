"""The adapter with real servers: its observations and commands."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from shardwright.errors import Permanent, Transient
from shardwright.model.database import Persistence, Role, ServerKind, ServerSecrets, SnapshotRule
from shardwright.model.ids import DatabaseUid, ShardUid
from shardwright.model.seen import Health, ServerSeen
from shardwright.server.adapter import ServerAdapter
from shardwright.server.config import MIB
from shardwright.server.observe import OBSERVE_TIMEOUT_S
from shardwright.server.protocol import ServerTarget
from shardwright.server.scripts import end_script
from testkit.deadlines import Stopwatch
from tests.integration.server_harness import (
    both_servers,
    restart_server,
    running,
    server_settings,
    start_server,
)
from tests.integration.server_scenario import run, until

pytestmark = pytest.mark.server


# -- observing -----------------------------------------------------------------------------------------------------------


@both_servers
def test_it_observes_a_server(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, shard_uid=7, incarnation=2, is_open=True) as server:

        async def scenario(servers: ServerAdapter) -> None:
            server.ask("SET", "k", "v", user="application")
            seen = await servers.observe(server.target)
            assert (seen.shard_uid, seen.incarnation, seen.health, seen.role) == (7, 2, Health.OK, Role.PRIMARY)
            assert (seen.keys, seen.is_fenced, seen.kind, seen.version) == (1, False, kind, server.file.version)
            assert seen.unanswered_since is None
            connections = server.info()["total_connections_received"]
            again = await servers.observe(server.target)
            assert again.run_id == seen.run_id
            assert int(server.info()["total_connections_received"]) == int(connections) + 1  # that of this very query

        run(scenario)


def test_a_machine_without_a_route_refuses_nothing() -> None:
    """The kernel reports the error at once and sends nothing. It once counted as proof of a server's end."""

    async def scenario(servers: ServerAdapter) -> None:
        secrets = ServerSecrets(DatabaseUid(1), "a", "b", "c", "d", "e")
        seen = await servers.observe(ServerTarget(ShardUid(1), 1, "255.255.255.255", 20000, secrets))
        assert seen.health is Health.UNREACHABLE
        assert seen.unanswered_since is not None

    run(scenario)


@both_servers
def test_a_dead_server_is_noticed_at_once_and_a_new_one_is_observed(kind: ServerKind, tmp_path: Path) -> None:
    server = start_server(kind, tmp_path)

    async def scenario(servers: ServerAdapter) -> None:
        nonlocal server
        first = await servers.observe(server.target)
        server.kill()
        watch = Stopwatch()
        gone = await servers.observe(server.target)
        assert watch.is_within(OBSERVE_TIMEOUT_S / 2), watch
        assert (gone.health, gone.role) == (Health.REFUSED, None)
        again = await servers.observe(server.target)
        assert gone.unanswered_since == again.unanswered_since is not None
        server = restart_server(server)
        back = await servers.observe(replace(server.target, incarnation=1))
        assert (back.health, back.unanswered_since) == (Health.OK, None)
        assert back.run_id != first.run_id

    try:
        run(scenario)
    finally:
        server.stop()


@both_servers
def test_a_frozen_server_times_out_and_returns(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:

        async def scenario(servers: ServerAdapter) -> None:
            await servers.observe(server.target)
            server.freeze()
            try:
                first = await servers.observe(server.target)
                second = await servers.observe(server.target)
            finally:
                server.thaw()
            assert first.health == second.health == Health.TIMEOUT
            assert first.unanswered_since == second.unanswered_since
            assert first.unanswered_since is not None
            assert first.unanswered_since < first.at
            seen = await until(lambda: servers.observe(server.target), lambda seen: seen.health == Health.OK)
            assert seen.unanswered_since is None

        run(scenario)


@both_servers
def test_a_server_with_a_long_script_counts_as_silent_but_not_as_ended(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:
        server.ask("CONFIG", "SET", "busy-reply-threshold", "50")

        async def scenario(servers: ServerAdapter) -> None:
            await servers.observe(server.target)
            script = asyncio.to_thread(server.ask, "EVAL", "while true do end", "0", user="application")
            running_script = asyncio.ensure_future(script)
            busy = await until(lambda: servers.observe(server.target), lambda seen: seen.health != Health.OK)
            with pytest.raises(Transient, match="BUSY"):
                await servers.manage(server.target)
            server.ask("SCRIPT", "KILL", user="application")
            with pytest.raises(redis.exceptions.ResponseError, match="killed by user"):
                await running_script
            assert busy.health == Health.TIMEOUT
            assert busy.unanswered_since is not None
            assert (await servers.observe(server.target)).health == Health.OK

        run(scenario)


@both_servers
def test_another_server_on_the_port_is_not_used(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:
        secrets = ServerSecrets(server.file.secrets.database_uid, "x", "x", "x", "x", "x")
        stranger = replace(server.target, secrets=secrets)

        async def scenario(servers: ServerAdapter) -> None:
            assert (await servers.observe(stranger)).health == Health.UNREACHABLE
            with pytest.raises(Permanent, match=r"shard 1 at .*: AUTH: WRONGPASS"):
                await servers.manage(stranger)
            # Same database, so the login is valid, but not the intended incarnation.
            with pytest.raises(Transient, match="another server listens there"):
                await servers.manage(replace(server.target, incarnation=9))
            with pytest.raises(Transient, match="another server listens there"):
                await servers.manage(replace(server.target, shard_uid=ShardUid(9)))

        run(scenario)


@both_servers
def test_the_progress_of_a_full_sync_is_visible(kind: ServerKind, tmp_path: Path) -> None:
    with (
        running(kind, tmp_path / "a", is_open=True) as primary,
        running(kind, tmp_path / "b", shard_uid=2) as replica,
    ):
        with primary.client("application") as client:
            value = "x" * 1_000_000
            for number in range(60):
                client.execute_command("SET", f"k{number}", value)
        primary.ask("CONFIG", "SET", "rdb-key-save-delay", "20000")

        async def scenario(servers: ServerAdapter) -> None:
            await (await servers.manage(replica.target)).attach(primary.address, primary.port)
            seen_done = []

            def is_linked(seen: ServerSeen) -> bool:
                if seen.is_syncing:
                    seen_done.append(seen.sync_done_bytes)
                return seen.is_link_up

            linked = await until(lambda: servers.observe(replica.target), is_linked)
            assert max(seen_done) > 10_000_000, seen_done
            assert seen_done == sorted(seen_done)
            assert (linked.keys, linked.sync_done_bytes) == (60, 0)

        run(scenario)


# -- commanding ----------------------------------------------------------------------------------------------------------


@both_servers
def test_a_handoff_with_its_commands(kind: ServerKind, tmp_path: Path) -> None:
    with (
        running(kind, tmp_path / "a", shard_uid=1) as old,
        running(kind, tmp_path / "b", shard_uid=2) as new,
    ):

        async def scenario(servers: ServerAdapter) -> None:
            from_, to = await servers.manage(old.target), await servers.manage(new.target)
            await from_.unfence()
            old.ask("SET", "k", "v", user="application")
            await to.attach(old.address, old.port)
            await until(to.info, lambda seen: seen.is_link_up)
            await to.unfence()

            await from_.pause_writes(5)
            await from_.fence()
            fenced = await from_.info()
            assert fenced.is_fenced
            await until(to.info, lambda seen: seen.offset >= fenced.offset)
            await to.promote()
            promoted = await to.info()
            assert (promoted.role, promoted.is_fenced) == (Role.PRIMARY, False)
            assert promoted.second_replication_id == fenced.replication_id
            await from_.end_application_connections()
            await from_.attach(new.address, new.port)
            await from_.end_pause()
            await from_.unfence()
            linked = await until(from_.info, lambda seen: seen.is_link_up)
            assert linked.replication_id == promoted.replication_id
            assert int(new.info()["sync_full"]) == 0  # a partial resync: nothing was copied again
            assert new.ask("SET", "k2", "v", user="application") == "OK"

        run(scenario)


@both_servers
def test_end_application_connections_keeps_the_others(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:

        async def scenario(servers: ServerAdapter) -> None:
            session = await servers.manage(server.target)
            seen = await servers.observe(server.target)
            with server.client("application") as client:
                number = client.execute_command("CLIENT", "ID")
                await session.end_application_connections()
                assert f"id={number} " not in str(server.ask("CLIENT", "LIST"))
            assert (await servers.observe(server.target)).run_id == seen.run_id
            assert "user=observation" in str(server.ask("CLIENT", "LIST"))

        run(scenario)


@both_servers
def test_settings_and_saves(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, is_open=True) as server:

        async def scenario(servers: ServerAdapter) -> None:
            session = await servers.manage(server.target)
            server.ask("SET", "k", "v", user="application")
            await session.save(Persistence.DISABLED)
            assert (await session.info()).saves_since_start == 0
            for persistence in (Persistence.AOF, Persistence.SNAPSHOT):
                rules = (SnapshotRule(3600, 1),)
                settings = server_settings(persistence, maxmemory_bytes=64 * MIB, snapshot_rules=rules)
                if persistence == Persistence.SNAPSHOT:
                    with pytest.raises(Transient, match="first snapshot is being written"):
                        await session.apply(settings)
                    assert (await session.info()).is_aof_on
                    await until(session.info, lambda seen: not seen.is_persistence_busy)
                await session.apply(settings)
                before = await until(session.info, lambda seen: not seen.is_persistence_busy)
                assert before.is_aof_on is (persistence == Persistence.AOF)
                await session.save(persistence)
                await session.save(persistence)  # a running save counts
                await until(
                    session.info,
                    lambda seen, before=before: (
                        seen.saves_since_start > before.saves_since_start  # type: ignore[misc]
                        and not seen.is_persistence_busy
                        and seen.is_persistence_ok
                    ),
                )
            assert (server.directory / "dump.rdb").exists()
            assert (server.directory / "appendonlydir").is_dir()

        run(scenario)


@both_servers
def test_the_replica_buffer_of_a_running_server_grows(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, settings=server_settings(maxmemory_bytes=64 * MIB)) as server:

        def limit() -> int:
            shown = str(server.ask("CONFIG", "GET", "client-output-buffer-limit"))
            return int(shown.partition(" slave ")[2].split()[0]) // MIB

        async def scenario(servers: ServerAdapter) -> None:
            session = await servers.manage(server.target)
            assert limit() == 512
            for memory, expected in ((400, 512), (2048, 576), (64, 576)):
                await session.apply(server_settings(maxmemory_bytes=memory * MIB))
                assert limit() == expected

        run(scenario)


@both_servers
def test_the_first_snapshot_does_not_wait_for_a_rule(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, is_open=True) as server:

        async def scenario(servers: ServerAdapter) -> None:
            session = await servers.manage(server.target)
            server.ask("SET", "k", "v", user="application")
            settings = server_settings(Persistence.SNAPSHOT, snapshot_rules=(SnapshotRule(3600, 1000),))
            await session.apply(settings)
            seen = await until(session.info, lambda seen: not seen.is_persistence_busy)
            assert (seen.saves_since_start, (server.directory / "dump.rdb").exists()) == (1, True)
            await session.apply(settings)
            assert (await session.info()).saves_since_start == 1

        run(scenario)


@both_servers
def test_a_save_while_a_full_sync_occupies_the_background_process(kind: ServerKind, tmp_path: Path) -> None:
    settings = server_settings(Persistence.SNAPSHOT, snapshot_rules=(SnapshotRule(3600, 1),))
    with (
        running(kind, tmp_path / "a", is_open=True, settings=settings) as primary,
        running(kind, tmp_path / "b", shard_uid=2) as replica,
    ):
        with primary.client("application") as client:
            for number in range(100):
                client.execute_command("SET", f"k{number}", "v")
        primary.ask("CONFIG", "SET", "rdb-key-save-delay", "10000")

        async def scenario(servers: ServerAdapter) -> None:
            session = await servers.manage(primary.target)
            replica.ask("REPLICAOF", primary.address, primary.port)
            await until(session.info, lambda seen: seen.is_persistence_busy)
            with pytest.raises(Transient, match="a full sync occupies"):
                await session.save(Persistence.SNAPSHOT)
            primary.ask("CONFIG", "SET", "rdb-key-save-delay", "0")
            await until(session.info, lambda seen: not seen.is_persistence_busy)
            await session.save(Persistence.SNAPSHOT)

        run(scenario)


@both_servers
def test_a_refusal_contains_the_servers_text_but_no_secrets(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, shard_uid=4) as server:

        async def scenario(servers: ServerAdapter) -> None:
            session = await servers.manage(server.target)
            with pytest.raises(Permanent) as caught:
                await session.attach("127.0.0.1", -1)
            assert f"shard 4 at {server.address}:{server.port}: REPLICAOF 127.0.0.1 -1: ERR" in caught.value.text
            assert session.is_open
            wrong = replace(server.target, secrets=replace(server.file.secrets, management="quite-secret"))
            with pytest.raises(Permanent) as caught:
                await servers.manage(wrong)
            assert "quite-secret" not in caught.value.text
            assert "quite-secret" not in repr(wrong)

        run(scenario)


@both_servers
@pytest.mark.parametrize("script", ["EVAL", "FCALL"])
def test_a_script_that_prevents_a_servers_end_is_ended(kind: ServerKind, script: str, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:
        server.ask("CONFIG", "SET", "busy-reply-threshold", "50")
        server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        library = "#!lua name=l\nredis.register_function('f', function() while true do end end)"
        server.ask("FUNCTION", "LOAD", library, user="application")
        line = ("EVAL", "while true do end", "0") if script == "EVAL" else ("FCALL", "f", "0")

        async def scenario(servers: ServerAdapter) -> None:
            assert not await end_script(server.target)
            running_script = asyncio.ensure_future(asyncio.to_thread(server.ask, *line, user="application"))
            await until(lambda: end_script(server.target), bool)
            with pytest.raises(redis.exceptions.ResponseError, match="killed by user"):
                await running_script
            assert (await servers.observe(server.target)).health == Health.OK

        run(scenario)
