"""A kept connection: opened in the background, many requests at a time, and an end that never goes unnoticed."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.kept import LASTING_S, OPEN_AGAIN_S, KeptConnection, NotConnected
from shardwright.endpoint.requests import IN_PROGRESS_MAX, serve_requests
from shardwright.endpoint.tls import PeerRefused, TlsTransport
from shardwright.tasks import spawn
from testkit.deadlines import Stopwatch, until_async

pytestmark = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Loop = Callable[[], asyncio.AbstractEventLoop]
Serve = Callable[[Channel], Awaitable[None]]
LONG_S = 20.0


async def channel_of(end: socket.socket) -> Channel:
    return Channel(TlsTransport(*await asyncio.open_connection(sock=end)))


class Other:
    """The other process, reached by TCP without TLS. ``serve`` None: it reads nothing."""

    def __init__(self, serve: Serve | None) -> None:
        self.serve = serve
        self.fails: OSError | None = None
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.attempts = 0
        self.channels: list[Channel] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> Channel:
        self.attempts += 1
        await self.goes_on.wait()
        if self.fails is not None:
            raise self.fails
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = await channel_of(socket.create_connection(listener.getsockname()))
            far = await channel_of(listener.accept()[0])
        self.channels.append(far)
        if self.serve is not None:
            self._tasks.append(spawn("test: serve", self.serve(far)))  # type: ignore[arg-type]
        return near

    async def close(self) -> None:
        for channel in self.channels:
            channel.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def answering(channel: Channel) -> None:
    """Answers at once, except ``slow``, which is never answered."""

    async def answer(message: Message) -> Message:
        if message["op"] == "slow":
            await asyncio.sleep(LONG_S)
        if message["op"] == "fails":
            raise OSError("of its own")
        return {"ok": message["op"]}

    await serve_requests(channel, answer, name="test")


def run(
    loop: Loop,
    scenario: Callable[[KeptConnection, Other], Awaitable[None]],
    *,
    serve: Serve | None = answering,
    silent_after_s: float = LONG_S,
) -> None:
    async def whole() -> None:
        other = Other(serve)
        kept = KeptConnection(other.connect, name="test", silent_after_s=silent_after_s)
        try:
            async with asyncio.timeout(60):
                await scenario(kept, other)
        finally:
            kept.close()
            await other.close()
            # Nothing is left that would still read or open.
            left = [t for t in asyncio.all_tasks() if t.get_name().startswith("test: ")]
            await asyncio.gather(*left, return_exceptions=True)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())


async def is_open(kept: KeptConnection) -> None:
    kept.open_ahead()
    await until_async("it is open", lambda: kept.is_open, seconds=10)


async def ask(kept: KeptConnection, op: str, **options: Any) -> Message:
    return await kept.ask({"op": op}, **{"timeout_s": LONG_S, **options})


def test_who_must_not_wait_uses_an_open_connection_only(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        other.goes_on.clear()
        with pytest.raises(NotConnected, match="being opened") as failure:
            await ask(kept, "hold")
        assert failure.value.cause is None
        assert other.attempts == 0, "the call itself opened nothing"
        await until_async("it is opened in the background", lambda: other.attempts, seconds=10)
        other.goes_on.set()
        await until_async("it is open", lambda: kept.is_open, seconds=10)
        assert await ask(kept, "hold") == {"ok": "hold"}
        assert other.attempts == 1

    run(loop, scenario)


def test_who_may_wait_gets_the_first_answer(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        answers = await asyncio.gather(*(ask(kept, op, opens_within_s=LONG_S) for op in ("a", "b", "c")))
        assert answers == [{"ok": op} for op in ("a", "b", "c")]
        assert other.attempts == 1

    run(loop, scenario)


def test_a_slow_request_delays_no_other(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        await is_open(kept)
        slow = [asyncio.ensure_future(ask(kept, "slow")) for _ in range(5)]
        await asyncio.sleep(0)
        for _ in range(100):
            assert await ask(kept, "hold") == {"ok": "hold"}
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert kept.is_open, "a request that is given up costs nothing"
        assert other.attempts == 1

    run(loop, scenario)


def test_a_failure_of_one_request_is_its_answer(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        await is_open(kept)
        assert await ask(kept, "fails") == {"error": "of its own"}
        assert await ask(kept, "hold") == {"ok": "hold"}

    run(loop, scenario)


def test_too_many_requests_are_refused_and_not_queued(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        await is_open(kept)
        slow = [asyncio.ensure_future(ask(kept, "slow")) for _ in range(IN_PROGRESS_MAX)]
        await asyncio.sleep(0)
        assert "too many" in (await ask(kept, "hold"))["error"]
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)

    run(loop, scenario)


def test_a_peer_that_reads_nothing_costs_its_own_time_only(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        await is_open(kept)
        large = {"op": "serve", "text": "x" * 4_000_000}
        for message in (large, {"op": "status"}):
            watch = Stopwatch()
            with pytest.raises(TimeoutError):
                await kept.ask(message, timeout_s=0.05)
            assert watch.is_within(2.0)

    run(loop, scenario, serve=None)


def test_a_late_hold_ends_the_connection_so_that_it_is_ignored(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        await is_open(kept)
        pending = asyncio.ensure_future(ask(kept, "status"))
        with pytest.raises(TimeoutError):
            await ask(kept, "hold", timeout_s=0.02, is_void_if_late=True)
        await until_async("it is closed", other.channels[0].is_closed_by_peer, seconds=10)
        with pytest.raises(TimeoutError):
            await pending  # It was asked over the same connection.
        await is_open(kept)
        cancelled = asyncio.ensure_future(ask(kept, "hold", is_void_if_late=True))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        await until_async("it is closed", other.channels[1].is_closed_by_peer, seconds=10)

    run(loop, scenario, serve=None)


def test_a_silent_peer_is_left_after_its_time_and_not_before(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        await is_open(kept)
        watch = Stopwatch()
        while kept.is_open:
            with pytest.raises(TimeoutError):
                await ask(kept, "status", timeout_s=0.05)
            assert watch.is_within(2.0)
        assert watch.seconds >= 0.29  # uvloop counts in milliseconds

    run(loop, scenario, serve=None, silent_after_s=0.3)


def test_a_lost_connection_is_opened_again_at_once(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        await is_open(kept)
        pending = asyncio.ensure_future(ask(kept, "slow"))
        watch = Stopwatch()
        # Only a connection that ends as soon as it is made waits for the next request.
        await until_async("it has lasted", lambda: watch.seconds > LASTING_S, seconds=10)
        other.channels[0].close()
        with pytest.raises(ConnectionError):
            await pending
        await until_async("it is open again", lambda: kept.is_open and other.attempts == 2, seconds=10)
        assert await ask(kept, "hold") == {"ok": "hold"}

    run(loop, scenario)


def test_a_peer_that_refuses_is_not_asked_in_a_loop(loop: Loop) -> None:
    async def refusing(channel: Channel) -> None:
        await channel.send({"refused": "role api"})

    async def scenario(kept: KeptConnection, other: Other) -> None:
        kept.open_ahead()
        await until_async("it is refused", lambda: other.attempts == 1 and kept.failure is not None, seconds=10)
        assert not kept.is_open
        assert other.attempts == 1
        with pytest.raises(NotConnected, match="role api") as failure:
            await ask(kept, "hold")
        assert isinstance(failure.value.cause, PeerRefused)

    run(loop, scenario, serve=refusing)


def test_a_failed_attempt_is_named_and_repeated_at_most_every_moment(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        other.fails = ConnectionRefusedError("nothing listens")
        watch = Stopwatch()
        for _ in range(3):
            with pytest.raises(NotConnected, match="nothing listens") as failure:
                await ask(kept, "status", opens_within_s=LONG_S)
            assert failure.value.cause is other.fails
        assert other.attempts == 3
        # Two pauses between three attempts. uvloop counts in milliseconds.
        assert watch.seconds >= 2 * OPEN_AGAIN_S - 0.01
        other.fails = None
        assert await ask(kept, "status", opens_within_s=LONG_S) == {"ok": "status"}

    run(loop, scenario)


def test_after_its_end_nothing_is_opened(loop: Loop) -> None:
    async def scenario(kept: KeptConnection, other: Other) -> None:
        await is_open(kept)
        pending = asyncio.ensure_future(ask(kept, "slow"))
        await asyncio.sleep(0)
        kept.close()
        with pytest.raises(ConnectionError):
            await pending
        with pytest.raises(NotConnected):
            await ask(kept, "status", opens_within_s=LONG_S)
        assert other.attempts == 1

    run(loop, scenario)
