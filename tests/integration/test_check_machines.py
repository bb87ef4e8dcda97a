"""A check of nodes on machines of their own: agents that answer over TLS, with open ports and closed ones."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from shardwright.agent.answers import AgentAnswers
from shardwright.agent.check import CheckedHere, NodeChecks
from shardwright.api.services.check import Checks, NodeResult
from shardwright.clock import SystemClock
from shardwright.endpoint.tls import TlsAddress, TlsListener
from shardwright.model.check import CheckCode, CheckGrade, PortOffer, PortUse
from shardwright.model.cluster import ClusterKind
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import NOT_SEEN, NewsMark, NodeNews
from shardwright.nodes.remote import NodeAddress, RemoteNodes
from shardwright.server.binaries import all_servers
from shardwright.trust.contexts import client_context, server_context
from testkit.builders import cluster
from testkit.certificates import members
from tests.integration.server_harness import free_port, loopback_address

UIDS = (NodeUid(1), NodeUid(2), NodeUid(3))


async def no_news(since: NewsMark | None) -> NodeNews:
    raise NotImplementedError


async def never(term: int) -> bool:
    return False


class Machines:
    """The nodes, each at an address of its own."""

    def __init__(self, directory: Path) -> None:
        builder = cluster(3)
        self.addresses = {uid: loopback_address() for uid in UIDS}
        for uid, address in self.addresses.items():
            builder = builder.with_node_changed(uid, address=address)
        assert builder.view.cluster is not None
        self.view: ClusterView = builder.with_records(replace(builder.view.cluster, kind=ClusterKind.MACHINES)).view
        self.directory = directory
        self.authority = members()
        self.ports = {uid: free_port(address) for uid, address in self.addresses.items()}
        self.checks: list[NodeChecks] = []
        self.listeners: dict[NodeUid, TlsListener] = {}
        own = client_context(self.authority.member(1))
        self.nodes = RemoteNodes(
            lambda uid: NodeAddress(self.addresses[uid], agent_port=self.ports[uid]), context=lambda: own
        )

    async def start(self, uid: NodeUid, *offers: PortOffer) -> None:
        address = self.addresses[uid]
        agent = PortOffer(PortUse.AGENT, address, self.ports[uid])
        certificate = self.directory / f"{uid}.pem"
        own = self.authority.member(uid, address)
        certificate.write_bytes(own.chain)
        here = CheckedHere(offers=lambda: (agent, *offers), certificates={"node": certificate})
        checks = NodeChecks(uid, self.directory, here, view=lambda: self.view, clock=SystemClock())
        self.checks.append(checks)
        answers = AgentAnswers(
            news=no_news, is_current_term=never, is_own=lambda p: False, endpoint_process=lambda: NOT_SEEN, checks=checks
        )
        context = server_context(own)
        at = TlsAddress(address, self.ports[uid], lambda: context)
        listener = self.listeners[uid] = TlsListener(at, answers.serve_remote, name=f"agent {uid}")
        listener.open()

    async def check(self, *about: NodeUid) -> tuple[NodeResult, ...]:
        return await Checks(self.nodes, clock=SystemClock()).check(self.view, about or UIDS)

    async def close(self) -> None:
        self.nodes.close()
        for listener in self.listeners.values():
            await listener.close()
        for checks in self.checks:
            checks.close()


def run(directory: Path, scenario: Callable[[Machines], Awaitable[None]]) -> None:
    async def whole() -> None:
        machines = Machines(directory)
        async with AsyncExitStack() as stack, asyncio.timeout(60):
            stack.push_async_callback(machines.close)
            await scenario(machines)

    asyncio.run(whole())


def failed(results: tuple[NodeResult, ...]) -> dict[int, list[tuple[CheckCode, int, int | None]]]:
    """Of each node: its failures, with the node and the one from which a connection comes."""
    return {
        result.uid: [(f.code, f.node_uid, f.from_uid) for f in result.findings if f.grade is CheckGrade.FAILED]
        for result in results
    }


def test_nodes_that_reach_each_other_have_no_failure(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        for uid in UIDS:
            await machines.start(uid)
        assert failed(await machines.check()) == {1: [], 2: [], 3: []}
        assert failed(await machines.check(NodeUid(2))) == {2: []}
        assert all_servers(), "the facts include the server programs of this machine"

    run(tmp_path, scenario)


def test_what_does_not_listen_and_who_does_not_answer_is_named_with_both_ends(tmp_path: Path) -> None:
    async def scenario(machines: Machines) -> None:
        address = machines.addresses[UIDS[0]]
        closed = PortOffer(PortUse.CONTROL, address, free_port(address))
        await machines.start(UIDS[0], closed)
        await machines.start(UIDS[1])
        found = failed(await machines.check())
        assert found[1][0] == (CheckCode.PORT_REFUSED, 1, 2)
        assert (CheckCode.PORT_REFUSED, 1, 2) in found[2]
        assert (CheckCode.NODE_SILENT, 3, None) in found[3]
        assert {(code, source) for code, _, source in found[3]} == {
            (CheckCode.NODE_SILENT, None),
            (CheckCode.PORT_REFUSED, 1),
            (CheckCode.PORT_REFUSED, 2),
        }, "the others still try the ports that each node has"
        await machines.start(UIDS[2])
        assert failed(await machines.check(UIDS[2])) == {3: [(CheckCode.PORT_REFUSED, 1, 3)]}

    run(tmp_path, scenario)
