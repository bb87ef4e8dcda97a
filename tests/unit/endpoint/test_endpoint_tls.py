"""Streams between machines: who is let in, who is refused and why, on both event loops and with real certificates."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.credentials import Credentials, TlsFiles, subject_peer
from shardwright.endpoint.tls import PeerRefused, TlsAddress, TlsListener, connect_tls
from shardwright.model.ids import NodeUid
from shardwright.tasks import spawn
from testkit.deadlines import until_async
from testkit.node_certificates import TestAuthority

HERE = "127.0.0.1"
Scenario = Callable[[TlsListener], Awaitable[None]]

pytestmark = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Loop = Callable[[], asyncio.AbstractEventLoop]


async def echo(channel: Channel) -> None:
    try:
        while (received := await channel.receive()) is not None:
            await channel.send(received[0])
    except (OSError, ValueError):
        pass


def run(
    loop: Loop, credentials: Credentials, scenario: Scenario, serve: Callable[[Channel], Awaitable[None]] = echo
) -> None:
    """A listener on a free port, and a scenario with callers."""

    async def whole() -> None:
        at = TlsAddress(HERE, 0, credentials.server, subject_peer)
        listener = TlsListener(at, serve, name="test")
        listener.open()
        try:
            async with asyncio.timeout(30):
                await scenario(listener)
        finally:
            await listener.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())


async def connect(listener: TlsListener, credentials: Credentials, node: int = 1) -> Channel:
    return await connect_tls(HERE, listener.port, context=credentials.client, identify=subject_peer, node=NodeUid(node))


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ca")


def test_messages_of_any_size_arrive(loop: Loop, authority: TestAuthority) -> None:
    async def scenario(listener: TlsListener) -> None:
        async with await connect(listener, authority.credentials(2)) as channel:
            for message in ({"n": 1}, {"text": "ä" * 300_000}, {"n": 3}):
                assert await channel.ask(message) == message
            assert not channel.is_closed_by_peer()

    run(loop, authority.credentials(1), scenario)


def test_files_cannot_be_sent(loop: Loop, authority: TestAuthority) -> None:
    async def scenario(listener: TlsListener) -> None:
        async with await connect(listener, authority.credentials(2)) as channel:
            with socket.socket() as file, pytest.raises(AssertionError, match="files cannot be sent over TLS"):
                await channel.send({"op": "adopt_listener"}, (file.fileno(),))
            assert await channel.ask({"n": 1}) == {"n": 1}, "nothing of it was sent"
        channel = await connect(listener, authority.credentials(2))
        await channel.send({"op": "adopt_listener", "files": 1})
        assert await is_dropped(channel), "a message that names files which cannot have come"

    run(loop, authority.credentials(1), scenario)


@pytest.mark.parametrize("role", ["api", "store", ""])
def test_a_caller_of_another_role_is_refused_and_told_why(loop: Loop, authority: TestAuthority, role: str) -> None:
    served: list[Channel] = []

    async def serve(channel: Channel) -> None:
        served.append(channel)

    async def scenario(listener: TlsListener) -> None:
        async with await connect(listener, authority.credentials(2, role=role or "-")) as channel:
            received = await channel.receive()
            assert received is not None
            assert "role" in received[0]["refused"]
        assert served == []

    run(loop, authority.credentials(1), scenario, serve)


async def is_dropped(channel: Channel) -> bool:
    """Whether a channel ends without an answer. In TLS 1.3 a caller may send before the other end has judged it."""
    async with channel:
        try:
            await channel.send({"n": 1})
            return await channel.receive() is None
        except OSError:
            return True


def test_a_caller_without_a_certificate_is_refused(loop: Loop, authority: TestAuthority) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.load_verify_locations(authority.path)

    async def scenario(listener: TlsListener) -> None:
        try:
            channel = await connect_tls(HERE, listener.port, context=lambda: bare, identify=subject_peer, node=NodeUid(1))
        except OSError:
            return
        assert await is_dropped(channel)

    run(loop, authority.credentials(1), scenario)


def test_a_caller_of_another_authority_is_refused(loop: Loop, authority: TestAuthority, tmp_path: Path) -> None:
    other = TestAuthority(tmp_path / "other").issue(2)
    # It trusts the listener's authority, but the listener does not trust the caller's.
    stranger = Credentials(TlsFiles(other.certificate, other.key, authority.path))

    async def scenario(listener: TlsListener) -> None:
        try:
            channel = await connect(listener, stranger)
        except OSError:
            return
        assert await is_dropped(channel)

    run(loop, authority.credentials(1), scenario)


def test_a_listener_of_another_authority_is_refused(loop: Loop, authority: TestAuthority, tmp_path: Path) -> None:
    async def scenario(listener: TlsListener) -> None:
        with pytest.raises(PeerRefused, match="certificate is not accepted"):
            await connect(listener, TestAuthority(tmp_path / "other").credentials(2))

    run(loop, authority.credentials(1), scenario)


@pytest.mark.parametrize(("node", "role", "text"), [(3, "node", "node 3 instead of node 1"), (1, "api", "role 'api'")])
def test_a_listener_that_is_another_one_is_refused(
    loop: Loop, authority: TestAuthority, node: int, role: str, text: str
) -> None:
    async def scenario(listener: TlsListener) -> None:
        with pytest.raises(PeerRefused, match=text):
            await connect(listener, authority.credentials(2))

    run(loop, authority.credentials(node, role=role), scenario)


def test_plain_bytes_are_no_handshake(loop: Loop, authority: TestAuthority) -> None:
    async def scenario(listener: TlsListener) -> None:
        reader, writer = await asyncio.open_connection(HERE, listener.port)
        writer.write(b'{"op":"status"}\n')
        try:
            while data := await reader.read(100):
                assert not data.startswith(b"{")
        except ConnectionError:
            pass
        writer.close()
        async with await connect(listener, authority.credentials(2)) as channel:
            assert await channel.ask({"n": 1}) == {"n": 1}

    run(loop, authority.credentials(1), scenario)


def test_a_caller_that_has_left_is_recognized_before_its_last_message_is_read(loop: Loop, authority: TestAuthority) -> None:
    found: list[tuple[bool, Message | None]] = []
    goes_on = asyncio.Event()

    async def serve(channel: Channel) -> None:
        await goes_on.wait()
        await until_async("the kernel says that the caller has left", channel.is_closed_by_peer, seconds=10)
        received = await channel.receive()
        found.append((channel.is_closed_by_peer(), received[0] if received else None))

    async def scenario(listener: TlsListener) -> None:
        channel = await connect(listener, authority.credentials(2))
        await channel.send({"op": "hold"})
        channel.close()
        goes_on.set()
        await until_async("it was served", lambda: found, seconds=10)
        assert found[0][0] is True

    run(loop, authority.credentials(1), scenario, serve)


def test_a_listener_waits_for_its_port(loop: Loop, authority: TestAuthority) -> None:
    async def whole() -> None:
        with socket.socket() as taken:
            taken.bind((HERE, 0))
            taken.listen()
            at = TlsAddress(HERE, taken.getsockname()[1], authority.credentials(1).server, subject_peer)
            listener = TlsListener(at, echo, name="test")
            with pytest.raises(OSError, match="in use"):
                listener.open()
            running = spawn("test: listen", listener.run())
            await asyncio.sleep(0)
            assert listener.port == 0
        await until_async("it listens", lambda: listener.port, seconds=10)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert listener.port == 0

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())


def test_a_connection_that_is_given_up_in_its_handshake_leaves_nothing(loop: Loop, authority: TestAuthority) -> None:
    async def whole() -> None:
        with socket.socket() as silent:
            silent.bind((HERE, 0))
            silent.listen()
            credentials = authority.credentials(2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connect_tls(
                        HERE, silent.getsockname()[1], context=credentials.client, identify=subject_peer, node=NodeUid(1)
                    )
            accepted, _ = silent.accept()
            accepted.setblocking(False)
            with accepted:
                async with asyncio.timeout(10):
                    while await asyncio.get_running_loop().sock_recv(accepted, 10_000):
                        pass

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())


def test_a_renewed_certificate_is_used_for_the_next_connection(loop: Loop, authority: TestAuthority) -> None:
    files = authority.issue(1, name="own")
    credentials = Credentials(files)
    caller = authority.credentials(2)

    async def scenario(listener: TlsListener) -> None:
        old = await connect(listener, caller)
        before = credentials.server()
        assert credentials.server() is before, "unchanged files are not read again"
        authority.issue(5, name="own")
        with pytest.raises(PeerRefused, match="node 5 instead of node 1"):
            await connect(listener, caller)
        async with await connect(listener, caller, node=5) as channel:
            assert await channel.ask({"n": 1}) == {"n": 1}
        files.key.write_text("half a key")
        async with await connect(listener, caller, node=5) as channel:
            assert await channel.ask({"n": 2}) == {"n": 2}, "an unusable file changes nothing"
        async with old:
            assert await old.ask({"n": 3}) == {"n": 3}, "an open connection stays"

    run(loop, credentials, scenario)


def test_without_usable_files_there_is_no_connection(loop: Loop, authority: TestAuthority, tmp_path: Path) -> None:
    missing = Credentials(TlsFiles(tmp_path / "none", tmp_path / "none", authority.path))

    async def scenario(listener: TlsListener) -> None:
        with pytest.raises(OSError, match="cannot be used"):
            await connect(listener, missing)

    run(loop, authority.credentials(1), scenario)
