"""Parking on real servers: a parked copy confirms nothing, keeps what it holds, and can take over."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

from shardwright.leader.fitting import UNUSED_PORT, is_parked
from shardwright.model.database import Role, ServerKind
from shardwright.server.adapter import ServerAdapter
from tests.integration.server_harness import RunningServer, attach, both_servers, running, wait_until
from tests.integration.server_scenario import run

pytestmark = pytest.mark.server


def _park_all(*replicas: RunningServer) -> list[int]:
    """Park them like a leader; returns their offsets."""
    offsets: list[int] = []

    async def scenario(servers: ServerAdapter) -> None:
        for replica in replicas:
            session = await servers.manage(replica.target)
            before = await session.info()
            await session.attach(replica.address, UNUSED_PORT)
            after = await session.info()
            assert is_parked(after), after
            assert (after.role, after.replication_id) == (Role.REPLICA, before.replication_id)
            assert after.offset >= before.offset
            offsets.append(after.offset)

    run(scenario)
    return offsets


def _confirmed(client: "redis.Redis", key: str, *, replicas: int = 1, limit_ms: int = 5000) -> int:
    """How many replicas have a new write, after waiting for so many."""
    client.set(key, "x")
    return int(client.execute_command("WAIT", replicas, limit_ms))


@contextmanager
def _three(kind: ServerKind, directory: Path) -> Iterator[tuple[RunningServer, RunningServer, RunningServer]]:
    """A primary and two replicas."""
    with ExitStack() as stack:
        started = [stack.enter_context(running(kind, directory / str(u), shard_uid=u, is_open=True)) for u in (1, 2, 3)]
        primary, first, second = started
        attach(first, primary)
        attach(second, primary)
        yield primary, first, second


@both_servers
def test_a_primary_whose_copies_are_parked_gets_no_confirmation(kind: ServerKind, tmp_path: Path) -> None:
    with _three(kind, tmp_path) as (primary, first, second):
        with primary.client("application") as client:
            wait_until(lambda: _confirmed(client, "before", replicas=2) == 2)
            _park_all(first)
            assert _confirmed(client, "while one follows") == 1
            offsets = _park_all(first, second)
            assert offsets[1] > offsets[0], "the other one has received more"
            assert _confirmed(client, "after", limit_ms=200) == 0
            assert _confirmed(client, "later", limit_ms=200) == 0
        with second.client("application") as client:
            assert client.exists("before", "while one follows") == 2
            assert client.exists("after", "later") == 0


@both_servers
def test_the_copy_that_takes_over_feeds_the_others_without_a_full_copy(kind: ServerKind, tmp_path: Path) -> None:
    with _three(kind, tmp_path) as (primary, first, second):
        with primary.client("application") as client:
            wait_until(lambda: _confirmed(client, "before", replicas=2) == 2)
            _park_all(first, second)
            _confirmed(client, "unconfirmed", limit_ms=50)
        second.ask("REPLICAOF", "NO", "ONE")
        attach(first, second)
        info = second.info()
        assert (info["sync_full"], info["sync_partial_ok"]) == ("0", "1")
        attach(primary, second)
        with primary.client("application") as client:
            assert client.exists("before") == 1
            assert client.exists("unconfirmed") == 0


@both_servers
def test_a_primary_that_wakes_confirms_none_of_the_queued_writes(kind: ServerKind, tmp_path: Path) -> None:
    with ExitStack() as stack:
        primary = stack.enter_context(running(kind, tmp_path / "1", shard_uid=1, is_open=True))
        replica = stack.enter_context(running(kind, tmp_path / "2", shard_uid=2, is_open=True))
        attach(replica, primary)
        client = stack.enter_context(primary.client("application"))
        wait_until(lambda: _confirmed(client, "before") == 1)
        other = stack.enter_context(primary.client("application", single_connection_client=True))
        other.ping()
        connection = other.connection
        assert connection is not None
        primary.freeze()
        try:
            for number in range(20):
                connection.send_command("SET", f"queued {number}", "x")
                connection.send_command("WAIT", 1, 50)
            _park_all(replica)
            replica.ask("REPLICAOF", "NO", "ONE")
        finally:
            primary.thaw()
        answers = [connection.read_response() for _ in range(40)]
        assert answers[0::2] == ["OK"] * 20
        assert [int(found) for found in answers[1::2]] == [0] * 20
