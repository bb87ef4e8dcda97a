"""Members of a test cluster with real certificates, and real handshakes between them on loopback.

``members()`` makes an authority; ``member(...)`` gives credentials that it has signed. OpenSSL judges certificates by the
machine's clock, so they are issued now unless a test says otherwise.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

from shardwright.errors import Permanent
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.trust.authority import Signer, certificate_text, make_authority
from shardwright.trust.certificates import Grant, make_request, sign_request
from shardwright.trust.contexts import Credentials, client_context, read_credentials, server_context
from shardwright.trust.keys import key_text, new_key, read_key
from shardwright.trust.peers import NOTHING_REVOKED, admit

NODES_ONLY = frozenset({CertificateRole.NODE})
READ_TIMEOUT_S = 20.0
"""Only a test that fails waits this long."""


@dataclass(frozen=True, slots=True)
class Members:
    """An authority and those whom it certifies."""

    signer: Signer

    def member(
        self,
        node: int,
        *addresses: str,
        role: CertificateRole = CertificateRole.NODE,
        at: datetime | None = None,
        key: bytes | None = None,
    ) -> Credentials:
        """Credentials of a node. ``at``: when they are issued; None: now. ``key``: the node's key (PEM); None: a new one."""
        own = new_key() if key is None else read_key(key)
        grant = Grant(role, NodeUid(node), addresses or (f"127.0.0.{node}",))
        serial, now = x509.random_serial_number(), at or datetime.now(UTC)
        leaf = sign_request(self.signer, make_request(own), grant, serial=serial, now=now)
        return read_credentials(certificate_text(leaf), key_text(own), self.signer.authority.text)


def members(at: datetime | None = None) -> Members:
    """A new authority. ``at``: when it was made; None: now."""
    return Members(make_authority(new_key(), serial=x509.random_serial_number(), now=at or datetime.now(UTC)))


@dataclass(frozen=True, slots=True)
class Listener:
    """A member that listens: it tells each accepted peer its name, and closes the connection of any other."""

    address: str
    port: int
    admitted: list[str]
    """Who was accepted, in order."""
    refused: list[str]
    """The codes with which peers were refused after their handshake."""


@asynccontextmanager
async def listening(
    context: ssl.SSLContext,
    address: str,
    *,
    roles: Collection[CertificateRole] = NODES_ONLY,
    revoked: Collection[str] = NOTHING_REVOKED,
) -> AsyncIterator[Listener]:
    """Serve while the block runs."""
    admitted: list[str] = []
    refused: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = admit(certificate_of(writer), roles, revoked=revoked)
            admitted.append(f"{peer.role} {peer.node_uid}")
            while await reader.readline():
                writer.write(f"{admitted[-1]}\n".encode())
                await writer.drain()
        except Permanent as e:
            refused.append(e.code)
        except (OSError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, address, 0, ssl=context)
    async with server:
        yield Listener(address, server.sockets[0].getsockname()[1], admitted, refused)


def certificate_of(writer: asyncio.StreamWriter) -> bytes | None:
    """The peer's certificate (DER) of an open connection."""
    secured: ssl.SSLObject = writer.get_extra_info("ssl_object")
    return secured.getpeercert(binary_form=True)


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Who the listener says that we are; empty: it closed the connection. Raises OSError (also of TLS)."""
    writer.write(b"who am I\n")
    await writer.drain()
    return (await asyncio.wait_for(reader.readline(), READ_TIMEOUT_S)).decode().strip()


async def call(listener: Listener, context: ssl.SSLContext) -> str:
    """Connect, ask once, close: the answer, or the failure of the handshake, or ``closed``."""
    try:
        reader, writer = await asyncio.open_connection(listener.address, listener.port, ssl=context)
    except OSError as e:
        return _failure(e)
    try:
        return await ask(reader, writer) or "closed"
    except OSError:
        return "closed"
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one handshake came to, on both sides: the peer as the listener names it, a code, or the failure of the handshake.
    A client whose certificate is refused learns only that the connection is closed: TLS 1.3 ends its handshake earlier."""

    client: str
    server: str


def exchange(
    server: Credentials | ssl.SSLContext,
    client: Credentials | ssl.SSLContext,
    *,
    roles: Collection[CertificateRole] = NODES_ONLY,
    revoked: Collection[str] = NOTHING_REVOKED,
    address: str = "127.0.0.1",
) -> Outcome:
    """One connection over loopback."""
    context = client_context(client) if isinstance(client, Credentials) else client
    serving = server_context(server) if isinstance(server, Credentials) else server
    with socket.create_server((address, 0)) as listener, ThreadPoolExecutor(1) as threads:
        listener.settimeout(READ_TIMEOUT_S)
        served = threads.submit(_serve_once, listener, serving, roles, revoked)
        with socket.create_connection(listener.getsockname(), READ_TIMEOUT_S) as raw:
            return Outcome(_talk(raw, context, address), served.result())


def _serve_once(
    listener: socket.socket, context: ssl.SSLContext, roles: Collection[CertificateRole], revoked: Collection[str]
) -> str:
    raw, _ = listener.accept()
    with raw:
        raw.settimeout(READ_TIMEOUT_S)
        try:
            with context.wrap_socket(raw, server_side=True) as secured:
                peer = admit(secured.getpeercert(binary_form=True), roles, revoked=revoked)
                name = f"{peer.role} {peer.node_uid}"
                secured.sendall(name.encode())
                return name
        except Permanent as e:
            return e.code
        except OSError as e:
            return _failure(e)


def _talk(raw: socket.socket, context: ssl.SSLContext, address: str) -> str:
    try:
        with context.wrap_socket(raw, server_hostname=address) as secured:
            try:
                return secured.recv(100).decode() or "closed"
            except OSError:
                return "closed"
    except OSError as e:
        return _failure(e)


def _failure(error: OSError) -> str:
    return str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error)
