"""The connection to peers that answer correctly, wrongly, late or not at all: real sockets, no server."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shardwright.server.connection import (
    REPLY_BYTES_MAX,
    CannotConnect,
    ErrorReply,
    NoAnswer,
    NotSent,
    Reply,
    ServerConnection,
)

ADDRESS = "127.0.0.1"


def against(
    answers: list[bytes], scenario: Callable[[ServerConnection], Awaitable[None]], *, ends: bool = False
) -> list[bytes]:
    """Run a scenario with a peer that gives one answer for each chunk that it reads. Returns the peer's input."""
    read: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for answer in answers:
                read.append(await reader.read(65536))
                writer.write(answer)
                await writer.drain()
            if not ends:
                await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def whole() -> None:
        server = await asyncio.start_server(serve, ADDRESS, 0)
        async with server:
            connection = await ServerConnection.connect(ADDRESS, server.sockets[0].getsockname()[1], timeout_s=5)
            try:
                await scenario(connection)
            finally:
                connection.close()
                await asyncio.sleep(0)

    asyncio.run(whole())
    return read


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (b"+OK\r\n", "OK"),
        (b":42\r\n", 42),
        (b"$5\r\nhe\r\no\r\n", "he\r\no"),
        (b"$0\r\n\r\n", ""),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"*3\r\n$1\r\na\r\n:1\r\n*1\r\n+b\r\n", ["a", 1, ["b"]]),
        (b"$2\r\n\xff\xfe\r\n", "��"),
    ],
)
def test_answers(answer: bytes, reply: Reply) -> None:
    async def scenario(connection: ServerConnection) -> None:
        assert await connection.call("X", timeout_s=5) == reply
        assert connection.is_open

    against([answer], scenario)


def test_commands_are_sent_with_their_lengths_in_bytes() -> None:
    async def scenario(connection: ServerConnection) -> None:
        await connection.call("SET", "é", "", timeout_s=5)

    assert against([b"+OK\r\n"], scenario) == [b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xa9\r\n$0\r\n\r\n"]


def test_an_error_is_an_answer() -> None:
    async def scenario(connection: ServerConnection) -> None:
        reply = await connection.call("X", timeout_s=5)
        assert isinstance(reply, ErrorReply)
        assert (reply, reply.code) == ("NOPERM no", "NOPERM")
        assert connection.is_open

    against([b"-NOPERM no\r\n"], scenario)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$x\r\n",
        b"$%d\r\n" % (REPLY_BYTES_MAX + 1),
        b"*%d\r\n" % 10 + b"$200000\r\n" + b"x" * 200000 + b"\r\n" + b"$900000\r\n",
        b"+" + b"x" * 200_000,
        b"*1\r\n" * 20,
    ],
)
def test_an_invalid_answer_ends_the_connection(answer: bytes) -> None:
    async def scenario(connection: ServerConnection) -> None:
        with pytest.raises(NoAnswer) as caught:
            await connection.call("X", timeout_s=5)
        assert not caught.value.is_timeout
        with pytest.raises(NotSent):
            await connection.call("X", timeout_s=5)

    against([answer], scenario)


def test_silence_ends_the_connection() -> None:
    async def scenario(connection: ServerConnection) -> None:
        with pytest.raises(NoAnswer, match=r"no answer within 0\.05 s") as caught:
            await connection.call("X", timeout_s=0.05)
        assert caught.value.is_timeout
        assert not connection.is_open

    against([b"+OK"], scenario)


def test_an_incomplete_answer() -> None:
    async def scenario(connection: ServerConnection) -> None:
        with pytest.raises(NoAnswer, match="the connection broke") as caught:
            await connection.call("X", timeout_s=5)
        assert not caught.value.is_timeout

    against([b"$10\r\nabc"], scenario, ends=True)


def test_an_end_between_calls_is_noticed_and_nothing_is_sent() -> None:
    async def scenario(connection: ServerConnection) -> None:
        assert await connection.call("X", timeout_s=5) == "OK"
        async with asyncio.timeout(5):
            while connection.is_open:  # noqa: ASYNC110 - only the event loop's own turn brings the end
                await asyncio.sleep(0)
        with pytest.raises(NotSent):
            await connection.call("Y", timeout_s=5)

    assert len(against([b"+OK\r\n"], scenario, ends=True)) == 1


def test_concurrent_calls_share_the_round_trip_and_keep_their_order() -> None:
    async def scenario(connection: ServerConnection) -> None:
        found = await asyncio.gather(*(connection.call(name, timeout_s=5) for name in "ABC"))
        assert found == ["a", 2, "c"]

    read = against([b"+a\r\n:2\r\n+c\r\n"], scenario)
    assert read == [b"".join(b"*1\r\n$1\r\n%c\r\n" % name for name in b"ABC")]


def test_an_unanswered_command_also_ends_the_later_ones() -> None:
    async def scenario(connection: ServerConnection) -> None:
        calls = [
            asyncio.ensure_future(connection.call("A", timeout_s=0.05)),
            asyncio.ensure_future(connection.call("B", timeout_s=5)),
        ]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [NoAnswer, NoAnswer]
        assert [one.is_timeout for one in found if isinstance(one, NoAnswer)] == [True, False]
        with pytest.raises(NotSent):
            await connection.call("C", timeout_s=5)

    # One answer is missing: the other must not be taken for the second command's.
    against([b"+half"], scenario)


def test_a_cancelled_call_ends_the_connection() -> None:
    async def scenario(connection: ServerConnection) -> None:
        call = asyncio.ensure_future(connection.call("X", timeout_s=5))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(NotSent):
            await connection.call("Y", timeout_s=5)

    against([b""], scenario)


def test_no_process_listens() -> None:
    async def whole() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), ADDRESS, 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(CannotConnect, match="refused"):
            await ServerConnection.connect(ADDRESS, port, timeout_s=5)

    asyncio.run(whole())
