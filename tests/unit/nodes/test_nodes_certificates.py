"""The link to a node of another machine whose certificate, or one's own, is not accepted."""

import asyncio

import pytest
import uvloop

from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.trust import CertificateRole
from shardwright.nodes.protocol import NOT_SEEN
from tests.unit.nodes.remote_machine import (
    API,
    ENDPOINT,
    NEWS,
    NODE_ROLE,
    PROCESS,
    STORE,
    Loop,
    Machine,
    failure,
    repeated,
    run,
)

pytestmark = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@pytest.mark.parametrize(
    ("own", "other", "code", "text"),
    [
        (NODE_ROLE, API, Code.PEER_ROLE_WRONG, "has the role api"),
        (STORE, NODE_ROLE, Code.PEER_ROLE_WRONG, "does not accept the certificate of this machine"),
    ],
)
def test_a_certificate_that_is_not_accepted_is_named(
    loop: Loop, own: CertificateRole, other: CertificateRole, code: Code, text: str
) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("process", role=other)
        await machine.start("agent", role=other)
        process, link = machine.link.endpoint_process, machine.link
        assert not (await process.status()).answers
        error = await failure(process.drop(ENDPOINT))
        assert (error.code, text in error.text) == (code, True), error.text
        assert (await failure(link.news(None))).code == code
        assert await link.look(PROCESS) == NOT_SEEN
        assert machine.asked == []

    run(loop, scenario, role=own)


def test_a_revoked_node_is_not_asked(loop: Loop) -> None:
    async def scenario(machine: Machine) -> None:
        await machine.start("agent")
        machine.revoked.add(machine.serials[0])
        assert (await failure(machine.link.news(None))).code == Code.CERTIFICATE_REVOKED
        assert machine.asked == []
        await machine.stop("agent")
        await machine.start("agent")  # with another certificate

        async def answers() -> bool:
            try:
                return await machine.link.news(None) == NEWS
            except Transient:
                return False

        await repeated(answers)

    run(loop, scenario)
