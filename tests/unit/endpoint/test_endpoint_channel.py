"""The control socket's framing; an offered connection is not touched before it is begun."""

import asyncio
import socket
import tempfile
from pathlib import Path

import pytest
import uvloop

from shardwright.endpoint import wire
from shardwright.endpoint.channel import Channel, UnixTransport
from shardwright.endpoint.connection import Packed
from shardwright.endpoint.packed_session import PackedSession
from shardwright.endpoint.process import EndpointProcess
from shardwright.endpoint.protocol import EndpointSpec
from shardwright.endpoint.setup import ConnectionState
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid
from shardwright.tasks import spawn


def test_messages_arrive_with_their_files() -> None:
    async def run() -> None:
        near, far = socket.socketpair()
        async with Channel(UnixTransport(near)) as a, Channel(UnixTransport(far)) as b:
            with socket.socket() as one, socket.socket() as two:
                big = {"text": "x" * 1_000_000}

                async def send_all() -> None:
                    await a.send({"n": 1}, (one.fileno(), two.fileno()))
                    await a.send(big)
                    await a.send({"n": 3})

                sending = spawn("test: sending", send_all())
                first = await b.receive()
                assert first is not None
                assert first[0]["n"] == 1
                assert len(first[1]) == 2
                for file in first[1]:
                    socket.socket(fileno=file).close()
                assert await b.receive() == (big, [])
                assert await b.receive() == ({"n": 3}, [])
                await sending
            a.close()
            assert await b.receive() is None

    asyncio.run(run())


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(OSError, match="No such file"):
            await Channel.connect(str(tmp_path / "none"))

    asyncio.run(run())


def test_an_offered_connection_is_not_read_before_it_begins() -> None:
    async def run() -> None:
        process = EndpointProcess(NodeUid(1))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            spec = EndpointSpec(EndpointUid("1:1"), DatabaseUid(1), "d", "127.0.0.1", 1, None, password="p")
            client = socket.create_connection(listener.getsockname())
            passed, _ = listener.accept()
            near, far = socket.socketpair()
            talking = spawn("test: talk", process.serve_caller(Channel(UnixTransport(far))))
            client.setblocking(False)
            client.send(b"\r\n")
            with passed, client:
                async with Channel(UnixTransport(near)) as channel:
                    adopt = {"op": "adopt_listener", "spec": wire.spec_to(spec), "target": None, "hold": None}
                    assert "ok" in await channel.ask(adopt, (listener.fileno(),))
                    packed = Packed(
                        passed, PackedSession(False, ConnectionState(), None, False), [b"AUTH p"], [b"+PO", b"NG\r\n"]
                    )
                    offer = {"op": "adopt_connections", "endpoint": spec.uid, "connections": [wire.packed_to(packed)]}
                    with tempfile.TemporaryFile() as on_its_way:
                        on_its_way.write(b"AUTH p+PONG\r\n")
                        on_its_way.flush()
                        assert "ok" in await channel.ask(offer, (passed.fileno(), on_its_way.fileno()))
                    await asyncio.sleep(0.02)
                    assert passed.recv(10, socket.MSG_PEEK) == b"\r\n"
                    await channel.send({"op": "begin"})
                    answer = b""
                    while len(answer) < 12:
                        answer += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 100), 5)
                    assert answer == b"+PONG\r\n+OK\r\n"
                await talking
        await process.close()

    for factory in (uvloop.new_event_loop, asyncio.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(run())
