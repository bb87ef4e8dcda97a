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


def encryption(target: Target, context: Context | None) -> ssl.SSLContext | None:
    """The context for a connection to this server; None: in clear. ``context`` None: this process has no certificate. Raises
    OSError, in particular OwnCertificateUnusable, if one is needed and there is none."""
    if not target.uses_tls:
        return None
    if context is None:
        text = "the server accepts only encrypted connections, and this process has no certificate"
        raise OwnCertificateUnusable(text, Code.CREDENTIALS_UNUSABLE)
    return context()


async def reach(backend: BackendConnection, loop: asyncio.AbstractEventLoop, context: Context | None) -> None:
    """Connect within the limit. Raises OSError, TimeoutError.

    An open connection is never cancelled: uvloop would close its socket without a call of connection_lost. After the
    process was frozen, the limit and the connection may both be due in one pass of the loop.
    """
    target = backend.target
    encrypted = encryption(target, context)
    name = None if encrypted is None else target.address
    making = loop.create_connection(lambda: backend, target.address, target.port, ssl=encrypted, server_hostname=name)
    opening = asyncio.ensure_future(making)
    await asyncio.wait({opening}, timeout=CONNECT_TIMEOUT_S)
    if not (opening.done() or backend.is_made):
        backend.abandon()
        opening.cancel()
        raise TimeoutError
    await opening
