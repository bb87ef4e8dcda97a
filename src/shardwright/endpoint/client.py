"""Calls one endpoint process. How its requests get there is a parameter: ``UnixCaller`` here, ``nodes/remote.py`` for other
machines."""

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Protocol

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
    LeaseTerms,
    PassResult,
    ReleaseResult,
    Target,
)
from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.seen import EndpointProcessSeen


class ControlCaller(Protocol):
    """The way to one endpoint process."""

    async def ask(self, message: Message, timeout_s: float) -> Message:
        """The answer to a request. Raises EndpointProcessEnded if the process has certainly ended, and Transient without an
        answer in time."""
        ...


class UnixCaller:
    """Over the control socket at a path, on this machine; None: unknown. Each request uses its own short connection, so that
    no request waits for another one, and a process that wakes late ignores the request of a caller that has left."""

    def __init__(self, node: NodeUid, path: str | None) -> None:
        self._node = node
        self._path = path

    async def ask(self, message: Message, timeout_s: float) -> Message:
        """See ``ControlCaller``. That no process listens on a socket of this machine proves its end."""
        node, path = self._node, self._path
        if not path:
            raise Transient(Code.ENDPOINT_PROCESS_UNKNOWN, f"no endpoint process of node {node} is known")
        try:
            async with asyncio.timeout(timeout_s), await Channel.connect(path) as channel:
                return await channel.ask(message)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            text = f"the endpoint process of node {node} has ended: no process listens at {path}"
            raise EndpointProcessEnded(Code.ENDPOINT_PROCESS_ENDED, text) from error
        except (OSError, TimeoutError, ValueError) as error:
            raise silence(node, message, error) from error


def silence(node: NodeUid, message: Message, error: BaseException, code: Code = Code.ENDPOINT_PROCESS_SILENT) -> Transient:
    """What is said of a request without an answer. That is no proof of anything."""
    reason = str(error) or "no answer in time"
    text = f"the endpoint process of node {node} did not answer {message['op']}: {reason}"
    return Transient(code, text)


class EndpointClient:
    """See ``EndpointControl``."""

    def __init__(
        self, node: NodeUid, caller: ControlCaller, *, clock: Clock | None = None, call_timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        self._node = node
        self._caller = caller
        self._clock = clock or SystemClock()
        self._call_timeout_s = call_timeout_s

    async def status(self, suspects: Collection[EndpointUid] = ()) -> EndpointProcessSeen:
        """See ``EndpointControl``."""
        try:
            answer = await self._ask({"op": "status", "suspects": sorted(suspects)})
            return _process_seen(self._node, self._clock.now(), answer)
        except EndpointProcessEnded:
            return EndpointProcessSeen(self._node, self._clock.now(), answers=False, has_ended=True)
        except (Transient, KeyError, TypeError, ValueError):
            return EndpointProcessSeen(self._node, self._clock.now(), answers=False)

    async def serve(self, spec: EndpointSpec) -> None:
        """See ``EndpointControl``."""
        await self._ask({"op": "serve", "spec": wire.spec_to(spec)})

    async def tell_lease(self, endpoint: EndpointUid, terms: LeaseTerms) -> None:
        """See ``EndpointControl``."""
        await self._ask({"op": "lease", "endpoint": endpoint, "terms": wire.terms_to(terms)})

    async def drop(self, endpoint: EndpointUid) -> None:
        """See ``EndpointControl``."""
        await self._ask({"op": "drop", "endpoint": endpoint}, timeout_s=HOLD_TIMEOUT_S)

    async def retire(self, endpoint: EndpointUid) -> None:
        """See ``EndpointControl``."""
        await self._ask({"op": "retire", "endpoint": endpoint})

    async def calm(self, endpoint: EndpointUid) -> None:
        """See ``EndpointControl``."""
        await self._ask({"op": "calm", "endpoint": endpoint}, timeout_s=CALM_S + HOLD_TIMEOUT_S)

    async def hold(self, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        """See ``EndpointControl``."""
        message = {"op": "hold", "endpoint": endpoint, "old": wire.target_to(old), "new": wire.target_to(new)}
        return wire.hold_result_from(await self._ask(message, timeout_s=HOLD_TIMEOUT_S))

    async def release(self, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        """See ``EndpointControl``."""
        message = {"op": "release", "endpoint": endpoint, "target": wire.target_to(target)}
        return wire.release_result_from(await self._ask(message))

    async def pass_endpoint(self, endpoint: EndpointUid, to_path: str, *, is_replacement: bool = False) -> PassResult:
        """Pass an endpoint to the process at another control socket of this machine: see ``NodeLink.pass_endpoint``.
        ``is_replacement``: that process takes the place of this one, which relays requests to it from now on."""
        message = {"op": "pass_along", "endpoint": endpoint, "to_path": to_path, "is_replacement": is_replacement}
        return wire.pass_result_from(await self._ask(message))

    async def take_over(self) -> None:
        """Answer at the place of the process that this one replaces."""
        await self._ask({"op": "take_over"})

    async def keep(self) -> None:
        """The process that was to take the place of this one has ended: serve everything again. A process of a version
        without this request refuses it."""
        await self._ask({"op": "keep"})

    async def _ask(self, message: Message, *, timeout_s: float | None = None) -> Message:
        node, request = self._node, message["op"]
        answer = await self._caller.ask(message, timeout_s or self._call_timeout_s)
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
    return EndpointProcessSeen(
        node,
        at,
        answers=True,
        pid=answer["pid"],
        endpoints=tuple(wire.seen_from(data) for data in answer["endpoints"]),
        totals=answer["totals"],
        version=str(answer.get("version", "")),
        instance=str(answer.get("instance", "")),
        leases={seen.endpoint_uid: seen for seen in map(wire.lease_from, answer.get("leases", ()))},
    )
