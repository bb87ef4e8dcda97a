"""Real handshakes on loopback between members with real certificates, which come from ``testkit.certificates``."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from shardwright.errors import Permanent
from shardwright.model.trust import CertificateRole
from shardwright.trust.contexts import Credentials, client_context, renew, server_context
from shardwright.trust.peers import NOTHING_REVOKED, admit

NODES_ONLY = frozenset({CertificateRole.NODE})
READ_TIMEOUT_S = 20.0
"""Only a test that fails waits this long."""


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


def showing(shown: Credentials, trusting: Credentials) -> ssl.SSLContext:
    """A client that shows one certificate and trusts the authority of another."""
    context = client_context(trusting)
    renew(context, shown)
    return context


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
