"""The endpoint process: all endpoints of one node, and the requests to them over the control socket.

Keeps nothing on disk: the agent that starts it sends the specifications of its endpoints. It survives the death of its
daemon and answers the next one.
"""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

import structlog

from shardwright import __version__
from shardwright.clock import Clock, SystemClock
from shardwright.endpoint import wire
from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.connection import Buffer, Packed
from shardwright.endpoint.gate import ByteBudget, Counts
from shardwright.endpoint.lease import LeaseStanding
from shardwright.endpoint.pace import LoopPace
from shardwright.endpoint.packed_session import PIECE_BYTES
from shardwright.endpoint.passing import Passing
from shardwright.endpoint.protocol import REMOTE_REQUESTS, VOID_IF_LATE, EndpointSpec, LeaseTerms, PassResult
from shardwright.endpoint.reach import ServerAccess
from shardwright.endpoint.relay import RELAYED, Relay, merged, merged_status
from shardwright.endpoint.requests import serve_requests
from shardwright.endpoint.served import ServedEndpoint
from shardwright.endpoint.suspicion import Suspicion
from shardwright.endpoint.tls import Context
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.lease import LeaseSeen
from shardwright.model.seen import EndpointSeen
from shardwright.tasks import spawn

PASS_ANSWER_S = 0.06
"""Time after which ``pass_along`` answers with its progress if it has not finished; shorter than the callers' timeout."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Offered:
    """Connections that another process offers and still owns. This process must not read them yet."""

    served: ServedEndpoint
    connections: list[Packed]

    def decline(self) -> None:
        """Close the copies of the sockets: without ``begin``, the connections still belong to the other process."""
        for packed in self.connections:
            packed.client.close()


class EndpointProcess:
    """See the module's docstring."""

    def __init__(
        self,
        node_uid: NodeUid,
        *,
        clock: Clock | None = None,
        context: Context | None = None,
        take_over: Callable[[], None] | None = None,
    ) -> None:
        """``context``: for servers that accept only encrypted connections; None: there are none. ``take_over``: makes this
        process answer in the place of the one that it replaces; None: it replaces none."""
        self.node_uid = node_uid
        self._take_over = take_over
        self._relay: Relay | None = None
        """To the process that takes the place of this one; None: none does."""
        self._access = ServerAccess(context)
        self._clock = clock or SystemClock()
        self.instance = secrets.token_hex(8)
        self.endpoints: dict[EndpointUid, ServedEndpoint] = {}
        self._dropped: set[ServedEndpoint] = set()
        self._standings: dict[EndpointUid, LeaseStanding] = {}
        """Also of endpoints that are served no longer: an old lease must never apply again."""
        self._suspicions: dict[EndpointUid, Suspicion] = {}
        self._budget = ByteBudget()
        self._counts = Counts()
        self._pace = LoopPace(asyncio.get_running_loop())
        self._passings: dict[EndpointUid, tuple[Passing, asyncio.Task[None]]] = {}

    async def serve_caller(self, channel: Channel) -> None:
        """Answer one caller until it disconnects."""
        offered: Offered | None = None
        try:
            while (received := await channel.receive()) is not None:
                message, files = received
                match message.get("op"):
                    case "begin":
                        if offered is not None:
                            begun, offered = offered, None
                            await self._begin(begun)
                    case "adopt_connections":
                        if offered is not None:
                            offered.decline()  # its caller took it back before it was begun
                        offered, answer = await self._take_offer(message, files)
                        await channel.send(answer)
                    case str(late) if late in VOID_IF_LATE and channel.is_closed_by_peer():
                        _log.info("ignored a late request whose caller has disconnected", request=late)
                    case _:
                        await channel.send(await self._answer(message, files))
        except (OSError, ValueError) as error:
            _log.info("a caller of the control socket has disconnected", reason=str(error))
        finally:
            if offered is not None:
                offered.decline()
            channel.close()

    async def serve_remote(self, channel: Channel) -> None:
        """Answer one caller from another machine until it disconnects."""

        async def answer(message: Message) -> Message:
            request = str(message.get("op"))
            if request not in REMOTE_REQUESTS:
                return {"error": f"the request {request!r} is only for this machine"}
            if request in VOID_IF_LATE and channel.is_closed_by_peer():
                _log.info("ignored a late request whose caller has disconnected", request=request)
                return {"error": "too late"}
            return await self._answer(message, [])

        await serve_requests(channel, answer, name="endpoint process")

    async def _begin(self, offered: Offered) -> None:
        for packed in offered.connections:
            try:
                await offered.served.adopt_connection(packed)
            except OSError as error:
                _log.info("a passed connection has already ended", reason=str(error))
                packed.client.close()

    async def _answer(self, message: Message, files: list[int]) -> Message:
        try:
            if message.get("op") == "adopt_listener":
                self._refuse_if_replaced()
                return {"ok": await self._adopt_listener(message, files)}
            return {"ok": await self._do(message)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"invalid request: {error!r}"}
        finally:
            for file in files:
                with contextlib.suppress(OSError):
                    os.close(file)

    async def _do(self, message: Message) -> Message:
        relay, request = self._relay, message["op"]
        if relay is None:
            return await self._do_here(message)
        if request == "status":
            own, other = self.status(message.get("suspects", ())), await relay.state()
            return self._without_passed_leases(own) if other is None else merged_status(own, other)
        uid = message["spec"]["uid"] if request == "serve" else message.get("endpoint")
        is_of_replacement = bool(message.get("is_replacement"))
        if request not in RELAYED or uid not in self._passings or is_of_replacement:
            return await self._do_here(message)
        found = await asyncio.gather(self._do_here(message), relay.ask(message), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        here, there = found
        return merged(request, here, there)  # type: ignore[arg-type]

    def _without_passed_leases(self, own: Message) -> Message:
        """The process that takes the place of this one is silent: of what it has, no lease counts as shown."""
        return own | {"leases": [seen for seen in own["leases"] if seen["endpoint_uid"] not in self._passings]}

    async def _do_here(self, message: Message) -> Message:
        match message["op"]:
            case "status":
                return self.status(message.get("suspects", ()))
            case "serve":
                await self._serve(message)
                return {}
            case "lease":
                self._tell_lease(EndpointUid(message["endpoint"]), wire.terms_from(message["terms"]))
                return {}
            case "drop":
                await self._drop(EndpointUid(message["endpoint"]))
                return {}
            case "retire":
                await self._retire(EndpointUid(message["endpoint"]))
                return {}
            case "calm":
                await self._known(message).calm()
                return {}
            case "hold":
                old, new = wire.known_target_from(message["old"]), wire.known_target_from(message["new"])
                return wire.hold_result_to(await self._known(message).hold(old, new))
            case "release":
                return asdict(self._known(message).release(wire.known_target_from(message["target"])))
            case "pass_along":
                return asdict(await self._pass_endpoint(self._known(message), message))
            case "take_over":
                if self._take_over is not None:
                    self._take_over()
                return {}
            case "keep":
                await self._keep()
                return {}
            case other:
                raise ValueError(f"unknown request {other!r}")

    def _known(self, message: Message) -> ServedEndpoint:
        return self.endpoints[EndpointUid(message["endpoint"])]

    def status(self, suspects: Iterable[str] = ()) -> Message:
        """The process's endpoints, and its counts since its start. See ``EndpointControl.status``."""
        for uid in map(EndpointUid, suspects):
            if (served := self.endpoints.get(uid)) is not None:
                suspicion = self._suspicions.setdefault(uid, Suspicion(self._clock, self._access))
                suspicion.suspect(served.gate.target)
        return {
            "pid": os.getpid(),
            "node": self.node_uid,
            "instance": self.instance,
            "leases": [wire.lease_to(seen) for uid in self._standings if (seen := self._lease_seen(uid)) is not None],
            "endpoints": [wire.seen_to(self._seen(uid, served)) for uid, served in self.endpoints.items()],
            "totals": asdict(self._counts) | {"kept_bytes": self._budget.used},
            "version": __version__,
        }

    def _seen(self, uid: EndpointUid, served: ServedEndpoint) -> EndpointSeen:
        suspicion = self._suspicions.get(uid)
        return served.seen() if suspicion is None else replace(served.seen(), server_silent_s=suspicion.silent_s)

    async def _serve(self, message: Message) -> None:
        spec = wire.spec_from(message["spec"])
        served = self.endpoints.get(spec.uid)
        if served is None:
            served = self.endpoints[spec.uid] = self._new(spec)
        if self._relay is not None and spec.uid in self._passings:
            served.apply(spec)  # Its listener is in the process that takes the place of this one.
        else:
            await served.serve(spec)

    def _new(self, spec: EndpointSpec) -> ServedEndpoint:
        return ServedEndpoint(
            spec,
            self._standing(spec.uid),
            budget=self._budget,
            counts=self._counts,
            pace=self._pace,
            clock=self._clock,
            access=self._access,
        )

    def _standing(self, uid: EndpointUid) -> LeaseStanding:
        return self._standings.setdefault(uid, LeaseStanding(self.instance))

    def _tell_lease(self, uid: EndpointUid, terms: LeaseTerms) -> None:
        served = self.endpoints.get(uid)
        if served is None:
            # It has no clients, and no one proves anything to it: what it need not prove now, it must prove from the start.
            standing = self._standing(uid)
            standing.apply(terms)
            standing.end_waiver()
        else:
            served.tell_lease(terms)

    def _lease_seen(self, uid: EndpointUid) -> LeaseSeen | None:
        served = self.endpoints.get(uid)
        seen = self._standings[uid].seen(uid, None if served is None else served.prover.unconfirmed_s)
        # What was dropped a moment ago may have its last replies to pass on, as it was told before.
        is_ending = any(one.gate.spec.uid == uid and one.connections for one in self._dropped)
        return replace(seen, is_waived=True) if seen is not None and is_ending else seen

    async def _retire(self, uid: EndpointUid) -> None:
        """An endpoint that is not known here has no connections."""
        self._stop_passing(uid)
        served = self.endpoints.get(uid)
        if served is not None:
            served.retire()

    async def _drop(self, uid: EndpointUid) -> None:
        self._stop_passing(uid)
        served = self.endpoints.pop(uid, None)
        if (suspicion := self._suspicions.pop(uid, None)) is not None:
            suspicion.end()
        if served is not None:
            served.stop_listening()
            self._dropped.add(served)
            spawn("endpoint-drop", served.end()).add_done_callback(lambda _: self._dropped.discard(served))

    async def close(self) -> None:
        """End all endpoints: every client gets its last reply and FIN."""
        for uid in list(self._passings):
            self._stop_passing(uid)
        for suspicion in self._suspicions.values():
            suspicion.end()
        served = list(self.endpoints.values())
        self.endpoints.clear()
        await asyncio.gather(*(endpoint.end() for endpoint in served))

    # -- passing -----------------------------------------------------------------------------------------------------

    async def _pass_endpoint(self, served: ServedEndpoint, message: Message) -> PassResult:
        uid, to_path = served.gate.spec.uid, str(message["to_path"])
        is_replacement = bool(message.get("is_replacement"))
        if is_replacement and (self._relay is None or self._relay.path != to_path):
            self._relay = Relay(to_path)
        if is_replacement and served.gate.is_retiring:
            return PassResult(0, served.connections_left)  # Its clients are being sent away: no process gets new ones.
        known = self._passings.get(uid)
        if known is None or known[1].done() or known[0].to_path != to_path:
            self._stop_passing(uid)
            passing = Passing(served, to_path, clock=self._clock, is_replacement=is_replacement)
            known = self._passings[uid] = (passing, spawn("endpoint-pass", passing.run()))
        passing, task = known
        await asyncio.wait({task}, timeout=PASS_ANSWER_S)
        if passing.failure:
            raise ValueError(f"the other process does not accept it: {passing.failure}")
        return PassResult(passing.passed, served.connections_left)

    def _stop_passing(self, uid: EndpointUid) -> None:
        known = self._passings.pop(uid, None)
        if known is not None:
            known[1].cancel()

    async def _keep(self) -> None:
        """The process that was to take the place of this one is gone, and its connections with it."""
        self._relay = None
        for uid in list(self._passings):
            self._stop_passing(uid)
        for served in self.endpoints.values():
            if served.is_draining and not served.gate.is_retiring:
                await served.listen()

    def _refuse_if_replaced(self) -> None:
        """Raises ValueError: what came here now would have to leave at once, or would be lost."""
        if self._relay is not None:
            raise ValueError("this process is being replaced")

    async def _adopt_listener(self, message: Message, files: list[int]) -> Message:
        spec = wire.spec_from(message["spec"])
        served = self.endpoints.get(spec.uid)
        if served is None:
            served = self.endpoints[spec.uid] = self._new(spec)
        served.prover.lapse()
        served.gate.apply_settings(spec)
        target = wire.target_from(message["target"])
        if target is not None and not served.gate.precedes_hold(target):
            served.release(target)  # only to a higher generation
        if files:
            await served.adopt_listener(socket.socket(fileno=files.pop(0)))
            for address in message.get("virtual", ()):
                await served.adopt_virtual(address, socket.socket(fileno=files.pop(0)))
        else:
            await served.listen()
        hold = message["hold"]
        if hold is not None:
            served.take_over_hold(
                wire.known_target_from(hold["old"]), wire.known_target_from(hold["new"]), float(hold["age_s"])
            )
        return {}

    async def _take_offer(self, message: Message, files: list[int]) -> tuple[Offered | None, Message]:
        try:
            self._refuse_if_replaced()
            served = self._known(message)
            offers = [
                (wire.packed_session_from(c["luggage"]), c["unread_bytes"], c["unsent_bytes"])
                for c in message["connections"]
            ]
            clients = [socket.socket(fileno=files.pop(0)) for _ in offers]
            connections: list[Packed] = []
            at = 0
            for client, (session, unread_bytes, unsent_bytes) in zip(clients, offers, strict=True):
                client.setblocking(False)
                unread = await _read(files, at, unread_bytes)
                unsent = await _read(files, at + unread_bytes, unsent_bytes)
                at += unread_bytes + unsent_bytes
                connections.append(Packed(client, session, unread, unsent))
            return Offered(served, connections), {"ok": {}}
        except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
            return None, {"error": f"invalid request: {error!r}"}
        finally:
            for file in files:
                os.close(file)


async def _read(files: list[int], at: int, size: int) -> list[Buffer]:
    """A connection's bytes from the file that accompanies the sockets, in pieces. Raises ValueError if bytes are missing."""
    content: list[Buffer] = []
    while size:
        piece = os.pread(files[0], min(size, PIECE_BYTES), at)
        if not piece:
            raise ValueError("bytes of a connection are missing")
        content.append(piece)
        at += len(piece)
        size -= len(piece)
        if size:
            await asyncio.sleep(0)
    return content
