"""The gate in front of all routes (ASGI middleware): versions, sizes, authentication, and one format for every failure.

Authenticates before it reads a body, and reads the whole body before a route runs, so that the size limit applies to every
way of sending it. Does not know any route.
"""

import asyncio
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

import structlog
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shardwright.api.auth import Authenticator
from shardwright.api.deps import ApiContext, Caller
from shardwright.api.errors import answer_of, coded
from shardwright.api.services.intent import look
from shardwright.errors import ShardwrightError

BODY_BYTES_MAX: Final = 1024 * 1024
STRANGERS_BODY_BYTES_MAX: Final = 64 * 1024
"""Of a request that a token admits: nothing is known of its sender before the body is read."""
BODY_TIMEOUT_S: Final = 20.0
DISCARDED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Read and discarded after a refusal: a client that is still sending reads the answer only afterwards."""
DISCARD_TIMEOUT_S: Final = 5.0
URI_CHARACTERS_MAX: Final = 2048
_VERSION = re.compile(r"v?[12](\.0)?")

_log = structlog.get_logger(__name__)


class _Refused(Exception):
    """Ends a request with this answer."""

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self.answer = answer


class RequestGate:
    """The middleware. Admits or refuses each request before the routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        context: ApiContext,
        allowed: Callable[[str], set[str]],
        admitted_by_token: Collection[tuple[str, str]] = (),
        is_public: Callable[[str, str], bool] = lambda method, path: False,
    ) -> None:
        """``admitted_by_token``: methods and paths that check a token instead of credentials, in a cluster of machines.
        ``is_public``: whether a method and a path need neither credentials nor the store."""
        self._app = app
        self._context = context
        self._allowed = allowed
        self._open = admitted_by_token if context.machines is not None else ()
        self._is_public = is_public
        self._authenticator = Authenticator(context.clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_marked(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                revision = str(self._context.mirror.revision).encode()
                marks = [(b"cluster-state-id", revision), (b"cache-control", b"no-store")]
                message = {**message, "headers": [*message.get("headers", []), *marks]}
            await send(message)

        try:
            await self._pass(scope, receive, send_marked)
        except _Refused as refusal:
            await refusal.answer(scope, receive, send_marked)
        except asyncio.CancelledError:
            # The server is stopping and has waited long enough: only then is a request cancelled, and this task has no
            # waiter.
            if has_begun:
                raise
            text = "The daemon of this node is stopping. Ask another node whether the requested change was made."
            await coded("node_stopping", text, headers=_CLOSE)(scope, receive, send_marked)
        except Exception as error:
            if has_begun:
                raise
            if not isinstance(error, ShardwrightError):
                _log.exception("a request failed", method=scope["method"], path=scope["path"])
            await answer_of(error)(scope, receive, send_marked)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["asked_at"] = self._context.mirror.now()
        # A request takes as long as the pause of a handoff's clients: one poll of its progress would add a third to it.
        await self._context.right_of_way.give_way()
        try:
            await self._admit(scope)
        except (ShardwrightError, _Refused):
            await _discard(receive)
            raise
        body = await _read_body(receive, BODY_BYTES_MAX if "caller" in scope else STRANGERS_BODY_BYTES_MAX)
        await self._app(scope, _replay(body, receive), send)

    async def _admit(self, scope: Scope) -> None:
        """All checks that do not need the body: a refused client does not have to send one."""
        headers = {
            name.lower(): value for name, value in reversed(scope["headers"])
        }  # the first of duplicate headers counts
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > URI_CHARACTERS_MAX:
            raise _Refused(coded("uri_too_long", f"The URI is longer than {URI_CHARACTERS_MAX} characters."))
        version = headers.get(b"x-api-version")
        if version is not None and not _VERSION.fullmatch(version.decode("latin-1").strip()):
            raise _Refused(coded("unsupported_api_version", "Supported versions: 1 and 2."))
        if self._is_public(scope["method"], scope["path"]):
            return
        seen = await look(replace(self._context, asked_at=scope["asked_at"]))
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        if not authorization and (scope["method"], scope["path"]) in self._open:
            return
        user = await self._authenticator.authenticate(authorization, seen.view)
        scope["caller"] = Caller(user)
        scope["authenticator"] = self._authenticator
        if scope["method"] == "OPTIONS" and (methods := self._allowed(scope["path"])):
            raise _Refused(JSONResponse({}, headers={"Allow": ", ".join(sorted(methods))}))


async def _read_body(receive: Receive, bytes_max: int) -> bytes:
    """The whole body. Raises _Refused if it is too large or too slow."""
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise _Refused(coded("request_timeout", "The client closed the connection."))
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > bytes_max:
                    if message.get("more_body", False):
                        await _discard(receive)
                    raise _Refused(_too_large(bytes_max))
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError as e:
        raise _Refused(coded("request_timeout", f"The body took longer than {BODY_TIMEOUT_S:g} s.", headers=_CLOSE)) from e


_CLOSE = {"Connection": "close"}


def _too_large(bytes_max: int) -> Response:
    return coded("body_too_large", f"The body is larger than {bytes_max} bytes.", headers=_CLOSE)


async def _discard(receive: Receive) -> None:
    """Read and discard, within limits."""
    size = 0
    try:
        async with asyncio.timeout(DISCARD_TIMEOUT_S):
            while size < DISCARDED_BYTES_MAX:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns the body that was read, then the connection's further messages."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
