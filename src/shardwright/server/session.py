"""A management session: one logged-in connection over which one term of one leader commands one server.

Opened and kept by the adapter. Never reconnects, never repeats: a broken session stays broken; its user observes and opens
a new one. Contains no secrets in errors: they name the shard, the address and the command, never a password.
"""

from collections.abc import Awaitable, Callable

from shardwright.clock import Clock
from shardwright.errors import LostLeadership, OutcomeUnknown, Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.database import Persistence
from shardwright.model.seen import ServerSeen
from shardwright.server.config import marker, replica_buffer_command, settings_commands
from shardwright.server.connection import (
    CannotConnect,
    Context,
    ErrorReply,
    NoAnswer,
    NotSent,
    Reply,
    ServerConnection,
    connect_to,
)
from shardwright.server.parse import info_fields, parse_info
from shardwright.server.protocol import (
    APPLICATION_USER,
    FENCE_LAG_S,
    FENCE_REPLICAS,
    MANAGEMENT_USER,
    ServerSettings,
    ServerTarget,
)

CONNECT_TIMEOUT_S = 1.0
CALL_TIMEOUT_S = 2.0
"""A healthy server answers in under a millisecond; the hold at the endpoints lasts 4 s at most."""
FORK_TIMEOUT_S = 10.0
"""Commands that fork: the server pauses while its page tables are copied, about 10 ms per gigabyte, and longer on a busy
machine."""

SNAPSHOT_AGE_S_MAX = 600.0
"""A snapshot up to this age can replace the append-only file; generous, because clocks of machines differ."""

_TEMPORARY = frozenset({"LOADING", "BUSY", "MASTERDOWN"})
"""Refusals that mean: not executed, and temporary."""
_SYNC_STATES = frozenset({"wait_bgsave", "send_bulk", "send_bulk_and_stream", "bg_transfer"})
"""States of a replica in its primary's list in which a full sync may occupy the only background process."""


class ServerSession:
    """Implements ``ManagementSession``. Commands of concurrent callers are executed in the order in which the calls
    began."""

    def __init__(
        self, target: ServerTarget, connection: ServerConnection, *, is_leader: Callable[[], bool], clock: Clock
    ) -> None:
        self._target = target
        self._connection = connection
        self._is_leader = is_leader
        self._clock = clock

    @classmethod
    async def open(
        cls,
        target: ServerTarget,
        *,
        check_term: Callable[[], Awaitable[None]],
        is_leader: Callable[[], bool],
        clock: Clock,
        context: Context | None = None,
    ) -> "ServerSession":
        """Log in, check the term, close every older management session on this server, verify the server's identity.

        Why this order is safe: a successor commits its term before it opens any session. If an older manager's login was
        answered before the successor's CLIENT KILL, it loses that connection; if its login is answered later, it checks the
        term after that answer, sees the successor's term, and sends nothing more.

        The guarantee of CLIENT KILL, tested with both servers: after its answer, no further command of the closed sessions
        is executed, whether postponed by a pause or still unread in the server's socket buffer. The limit: a command that
        reached the server earlier may already have been executed (a paused server that resumes reads its connections in any
        order). So observe only after this method has returned: older sessions can no longer change the observed state.
        """
        connection = await _connected(target, context)
        session = cls(target, connection, is_leader=is_leader, clock=clock)
        try:
            await session._log_in()
            await check_term()
            await session._call("CLIENT", "KILL", "USER", MANAGEMENT_USER, "SKIPME", "yes")
            await session._verify_identity()
        except BaseException:
            connection.close()
            raise
        return session

    @property
    def is_open(self) -> bool:
        """Whether it is still usable."""
        return self._connection.is_open

    def close(self) -> None:
        """Close it at once."""
        self._connection.close()

    async def info(self) -> ServerSeen:
        """The server's INFO, queried now."""
        text = await self._call("INFO")
        target = self._target
        try:
            return parse_info(str(text), shard_uid=target.shard_uid, incarnation=target.incarnation, at=self._clock.now())
        except ValueError as error:
            raise Permanent(Code.SERVER_ANSWER_UNREADABLE, f"{_where(target)}: INFO: {error}") from error

    async def attach(self, address: str, port: int) -> None:
        """Make it a replica of that server. A repetition changes nothing."""
        await self._call("REPLICAOF", address, str(port))

    async def promote(self) -> None:
        """Make it a primary. Its fence is unchanged."""
        await self._call("REPLICAOF", "NO", "ONE")

    async def pause_writes(self, seconds: float) -> None:
        """Hold writes; ends by itself."""
        await self._call("CLIENT", "PAUSE", str(max(1, round(seconds * 1000))), "WRITE")

    async def end_pause(self) -> None:
        """End the pause now."""
        await self._call("CLIENT", "UNPAUSE")

    async def fence(self) -> None:
        """Set the hard fence. The same command sets the lag: with 0 the fence would silently be open."""
        await self._call(
            *("CONFIG", "SET", "min-replicas-max-lag", str(FENCE_LAG_S)), *("min-replicas-to-write", str(FENCE_REPLICAS))
        )

    async def unfence(self) -> None:
        """Lift the hard fence, then end a pause: postponed commands then run on an open server."""
        await self._call("CONFIG", "SET", "min-replicas-to-write", "0")
        await self.end_pause()

    async def end_application_connections(self) -> None:
        """Close every connection of the application user."""
        await self._call("CLIENT", "KILL", "USER", APPLICATION_USER)

    async def apply(self, settings: ServerSettings) -> None:
        """Apply these settings to the running server, one command after another; each may be repeated.

        The append-only file is not disabled before a current snapshot replaces it: until then, this method begins a
        snapshot and raises Transient. All other settings are already in force.
        """
        keeps_snapshots = settings.persistence == Persistence.SNAPSHOT
        kept_none = keeps_snapshots and await self._call("CONFIG", "GET", "save") == ["save", ""]
        limits = str(await self._call("CONFIG", "GET", "client-output-buffer-limit"))
        if (growth := replica_buffer_command(limits, settings)) is not None:
            await self._call(*growth)
        for command in settings_commands(settings):
            if command[2:] == ("appendonly", "no") and keeps_snapshots:
                await self._require_snapshot()
            await self._call(*command, timeout_s=FORK_TIMEOUT_S)
        if kept_none:
            # Otherwise a crash before the first rule takes effect would restore an outdated snapshot, or nothing.
            await self.save(Persistence.SNAPSHOT)

    async def save(self, persistence: Persistence) -> None:
        """Begin a new persistence file. A running operation counts; a full sync that occupies the server's only background
        process does not, and raises Transient. Without persistence there is nothing to do."""
        match persistence:
            case Persistence.DISABLED:
                return
            case Persistence.SNAPSHOT:
                command: tuple[str, ...] = ("BGSAVE", "SCHEDULE")
            case Persistence.AOF:
                command = ("BGREWRITEAOF",)
        try:
            await self._call(*command, timeout_s=FORK_TIMEOUT_S)
        except Permanent as refused:
            if "already in progress" not in refused.text:
                raise
            if persistence == Persistence.SNAPSHOT and await self._is_feeding_a_replica():
                text = f"{_where(self._target)}: a full sync occupies its background process"
                raise Transient(Code.SERVER_BUSY, text) from refused

    async def _require_snapshot(self) -> None:
        """Return if the append-only file is already off, or if a snapshot was completed within the last minutes."""
        fields = info_fields(str(await self._call("INFO")))
        is_busy = fields.get("rdb_bgsave_in_progress") == "1"
        # By the server's own clock, which wrote the snapshot's time; the local clock may differ.
        now_s = int(fields.get("server_time_usec", "0")) / 1e6 or self._clock.now().timestamp()
        age_s = now_s - int(fields.get("rdb_last_save_time", "0"))
        # The time of the last snapshot is initially the start time: only the counter proves that there was a snapshot.
        is_fresh = int(fields.get("rdb_saves", "0")) > 0 and age_s < SNAPSHOT_AGE_S_MAX
        if fields.get("aof_enabled") != "1" or (is_fresh and not is_busy and fields.get("rdb_last_bgsave_status") == "ok"):
            return
        if not is_busy:
            await self.save(Persistence.SNAPSHOT)
        text = f"{_where(self._target)}: its first snapshot is being written; the append-only file stays enabled until then"
        raise Transient(Code.SERVER_SAVING, text)

    async def _is_feeding_a_replica(self) -> bool:
        return any(replica.state in _SYNC_STATES for replica in (await self.info()).replicas)

    async def _log_in(self) -> None:
        try:
            await self._call("AUTH", MANAGEMENT_USER, self._target.secrets.management, shown="AUTH")
        except OutcomeUnknown as error:
            # Whether the login succeeded does not matter: the connection was not used.
            raise Transient(Code.SERVER_UNREACHABLE, error.text) from error

    async def _verify_identity(self) -> None:
        """Ports are reused. A server of the same database, but of another shard or incarnation, would accept the login."""
        wanted = marker(self._target.shard_uid, self._target.incarnation)
        answer = await self._call("CONFIG", "GET", "proc-title-template")
        if not isinstance(answer, list) or len(answer) != 2 or answer[1] != wanted:
            raise Transient(Code.SERVER_IS_ANOTHER, f"{_where(self._target)}: another server listens there")

    async def _call(self, *command: str, timeout_s: float = CALL_TIMEOUT_S, shown: str = "") -> Reply:
        text = f"{_where(self._target)}: {shown or ' '.join(command)}"
        if not self._is_leader():
            raise LostLeadership
        try:
            reply = await self._connection.call(*command, timeout_s=timeout_s)
        except NotSent as error:
            raise Transient(Code.SERVER_SESSION_ENDED, f"{text}: {error}") from error
        except NoAnswer as error:
            raise OutcomeUnknown(Code.SERVER_NO_ANSWER, f"{text}: {error}") from error
        if isinstance(reply, ErrorReply):
            if reply.code in _TEMPORARY:
                raise Transient(Code.SERVER_BUSY, f"{text}: {reply}")
            raise Permanent(Code.SERVER_REFUSED, f"{text}: {reply}")
        return reply


async def _connected(target: ServerTarget, context: Context | None) -> ServerConnection:
    try:
        return await connect_to(target, context, timeout_s=CONNECT_TIMEOUT_S)
    except TimeoutError as error:
        raise Transient(
            Code.SERVER_UNREACHABLE, f"{_where(target)}: no connection within {CONNECT_TIMEOUT_S:g} s"
        ) from error
    except CannotConnect as error:
        raise Transient(Code.SERVER_UNREACHABLE, f"{_where(target)}: {error}") from error


def _where(target: ServerTarget) -> str:
    return f"shard {target.shard_uid} at {target.address}:{target.port}"
