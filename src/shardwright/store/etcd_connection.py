"""One connection to a member of the etcd: opens it (TLS or plain), sends requests, collects the parts of answers.

Called by ``etcd_wire.py`` only, which owns all limits of time except that of connecting. A connection serves one request at
a time and never repeats one. Must not know what an answer means.
"""

import asyncio
import json
import socket
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast

from shardwright.model.codes import Code
from shardwright.store.etcd_http import AnswerParser, BodyPart, Head, Part, compose
from shardwright.store.etcd_json import Json
from shardwright.store.protocol import StoreUnavailable
from shardwright.store.settings import EtcdEndpoint, EtcdSettings

BUFFERED_BYTES_MAX = 4 * 1024 * 1024
"""Received, but not read yet: a slow reader of a watch holds the member back instead of filling the memory."""
KEEPALIVE = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 2))
"""A silent connection to a machine that is gone ends after 4 s."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """Errors are StoreUnavailable; after one the connection is useless."""

    def __init__(self, endpoint: EtcdEndpoint, moves: int) -> None:
        """Private; call ``connect``. ``moves``: see ``EtcdWire``."""
        self.endpoint = endpoint
        self.moves = moves
        self.is_usable = False
        """Whether it is open and in step: the last answer has been read to its end."""
        self.ended = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._parser = AnswerParser()
        self._parts: deque[Part] = deque()
        self._buffered = 0
        self._is_paused = False
        self._error: StoreUnavailable | None = None
        self._waiter: asyncio.Future[None] | None = None

    # -- events of the transport -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        self.is_usable = True
        plain = transport.get_extra_info("socket")
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            plain.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        try:
            parts = self._parser.feed(data)
        except ValueError as e:
            self.fail(self._lost(f"its answer is unreadable: {e}"))
            return
        self._parts += parts
        self._buffered += len(data)
        if self._buffered > BUFFERED_BYTES_MAX and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_usable = False
        try:
            self._parts += self._parser.ends()
        except ValueError as e:
            exc = exc or e
        if self._error is None:
            self._error = error_of_transport(self.endpoint, exc)
        self.ended.set()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- requests and answers ----------------------------------------------------------------------------------------

    def send(self, path: str, body: Json, *, needs_leader: bool = False) -> None:
        """Send a request. The connection is out of step until its answer has been read to the end."""
        if self._error is not None:
            raise self._error
        assert self._transport is not None
        self.is_usable = False
        data = json.dumps(body, separators=(",", ":")).encode("ascii")
        self._transport.write(compose(path, data, host=str(self.endpoint).partition("//")[2], needs_leader=needs_leader))

    async def answer(self) -> HttpAnswer:
        """The whole answer to the request."""
        return await self.rest_of(await self.head())

    async def head(self) -> Head:
        """The beginning of the answer to the request."""
        head = await self.part()
        if not isinstance(head, Head):
            raise self._lost("its answer has no head")
        return head

    async def rest_of(self, head: Head) -> HttpAnswer:
        """The whole answer that has begun with this head."""
        chunks: list[bytes] = []
        while isinstance(part := await self.part(), BodyPart):
            chunks.append(part.data)
        self.is_usable = head.is_kept and not self._parts and self._error is None
        return HttpAnswer(head.status, b"".join(chunks))

    async def part(self) -> Part:
        """The next part of an answer."""
        while not self._parts:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        part = self._parts.popleft()
        if not self._parts:
            self._buffered = 0
            if self._is_paused and self._transport is not None and not self._transport.is_closing():
                self._is_paused = False
                self._transport.resume_reading()
        return part

    # -- end ---------------------------------------------------------------------------------------------------------

    def fail(self, error: StoreUnavailable) -> None:
        """End it now; who waits for an answer gets the error."""
        self.is_usable = False
        if self._error is None:
            self._error = error
        self._parts.clear()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def abort(self) -> None:
        """End it now. For a connection that no one reads."""
        self.fail(self._lost("this client has ended the connection"))

    def _lost(self, why: str) -> StoreUnavailable:
        return StoreUnavailable(Code.STORE_UNAVAILABLE, f"etcd at {self.endpoint}: {why}")


async def connect(endpoint: EtcdEndpoint, settings: EtcdSettings, moves: int) -> Connection:
    """A new connection. Raises StoreUnavailable: nothing was sent."""
    try:
        context = trust(settings) if endpoint.is_encrypted else None
    except OSError as e:
        text = f"{settings.ca}, {settings.cert} and {settings.key} cannot be used: {e.strerror or e}"
        raise StoreUnavailable(Code.STORE_CERTIFICATE_UNUSABLE, text) from e
    try:
        async with asyncio.timeout(settings.limits.connect_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(endpoint, moves), endpoint.host, endpoint.port, ssl=context
            )
    except TimeoutError as e:
        text = f"etcd at {endpoint}: no connection within {settings.limits.connect_s:g} s"
        raise StoreUnavailable(Code.STORE_UNAVAILABLE, str(e) or text) from e
    except OSError as e:
        raise error_of_transport(endpoint, e) from e
    return connection


def trust(settings: EtcdSettings) -> ssl.SSLContext:
    """Whom this client believes, and what it shows. Read for each connection, so that renewed files take effect. Raises
    OSError (also ssl.SSLError): they are missing or unusable."""
    assert settings.cert is not None
    context = ssl.create_default_context(cafile=settings.ca)
    context.load_cert_chain(settings.cert, settings.key)
    return context


def error_of_transport(endpoint: EtcdEndpoint, error: Exception | None) -> StoreUnavailable:
    """The store's error for a connection that could not be opened, or that has ended (None: the member closed it)."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        text = getattr(error, "verify_message", "") or error.reason or str(error)
        return StoreUnavailable(
            Code.STORE_CERTIFICATE_UNUSABLE, f"etcd at {endpoint}: a certificate is not accepted: {text}"
        )
    why = str(error) if error is not None and str(error) else "it has closed the connection"
    return StoreUnavailable(Code.STORE_UNAVAILABLE, f"etcd at {endpoint}: {why}")
