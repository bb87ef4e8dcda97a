"""TLS streams between the machines of a cluster: both ends prove who they are by certificate.

Owns connecting, accepting and the check of the other end. What a certificate says is decided by the function ``Identify``,
and certificates, keys and authorities come as ready contexts: this module reads no file. Passes no open files, because they
stay within a machine.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from shardwright.endpoint.channel import Channel
from shardwright.model.ids import NodeUid
from shardwright.tasks import spawn

NODE_ROLE = "node"
"""The role of the certificates that daemons and endpoint processes have. Only they may use these streams."""
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


@dataclass(frozen=True, slots=True)
class Peer:
    """Who the other end is. ``node_uid`` None: its certificate names no node."""

    role: str
    node_uid: NodeUid | None


class PeerRefused(ConnectionError):
    """The certificate of one end is not accepted by the other. The text says why."""


Context = Callable[[], ssl.SSLContext]
"""The context for the next connection, so that a renewed certificate is used. Raises OSError if there is none."""
Identify = Callable[[ssl.SSLObject], Peer]
"""Says whose certificate the other end has shown; the handshake has verified it. Raises PeerRefused, for example for a
certificate that was revoked."""


@dataclass(frozen=True, slots=True)
class TlsAddress:
    """Where a process accepts callers from other machines, and how it proves who it is. ``port`` 0: any free one."""

    address: str
    port: int
    context: Context
    identify: Identify


def check_node(peer: Peer, *, node: NodeUid | None = None) -> None:
    """Raises PeerRefused unless the other end is a node, and exactly this one; None: any node."""
    if peer.role != NODE_ROLE:
        raise PeerRefused(f"its certificate has the role {peer.role or 'of nothing'!r} instead of {NODE_ROLE!r}")
    if node is not None and peer.node_uid != node:
        raise PeerRefused(f"its certificate is of node {peer.node_uid} instead of node {node}")


class TlsTransport:
    """One end of an open TLS stream. See ``Transport``. Each message is written as a whole, so that there may be concurrent
    writers."""

    message_bytes_max = MESSAGE_BYTES_MAX

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._socket = writer.get_extra_info("socket")

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
                raise PeerRefused(f"it does not accept the certificate of this machine: {error.reason}") from error
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
        # Not by an exchange of farewells: the other end may be frozen.
        self._writer.transport.abort()

    def identify(self, identify: Identify) -> Peer:
        """Who the other end is. Raises PeerRefused."""
        found = self._writer.get_extra_info("ssl_object")
        if found is None:
            raise PeerRefused("it has closed the connection")
        return identify(found)


async def connect_tls(address: str, port: int, *, context: Context, identify: Identify, node: NodeUid) -> Channel:
    """Connect to a process of this node. Raises OSError, in particular ConnectionRefusedError and PeerRefused, and
    TimeoutError after CONNECT_TIMEOUT_S."""
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
        raise PeerRefused(f"its certificate is not accepted: {error.verify_message}") from error
    transport = TlsTransport(reader, writer)
    try:
        check_node(transport.identify(identify), node=node)
    except BaseException:
        transport.close()
        raise
    return Channel(transport)


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
                check_node(transport.identify(self._at.identify))
            except PeerRefused as refused:
                await self._refuse(channel, str(refused))
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

    async def _refuse(self, channel: Channel, reason: str) -> None:
        _log.warning("refused a caller from another machine", what=self._name, reason=reason)
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(_REFUSAL_READ_S):
                await channel.send({"refused": reason})
                await channel.receive()  # A close now could discard what was just sent.


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _prepare(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
