"""How an endpoint process connects to a server: in clear or encrypted, as its target says."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from shardwright.endpoint.backend import BackendConnection
from shardwright.endpoint.pace import LoopPace
from shardwright.endpoint.probe import probe
from shardwright.endpoint.protocol import Target
from shardwright.endpoint.reach import HANDSHAKES_MAX, ServerAccess, reach
from shardwright.endpoint.tls import OwnCertificateUnusable
from shardwright.model.codes import Code
from shardwright.model.ids import ShardUid
from shardwright.trust.contexts import client_context
from testkit.certificates import members
from testkit.deadlines import until_async

CLEAR = Target(ShardUid(1), 1, "127.0.0.1", 1001)
ENCRYPTED = replace(CLEAR, uses_tls=True)


def test_a_target_says_whether_its_server_is_reached_encrypted() -> None:
    context = client_context(members().member(1))
    assert ServerAccess(lambda: context).encryption(CLEAR) is None
    assert ServerAccess().encryption(CLEAR) is None
    assert ServerAccess(lambda: context).encryption(ENCRYPTED) is context


def test_nothing_is_sent_in_clear_to_a_server_that_encrypts() -> None:
    with pytest.raises(OwnCertificateUnusable) as refused:
        ServerAccess().encryption(ENCRYPTED)
    assert refused.value.code is Code.CREDENTIALS_UNUSABLE
    assert "has no certificate" in asyncio.run(probe(ENCRYPTED, "secret", ServerAccess()))


def test_few_handshakes_are_under_way_at_the_same_time() -> None:
    """The server accepts nobody's handshake: each attempt keeps its place until its time is over."""

    async def whole() -> None:
        accepted = ended = 0

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal accepted, ended
            accepted += 1
            with contextlib.suppress(OSError):
                while await reader.read(1024):
                    pass
            writer.transport.abort()
            ended += 1

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        loop, context = asyncio.get_running_loop(), client_context(members().member(1))
        access, pace, count = ServerAccess(lambda: context), LoopPace(loop), HANDSHAKES_MAX + 3
        target = replace(ENCRYPTED, port=server.sockets[0].getsockname()[1])
        backends = [BackendConnection(Nobody(), target, pace=pace, is_cheap=lambda n: True) for _ in range(count)]
        opening = [asyncio.ensure_future(reach(backend, loop, access)) for backend in backends]
        await until_async("the first attempts", lambda: accepted == HANDSHAKES_MAX, seconds=0.8)
        assert access.room.locked()
        results = await asyncio.gather(*opening, return_exceptions=True)
        assert all(isinstance(result, TimeoutError) for result in results), results
        await until_async("the end of all attempts", lambda: ended == count, seconds=10)
        assert accepted == count, "the others had their turn"
        server.close()
        await server.wait_closed()

    asyncio.run(whole())


class Nobody:
    """A client that takes nothing."""

    def backend_made(self, backend: BackendConnection) -> None: ...

    def backend_received(self, data: bytes) -> None: ...

    def backend_lost(self, backend: BackendConnection) -> None: ...
