"""The production ``Servers``: observes every server over a lasting connection and keeps this term's management sessions.

One per leadership term, created and closed by the leader. Decides nothing. Observations may be repeated and reconnect
automatically; management sessions do neither (``session.py``).
"""

import asyncio
from collections.abc import Awaitable, Callable

from shardwright.clock import Clock
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ServerSeen
from shardwright.server.connection import Context
from shardwright.server.observe import Observers
from shardwright.server.protocol import ServerTarget
from shardwright.server.session import ServerSession


class ServerAdapter:
    """Implements ``Servers``."""

    def __init__(
        self,
        *,
        check_term: Callable[[], Awaitable[None]],
        is_leader: Callable[[], bool],
        clock: Clock,
        context: Context | None = None,
    ) -> None:
        """``check_term`` asks the store and raises LostLeadership if the term is over; ``is_leader`` is the local,
        immediate answer to the same question, called before every send. ``context``: for servers that accept only encrypted
        connections; None: there are none."""
        self._check_term = check_term
        self._is_leader = is_leader
        self._clock = clock
        self._context = context
        self._observers = Observers(clock, context)
        self._managers: dict[ShardUid, _Manager] = {}

    async def observe(self, target: ServerTarget) -> ServerSeen:
        """Query a server's state. Never raises for a failure of the server: the result's ``health`` reports it."""
        return await self._observers.observe(target)

    async def manage(self, target: ServerTarget) -> ServerSession:
        """This term's session with a server; a broken one is replaced. Raises like ``ServerSession.open``."""
        manager = self._managers.get(target.shard_uid)
        if manager is None or manager.target != target:
            if manager is not None:
                manager.close()
            self._managers = {uid: m for uid, m in self._managers.items() if not m.has_ended}
            manager = self._managers[target.shard_uid] = _Manager(target, self._context)
        return await manager.session(self._check_term, self._is_leader, self._clock)

    async def close(self) -> None:
        """End all sessions and connections."""
        self._observers.close()
        for manager in self._managers.values():
            manager.close()
        self._managers.clear()
        await asyncio.sleep(0)  # lets the aborted transports leave the event loop


class _Manager:
    """The only session with one incarnation."""

    def __init__(self, target: ServerTarget, context: Context | None) -> None:
        self.target = target
        self._context = context
        self._opening = asyncio.Lock()
        self._session: ServerSession | None = None
        self._is_closed = False

    @property
    def has_ended(self) -> bool:
        """Whether its session has broken, as when its server has ended."""
        return self._session is not None and not self._session.is_open

    async def session(
        self, check_term: Callable[[], Awaitable[None]], is_leader: Callable[[], bool], clock: Clock
    ) -> ServerSession:
        async with self._opening:
            if self._session is not None and self._session.is_open:
                return self._session
            self._drop()
            opened = await ServerSession.open(
                self.target, check_term=check_term, is_leader=is_leader, clock=clock, context=self._context
            )
            if self._is_closed:
                # Closed during the wait: without this call the new session would stay open.
                opened.close()
            self._session = opened
            return opened

    def close(self) -> None:
        self._is_closed = True
        self._drop()

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
