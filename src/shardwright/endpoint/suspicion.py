"""Finds out whether an endpoint's server answers, while a leader suspects that it does not.

Owned by ``process.py``. Asks on a connection of its own, so that no client's command counts or waits. Any answer counts,
even a refusal: the question is whether the network leads to a server that lives. Decides nothing.
"""

import asyncio

from shardwright.clock import Clock
from shardwright.endpoint.protocol import Target
from shardwright.endpoint.reach import ServerAccess
from shardwright.tasks import spawn

ASK_TIMEOUT_S = 1.0
"""For the connection and an answer. A packet that was lost once is sent again after 0.2 s."""
ASK_EVERY_S = 0.3
FORGET_AFTER_S = 2.0
"""Without a leader that suspects the server for so long, what was found out is outdated."""


class Suspicion:
    """What this process knows of one endpoint's server."""

    def __init__(self, clock: Clock, access: ServerAccess) -> None:
        self._clock = clock
        self._access = access
        self._target: Target | None = None
        self._suspected_at = float("-inf")
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._silent_since: float | None = None
        self._is_known = False

    def suspect(self, target: Target | None) -> None:
        """A leader wants to know whether this server answers. None: the endpoint has no server that could answer."""
        now = self._clock.monotonic()
        if target != self._target or now - self._suspected_at > FORGET_AFTER_S:
            self.end()
            self._target, self._silent_since, self._is_known = target, None, target is None
            if target is None:
                self._silent_since = now
        self._suspected_at = now
        if target is not None and self._asking is None and now - self._asked_at >= ASK_EVERY_S:
            self._asked_at = now
            self._asking = spawn("endpoint-suspicion", self._ask(target))

    @property
    def silent_s(self) -> float | None:
        """See ``EndpointSeen.server_silent_s``."""
        now = self._clock.monotonic()
        if not self._is_known or now - self._suspected_at > FORGET_AFTER_S:
            return None
        return 0.0 if self._silent_since is None else now - self._silent_since

    def end(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask(self, target: Target) -> None:
        asked_at = self._asked_at
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                has_answered = await _has_answered(target, self._access)
        except (OSError, TimeoutError):
            has_answered = False
        self._asking = None
        self._is_known = True
        if has_answered:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = asked_at


async def _has_answered(target: Target, access: ServerAccess) -> bool:
    encrypted = access.encryption(target)
    name = None if encrypted is None else target.address
    reader, writer = await asyncio.open_connection(target.address, target.port, ssl=encrypted, server_hostname=name)
    try:
        writer.write(b"PING\r\n")
        return bool(await reader.read(1))
    finally:
        writer.close()
