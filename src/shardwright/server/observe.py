"""Observes servers, each over a lasting connection. Used by the leader and by every agent.

Decides nothing. Observations may be repeated and reconnect automatically.
"""

import asyncio
from datetime import datetime

import structlog

from shardwright.clock import Clock
from shardwright.model.ids import ShardUid
from shardwright.model.seen import Health, ServerSeen
from shardwright.server.connection import CannotConnect, Context, ErrorReply, NoAnswer, NotSent, ServerConnection, connect_to
from shardwright.server.parse import parse_info
from shardwright.server.protocol import OBSERVATION_USER, ServerTarget

OBSERVE_TIMEOUT_S = 1.0
"""Total timeout for connection, login and query."""
IDLE_S_MAX = 60.0
"""A connection unused for this long belongs to a deleted shard and is closed."""

_log = structlog.get_logger(__name__)


class Observers:
    """One lasting connection to each server."""

    def __init__(self, clock: Clock, context: Context | None = None) -> None:
        """``context``: for servers that accept only encrypted connections; None: there are none."""
        self._clock = clock
        self._context = context
        self._observers: dict[ShardUid, _Observer] = {}

    async def observe(self, target: ServerTarget) -> ServerSeen:
        """Query a server's state. Never raises for a failure of the server: the result's ``health`` reports it."""
        observer = self._observers.get(target.shard_uid)
        if observer is None or observer.target != target:
            if observer is not None:
                observer.close()
            self._forget_idle()
            observer = self._observers[target.shard_uid] = _Observer(target, self._clock, self._context)
        return await observer.observe()

    def close(self) -> None:
        """End all connections."""
        for observer in self._observers.values():
            observer.close()
        self._observers.clear()

    def _forget_idle(self) -> None:
        limit = self._clock.monotonic() - IDLE_S_MAX
        for uid in [uid for uid, observer in self._observers.items() if observer.used_at < limit]:
            self._observers.pop(uid).close()


class _Observer:
    """The lasting connection to one incarnation, and the start of its silence."""

    def __init__(self, target: ServerTarget, clock: Clock, context: Context | None) -> None:
        self.target = target
        self._context = context
        self.used_at = clock.monotonic()
        self._clock = clock
        self._connection: ServerConnection | None = None
        self._asking = asyncio.Lock()
        self._unanswered_since: datetime | None = None
        self._replication_id = ""

    async def observe(self) -> ServerSeen:
        async with self._asking:
            self.used_at = self._clock.monotonic()
            asked_at = self._clock.now()
            try:
                async with asyncio.timeout(OBSERVE_TIMEOUT_S):
                    seen = await self._ask()
            except TimeoutError:
                return self._failed(Health.TIMEOUT, asked_at, f"no answer within {OBSERVE_TIMEOUT_S:g} s")
            except _Busy as error:
                return self._failed(Health.TIMEOUT, asked_at, str(error))
            except NoAnswer as error:
                return self._failed(Health.TIMEOUT if error.is_timeout else Health.UNREACHABLE, asked_at, str(error))
            except CannotConnect as error:
                return self._failed(Health.REFUSED if error.is_refused else Health.UNREACHABLE, asked_at, str(error))
            except (NotSent, _Unusable) as error:
                return self._failed(Health.UNREACHABLE, asked_at, str(error))
            self._unanswered_since = None
            self._replication_id = seen.replication_id
            return seen

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _ask(self) -> ServerSeen:
        """Query over the existing connection. If it has ended, a new one shows whether the server still exists."""
        if self._connection is not None and self._connection.is_open:
            try:
                return await self._info(self._connection)
            except (NotSent, NoAnswer) as error:
                if isinstance(error, NoAnswer) and error.is_timeout:
                    raise
        self.close()
        self._connection = await self._connected()
        return await self._info(self._connection)

    async def _connected(self) -> ServerConnection:
        target = self.target
        connection = await connect_to(target, self._context, timeout_s=OBSERVE_TIMEOUT_S)
        try:
            reply = await connection.call("AUTH", OBSERVATION_USER, target.secrets.observation, timeout_s=OBSERVE_TIMEOUT_S)
        except BaseException:
            connection.close()
            raise
        if isinstance(reply, ErrorReply):
            connection.close()
            raise _Unusable(f"it refuses the management login: {reply}")
        return connection

    async def _info(self, connection: ServerConnection) -> ServerSeen:
        reply = await connection.call("INFO", timeout_s=OBSERVE_TIMEOUT_S)
        if isinstance(reply, ErrorReply) and reply.code == "BUSY":
            # A script has been running for seconds. It is the right server, but cannot answer queries now.
            raise _Busy(reply)
        if isinstance(reply, ErrorReply) or not isinstance(reply, str):
            raise _Unusable(f"INFO: {reply}")
        target = self.target
        try:
            return parse_info(reply, shard_uid=target.shard_uid, incarnation=target.incarnation, at=self._clock.now())
        except ValueError as error:
            raise _Unusable(str(error)) from error

    def _failed(self, health: Health, asked_at: datetime, why: str) -> ServerSeen:
        target = self.target
        self.close()
        if self._unanswered_since is None:
            self._unanswered_since = asked_at
            _log.info("a server does not answer", shard=target.shard_uid, address=target.address, port=target.port, why=why)
        return ServerSeen(
            shard_uid=target.shard_uid,
            incarnation=target.incarnation,
            at=self._clock.now(),
            health=health,
            replication_id_lately=self._replication_id,
            unanswered_since=self._unanswered_since,
        )


class _Unusable(Exception):
    """A process listens there, but not the expected server."""


class _Busy(Exception):
    """The only answer is that it is busy."""
