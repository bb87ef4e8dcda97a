"""A listener for other machines and its callers, for the tests of streams between machines."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from shardwright.endpoint.channel import Channel
from shardwright.endpoint.credentials import OwnCertificate
from shardwright.endpoint.tls import (
    Revoked,
    TlsAddress,
    TlsListener,
    connect_tls,
    nothing_revoked,
)
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.trust.certificates import serial_text
from shardwright.trust.contexts import client_context
from shardwright.trust.files import MemberFiles, load_credentials
from testkit.certificates import Members

HERE = "127.0.0.1"
NODE = CertificateRole.NODE
Scenario = Callable[[TlsListener], Awaitable[None]]
Loop = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes with files of their certificates. All are at the same address."""

    members: Members
    directory: Path

    def own(self, node: int, *, role: CertificateRole = NODE) -> OwnCertificate:
        """The contexts of a new certificate."""
        return OwnCertificate(self.files(node, role=role))

    def files(self, node: int, *, role: CertificateRole = NODE, name: str = "", subject: str | None = None) -> MemberFiles:
        return self.members.files(self.directory, node, HERE, role=role, name=name, subject=subject)

    def any_client(self, files: MemberFiles) -> ssl.SSLContext:
        """A client that shows what is in the files, whatever it says."""
        context = client_context(self.members.member(2))
        context.load_cert_chain(files.certificate, files.key)
        return context


async def echo(channel: Channel) -> None:
    try:
        while (received := await channel.receive()) is not None:
            await channel.send(received[0])
    except (OSError, ValueError):
        pass


def run(
    loop: Loop,
    own: OwnCertificate,
    scenario: Scenario,
    serve: Callable[[Channel], Awaitable[None]] = echo,
    revoked: Revoked = nothing_revoked,
) -> None:
    """A listener on a free port, and a scenario with callers."""

    async def whole() -> None:
        listener = TlsListener(TlsAddress(HERE, 0, own.server, revoked), serve, name="test")
        listener.open()
        try:
            async with asyncio.timeout(30):
                await scenario(listener)
        finally:
            await listener.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(whole())


async def connect(
    listener: TlsListener, own: OwnCertificate | ssl.SSLContext, node: int = 1, revoked: Revoked = nothing_revoked
) -> Channel:
    context = own.client if isinstance(own, OwnCertificate) else lambda: own
    return await connect_tls(HERE, listener.port, context=context, node=NodeUid(node), revoked=revoked)


def serial_of(files: MemberFiles) -> str:
    return serial_text(load_credentials(files).certificate.serial_number)
