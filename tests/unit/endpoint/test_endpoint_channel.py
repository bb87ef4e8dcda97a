"""The control socket's framing, and that an adopted connection is not touched before it is begun."""

import asyncio
import socket
from pathlib import Path

import pytest
import uvloop

from shardwright.clock import SystemClock
from shardwright.endpoint.channel import Channel
from shardwright.endpoint.gate import Budget, Counts
from shardwright.endpoint.protocol import EndpointSpec
from shardwright.endpoint.served import ServedEndpoint
from shardwright.endpoint.session import Luggage
from shardwright.endpoint.setup import ConnectionState
from shardwright.model.ids import DatabaseUid, EndpointUid
from shardwright.tasks import spawn


def test_messages_and_files_travel() -> None:
    async def run() -> None:
        near, far = socket.socketpair()
        async with Channel(near) as a, Channel(far) as b:
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


def test_an_adopted_connection_is_not_read_before_it_begins() -> None:
    async def run() -> None:
        spec = EndpointSpec(EndpointUid("1:1"), DatabaseUid(1), "d", "127.0.0.1", 1, None, password="p")
        served = ServedEndpoint(spec, budget=Budget(), counts=Counts(), clock=SystemClock())
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            client = socket.create_connection(listener.getsockname())
            passed, _ = listener.accept()
        client.setblocking(False)
        passed.setblocking(False)
        copy = passed.dup()
        client.send(b"\r\n")
        connection = await served.adopt_connection(passed, Luggage(False, ConnectionState(), None, False, b"AUTH p"))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert copy.recv(10, socket.MSG_PEEK) == b"\r\n"
        connection.thaw()
        assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 10), 5) == b"+OK\r\n"
        connection.finish()
        client.close()
        copy.close()
        while served.connections:
            await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    asyncio.run(run())
