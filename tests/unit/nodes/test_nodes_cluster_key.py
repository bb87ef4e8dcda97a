"""A node asks another one for a cluster key, over real TLS: members are answered, and nobody else."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from shardwright.agent.answers import AgentAnswers
from shardwright.endpoint.channel import Channel
from shardwright.endpoint.requests import serve_requests
from shardwright.endpoint.tls import TlsAddress, TlsListener
from shardwright.errors import ClusterError, Permanent, Transient
from shardwright.key_file import new_key
from shardwright.model.codes import Code
from shardwright.model.ids import KeyUid, NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.nodes.cluster_key import ask_for_key
from shardwright.nodes.remote import NodeAddress
from shardwright.store.seal import ClusterKey, Sealing
from shardwright.trust.certificates import serial_text
from shardwright.trust.contexts import client_context, server_context
from testkit.certificates import Members, members

HERE, ASKER, ASKED = "127.0.0.1", NodeUid(1), NodeUid(2)
KEY, OTHER = new_key(), new_key()


def no_bytes(size: int) -> bytes:
    raise AssertionError


def answers(sealing: Sealing | None) -> AgentAnswers:
    unused: Any = None
    return AgentAnswers(
        news=unused, is_current_term=unused, is_own=unused, endpoint_process=unused, checks=unused, sealing=sealing
    )


@dataclass
class World:
    authority: Members
    at: NodeAddress
    revoked: set[str]

    async def ask(self, uid: KeyUid = KEY.uid, *, role: CertificateRole = CertificateRole.NODE) -> ClusterKey:
        own = client_context(self.authority.member(ASKER, role=role))
        return await ask_for_key(ASKED, self.at, uid, context=lambda: own, revoked=lambda: ())


@asynccontextmanager
async def world(serve: Callable[[Channel], Awaitable[None]]) -> AsyncIterator[World]:
    authority, revoked = members(), set[str]()
    own = server_context(authority.member(ASKED, HERE))
    listener = TlsListener(TlsAddress(HERE, 0, lambda: own, lambda: revoked), serve, name="test: agent")
    listener.open()
    try:
        async with asyncio.timeout(30):
            yield World(authority, NodeAddress(HERE, listener.port, 1), revoked)
    finally:
        await listener.close()


def run(scenario: Callable[[World], Awaitable[None]], serve: Callable[[Channel], Awaitable[None]] | None = None) -> None:
    async def whole() -> None:
        async with world(serve or answers(Sealing((KEY,), no_bytes)).serve_remote) as made:
            await scenario(made)

    asyncio.run(whole())


async def refusal(call: Awaitable[object]) -> ClusterError:
    with pytest.raises(ClusterError) as found:
        await call
    assert KEY.secret.hex() not in f"{found.value!r} {found.value.text}"
    return found.value


def test_a_member_gets_the_key() -> None:
    async def scenario(made: World) -> None:
        assert await made.ask() == KEY

    run(scenario)


def test_a_key_that_the_other_node_does_not_have_is_named() -> None:
    async def scenario(made: World) -> None:
        refused = await refusal(made.ask(OTHER.uid))
        assert (refused.code, isinstance(refused, Permanent)) == (Code.CLUSTER_KEY_AWAITED, True)
        assert OTHER.uid in refused.text

    run(scenario)


@pytest.mark.parametrize("role", [CertificateRole.STORE, CertificateRole.API])
def test_a_certificate_of_another_role_gets_nothing(role: CertificateRole) -> None:
    async def scenario(made: World) -> None:
        assert isinstance(await refusal(made.ask(role=role)), ClusterError)

    run(scenario)


def test_a_removed_node_gets_nothing() -> None:
    async def scenario(made: World) -> None:
        shown = made.authority.member(ASKER)
        made.revoked.add(serial_text(shown.certificate.serial_number))
        context = client_context(shown)
        asked = ask_for_key(ASKED, made.at, KEY.uid, context=lambda: context, revoked=lambda: ())
        assert (await refusal(asked)).code is Code.CERTIFICATE_REVOKED

    run(scenario)


@pytest.mark.parametrize("answer", [{"ok": 7}, {"ok": "§"}, {"ok": None}, {}])
def test_an_answer_that_is_no_key_is_asked_for_again(answer: dict[str, object]) -> None:
    async def serve(channel: Channel) -> None:
        async def said(_: object) -> dict[str, object]:
            return answer

        await serve_requests(channel, said, name="test")

    async def scenario(made: World) -> None:
        assert isinstance(await refusal(made.ask()), Transient)

    run(scenario, serve)


def test_another_key_than_the_wanted_one_is_not_kept() -> None:
    async def scenario(made: World) -> None:
        found = answers(Sealing((KEY,), no_bytes)).cluster_key({"op": "cluster_key", "uid": KEY.uid}, b"shown")
        assert found["ok"]

        async def serve(channel: Channel) -> None:
            async def said(_: object) -> dict[str, object]:
                return found

            await serve_requests(channel, said, name="test")

        async with world(serve) as lying:
            refused = await refusal(lying.ask(OTHER.uid))
            assert (refused.code, isinstance(refused, Permanent)) == (Code.CLUSTER_KEY_UNUSABLE, True)

    run(scenario)


@pytest.mark.parametrize(
    ("sealing", "message", "shown"),
    [
        (None, {"uid": KEY.uid}, b"shown"),
        (Sealing((KEY,), no_bytes), {"uid": KEY.uid}, None),
        (Sealing((KEY,), no_bytes), {"uid": 7}, b"shown"),
        (Sealing((KEY,), no_bytes), {}, b"shown"),
    ],
)
def test_what_is_refused(sealing: Sealing | None, message: dict[str, object], shown: bytes | None) -> None:
    assert "ok" not in answers(sealing).cluster_key({"op": "cluster_key", **message}, shown)
