"""The adapter against real servers: what it sees, what it commands, and what its sessions guarantee when things break."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from server_harness import (
    RunningServer,
    both_servers,
    free_port,
    restart_server,
    running,
    server_settings,
    start_server,
    wait_until,
)

from shardwright.clock import SystemClock
from shardwright.errors import LostLeadership, OutcomeUnknown, Permanent, Transient
from shardwright.model.database import Persistence, Role, ServerKind, ServerSecrets, SnapshotRule
from shardwright.model.ids import ShardUid
from shardwright.model.seen import Health, ServerSeen
from shardwright.server.adapter import OBSERVE_TIMEOUT_S, ServerAdapter
from shardwright.server.config import MIB
from shardwright.server.protocol import Servers

pytestmark = pytest.mark.server


class Term:
    """A leader's term that a test can end, as the store says it and as the leader believes it."""

    def __init__(self) -> None:
        self.is_over_in_the_store = False
        self.is_believed = True
        self.checks = 0

    async def check(self) -> None:
        self.checks += 1
        if self.is_over_in_the_store:
            raise LostLeadership


def adapter(term: Term | None = None) -> ServerAdapter:
    term = term or Term()
    return ServerAdapter(check_term=term.check, is_leader=lambda: term.is_believed, clock=SystemClock())


def run(scenario: Callable[[ServerAdapter], Awaitable[None]], term: Term | None = None) -> None:
    """Run a scenario with an adapter and close it."""

    async def whole() -> None:
        servers = adapter(term)
        _fits: Servers = servers
        try:
            await scenario(servers)
        finally:
            await servers.close()

    asyncio.run(whole())


async def until(observe: Callable[[], Awaitable[ServerSeen]], holds: Callable[[ServerSeen], bool]) -> ServerSeen:
    """Observe until it holds; fail with what was seen last."""
    deadline = time.monotonic() + 15
    while True:
        seen = await observe()
        if holds(seen):
            return seen
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.01)


def role_of(server: RunningServer) -> str:
    return server.info()["role"]


# -- observing -----------------------------------------------------------------------------------------------------------


@both_servers
def test_it_sees_what_a_server_is(kind: ServerKind, tmp_path: Path) -> None:
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
            assert int(server.info()["total_connections_received"]) == int(connections) + 1  # that of this very question

        run(scenario)


@both_servers
def test_a_dead_server_is_noticed_at_once_and_a_new_one_seen(kind: ServerKind, tmp_path: Path) -> None:
    server = start_server(kind, tmp_path)

    async def scenario(servers: ServerAdapter) -> None:
        nonlocal server
        first = await servers.observe(server.target)
        server.kill()
        began = time.monotonic()
        gone = await servers.observe(server.target)
        assert time.monotonic() - began < OBSERVE_TIMEOUT_S / 2
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
def test_a_frozen_server_times_out_and_comes_back(kind: ServerKind, tmp_path: Path) -> None:
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
def test_a_server_that_runs_a_long_script_counts_as_silent_not_as_gone(kind: ServerKind, tmp_path: Path) -> None:
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
def test_another_server_on_the_port_is_not_taken_for_ours(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:
        secrets = ServerSecrets(server.file.secrets.database_uid, "x", "x", "x", "x", "x")
        stranger = replace(server.target, secrets=secrets)

        async def scenario(servers: ServerAdapter) -> None:
            assert (await servers.observe(stranger)).health == Health.REFUSED
            with pytest.raises(Permanent, match=r"shard 1 at .*: AUTH: WRONGPASS"):
                await servers.manage(stranger)
            # Same database, so the login is right, but not the incarnation that is meant.
            with pytest.raises(Transient, match="another server listens there"):
                await servers.manage(replace(server.target, incarnation=9))
            with pytest.raises(Transient, match="another server listens there"):
                await servers.manage(replace(server.target, shard_uid=ShardUid(9)))

        run(scenario)


@both_servers
def test_the_progress_of_a_full_sync_shows(kind: ServerKind, tmp_path: Path) -> None:
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
def test_a_handoff_by_its_commands(kind: ServerKind, tmp_path: Path) -> None:
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
            await from_.attach(new.address, new.port)
            await from_.end_pause()
            await from_.unfence()
            await from_.end_application_connections()
            linked = await until(from_.info, lambda seen: seen.is_link_up)
            assert linked.replication_id == promoted.replication_id
            assert int(new.info()["sync_full"]) == 0  # a partial resync: nothing was copied anew
            assert new.ask("SET", "k2", "v", user="application") == "OK"

        run(scenario)


@both_servers
def test_end_application_connections_spares_the_others(kind: ServerKind, tmp_path: Path) -> None:
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
                await session.save(persistence)  # one that runs already counts
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
def test_what_the_server_refuses_is_said_in_its_words_and_without_secrets(kind: ServerKind, tmp_path: Path) -> None:
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


# -- sessions ------------------------------------------------------------------------------------------------------------


@both_servers
def test_one_session_per_term_and_its_term_is_checked_once(kind: ServerKind, tmp_path: Path) -> None:
    term = Term()
    with running(kind, tmp_path) as server:

        async def scenario(servers: ServerAdapter) -> None:
            several = await asyncio.gather(*(servers.manage(server.target) for _ in range(5)))
            assert len(set(several)) == 1
            assert term.checks == 1
            seen = await asyncio.gather(*(several[0].info() for _ in range(5)))
            assert len({s.run_id for s in seen}) == 1

        run(scenario, term)


@both_servers
def test_a_term_that_is_over_opens_and_sends_nothing(kind: ServerKind, tmp_path: Path) -> None:
    term = Term()
    with running(kind, tmp_path) as server:

        async def scenario(servers: ServerAdapter) -> None:
            other = adapter()
            kept = await other.manage(server.target)
            term.is_over_in_the_store = True
            with pytest.raises(LostLeadership):
                await servers.manage(server.target)
            await kept.unfence()  # the one that leads was not disturbed
            term.is_over_in_the_store = False
            session = await servers.manage(server.target)
            term.is_believed = False
            with pytest.raises(LostLeadership):
                await session.attach("127.0.0.1", 1)
            assert role_of(server) == "master"
            await other.close()

        run(scenario, term)


@both_servers
def test_a_successor_ends_the_older_session(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, is_open=True) as server:

        async def scenario(servers: ServerAdapter) -> None:
            older = await adapter().manage(server.target)
            newer = await servers.manage(server.target)
            with pytest.raises((Transient, OutcomeUnknown)):
                await older.attach("127.0.0.1", 1)
            with pytest.raises(Transient):
                await older.attach("127.0.0.1", 1)  # it stays broken
            assert (await newer.info()).role == Role.PRIMARY

        run(scenario)


@both_servers
def test_a_late_command_of_a_thawed_manager_cannot_follow_what_the_successor_saw(kind: ServerKind, tmp_path: Path) -> None:
    """Both talk to a server that is stopped; then it wakes. Whatever the older one had sent happens before the successor's
    session is open, or never."""
    with running(kind, tmp_path, is_open=True) as server:

        async def scenario(servers: ServerAdapter) -> None:
            old_servers = adapter()
            older = await old_servers.manage(server.target)
            server.freeze()
            try:
                late = asyncio.ensure_future(older.attach("127.0.0.1", 1))
                opening = asyncio.ensure_future(servers.manage(server.target))
                await asyncio.sleep(0)
            finally:
                server.thaw()
            newer = await opening
            await asyncio.wait([late])
            assert late.exception() is None or isinstance(late.exception(), OutcomeUnknown)
            roles = {(await newer.info()).role for _ in range(50)}
            assert len(roles) == 1
            await old_servers.close()

        run(scenario)


@both_servers
def test_no_answer_after_sending_is_unknown_and_the_session_is_done_for(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path, is_open=True) as server:

        async def scenario(servers: ServerAdapter) -> None:
            session = await servers.manage(server.target)
            server.freeze()
            try:
                with pytest.raises(OutcomeUnknown, match="CONFIG SET min-replicas-to-write 0: no answer within"):
                    await session.unfence()
            finally:
                server.thaw()
            with pytest.raises(Transient):
                await session.unfence()
            again = await servers.manage(server.target)
            assert again is not session
            assert (await again.info()).role == Role.PRIMARY

        run(scenario)


@both_servers
def test_a_call_that_is_given_up_ends_the_session(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:

        async def scenario(servers: ServerAdapter) -> None:
            session = await servers.manage(server.target)
            server.freeze()
            try:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(session.info(), 0.05)
            finally:
                server.thaw()
            with pytest.raises(Transient):
                await session.promote()  # else it would read the answer to INFO
            assert not session.is_open

        run(scenario)


@both_servers
def test_a_server_that_cannot_be_reached_or_dies(kind: ServerKind, tmp_path: Path) -> None:
    server = start_server(kind, tmp_path)

    async def scenario(servers: ServerAdapter) -> None:
        with pytest.raises(Transient, match="refused") as caught:
            await servers.manage(replace(server.target, port=free_port(server.address)))
        assert caught.value.code == "server_unreachable"
        session = await servers.manage(server.target)
        server.kill()
        with pytest.raises((Transient, OutcomeUnknown)):
            await session.promote()
        with pytest.raises(Transient):
            await session.promote()
        with pytest.raises(Transient):
            await servers.manage(server.target)

    try:
        run(scenario)
    finally:
        server.stop()


@both_servers
def test_closing_ends_every_connection(kind: ServerKind, tmp_path: Path) -> None:
    with running(kind, tmp_path) as server:

        async def scenario(servers: ServerAdapter) -> None:
            await servers.observe(server.target)
            session = await servers.manage(server.target)
            await servers.close()
            with pytest.raises(Transient):
                await session.info()

        run(scenario)
        with server.client() as client:
            client.response_callbacks.clear()
            wait_until(
                lambda: client.execute_command("CLIENT", "LIST").count(" addr=") == 1,
                what=lambda: client.execute_command("CLIENT", "LIST"),
            )


def test_redis_py_would_have_reconnected(tmp_path: Path) -> None:
    """Why the adapter has a connection of its own: this command of an ended session is silently sent again."""
    with running(ServerKind.VALKEY, tmp_path) as server, server.client() as old:
        assert old.ping()
        server.ask("CLIENT", "KILL", "USER", "management", "SKIPME", "yes")
        assert isinstance(old, redis.Redis)
        assert old.execute_command("REPLICAOF", "NO", "ONE") in (True, "OK")
