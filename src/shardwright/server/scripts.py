"""Ends a script or function that keeps a server from doing anything else, such as ending in good order.

Used where clients are gone already; while they are there, the script is theirs to end. Must not stop a script that has
written: the server refuses that, and only losing the server's last writes would help.
"""

import contextlib

from shardwright.server.protocol import APPLICATION_USER, ServerTarget
from shardwright.server.wire import CannotConnect, ErrorReply, NoAnswer, NotSent, Wire

TIMEOUT_S = 1.0
_COMMANDS = (("SCRIPT", "KILL"), ("FUNCTION", "KILL"))


async def end_script(target: ServerTarget) -> bool:
    """Whether the server executed a script or function and was told to end it. A server answers this only when the script
    has run for ``busy-reply-threshold`` (5 s). Never raises: a server that does not answer was told nothing."""
    try:
        wire = await Wire.connect(target.address, target.port, timeout_s=TIMEOUT_S)
    except (TimeoutError, CannotConnect):
        return False
    with contextlib.closing(wire), contextlib.suppress(NotSent, NoAnswer):
        login = await wire.call("AUTH", APPLICATION_USER, target.secrets.application, timeout_s=TIMEOUT_S)
        if isinstance(login, ErrorReply):
            return False
        for command in _COMMANDS:
            if not isinstance(await wire.call(*command, timeout_s=TIMEOUT_S), ErrorReply):
                return True
    return False
