"""What an agent answers on its sockets: the news of its servers, and, for other machines, what this machine says of a
process, the end of one, a renewed certificate, and a cluster key.

Owned by the agent's loop. Must not end a process for a daemon that no longer leads, nor one that is not of the agent's node.
"""

from collections.abc import Awaitable, Callable

import structlog

from shardwright.agent.check import NodeChecks
from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.requests import serve_requests
from shardwright.errors import ClusterError
from shardwright.model.codes import Code
from shardwright.model.seen import ProcessIdentity
from shardwright.nodes import here, wire
from shardwright.nodes.protocol import NewsMark, NodeNews, ProcessLook
from shardwright.store.seal import Sealing
from shardwright.trust.renewal import RenewalRequest

News = Callable[[NewsMark | None], Awaitable[NodeNews]]
IsCurrentTerm = Callable[[int], Awaitable[bool]]
"""Whether the store has a leader of this term now. Raises ClusterError if the store cannot say."""
Sign = Callable[[RenewalRequest, bytes], Awaitable[bytes]]
"""Signs for the node that has shown a certificate (DER). Raises ClusterError; see ``signing.py``."""

KEY_UID_SHOWN = 16
"""The length of a right one: a wrong one may be long."""

_log = structlog.get_logger(__name__)


class AgentAnswers:
    """See the module's docstring. ``is_own``: the process is one of the agent's node. ``endpoint_process``: a look at the
    node's endpoint process. ``checks``: for checks of the nodes. ``sign``: renews the certificate of a caller; None: nothing
    is signed here. ``sealing``: has the cluster keys, which other nodes may ask for; None: they may not."""

    def __init__(
        self,
        *,
        news: News,
        is_current_term: IsCurrentTerm,
        is_own: Callable[[ProcessIdentity], bool],
        endpoint_process: Callable[[], ProcessLook],
        checks: NodeChecks,
        sign: Sign | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self._news = news
        self._is_current_term = is_current_term
        self._is_own = is_own
        self._endpoint_process = endpoint_process
        self._checks = checks
        self._sign = sign
        self._sealing = sealing

    async def serve_local(self, channel: Channel) -> None:
        """Answer one caller of this machine until it disconnects, one request after another. It may ask for news and for a
        check: the rest it can see itself."""
        try:
            while (received := await channel.receive()) is not None:
                message, _ = received
                if message.get("op") in ("check", "try_ports"):
                    await channel.send(await self.answer(message))
                else:
                    await channel.send(wire.answer(await self._news(wire.mark_of(message))))
        except (OSError, ValueError) as e:
            _log.info("a caller of the agent has disconnected", reason=str(e))

    async def serve_remote(self, channel: Channel) -> None:
        """Answer one caller of another machine until it disconnects."""

        async def answer(message: Message) -> Message:
            if message.get("op") == "end" and channel.is_closed_by_peer():
                return _no("its caller has disconnected")
            if message.get("op") == "renew":
                return await self.renewed(message, channel.peer_certificate)
            if message.get("op") == "cluster_key":
                return self.cluster_key(message, channel.peer_certificate)
            return await self.answer(message)

        await serve_requests(channel, answer, name="agent")

    async def answer(self, message: Message) -> Message:
        """The answer to one request."""
        try:
            match message.get("op"):
                case "news":
                    return wire.answer(await self._news(wire.mark_of(message)))
                case "look":
                    return wire.look_answer(here.look(wire.process_of(message)))
                case "endpoint_process":
                    return wire.look_answer(self._endpoint_process())
                case "end":
                    return await self._end(wire.process_of(message), wire.term_of(message))
                case "check":
                    return wire.check_answer(await self._checks.facts())
                case "try_ports":
                    return wire.ports_answer(await self._checks.try_ports(wire.ports_of(message)))
                case other:
                    return _no(f"unknown request {other!r}")
        except ValueError as e:
            return _no(f"invalid request: {e}")

    async def renewed(self, message: Message, shown: bytes | None) -> Message:
        """The answer to a request for a renewed certificate. ``shown``: the caller's certificate, which was accepted."""
        if self._sign is None or shown is None:
            return _no("this node signs nothing", Code.AUTHORITY_KEY_ABSENT)
        try:
            return wire.renewed_answer(await self._sign(wire.renewal_of(message), shown))
        except ValueError as e:
            return _no(f"invalid request: {e}")
        except ClusterError as e:
            return _no(e.text, e.code)

    def cluster_key(self, message: Message, shown: bytes | None) -> Message:
        """The answer to a request for a cluster key. ``shown``: the caller's certificate, which was accepted: only a member
        of the cluster asks, and a member may have every key."""
        if self._sealing is None or shown is None:
            return _no("this node gives no keys")
        try:
            uid = wire.key_uid_of(message)
        except ValueError as e:
            return _no(f"invalid request: {e}")
        found = next((key for key in self._sealing.keys if key.uid == uid), None)
        if found is None:
            return _no(f"this node does not have the cluster key {uid[:KEY_UID_SHOWN]}", Code.CLUSTER_KEY_AWAITED)
        _log.info("gave a cluster key to another node", key_uid=uid)
        return wire.key_answer(found.secret)

    async def _end(self, process: ProcessIdentity, term: int) -> Message:
        if not self._is_own(process):
            return _no(f"process {process.pid} is not one of this node")
        try:
            if not await self._is_current_term(term):
                return _no(f"term {term} is over", Code.LOST_LEADERSHIP)
            _log.warning("ending a process, as the leader of another machine asks", pid=process.pid, term=term)
            here.end(process)
        except ClusterError as e:
            return _no(e.text, e.code)
        return {"ok": {}}


def _no(text: str, code: Code = Code.AGENT_REFUSED) -> Message:
    return {"error": text, "code": str(code)}
