"""A node of another machine for tests of its link: listeners that answer as told, over real TLS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from shardwright.endpoint import wire as endpoint_wire
from shardwright.endpoint.channel import Channel, Message
from shardwright.endpoint.protocol import HoldResult, Target
from shardwright.endpoint.requests import serve_requests
from shardwright.endpoint.tls import TlsAddress, TlsListener
from shardwright.errors import Transient
from shardwright.model.check import CertificateEnd, EtcdFacts, NodeFacts, PortLook, PortOffer, PortUse, Reach
from shardwright.model.ids import EndpointUid, NodeUid, ShardUid
from shardwright.model.seen import NodeFigures, ProcessIdentity
from shardwright.model.trust import CertificateRole
from shardwright.nodes import wire
from shardwright.nodes.protocol import NOT_SEEN, NewsMark, NodeLink, NodeNews, ProcessLook
from shardwright.nodes.remote import NodeAddress, RemoteNodes
from shardwright.trust.certificates import serial_text
from shardwright.trust.contexts import client_context, server_context
from testkit.builders import NOW
from testkit.certificates import Members, members
from testkit.deadlines import Stopwatch

Loop = Callable[[], asyncio.AbstractEventLoop]

HERE = "127.0.0.1"
NODE = NodeUid(2)
NODE_ROLE, STORE, API = CertificateRole.NODE, CertificateRole.STORE, CertificateRole.API
ENDPOINT = EndpointUid("1:1")
OLD, NEW = Target(ShardUid(1), 1, HERE, 1001), Target(ShardUid(2), 2, HERE, 1002)
PROCESS = ProcessIdentity(77, "boot", 5, "/usr/bin/valkey-server", "/data/1", "machine")
NEWS = NodeNews(NewsMark("life", 7), NOW, 0.25, NodeFigures(1, 2, 3), ())


FACTS = NodeFacts(
    NOW,
    1.5,
    "0.1.0",
    (("valkey", "9.1.2"),),
    1024,
    10,
    5,
    sync_p99_ms=0.5,
    local_ports=(32_768, 60_999),
    reserved_ports=((10_000, 29_999),),
    certificates=(CertificateEnd("node", NOW),),
    etcd=EtcdFacts("3.4.23", True),
    offers=(PortOffer(PortUse.AGENT, HERE, 9444),),
    unusable=((PortOffer(PortUse.SERVERS, HERE, 0), "in use"),),
)


@dataclass
class Machine:
    """A node of another machine: listeners that answer as told, and the leader's nodes."""

    authority: Members
    nodes: RemoteNodes
    address: NodeAddress = field(default_factory=lambda: NodeAddress(HERE, 1, 1))
    is_known: bool = True
    asked: list[str] = field(default_factory=list)
    look: ProcessLook = NOT_SEEN
    end_answer: Message = field(default_factory=lambda: {"ok": {}})
    is_slow: bool = False
    knows_checks: bool = True
    listeners: dict[str, TlsListener] = field(default_factory=dict)
    serials: list[str] = field(default_factory=list)
    """Of the certificates that its listeners have shown."""
    revoked: set[str] = field(default_factory=set)

    @property
    def link(self) -> NodeLink:
        return self.nodes.link(NODE)

    async def start(self, what: str, *, role: CertificateRole = NODE_ROLE) -> None:
        serve = {"agent": self._agent, "process": self._process}[what]
        port = {"agent": self.address.agent_port, "process": self.address.control_port}[what]
        own = self.authority.member(NODE, HERE, role=role)
        self.serials.append(serial_text(own.certificate.serial_number))
        context = server_context(own)
        at = TlsAddress(HERE, port if port > 1 else 0, lambda: context)
        listener = self.listeners[what] = TlsListener(at, serve, name=f"test: {what}")
        listener.open()
        if what == "agent":
            self.address = replace(self.address, agent_port=listener.port)
        else:
            self.address = replace(self.address, control_port=listener.port)

    async def stop(self, what: str) -> None:
        await self.listeners.pop(what).close()

    async def connect(self) -> None:
        """Have a connection to the endpoint process."""
        assert (await self.link.endpoint_process.status()).answers

    async def _process(self, channel: Channel) -> None:
        await serve_requests(channel, self._answer_for_process, name="test: process")

    async def _agent(self, channel: Channel) -> None:
        await serve_requests(channel, self._answer_for_agent, name="test: agent")

    async def _answer_for_process(self, message: Message) -> Message:
        self.asked.append(message["op"])
        match message["op"]:
            case "status":
                if self.is_slow:
                    await asyncio.sleep(20)
                return {"ok": {"pid": 7, "endpoints": [], "totals": {}}}
            case "hold":
                return {"ok": endpoint_wire.hold_result_to(HoldResult(True, True))}
            case "release":
                return {"ok": {"pause_ms": 1.0, "held_commands": 2, "generation": 3}}
            case "calm":
                await asyncio.sleep(20)
        return {"error": "unknown"}

    async def _answer_for_agent(self, message: Message) -> Message:
        self.asked.append(f"agent {message['op']}")
        match message["op"]:
            case "news":
                return wire.answer(NEWS)
            case "look" | "endpoint_process":
                return wire.look_answer(self.look)
            case "end":
                return self.end_answer
            case "check" if self.knows_checks:
                return wire.check_answer(FACTS)
            case "try_ports" if self.knows_checks:
                try:
                    ports = wire.ports_of(message)
                except ValueError as e:
                    return {"error": str(e)}
                return wire.ports_answer(tuple(PortLook(uid, offer, Reach.OPEN) for uid, offer in ports))
        return {"error": "unknown"}


@asynccontextmanager
async def machine_of(*, role: CertificateRole = NODE_ROLE) -> AsyncIterator[Machine]:
    authority = members()
    own = client_context(authority.member(1, role=role))
    machine: Machine
    nodes = RemoteNodes(
        lambda uid: machine.address if machine.is_known and uid == NODE else None,
        context=lambda: own,
        revoked=lambda: machine.revoked,
        term=7,
    )
    machine = Machine(authority, nodes)
    try:
        async with asyncio.timeout(60):
            yield machine
    finally:
        nodes.close()
        for what in list(machine.listeners):
            await machine.stop(what)


def run(loop: Loop, scenario: Callable[[Machine], Awaitable[None]], *, role: CertificateRole = NODE_ROLE) -> None:
    async def whole() -> None:
        async with machine_of(role=role) as machine:
            await scenario(machine)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())


async def repeated(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it is so."""
    watch = Stopwatch()
    while not await is_so():
        assert watch.is_within(10), str(watch)
        await asyncio.sleep(0.005)


async def failure(call: Awaitable[object]) -> Transient:
    with pytest.raises(Transient) as found:
        await call
    return found.value
