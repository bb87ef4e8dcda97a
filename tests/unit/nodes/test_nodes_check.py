"""The questions of a check over the link to a node of another machine, over real TLS."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from shardwright.model.check import PortLook, PortOffer, PortUse, Reach
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.nodes.joined import JoinedNodes
from shardwright.nodes.local import LocalNodes
from shardwright.nodes.wire import PORTS_MAX
from testkit.certificates import members
from tests.unit.nodes.remote_machine import FACTS, HERE, NODE, Loop, Machine, failure, run

pytestmark = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
PORTS = ((NodeUid(3), PortOffer(PortUse.STORE, HERE, 2379)), (NodeUid(4), PortOffer(PortUse.SERVERS, HERE, 29_999)))


def test_facts_and_looks_cross_the_network_as_they_are(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("agent")
        for link in (machine.link, JoinedNodes(machine.nodes, machine.nodes, is_here=lambda uid: True).link(NODE)):
            assert await link.check() == FACTS
            assert await link.try_ports(PORTS) == tuple(PortLook(uid, offer, Reach.OPEN) for uid, offer in PORTS)

    run(loop, scenario)


def test_a_request_for_very_many_ports_is_refused(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("agent")
        refused = await failure(machine.link.try_ports(PORTS * PORTS_MAX))
        assert (refused.code, "more than" in refused.text) == (Code.AGENT_REFUSED, True)

    run(loop, scenario)


def test_a_silent_agent_and_one_that_knows_no_checks_are_named(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        for call in (machine.link.check(), machine.link.try_ports(PORTS)):
            assert (await failure(call)).code == Code.AGENT_SILENT
        await machine.start("agent")
        machine.knows_checks = False
        for call in (machine.link.check(), machine.link.try_ports(PORTS)):
            refused = await failure(call)
            assert (refused.code, "unknown" in refused.text) == (Code.AGENT_REFUSED, True)

    run(loop, scenario)


def test_an_agent_with_another_certificate_is_not_believed(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("agent")
        machine.authority = members()
        await machine.stop("agent")
        await machine.start("agent")
        assert (await failure(machine.link.check())).code == Code.NODE_CERTIFICATE_REFUSED
        assert machine.asked == []

    run(loop, scenario)


def test_a_caller_that_the_agent_refuses_learns_why(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("agent")
        assert (await failure(machine.link.check())).code == Code.PEER_ROLE_WRONG

    run(loop, scenario, role=CertificateRole.STORE)


def test_a_node_of_this_machine_without_an_agent_is_silent(loop: Loop, tmp_path: Path) -> None:
    async def scenario(machine: Machine) -> None:
        link = LocalNodes.of(tmp_path).link(NODE)
        for call in (link.check(), link.try_ports(PORTS)):
            assert (await failure(call)).code == Code.AGENT_SILENT

    run(loop, scenario)
