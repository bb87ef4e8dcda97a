"""Which member serves a client's traffic, with members that are small servers on loopback."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from shardwright.store.endpoints import EndpointBook
from shardwright.store.etcd_wire import EtcdWire
from shardwright.store.settings import EtcdLimits, EtcdSettings
from testkit.deadlines import until_async

T = TypeVar("T")

PATIENT = EtcdLimits(connect_s=20.0, attempt_s=20.0, ask_s=40.0)
STATUS, RANGE, TRANSACTION, WATCH = "/v3/maintenance/status", "/v3/kv/range", "/v3/kv/txn", "/v3/watch"
ANSWERS: dict[str, dict[str, Any]] = {STATUS: {"version": "3.5.9"}, WATCH: {"result": {"created": True}}}


class Member:
    """Answers one request after the other on each connection; ``before`` is called with the path first, and may end the
    connection by raising ConnectionError."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.answers = dict(ANSWERS)
        self.url = ""

    async def start(self, stack: AsyncExitStack) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        stack.callback(server.close)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = next(
                    int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")
                )
                await reader.readexactly(size)
                path = head.split()[1]
                self.asked.append(path)
                if path in self.before:
                    await self.before[path]()
                body = json.dumps(self.answers.get(path, {})).encode() + b"\n"
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def breaks() -> None:
    raise ConnectionError


def run(scenario: Callable[[EtcdWire, Member, Member], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            members = Member(), Member()
            for member in members:
                await member.start(stack)
            settings = EtcdSettings(tuple(member.url for member in members), limits=PATIENT)
            wire = EtcdWire(settings, EndpointBook(settings))
            stack.push_async_callback(wire.close)
            async with asyncio.timeout(60):
                await scenario(wire, *members)

    asyncio.run(main())


async def moved_while(opening: Awaitable[T], wire: EtcdWire, left: Member) -> T:
    """The result of what opens a connection at a member; another request moves the traffic meanwhile."""
    may_answer = asyncio.Event()

    async def waits() -> None:
        await may_answer.wait()

    left.before[STATUS] = waits
    task = asyncio.ensure_future(opening)
    await until_async("it connects", lambda: left.asked == [STATUS], seconds=20, state=lambda: str(left.asked))
    left.before[STATUS] = breaks
    await wire.ask(RANGE, {})
    may_answer.set()
    return await task


def test_a_watch_that_began_to_connect_before_a_move_opens_at_the_member_that_serves_now() -> None:
    """Nothing would end it: a watch at a member that was left stays silent."""

    async def scenario(wire: EtcdWire, left: Member, taken: Member) -> None:
        stream = await moved_while(wire.stream(WATCH, {}), wire, left)
        assert left.asked == [STATUS, STATUS]
        assert taken.asked == [STATUS, RANGE, STATUS, WATCH]
        stream.close()

    run(scenario)


def test_a_transaction_that_began_to_connect_before_a_move_is_sent_once_to_the_member_that_serves_now() -> None:
    async def scenario(wire: EtcdWire, left: Member, taken: Member) -> None:
        await moved_while(wire.tell(TRANSACTION, {}), wire, left)
        assert left.asked == [STATUS, STATUS]
        assert taken.asked == [STATUS, RANGE, TRANSACTION]

    run(scenario)
