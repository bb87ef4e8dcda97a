"""Servers that accept only encrypted connections: real servers with certificates, as the leader, agents and endpoint
processes reach them."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from shardwright.agent.launch import tls_files
from shardwright.agent.server_certificates import ServerCertificates
from shardwright.clock import SystemClock
from shardwright.errors import Rejected, Transient
from shardwright.model.codes import Code
from shardwright.model.database import Role, ServerKind
from shardwright.model.seen import Health, ProcessState, ServerSeen
from shardwright.nodes.local import LocalNodes
from shardwright.server.adapter import ServerAdapter
from shardwright.server.binaries import find_server, has_tls
from shardwright.server.certificates import read_again
from shardwright.server.network import TlsFiles
from shardwright.trust.contexts import client_context
from shardwright.trust.files import load_credentials
from testkit.certificates import Members, members
from testkit.deadlines import Stopwatch, until
from tests.integration.agent_harness import NODE, database, group, shard, world
from tests.integration.agent_harness import SECRETS as AGENT_SECRETS
from tests.integration.endpoint_harness import Writers, endpoint_world, wait_until
from tests.integration.server_harness import RunningServer, free_port, loopback_address, running

pytestmark = pytest.mark.server
KIND = ServerKind.REDIS
Loop = Callable[[], asyncio.AbstractEventLoop]
both_loops = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@pytest.fixture(autouse=True)
def _needs_tls() -> None:
    try:
        path = find_server(KIND).path
    except Rejected as missing:
        pytest.skip(missing.text)
    if not has_tls(path):
        pytest.skip(f"{path} has no TLS")


def files_for(authority: Members, directory: Path, node: int, address: str) -> TlsFiles:
    return tls_files(authority.files(directory, node, address))


async def as_leader(act: Callable[[ServerAdapter], Awaitable[None]], context: ssl.SSLContext | None) -> None:
    async def check_term() -> None:
        pass

    servers = ServerAdapter(
        check_term=check_term,
        is_leader=lambda: True,
        clock=SystemClock(),
        context=None if context is None else lambda: context,
    )
    try:
        await act(servers)
    finally:
        await servers.close()


def run(loop: Loop, act: Callable[[ServerAdapter], Awaitable[None]], context: ssl.SSLContext | None) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(as_leader(act, context))


async def until_linked(info: Callable[[], Awaitable[ServerSeen]]) -> None:
    watch = Stopwatch()
    while not (seen := await info()).is_link_up:
        assert watch.is_within(20), seen
        await asyncio.sleep(0.02)


def serial_at(server: RunningServer, context: ssl.SSLContext) -> str:
    """The serial of the certificate that the server shows to a new connection."""
    with (
        socket.create_connection((server.address, server.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=server.address) as encrypted,
    ):
        found = encrypted.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def test_the_programs_of_this_machine_are_asked_whether_they_have_tls() -> None:
    assert has_tls(find_server(ServerKind.REDIS).path)
    assert not has_tls(find_server(ServerKind.VALKEY).path), "the server in the wheel is built without TLS"
    assert not has_tls("/bin/true")
    assert not has_tls("/absent")


@both_loops
def test_the_leader_manages_encrypted_servers_and_their_replication(loop: Loop, tmp_path: Path) -> None:
    authority, first, second = members(), loopback_address(), loopback_address()
    one, two = files_for(authority, tmp_path / "1", 1, first), files_for(authority, tmp_path / "2", 2, second)
    with (
        running(KIND, tmp_path / "a", shard_uid=1, address=first, tls=one, is_open=True) as primary,
        running(KIND, tmp_path / "b", shard_uid=2, address=second, tls=two) as replica,
    ):
        primary.ask("SET", "key", "value", user="application")

        async def act(servers: ServerAdapter) -> None:
            seen = await servers.observe(primary.target)
            assert (seen.health, seen.role) == (Health.OK, Role.PRIMARY)
            session = await servers.manage(replica.target)
            await session.attach(primary.address, primary.port)
            await until_linked(session.info)
            assert (await session.info()).primary_address == primary.address

        run(loop, act, client_context(authority.member(3)))
        assert replica.ask("GET", "key", user="application") == "value"
        assert "tls-replication" in replica.config_path.read_text()
        with socket.create_connection((primary.address, primary.port), timeout=10) as clear:
            clear.sendall(b"PING\r\n")
            received = b""
            with contextlib.suppress(ConnectionResetError):
                received = clear.recv(100)
            assert b"PONG" not in received, "nothing is answered in clear"


@both_loops
def test_only_certificates_of_the_authority_speak_to_a_server(loop: Loop, tmp_path: Path) -> None:
    authority, address = members(), loopback_address()
    own = files_for(authority, tmp_path / "1", 1, address)
    stranger = client_context(members().member(3))
    without = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    without.load_verify_locations(own.authority)
    with running(KIND, tmp_path / "a", address=address, tls=own) as server:

        async def act(servers: ServerAdapter) -> None:
            seen = await servers.observe(server.target)
            assert seen.health is Health.UNREACHABLE, "a certificate proves nothing about the process"
            with pytest.raises(Transient) as refused:
                await servers.manage(server.target)
            assert refused.value.code in (Code.SERVER_UNREACHABLE, Code.SERVER_SESSION_ENDED)

        for context in (stranger, without, None):
            run(loop, act, context)


@both_loops
def test_a_server_at_an_address_that_its_certificate_does_not_name_is_not_believed(loop: Loop, tmp_path: Path) -> None:
    authority, address = members(), loopback_address()
    with running(KIND, tmp_path / "a", address=address, tls=files_for(authority, tmp_path / "1", 1, "10.9.9.9")) as server:

        async def act(servers: ServerAdapter) -> None:
            assert (await servers.observe(server.target)).health is Health.UNREACHABLE

        run(loop, act, client_context(authority.member(3)))


@both_loops
def test_a_running_server_shows_a_renewed_certificate(loop: Loop, tmp_path: Path) -> None:
    authority, address = members(), loopback_address()
    own, context = files_for(authority, tmp_path / "1", 1, address), client_context(authority.member(3))
    with running(KIND, tmp_path / "a", address=address, tls=own) as server:
        before = serial_at(server, context)
        certificates = ServerCertificates(own, lambda: context)

        def renew() -> None:
            with asyncio.Runner(loop_factory=loop) as runner:
                runner.run(certificates.renew((server.target, replace(server.target, uses_tls=False))))

        renew()
        assert serial_at(server, context) == before, "the same files"
        authority.files(tmp_path / "1", 1, address)
        assert serial_at(server, context) == before, "a server does not look at its files by itself"
        renew()
        after = serial_at(server, context)
        assert after != before
        Path(own.certificate).write_text("damaged")
        renew()
        assert serial_at(server, context) == after, "what cannot be used changes nothing"
        os.unlink(own.certificate)
        renew()
        assert serial_at(server, context) == after
    assert not asyncio.run(read_again(server.target, lambda: context, own)), "it has ended"


def test_clients_are_served_from_encrypted_servers_through_handoffs(tmp_path: Path) -> None:
    with endpoint_world(KIND, tmp_path, authority=members()) as world:
        assert world.primary.file.tls is not None
        with world.connect() as client:
            value = "x" * 3_000_000
            client.set("large", value)
            assert client.get("large") == value
        with Writers(world) as writers:
            for _ in range(3):
                wait_until(lambda: len(writers.acknowledged) == 4 or bool(writers.errors))
                world.hand_off()
        writers.check()


@pytest.mark.proof
def test_a_hold_that_nobody_releases_ends_by_asking_the_encrypted_servers(tmp_path: Path) -> None:
    with endpoint_world(KIND, tmp_path, authority=members()) as world:
        assert world.hold().was_held
        world.swap_roles()
        with world.connect(socket_timeout=20) as client:
            client.set("key", "value")
            assert client.get("key") == "value"
        assert world.primary.ask("GET", "key", user="application") == "value"


@pytest.mark.proof
def test_a_renewed_certificate_of_the_endpoint_process_is_used_for_new_connections(tmp_path: Path) -> None:
    authority = members()
    with endpoint_world(KIND, tmp_path, authority=authority) as world:
        assert world.certificate is not None
        with world.connect() as client:
            assert client.set("a", "1")
        authority.files(tmp_path / "trust", 3, world.address)
        assert load_credentials(world.certificate)
        with world.connect() as client:
            until("a client of the renewed process", lambda: client.get("a") == "1", seconds=10)


def test_an_agent_starts_observes_and_reports_servers_that_encrypt(tmp_path: Path) -> None:
    redis = find_server(KIND)

    async def whole() -> None:
        async with world(tmp_path) as made, asyncio.timeout(120):
            made.certificate = members().files(tmp_path / "trust", 1, made.address)
            nodes = LocalNodes(lambda uid: None, agent_of=lambda uid: str(made.news_socket))
            async with made.agent():
                await made.put(database(redis, uses_tls=True), AGENT_SECRETS, group(), shard(free_port(made.address)))
                await made.until_state(1, ProcessState.RUNNING)
                link, since, seen = nodes.link(NODE), None, None
                while seen is None or seen.health is not Health.OK:
                    news = await link.news(since)
                    since, seen = news.mark, next(iter(news.servers), seen)
                reported = made.seen()
                assert reported is not None
                assert reported.tls_servers == ((str(KIND), redis.version),)
                assert "tls-port" in (made.shard_directory(1) / "server.conf").read_text()
            nodes.close()

    asyncio.run(whole())
