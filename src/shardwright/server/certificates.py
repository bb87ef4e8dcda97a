"""Lets a running server show a renewed certificate. Connections that are open keep the old one.

Used by the agent of the server's node. A leader may end this connection like every older management connection; the agent
then tries again.
"""

import contextlib

from shardwright.server.connection import CannotConnect, Context, ErrorReply, NoAnswer, NotSent, connect_to
from shardwright.server.network import TlsFiles, tls_lines
from shardwright.server.protocol import MANAGEMENT_USER, ServerTarget

TIMEOUT_S = 2.0


async def read_again(target: ServerTarget, context: Context, files: TlsFiles) -> bool:
    """Make the server read its certificate, its key and the authority again. Returns whether it has. Never raises: False if
    the server does not answer or refuses the files; it then goes on with the earlier ones."""
    try:
        connection = await connect_to(target, context, timeout_s=TIMEOUT_S)
    except (TimeoutError, CannotConnect):
        return False
    with contextlib.closing(connection), contextlib.suppress(NotSent, NoAnswer):
        login = await connection.call("AUTH", MANAGEMENT_USER, target.secrets.management, timeout_s=TIMEOUT_S)
        if isinstance(login, ErrorReply):
            return False
        # All in one command: a certificate without its key would be refused.
        words = [word for line in tls_lines(files) for word in line]
        answer = await connection.call("CONFIG", "SET", *words, timeout_s=TIMEOUT_S)
        return not isinstance(answer, ErrorReply)
    return False
