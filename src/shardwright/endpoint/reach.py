"""Opens the connections of an endpoint process to servers, in clear or encrypted as the target says.

Used by ``connection.py`` for clients and by ``probe.py``. Sends nothing. An encrypted connection is only made to a server
whose certificate is of the cluster's authority and names the address; it shows the certificate of this node.
"""

import asyncio
import ssl

from shardwright.endpoint.backend import BackendConnection
from shardwright.endpoint.protocol import Target
from shardwright.endpoint.tls import Context, OwnCertificateUnusable
from shardwright.model.codes import Code

CONNECT_TIMEOUT_S = 1.0
HANDSHAKES_MAX = 8
"""Encrypted connections that are being opened at the same time. A handshake costs either side about a millisecond, and in a
handoff all waiting clients connect to the new primary at once. Without a limit, the leader's commands there and its requests
here would wait behind all of them."""


class ServerAccess:
    """How this process reaches servers. ``context``: for those that accept only encrypted connections; None: this process
    has no certificate, and reaches none of them."""

    def __init__(self, context: Context | None = None) -> None:
        self._context = context
        self.room = asyncio.Semaphore(HANDSHAKES_MAX)

    def encryption(self, target: Target) -> ssl.SSLContext | None:
        """The context for a connection to this server; None: in clear. Raises OSError, in particular OwnCertificateUnusable,
        if one is needed and there is none."""
        if not target.uses_tls:
            return None
        if self._context is None:
            text = "the server accepts only encrypted connections, and this process has no certificate"
            raise OwnCertificateUnusable(text, Code.CREDENTIALS_UNUSABLE)
        return self._context()


async def reach(backend: BackendConnection, loop: asyncio.AbstractEventLoop, access: ServerAccess) -> None:
    """Connect within the limit, which begins when there is room. Raises OSError, TimeoutError."""
    encrypted = access.encryption(backend.target)
    if encrypted is None:
        await _reach(backend, loop, None)
        return
    async with access.room:
        await _reach(backend, loop, encrypted)


async def _reach(backend: BackendConnection, loop: asyncio.AbstractEventLoop, encrypted: ssl.SSLContext | None) -> None:
    """An open connection is never cancelled: uvloop would close its socket without a call of connection_lost. After the
    process was frozen, the limit and the connection may both be due in one pass of the loop."""
    target = backend.target
    name = None if encrypted is None else target.address
    making = loop.create_connection(lambda: backend, target.address, target.port, ssl=encrypted, server_hostname=name)
    opening = asyncio.ensure_future(making)
    await asyncio.wait({opening}, timeout=CONNECT_TIMEOUT_S)
    if not (opening.done() or backend.is_made):
        backend.abandon()
        opening.cancel()
        raise TimeoutError
    await opening
