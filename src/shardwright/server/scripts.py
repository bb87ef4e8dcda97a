"""Ends a script or function that occupies a server, so that the server can shut down.

Used when no clients are left; before that, only they may end their script. Must not end a script that has written data: the
server refuses that, and the only alternative would lose the server's last writes.
"""

import contextlib

from shardwright.server.connection import CannotConnect, Context, ErrorReply, NoAnswer, NotSent, connect_to
from shardwright.server.protocol import APPLICATION_USER, ServerTarget

TIMEOUT_S = 1.0
_COMMANDS = (("SCRIPT", "KILL"), ("FUNCTION", "KILL"))


async def end_script(target: ServerTarget, context: Context | None = None) -> bool:
    """End the server's running script or function. Returns whether the server accepted the command; it does so only when the
    script has run for ``busy-reply-threshold`` (5 s). ``context``: see ``connect_to``. Never raises: False if the
    server does not answer."""
    try:
        connection = await connect_to(target, context, timeout_s=TIMEOUT_S)
    except (TimeoutError, CannotConnect):
        return False
    with contextlib.closing(connection), contextlib.suppress(NotSent, NoAnswer):
        login = await connection.call("AUTH", APPLICATION_USER, target.secrets.application, timeout_s=TIMEOUT_S)
        if isinstance(login, ErrorReply):
            return False
        for command in _COMMANDS:
            if not isinstance(await connection.call(*command, timeout_s=TIMEOUT_S), ErrorReply):
                return True
    return False
