"""Management sessions with real servers: their guarantees when a term ends, a server freezes or a connection breaks."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from shardwright.errors import LostLeadership, OutcomeUnknown, Transient
from shardwright.model.database import Role, ServerKind
from shardwright.server.adapter import ServerAdapter
from tests.integration.server_harness import (
    RunningServer,
    both_servers,
    free_port,
    running,
    start_server,
    wait_until,
)
from tests.integration.server_scenario import Term, adapter, run

pytestmark = pytest.mark.server


def role_of(server: RunningServer) -> str:
    return server.info()["role"]


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
def test_an_ended_term_opens_and_sends_nothing(kind: ServerKind, tmp_path: Path) -> None:
    term = Term()
    with running(kind, tmp_path) as server:

        async def scenario(servers: ServerAdapter) -> None:
            other = adapter()
            kept = await other.manage(server.target)
            term.is_over_in_the_store = True
            with pytest.raises(LostLeadership):
                await servers.manage(server.target)
            await kept.unfence()  # the leader's session was not disturbed
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
def test_a_late_command_of_a_thawed_manager_cannot_follow_the_successors_observation(
    kind: ServerKind, tmp_path: Path
) -> None:
    """Both send to a stopped server; then it wakes. Everything that the older manager has sent is executed before the
    successor's session is open, or never."""
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
def test_no_answer_after_sending_is_unknown_and_ends_the_session(kind: ServerKind, tmp_path: Path) -> None:
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
def test_a_cancelled_call_ends_the_session(kind: ServerKind, tmp_path: Path) -> None:
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
                await session.promote()  # otherwise it would read the answer to INFO
            assert not session.is_open

        run(scenario)


@both_servers
def test_a_server_that_is_unreachable_or_dies(kind: ServerKind, tmp_path: Path) -> None:
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
    """Why the adapter has its own connection: redis-py silently sends this command of an ended session again."""
    with running(ServerKind.VALKEY, tmp_path) as server, server.client() as old:
        assert old.ping()
        server.ask("CLIENT", "KILL", "USER", "management", "SKIPME", "yes")
        assert isinstance(old, redis.Redis)
        assert old.execute_command("REPLICAOF", "NO", "ONE") in (True, "OK")
