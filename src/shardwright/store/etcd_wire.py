"""The way to etcd: kept connections to its JSON gateway, their limits of time, and the choice of the member that is asked.

Called by ``etcd.py`` and ``etcd_members.py``. One member serves all traffic of a client, watches included. When it does not
answer in time, or is not to be asked any more, all traffic moves to the next one: a watch at a dead or cut-off member would
stay silent. Must not know the store's terms, and must send nothing twice unless the caller allows it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog

from shardwright.model.codes import Code
from shardwright.store.endpoints import EndpointBook, next_endpoint
from shardwright.store.etcd_connection import Connection, HttpAnswer, connect
from shardwright.store.etcd_errors import Refused, error_of, is_of_the_member
from shardwright.store.etcd_http import BodyPart
from shardwright.store.etcd_json import Json
from shardwright.store.protocol import StoreUnavailable
from shardwright.store.settings import EtcdSettings

PAUSE_FIRST_S = 0.01
PAUSE_LAST_S = 0.2
"""Between two attempts, doubled each time: members that refuse at once must not be asked in a loop without a pause."""
CONNECTIONS_MAX = 16
"""Requests under way at once, besides watches. More would wait inside etcd instead."""
LOG_PAUSE_S = 5.0
"""Between two lines about moves: without a quorum, the traffic moves many times a second."""
CLOSE_S = 1.0
"""Limit of the wait for aborted connections."""

_STATUS = "/v3/maintenance/status"

_T = TypeVar("_T")
Request = tuple[str, Json]
"""Path and body."""
_log = structlog.get_logger(__name__)


class EtcdWire:
    """Belongs to one event loop. Calls raise StoreUnavailable, StoreReplaced, and Refused if etcd answered with an error."""

    def __init__(self, settings: EtcdSettings, book: EndpointBook) -> None:
        """``book``: where the members are, now and later, and which etcd is believed."""
        self._book = book
        self._settings = settings
        self._identity = book.identity
        self._present = next_endpoint(book.endpoints, None)
        """The member that serves all traffic."""
        self._moves = 0
        """How often the traffic has moved. A connection belongs to the number at which it was opened."""
        self._log_again_at = 0.0
        self._idle: list[Connection] = []
        self._streams: set[Connection] = set()
        self._open: set[Connection] = set()
        """All connections: idle ones, streams, and those with a request under way."""
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._is_closed = False

    # -- requests ----------------------------------------------------------------------------------------------------

    async def ask(self, path: str, *bodies: Json, first: Request | None = None) -> Json:
        """A request that may be repeated, also at other members. Attempt n sends body n; later attempts send the last.
        ``first``: a request that the same member must have answered without an error before."""
        before = () if first is None else (first,)

        async def attempt(number: int) -> Json:
            async with self._slots:
                return await self._exchange(await self._take(), *before, (path, bodies[min(number, len(bodies) - 1)]))

        return await self._repeat(attempt)

    async def tell(self, path: str, body: Json) -> Json:
        """A request that is sent once. Without an answer its outcome is unknown. Connecting is tried at every member."""
        async with self._slots:
            for _ in self._book.endpoints[1:]:
                try:
                    connection = await self._take()
                    break
                except StoreUnavailable:
                    self._check_open()
            else:
                connection = await self._take()
            return await self._exchange(connection, (path, body))

    async def stream(self, path: str, body: Json) -> "Stream":
        """A request with an endless answer, at a member that knows a leader. Returns when the first message is there."""

        async def attempt(_: int) -> Stream:
            connection = await self._connect()
            stream = Stream(connection, self._ended)
            self._streams.add(connection)
            try:
                async with self._limit(connection):
                    connection.send(path, body, needs_leader=True)
                    await stream.begin()
            except BaseException:
                self._drop(connection)
                raise
            return stream

        return await self._repeat(attempt)

    async def _repeat(self, attempt: Callable[[int], Awaitable[_T]]) -> _T:
        number, pause_s = 0, PAUSE_FIRST_S
        ends_at = time.monotonic() + self._settings.limits.ask_s
        while True:
            self._check_open()
            try:
                return await attempt(number)
            except StoreUnavailable:
                if self._is_closed or time.monotonic() + pause_s >= ends_at:
                    raise
            await asyncio.sleep(pause_s)
            number, pause_s = number + 1, min(2 * pause_s, PAUSE_LAST_S)

    async def _exchange(self, connection: Connection, *requests: Request) -> Json:
        """Send one after the other, each when the one before is answered, and return the last answer. The connection is kept
        for the next request if it is in step afterwards."""
        found: Json = {}
        try:
            async with self._limit(connection):
                for path, body in requests:
                    connection.send(path, body)
                    found = message_of(await connection.answer())
                    self._identity.check_answer(found)
            return found
        except Refused as e:
            raise self._judged(e, connection) from e
        finally:
            if connection.is_usable and connection.moves == self._moves and not self._is_closed:
                self._idle.append(connection)
            else:
                self._drop(connection)

    def _judged(self, refused: Refused, connection: Connection) -> Exception:
        """The error to raise. A member that cannot serve is left."""
        if not is_of_the_member(refused.code, refused.text):
            return refused
        self._move(connection.moves, refused.text)
        return error_of(refused)

    @asynccontextmanager
    async def _limit(self, connection: Connection) -> AsyncIterator[None]:
        """Context of one attempt. A member that does not answer in time, or ends the connection, loses all traffic."""
        attempt_s = self._settings.limits.attempt_s
        try:
            async with asyncio.timeout(attempt_s):
                yield
        except TimeoutError as e:
            error = StoreUnavailable(
                Code.STORE_UNAVAILABLE, f"etcd at {connection.endpoint} did not answer within {attempt_s:g} s"
            )
            self._move(connection.moves, error.text)
            raise error from e
        except StoreUnavailable as e:
            self._move(connection.moves, e.text)
            raise

    # -- connections -------------------------------------------------------------------------------------------------

    async def _take(self) -> Connection:
        """A connection for one request, to the present member. Raises StoreUnavailable: nothing was sent."""
        self._check_open()
        self._leave_unknown()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
            self._drop(connection)
        return await self._connect()

    async def _connect(self) -> Connection:
        """A new connection to the present member, whose version and identity are known. A connection cannot come to belong
        to another etcd, so no transaction ever reaches one that took the place of the first. Raises StoreUnavailable."""
        self._leave_unknown()
        moves = self._moves
        try:
            connection = await connect(self._present, self._settings, moves)
        except StoreUnavailable as e:
            self._move(moves, e.text)
            raise
        self._open.add(connection)
        try:
            self._check_open()
            async with self._limit(connection):
                connection.send(_STATUS, {})
                status = message_of(await connection.answer())
            self._identity.check_member(status)
        except Refused as e:
            self._drop(connection)
            self._move(moves, e.text)
            raise error_of(e) from e
        except StoreUnavailable as e:
            self._drop(connection)
            self._move(moves, e.text)
            raise
        except BaseException:
            self._drop(connection)
            raise
        if moves != self._moves:
            # Nothing would end a watch at the member that was left meanwhile.
            self._drop(connection)
            text = f"etcd at {connection.endpoint} was left while a connection to it was opened"
            raise StoreUnavailable(Code.STORE_UNAVAILABLE, text)
        return connection

    def _move(self, moves: int, reason: str) -> None:
        """Leave the member of a failed connection, with all traffic, unless that has happened already."""
        if moves != self._moves or self._is_closed:
            return
        self._moves += 1
        left, taken = self._present, next_endpoint(self._book.endpoints, self._present)
        self._present = taken
        now = time.monotonic()
        if left != taken and now >= self._log_again_at:
            self._log_again_at = now + LOG_PAUSE_S
            _log.warning("another member of the etcd is asked", left=str(left), taken=str(taken), reason=reason)
        error = StoreUnavailable(Code.STORE_UNAVAILABLE, f"etcd at {left} was left: {reason}")
        for connection in [*self._idle, *self._streams]:
            connection.fail(error)
            self._drop(connection)
        self._idle.clear()

    def _leave_unknown(self) -> None:
        """A member that is not to be asked any more loses all traffic."""
        if self._present not in self._book.endpoints:
            self._move(self._moves, "it is not a member any more")

    def _ended(self, connection: Connection, reason: str | None) -> None:
        """A stream has ended; with a reason: because of its member."""
        self._drop(connection)
        if reason is not None:
            self._move(connection.moves, reason)

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._streams.discard(connection)
        connection.abort()

    # -- end ---------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._is_closed:
            raise _closed()

    async def close(self) -> None:
        """Abort all connections; calls under way and streams end with StoreUnavailable."""
        self._is_closed = True
        ending = list(self._open)
        for connection in ending:
            connection.fail(_closed())
            self._drop(connection)
        self._idle.clear()
        try:
            async with asyncio.timeout(CLOSE_S):
                for connection in ending:
                    await connection.ended.wait()
        except TimeoutError:
            _log.warning("connections to the etcd did not end in time")


class Stream:
    """The messages of an endless answer. Who has read enough, or got an error, calls ``close``."""

    def __init__(self, connection: Connection, on_end: Callable[[Connection, str | None], None]) -> None:
        """Private; call ``EtcdWire.stream``."""
        self._connection = connection
        self._on_end = on_end
        self._rest = bytearray()
        self._messages: list[Json] = []
        """Received and not read yet, the next one last."""

    async def begin(self) -> None:
        """Wait for the first message, which remains to be read."""
        head = await self._connection.head()
        if head.status != 200:
            raise error_of(_refused(await self._connection.rest_of(head)))
        self._messages.append(await self.next())

    async def next(self) -> Json:
        """The next message. May be cancelled: nothing is lost. Raises StoreUnavailable when the stream has ended."""
        try:
            while not self._messages:
                part = await self._connection.part()
                if not isinstance(part, BodyPart):
                    raise StoreUnavailable(Code.STORE_UNAVAILABLE, "etcd has ended the stream")
                self._rest += part.data
                *lines, rest = self._rest.split(b"\n")
                self._rest = rest
                self._messages = [_decoded(bytes(line)) for line in reversed(lines) if line.strip()]
            return unpacked(self._messages.pop())
        except Refused as e:
            error = error_of(e)
            self._on_end(self._connection, error.text)
            raise error from e
        except StoreUnavailable as e:
            self._on_end(self._connection, e.text)
            raise

    def close(self) -> None:
        """End it."""
        self._on_end(self._connection, None)


def message_of(answer: HttpAnswer) -> Json:
    """The message of a complete answer. Raises Refused: etcd answered with an error; StoreUnavailable: it has none."""
    if answer.status != 200:
        raise _refused(answer)
    return unpacked(_decoded(answer.body))


def _refused(answer: HttpAnswer) -> Refused:
    """The error that an answer with another status than 200 states: in one of two forms, the second for streams."""
    found = _decoded(answer.body)
    error = found.get("error")
    if isinstance(error, dict):
        return _refused_by_stream(error)
    return Refused(int(found.get("code", 2)), str(found.get("message") or error or answer.status))


def _refused_by_stream(error: Json) -> Refused:
    return Refused(int(error.get("grpc_code", 2)), str(error.get("message", "no text")))


def unpacked(message: Json) -> Json:
    """A message without the envelope that answers of streams have. Raises Refused."""
    error = message.get("error")
    if isinstance(error, dict):
        raise _refused_by_stream(error)
    result = message.get("result", message)
    assert isinstance(result, dict)
    return result


def _decoded(line: bytes) -> Json:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StoreUnavailable(Code.STORE_UNAVAILABLE, f"not an answer of etcd: {line[:80]!r}")
    return found


def _closed() -> StoreUnavailable:
    return StoreUnavailable(Code.STORE_CLOSED, "the store was closed")
