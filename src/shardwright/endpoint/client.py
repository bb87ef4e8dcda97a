"""``EndpointClient``: what the rest of the project uses to speak to endpoint processes. A call is one short connection."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from shardwright.clock import Clock, SystemClock
from shardwright.endpoint import wire
from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.protocol import (
    CALL_TIMEOUT_S,
    CALM_S,
    HOLD_TIMEOUT_S,
    EndpointProcessEnded,
    EndpointSpec,
    HoldResult,
    PassResult,
    ReleaseResult,
    Target,
)
from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import EndpointProcessSeen


class EndpointClient:
    """All endpoint processes, found by ``path_of``, which knows each node's control socket (None: there is none)."""

    def __init__(
        self, path_of: Callable[[NodeUid], str | None], *, clock: Clock | None = None, call_timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self._path_of = path_of
        self._clock = clock or SystemClock()
        self._call_timeout_s = call_timeout_s

    async def status(self, node: NodeUid) -> EndpointProcessSeen:
        """See ``Endpoints``."""
        try:
            answer = await self._ask(node, {"op": "status"})
            return _process_seen(node, self._clock.now(), answer)
        except EndpointProcessEnded:
            return EndpointProcessSeen(node, self._clock.now(), answers=False, has_ended=True)
        except (Transient, KeyError, TypeError, ValueError):
            return EndpointProcessSeen(node, self._clock.now(), answers=False)

    async def serve(self, node: NodeUid, spec: EndpointSpec) -> None:
        """See ``Endpoints``."""
        await self._ask(node, {"op": "serve", "spec": wire.spec_to(spec)})

    async def drop(self, node: NodeUid, endpoint: EndpointUid) -> None:
        """See ``Endpoints``."""
        await self._ask(node, {"op": "drop", "endpoint": endpoint}, timeout_s=HOLD_TIMEOUT_S)

    async def calm(self, node: NodeUid, endpoint: EndpointUid) -> None:
        """See ``Endpoints``."""
        await self._ask(node, {"op": "calm", "endpoint": endpoint}, timeout_s=CALM_S + HOLD_TIMEOUT_S)

    async def hold(self, node: NodeUid, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        """See ``Endpoints``."""
        message = {"op": "hold", "endpoint": endpoint, "old": wire.target_to(old), "new": wire.target_to(new)}
        return wire.hold_result_from(await self._ask(node, message, timeout_s=HOLD_TIMEOUT_S))

    async def release(self, node: NodeUid, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        """See ``Endpoints``."""
        message = {"op": "release", "endpoint": endpoint, "target": wire.target_to(target)}
        return wire.release_result_from(await self._ask(node, message))

    async def pass_along(self, node: NodeUid, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        """See ``Endpoints``."""
        to_path = self._path(to_node)
        message = {"op": "pass_along", "endpoint": endpoint, "to_path": to_path}
        return wire.pass_result_from(await self._ask(node, message))

    def _path(self, node: NodeUid) -> str:
        path = self._path_of(node)
        if not path:
            raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, f"no endpoint process of node {node} is known")
        return path

    async def _ask(self, node: NodeUid, message: Message, *, timeout_s: float | None = None) -> Message:
        path = self._path(node)
        request = message["op"]
        try:
            async with asyncio.timeout(timeout_s or self._call_timeout_s), await Channel.connect(path) as channel:
                answer = await channel.ask(message)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            text = f"the endpoint process of node {node} has ended: nothing listens at {path}"
            raise EndpointProcessEnded(Code.ENDPOINT_PROCESS_ENDED, text) from error
        except (OSError, TimeoutError, ValueError) as error:
            reason = str(error) or "no answer in time"
            text = f"the endpoint process of node {node} did not answer {request}: {reason}"
            raise Transient(Code.ENDPOINT_PROCESS_SILENT, text) from error
        if "error" in answer:
            raise Transient(
                Code.ENDPOINT_PROCESS_REFUSED, f"the endpoint process of node {node}: {request}: {answer['error']}"
            )
        result = answer.get("ok")
        if not isinstance(result, dict):
            raise Transient(
                Code.ENDPOINT_PROCESS_REFUSED, f"the endpoint process of node {node} sent an invalid reply to {request}"
            )
        return result


def _process_seen(node: NodeUid, at: datetime, answer: Message) -> EndpointProcessSeen:
    endpoints = tuple(wire.seen_from(data) for data in answer["endpoints"])
    return EndpointProcessSeen(node, at, answers=True, pid=answer["pid"], endpoints=endpoints, totals=answer["totals"])
