"""One kept connection to a process of another machine, with many requests at a time.

Owns when the connection is opened: ahead and in the background. A caller that must not wait, because clients wait for it,
uses the connection only if it is open. Has no thread and no timer of its own while it is idle.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.tls import refusal_of
from shardwright.tasks import spawn

OPEN_AGAIN_S = 0.2
"""Least time between two attempts to open the connection."""
LASTING_S = 1.0
"""A connection that lasted this long is opened again as soon as it is lost. A shorter one waits for the next request: the
other end may refuse each of them."""

_log = structlog.get_logger(__name__)


class NotConnected(ConnectionError):
    """There is no connection, and nothing was asked. ``cause``: why the last attempt to open one failed; None: the first one
    is still under way."""

    def __init__(self, text: str, cause: BaseException | None) -> None:
        super().__init__(text)
        self.cause = cause


class _Conversation:
    """The requests over one open channel."""

    def __init__(self, channel: Channel, name: str, on_end: Callable[["_Conversation", BaseException], None]) -> None:
        self._channel = channel
        self._on_end = on_end
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._last = 0
        self._loop = asyncio.get_running_loop()
        self.began = self._loop.time()
        self._unheard_since: float | None = None
        """When the first request was sent after the last sign of the other end."""
        self._reading = spawn(f"{name}: read", self._read())

    @property
    def unheard_s(self) -> float:
        """Seconds since the first request that is followed by no sign of the other end."""
        return 0.0 if self._unheard_since is None else self._loop.time() - self._unheard_since

    async def ask(self, message: Message) -> Message:
        self._last += 1
        number = self._last
        answer: asyncio.Future[Message] = self._loop.create_future()
        self._waiting[number] = answer
        if self._unheard_since is None:
            self._unheard_since = self._loop.time()
        try:
            await self._channel.send(message | {"id": number})
            return await answer
        finally:
            del self._waiting[number]

    def end(self, error: BaseException) -> None:
        """Close the channel. All requests fail with this error."""
        self._reading.cancel()
        self._finish(error)

    async def _read(self) -> None:
        error: BaseException = ConnectionResetError("the other process closed the connection")
        try:
            while (received := await self._channel.receive()) is not None:
                message, _ = received
                self._unheard_since = None
                if (refused := refusal_of(message)) is not None:
                    error = refused
                    break
                answer = self._waiting.get(message.pop("id", 0))
                if answer is not None and not answer.done():
                    answer.set_result(message)
        except (OSError, ValueError) as failure:
            error = failure
        self._finish(error)

    def _finish(self, error: BaseException) -> None:
        self._channel.close()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # Its caller may have been cancelled at this moment.
        self._on_end(self, error)


class KeptConnection:
    """See the module's docstring. ``connect`` opens a channel within a bounded time, and raises OSError or TimeoutError.
    ``silent_after_s``: a request that has timed out ends the connection if the other end has given no sign for this long."""

    def __init__(self, connect: Callable[[], Awaitable[Channel]], *, name: str, silent_after_s: float) -> None:
        self._connect = connect
        self._name = name
        self._silent_after_s = silent_after_s
        self._open: _Conversation | None = None
        self._opening: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._failure: BaseException | None = None
        self._is_closed = False

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent now."""
        return self._open is not None

    @property
    def failure(self) -> BaseException | None:
        """Why the last connection ended or could not be opened; None: it is open, or none has failed yet."""
        return self._failure

    def open_ahead(self) -> None:
        """Begin to open the connection, unless it is open or being opened."""
        if not self._is_closed and self._open is None and self._opening is None:
            self._opening = spawn(f"{self._name}: open", self._establish())

    async def ask(
        self, message: Message, *, timeout_s: float, opens_within_s: float = 0.0, is_void_if_late: bool = False
    ) -> Message:
        """Send a request and await its answer, all within ``timeout_s``. If the connection is down, wait at most
        ``opens_within_s`` for it, which is part of that time; 0: do not wait, but begin to open it.

        ``is_void_if_late``: if no answer comes in time, or the caller is cancelled, the connection ends, so that the other
        side ignores the request if it has not read it yet. Raises NotConnected, TimeoutError, other OSErrors when the
        connection is lost meanwhile, and ValueError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if self._open is None:
            self.open_ahead()
            if opens_within_s > 0:
                await self._wait_open(min(timeout_s, opens_within_s))
        conversation = self._open
        if conversation is None:
            raise NotConnected(f"no connection: {_said(self._failure)}", self._failure)
        try:
            async with asyncio.timeout_at(deadline):
                return await conversation.ask(message)
        except (TimeoutError, asyncio.CancelledError):
            if is_void_if_late or conversation.unheard_s >= self._silent_after_s:
                conversation.end(TimeoutError("no answer in time"))
            raise

    def close(self) -> None:
        """End the connection, and open no other one."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._open is not None:
            self._open.end(ConnectionAbortedError("the connection was closed"))

    async def _wait_open(self, seconds: float) -> None:
        if self._opening is not None:
            await asyncio.wait({self._opening}, timeout=seconds)

    async def _establish(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._not_before - loop.time())
            self._not_before = loop.time() + OPEN_AGAIN_S
            channel = await self._connect()
            self._open = _Conversation(channel, self._name, self._ended)
            self._failure = None
        except (OSError, TimeoutError) as error:
            self._failure = error
        finally:
            self._opening = None

    def _ended(self, conversation: _Conversation, error: BaseException) -> None:
        if self._open is not conversation:
            return
        self._open = None
        self._failure = error
        _log.info("a connection to another machine has ended", what=self._name, reason=_said(error))
        if asyncio.get_running_loop().time() - conversation.began >= LASTING_S:
            self.open_ahead()


def _said(error: BaseException | None) -> str:
    if error is None:
        return "it is being opened"
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
