"""Which member serves a client's traffic, with members that are small servers on loopback."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from shardwright.store.endpoints import EndpointBook
from shardwright.store.etcd_members import EtcdMembers
from shardwright.store.etcd_wire import EtcdWire
from shardwright.store.settings import EtcdLimits, EtcdSettings
from testkit.deadlines import until_async

T = TypeVar("T")

PATIENT = EtcdLimits(connect_s=20.0, attempt_s=20.0, ask_s=40.0)
LIST = "/v3/cluster/member/list"
STATUS, RANGE, TRANSACTION, WATCH = "/v3/maintenance/status", "/v3/kv/range", "/v3/kv/txn", "/v3/watch"
ANSWERS: dict[str, dict[str, Any]] = {STATUS: {"version": "3.5.9"}, WATCH: {"result": {"created": True}}}


class Member:
    """Answers one request after the other on each connection; ``before`` is called with the path first, and may end the
    connection by raising ConnectionError."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.answers = dict(ANSWERS)
        self.is_cut_off = False
        """It knows no leader, so it answers from its own state only."""
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
                status, answer = 200, self.answers.get(path, {})
                if self.is_cut_off and path == RANGE:
                    status, answer = 503, {"code": 14, "message": "etcdserver: no leader"}
                body = json.dumps(answer).encode() + b"\n"
                writer.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def breaks() -> None:
    raise ConnectionError


def settings_of(*members: Member) -> EtcdSettings:
    return EtcdSettings(tuple(member.url for member in members), limits=PATIENT)


def run(scenario: Callable[[EtcdWire, Member, Member], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            members = Member(), Member()
            for member in members:
                await member.start(stack)
            settings = settings_of(*members)
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


def test_the_members_are_those_that_a_member_with_a_leader_knows() -> None:
    """A member that is cut off answers with those of the past, and nothing in its answer says so."""

    async def scenario(_: EtcdWire, old: Member, new: Member) -> None:
        old.is_cut_off = True
        old.answers[LIST] = {"members": [{"ID": "1", "name": "node-1", "isLearner": True}]}
        new.answers[LIST] = {"members": [{"ID": "1", "name": "node-1"}, {"ID": "2", "name": "node-2"}]}
        members = EtcdMembers(settings_of(old, new))
        try:
            found = await members.members()
        finally:
            await members.close()
        assert [(m.id, m.is_learner) for m in found] == [(1, False), (2, False)]
        assert old.asked == [STATUS, RANGE]
        assert new.asked == [STATUS, RANGE, LIST]

    run(scenario)
