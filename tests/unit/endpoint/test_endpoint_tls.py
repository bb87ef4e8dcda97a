"""Streams between machines: who is let in, who is refused and why, on both event loops and with real certificates."""

import asyncio
import socket
from pathlib import Path

import pytest
import uvloop

from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.credentials import OwnCertificate
from shardwright.endpoint.tls import (
    PeerRefused,
    TlsAddress,
    TlsListener,
    connect_tls,
    refusal_of,
)
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.tasks import spawn
from shardwright.trust.contexts import client_context, trusting_context
from shardwright.trust.files import load_credentials
from testkit.certificates import LONG_AGO, members
from testkit.deadlines import until_async
from testkit.handshakes import showing
from tests.unit.endpoint.tls_harness import HERE, NODE, Cluster, Loop, connect, echo, run, serial_of

pytestmark = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(members(), tmp_path / "files")


def test_messages_of_any_size_arrive(loop: Loop, cluster: Cluster) -> None:
    async def scenario(listener: TlsListener) -> None:
        async with await connect(listener, cluster.own(2)) as channel:
            for message in ({"n": 1}, {"text": "ä" * 300_000}, {"n": 3}):
                assert await channel.ask(message) == message
            assert not channel.is_closed_by_peer()

    run(loop, cluster.own(1), scenario)


def test_files_cannot_be_sent(loop: Loop, cluster: Cluster) -> None:
    async def scenario(listener: TlsListener) -> None:
        async with await connect(listener, cluster.own(2)) as channel:
            with socket.socket() as file, pytest.raises(AssertionError, match="files cannot be sent over TLS"):
                await channel.send({"op": "adopt_listener"}, (file.fileno(),))
            assert await channel.ask({"n": 1}) == {"n": 1}, "nothing of it was sent"
        channel = await connect(listener, cluster.own(2))
        await channel.send({"op": "adopt_listener", "files": 1})
        assert await is_dropped(channel), "a message that names files which cannot have come"

    run(loop, cluster.own(1), scenario)


@pytest.mark.parametrize(
    ("role", "subject", "code"),
    [
        (CertificateRole.STORE, None, Code.PEER_ROLE_WRONG),
        (NODE, "node:2", Code.PEER_UNKNOWN),
        (NODE, "node-2", Code.PEER_UNKNOWN),
    ],
)
def test_a_caller_that_is_no_node_is_refused_and_told_why(
    loop: Loop, cluster: Cluster, role: CertificateRole, subject: str | None, code: Code
) -> None:
    served: list[Channel] = []

    async def serve(channel: Channel) -> None:
        served.append(channel)

    caller = cluster.any_client(cluster.files(2, role=role, subject=subject))

    async def scenario(listener: TlsListener) -> None:
        async with await connect(listener, caller) as channel:
            received = await channel.receive()
            assert received is not None
            refused = refusal_of(received[0])
            assert refused is not None
            assert refused.code is code
        assert served == []

    run(loop, cluster.own(1), scenario, serve)


def test_a_revoked_certificate_is_refused_at_both_ends(loop: Loop, cluster: Cluster) -> None:
    files = {node: cluster.files(node) for node in (1, 2)}
    serials = {node: serial_of(of) for node, of in files.items()}
    revoked: set[str] = set()

    async def scenario(listener: TlsListener) -> None:
        caller = OwnCertificate(files[2])
        async with await connect(listener, caller) as channel:
            assert await channel.ask({"n": 1}) == {"n": 1}
        revoked.add(serials[2])
        async with await connect(listener, caller) as channel:
            received = await channel.receive()
            refused = None if received is None else refusal_of(received[0])
            assert refused is not None
            assert refused.code is Code.CERTIFICATE_REVOKED
        async with await connect(listener, cluster.own(2)) as channel:
            assert await channel.ask({"n": 2}) == {"n": 2}, "another certificate of that node"
        with pytest.raises(PeerRefused) as other:
            await connect(listener, cluster.own(2), revoked=lambda: {serials[1]})
        assert other.value.code is Code.CERTIFICATE_REVOKED

    run(loop, OwnCertificate(files[1]), scenario, revoked=lambda: revoked)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"refused": "x", "code": "certificate_revoked"}, Code.CERTIFICATE_REVOKED),
        ({"refused": "x", "code": "of a later version"}, Code.NODE_CERTIFICATE_REFUSED),
        ({"refused": "x", "code": ["x"]}, Code.NODE_CERTIFICATE_REFUSED),
        ({"refused": "x"}, Code.NODE_CERTIFICATE_REFUSED),
        ({"ok": "x"}, None),
    ],
)
def test_a_refusal_has_a_code_that_this_version_knows(loop: Loop, message: Message, code: Code | None) -> None:
    refused = refusal_of(message)
    assert (None if refused is None else refused.code) == code


async def is_dropped(channel: Channel) -> bool:
    """Whether a channel ends without an answer. In TLS 1.3 a caller may send before the other end has judged it."""
    async with channel:
        try:
            await channel.send({"n": 1})
            return await channel.receive() is None
        except OSError:
            return True


def test_a_caller_that_fails_in_the_handshake_is_dropped(loop: Loop, cluster: Cluster) -> None:
    trusting = load_credentials(cluster.files(2))
    callers = {
        "without a certificate": trusting_context(trusting.authority),
        "of another authority": showing(members().member(2, HERE), trusting),
        "of an API": cluster.any_client(cluster.files(2, role=CertificateRole.API)),
        "expired": showing(cluster.members.member(2, HERE, at=LONG_AGO), trusting),
    }

    async def scenario(listener: TlsListener) -> None:
        for what, caller in callers.items():
            try:
                channel = await connect(listener, caller)
            except OSError:
                continue
            assert await is_dropped(channel), what

    run(loop, cluster.own(1), scenario)


def test_a_listener_of_another_authority_is_refused(loop: Loop, cluster: Cluster) -> None:
    async def scenario(listener: TlsListener) -> None:
        with pytest.raises(PeerRefused, match="certificate is not accepted") as refused:
            await connect(listener, client_context(members().member(2)))
        assert refused.value.code is Code.NODE_CERTIFICATE_REFUSED

    run(loop, cluster.own(1), scenario)


def test_a_listener_at_another_address_than_its_certificate_says_is_refused(loop: Loop, cluster: Cluster) -> None:
    elsewhere = cluster.members.files(cluster.directory, 1, "127.0.0.9")

    async def scenario(listener: TlsListener) -> None:
        with pytest.raises(PeerRefused, match="IP address mismatch"):
            await connect(listener, cluster.own(2))

    run(loop, OwnCertificate(elsewhere), scenario)


@pytest.mark.parametrize(
    ("node", "role", "code"), [(3, NODE, Code.PEER_IS_ANOTHER), (1, CertificateRole.API, Code.PEER_ROLE_WRONG)]
)
def test_a_listener_that_is_another_one_is_refused(
    loop: Loop, cluster: Cluster, node: int, role: CertificateRole, code: Code
) -> None:
    async def scenario(listener: TlsListener) -> None:
        with pytest.raises(PeerRefused) as refused:
            await connect(listener, cluster.own(2))
        assert refused.value.code is code

    run(loop, cluster.own(node, role=role), scenario)


def test_plain_bytes_are_no_handshake(loop: Loop, cluster: Cluster) -> None:
    async def scenario(listener: TlsListener) -> None:
        reader, writer = await asyncio.open_connection(HERE, listener.port)
        writer.write(b'{"op":"status"}\n')
        try:
            while data := await reader.read(100):
                assert not data.startswith(b"{")
        except ConnectionError:
            pass
        writer.close()
        async with await connect(listener, cluster.own(2)) as channel:
            assert await channel.ask({"n": 1}) == {"n": 1}

    run(loop, cluster.own(1), scenario)


def test_a_caller_that_has_left_is_recognized_before_its_last_message_is_read(loop: Loop, cluster: Cluster) -> None:
    found: list[tuple[bool, Message | None]] = []
    goes_on = asyncio.Event()

    async def serve(channel: Channel) -> None:
        await goes_on.wait()
        await until_async("the kernel says that the caller has left", channel.is_closed_by_peer, seconds=10)
        received = await channel.receive()
        found.append((channel.is_closed_by_peer(), received[0] if received else None))

    async def scenario(listener: TlsListener) -> None:
        channel = await connect(listener, cluster.own(2))
        await channel.send({"op": "hold"})
        channel.close()
        goes_on.set()
        await until_async("it was served", lambda: found, seconds=10)
        assert found[0][0] is True

    run(loop, cluster.own(1), scenario, serve)


def test_the_other_end_knows_of_a_close_before_the_loop_turns(loop: Loop, cluster: Cluster) -> None:
    """It may read a request from the closed connection at that very instant."""
    accepted: list[Channel] = []
    ends = asyncio.Event()

    async def serve(channel: Channel) -> None:
        accepted.append(channel)
        await ends.wait()

    async def scenario(listener: TlsListener) -> None:
        channel = await connect(listener, cluster.own(2))
        await channel.send({"op": "hold"})
        await until_async("it is served", lambda: accepted, seconds=10)
        assert not accepted[0].is_closed_by_peer()
        channel.close()
        assert accepted[0].is_closed_by_peer()
        ends.set()

    run(loop, cluster.own(1), scenario, serve)


def test_a_listener_waits_for_its_port(loop: Loop, cluster: Cluster) -> None:
    async def whole() -> None:
        with socket.socket() as taken:
            taken.bind((HERE, 0))
            taken.listen()
            at = TlsAddress(HERE, taken.getsockname()[1], cluster.own(1).server)
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


def test_a_connection_that_is_given_up_in_its_handshake_leaves_nothing(loop: Loop, cluster: Cluster) -> None:
    async def whole() -> None:
        with socket.socket() as silent:
            silent.bind((HERE, 0))
            silent.listen()
            context = cluster.own(2).client
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connect_tls(HERE, silent.getsockname()[1], context=context, node=NodeUid(1))
            accepted, _ = silent.accept()
            accepted.setblocking(False)
            with accepted:
                async with asyncio.timeout(10):
                    while await asyncio.get_running_loop().sock_recv(accepted, 10_000):
                        pass

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())
