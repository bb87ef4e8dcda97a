"""TLS streams between the machines of a cluster: both ends prove who they are by certificate.

Owns connecting and accepting. Whom a certificate names and whether it may speak here is decided by ``trust.peers``;
certificates, keys and authorities come as ready contexts: this module reads no file. Passes no open files, because they stay
within a machine.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

import structlog

from shardwright.endpoint.channel import Channel, Message
from shardwright.errors import Permanent
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.trust import CertificateRole
from shardwright.tasks import spawn
from shardwright.trust.peers import NOTHING_REVOKED, admit

ROLES = frozenset({CertificateRole.NODE})
"""Of the certificates that daemons and endpoint processes have. Only they may use these streams."""
CONNECT_TIMEOUT_S = 1.0
"""For the connection and the handshake: two or three round trips within a cluster's network."""
HANDSHAKE_TIMEOUT_S = 3.0
"""On the accepting side: a caller that sends nothing must not keep its place."""
CALLERS_MAX = 256
"""Callers at once: each daemon has one connection to each process, and a new leader adds its own before the old ones end."""
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""The state of an endpoint process with ten thousand endpoints. No connections of clients are passed here."""
ACCEPT_AGAIN_S = 0.1
"""Pause after a failed accept, for example without a free file: the listener would report the caller again at once."""
OPEN_AGAIN_S = 0.2
"""Pause between two attempts to listen: the port may still belong to a process that is ending."""
_KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 10),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 15_000),
)
"""A machine that vanished without a word is noticed within 25 s, so that its connections do not pile up."""
_BUFFER_BYTES = 256 * 1024
_REFUSAL_READ_S = 1.0
"""Time in which a refused caller can read why."""
_TCP_ESTABLISHED = 1
"""First byte of the kernel's ``tcp_info``."""

_log = structlog.get_logger(__name__)


class CertificateProblem(ConnectionError):
    """There is no connection because of a certificate. ``code`` and the text say which, and why."""

    def __init__(self, text: str, code: Code) -> None:
        super().__init__(text)
        self.code = code


class PeerRefused(CertificateProblem):
    """The certificate of one end is not accepted by the other. The code is that of ``trust.peers.admit`` at the end that
    refused, or ``node_certificate_refused`` if the handshake itself has failed."""


class OwnCertificateUnusable(CertificateProblem):
    """This machine has no certificate that it could show."""


Context = Callable[[], ssl.SSLContext]
"""The context for the next connection, so that a renewed certificate is used. Raises OSError if there is none, for example
OwnCertificateUnusable."""
Revoked = Callable[[], Collection[str]]
"""The serials that are revoked by now, as ``trust.certificates.serial_text`` writes them."""


def nothing_revoked() -> Collection[str]:
    """No certificate is revoked."""
    return NOTHING_REVOKED


@dataclass(frozen=True, slots=True)
class TlsAddress:
    """Where a process accepts callers from other machines, and how it proves who it is. ``port`` 0: any free one."""

    address: str
    port: int
    context: Context
    revoked: Revoked = nothing_revoked


class TlsTransport:
    """One end of an open TLS stream. See ``Transport``. Each message is written as a whole, so that there may be concurrent
    writers."""

    message_bytes_max = MESSAGE_BYTES_MAX

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._socket = writer.get_extra_info("socket")
        self.peer_certificate: bytes | None = None

    async def send(self, data: bytes, files: tuple[int, ...]) -> None:
        if files:
            raise AssertionError("open files cannot be sent over TLS: they stay within a machine")
        if self._writer.transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> tuple[bytes, tuple[int, ...]]:
        try:
            return await self._reader.read(_BUFFER_BYTES), ()
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):
                text = f"it does not accept the certificate of this machine: {error.reason}"
                raise PeerRefused(text, Code.NODE_CERTIFICATE_REFUSED) from error
            raise

    def is_closed_by_peer(self) -> bool:
        """Asks the kernel: bytes that were sent before the end may still wait to be decrypted."""
        if self._writer.transport.is_closing():
            return True  # The number of its file may belong to another one by now.
        try:
            state = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        except (OSError, ValueError):
            return True
        return bool(state[0] != _TCP_ESTABLISHED)

    def close(self) -> None:
        # The loop closes the socket in its next pass. The other end may read a request until then, and must know that it is
        # void. No exchange of farewells: the other end may be frozen.
        if not self._writer.transport.is_closing():
            _shut_down(self._socket)
        self._writer.transport.abort()

    def admit(self, revoked: Collection[str], node: NodeUid | None = None) -> None:
        """Raises PeerRefused unless the other end is a node, and exactly this one; None: any node."""
        found = self._writer.get_extra_info("ssl_object")
        if found is None:
            raise PeerRefused("it has closed the connection", Code.NODE_CERTIFICATE_REFUSED)
        shown = found.getpeercert(binary_form=True)
        try:
            admit(shown, ROLES, revoked=revoked, node_uid=node)
        except Permanent as refused:
            raise PeerRefused(refused.text, refused.code) from refused
        self.peer_certificate = shown


def _shut_down(opened: socket.socket) -> None:
    """Tell the other end at once that nothing more comes. By a copy: not every loop's sockets can do that themselves."""
    with contextlib.suppress(OSError, ValueError), socket.socket(fileno=os.dup(opened.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


async def connect_tls(
    address: str, port: int, *, context: Context, node: NodeUid, revoked: Revoked = nothing_revoked
) -> Channel:
    """Connect to a process of this node. Its certificate must name the address. Raises OSError, in particular
    ConnectionRefusedError and CertificateProblem, and TimeoutError after CONNECT_TIMEOUT_S."""
    made = context()
    connection = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        _prepare(connection)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except BaseException:
        connection.close()
        raise
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                sock=connection, ssl=made, server_hostname=address, limit=_BUFFER_BYTES
            )
    except ssl.SSLCertVerificationError as error:
        text = f"its certificate is not accepted: {error.verify_message}"
        raise PeerRefused(text, Code.NODE_CERTIFICATE_REFUSED) from error
    transport = TlsTransport(reader, writer)
    try:
        transport.admit(revoked(), node)
    except BaseException:
        transport.close()
        raise
    return Channel(transport)


def refusal_of(message: Message) -> PeerRefused | None:
    """What a listener has said to a caller whose certificate it does not accept; None: the message is something else."""
    if "refused" not in message:
        return None
    said = message.get("code")
    code = next((c for c in Code if c == said), Code.NODE_CERTIFICATE_REFUSED)  # A later version may have others.
    return PeerRefused(f"it does not accept the certificate of this machine: {message['refused']}", code)


class TlsListener:
    """Accepts callers from other machines, and serves those with the certificate of a node."""

    def __init__(self, at: TlsAddress, serve: Callable[[Channel], Awaitable[None]], *, name: str) -> None:
        self._at = at
        self._serve_caller = serve
        self._name = name
        self._socket: socket.socket | None = None
        self._callers: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port on which it listens; 0: it does not listen."""
        return 0 if self._socket is None else int(self._socket.getsockname()[1])

    async def run(self) -> None:
        """Listen until cancelled. Tries again while the port cannot be had."""
        reason = ""
        try:
            while self._socket is None:
                try:
                    self.open()
                except OSError as error:
                    if str(error) != reason:
                        reason = str(error)
                        _log.error("cannot listen for other machines; trying again", what=self._name, reason=reason)
                    await asyncio.sleep(OPEN_AGAIN_S)
            await asyncio.get_running_loop().create_future()
        finally:
            await self.close()

    def open(self) -> None:
        """Listen. Raises OSError if the address or the port cannot be used."""
        listener = socket.socket(_family(self._at.address), socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._at.address, self._at.port))
            listener.listen(CALLERS_MAX)
        except OSError:
            listener.close()
            raise
        self._socket = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)
        _log.info("listens for other machines", what=self._name, address=self._at.address, port=self.port)

    async def close(self) -> None:
        """Stop listening, and end all callers."""
        if self._again is not None:
            self._again.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        callers = list(self._callers)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            _log.error("a caller from another machine cannot be accepted", what=self._name, reason=str(error))
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket)
            self._again = loop.call_later(ACCEPT_AGAIN_S, self._accept_again)
            return
        if len(self._callers) >= CALLERS_MAX:
            connection.close()
            return
        caller = spawn(f"{self._name}: caller", self._serve(connection))
        self._callers.add(caller)
        caller.add_done_callback(self._callers.discard)

    def _accept_again(self) -> None:
        self._again = None
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            transport = await self._shake_hands(connection)
        except (OSError, TimeoutError) as error:
            _log.info("a caller from another machine has not proved who it is", what=self._name, reason=str(error))
            return
        channel = Channel(transport)
        try:
            try:
                transport.admit(self._at.revoked())
            except PeerRefused as refused:
                await self._refuse(channel, refused)
                return
            await self._serve_caller(channel)
        finally:
            channel.close()

    async def _shake_hands(self, connection: socket.socket) -> TlsTransport:
        loop = asyncio.get_running_loop()
        try:
            connection.setblocking(False)
            _prepare(connection)
            context = self._at.context()
        except BaseException:
            connection.close()
            raise
        reader = asyncio.StreamReader(limit=_BUFFER_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, connection, ssl=context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
        )
        return TlsTransport(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def _refuse(self, channel: Channel, refused: PeerRefused) -> None:
        _log.warning("refused a caller from another machine", what=self._name, code=refused.code, reason=str(refused))
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_REFUSAL_READ_S):
                await channel.send({"refused": str(refused), "code": refused.code})
                await channel.receive()  # A close now could discard what was just sent.


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _prepare(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
