"""The HTTPS server around the app: uvicorn in the daemon's event loop, stoppable, without signal handlers."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from shardwright.api.errors import coded
from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.tasks import spawn

STOP_TIMEOUT_S: Final = 2
"""Time limit for running requests when the server stops."""
KEEP_ALIVE_S: Final = 75
"""Timeout of an idle connection; longer than the usual minute between polls of monitoring tools."""
HEADER_BYTES_MAX: Final = 32 * 1024
CONNECTIONS_MAX: Final = 1000
"""Connections above this limit are answered with 503."""
HEADERS_TIMEOUT_S: Final = 15.0
"""Time limit for the headers, from the start of the connection or from the first byte of a later request."""
POLL_S: Final = 0.005


class _Quiet(uvicorn.Server):
    """A server that leaves signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Bounded(H11Protocol):
    """A connection that is closed if its headers take too long: uvicorn itself would wait indefinitely. Errors that uvicorn
    would send as plain text are JSON like every other answer."""

    _headers_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            self.app = _too_many
        self._expect_headers()

    def send_400_response(self, msg: str) -> None:
        """See ``H11Protocol``: the data is not HTTP."""
        answer = coded("malformed_http", msg, headers=_CLOSE)
        events = (
            h11.Response(status_code=answer.status_code, headers=answer.raw_headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        )
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # otherwise an answer is already on its way
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._expect_nothing()
        elif self._headers_timer is None and self.conn.trailing_data[0]:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._headers_timer = self.loop.call_later(HEADERS_TIMEOUT_S, self._end_slow)

    def _expect_nothing(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _end_slow(self) -> None:
        self._headers_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


_CLOSE: Final = {"Connection": "close"}


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    text = f"This node has reached its limit of {CONNECTIONS_MAX} connections. Try again, or use another node."
    await coded("too_many_connections", text, headers=_CLOSE)(scope, receive, send)


class ApiServer:
    """A running server."""

    def __init__(self, server: uvicorn.Server, task: asyncio.Task[None], port: int) -> None:
        self._server = server
        self._task = task
        self.port = port
        """The port it listens on: the requested one, or the one chosen for 0."""

    async def stop(self) -> None:
        """Stop accepting, give running requests at most ``STOP_TIMEOUT_S`` to end, close. May be called twice."""
        self._server.should_exit = True
        await self.ended()

    async def ended(self) -> None:
        """Wait for its end; raises the error that ended it."""
        await asyncio.shield(self._task)


async def serve(app: ASGIApp, hosts: Sequence[str], port: int, context: ssl.SSLContext) -> ApiServer:
    """Start to serve at these addresses; returns when it accepts connections. ``context``: for every connection, so that it
    may be given a renewed certificate. Raises Permanent if one of the addresses is unavailable."""
    listeners: list[socket.socket] = []
    try:
        for host in hosts:
            listeners.append(_listen(host, port))  # noqa: PERF401 (those that were opened are closed if one fails)
        server = _Quiet(_config(app, context))
        task = spawn(f"api {hosts[0]}:{listeners[0].getsockname()[1]}", server.serve(sockets=listeners))
        while not server.started:
            if task.done():
                await task
                raise Permanent(Code.API_NOT_STARTED, f"the API on {hosts[0]}:{port} ended before it accepted connections")
            await asyncio.sleep(POLL_S)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return ApiServer(server, task, int(listeners[0].getsockname()[1]))


def _listen(host: str, port: int) -> socket.socket:
    """Bound here, because uvicorn would end the process if the bind fails. The protocol is explicit because asyncio only
    then sets TCP_NODELAY: otherwise every answer waits 40 ms for a delayed acknowledgment (measured)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
        listener.setblocking(False)
    except OSError as e:
        listener.close()
        raise Permanent(Code.API_PORT_UNAVAILABLE, f"the API cannot listen on {host}:{port}: {e.strerror}") from e
    return listener


def _config(app: ASGIApp, context: ssl.SSLContext) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        loop="none",
        http=_Bounded,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        h11_max_incomplete_event_size=HEADER_BYTES_MAX,
    )
    config.load()
    config.ssl = context
    return config
