"""The ``Servers`` of a simulated leader: sessions and queries over the simulated network.

A session opens like a real one (``server/session.py``): log in, check the term, end every older management session, verify
the server's identity. The server drops commands that an ended session had in transit, but not commands that arrived earlier.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from shardwright.clock import Clock
from shardwright.errors import LostLeadership, OutcomeUnknown, Permanent, Transient
from shardwright.model.codes import Code
from shardwright.model.database import Persistence
from shardwright.model.ids import ShardUid
from shardwright.model.seen import Health, ServerSeen
from shardwright.server.protocol import ServerSettings, ServerTarget
from sim.network import SERVER, Answer, NoReply, Refused
from sim.server import SimServer
from sim.world import World

CALL_TIMEOUT_S = 2.0
OBSERVE_TIMEOUT_S = 1.0


class SimSession:
    """``ManagementSession``."""

    def __init__(self, servers: "SimServers", target: ServerTarget, server: SimServer, uid: int) -> None:
        self.servers = servers
        self.target = target
        self.server = server
        self.uid = uid
        self.is_open = True
        self._turn = asyncio.Lock()

    async def call(self, name: str, do: Callable[[SimServer], Any]) -> Any:
        """Execute one command. Raises like ``ManagementSession``."""
        servers = self.servers
        world = servers.world
        async with self._turn:
            if not servers.is_leader():
                raise LostLeadership
            if not self.is_open:
                raise Transient(Code.SERVER_SESSION_ENDED, f"shard {self.target.shard_uid}: the session has ended")
            world.command(servers, self.server, name, "before")
            server = self.server

            def execute(answer: Answer) -> None:
                if self.uid not in server.sessions:
                    return
                world.checker.fencing.commanded(server, servers.term, name)
                if server.is_loading and name != "info":
                    answer(Transient(Code.SERVER_BUSY, "loading"))
                    return
                result = do(server)
                world.log(f"server {server.shard_uid}.{server.incarnation}: {name}", quiet=name == "info")
                if not (world.answers_late(name)):
                    answer(result)

            try:
                reply = await world.network.call(
                    servers.place,
                    server.node_uid,
                    lambda: server.process,
                    execute,
                    timeout_s=CALL_TIMEOUT_S,
                    kind=SERVER,
                    is_kept_back=world.keeps_back(name),
                )
            except NoReply as e:
                self.is_open = False
                raise OutcomeUnknown(Code.SERVER_NO_ANSWER, f"shard {self.target.shard_uid}: {name}: no answer") from e
            except Refused as e:
                self.is_open = False
                raise OutcomeUnknown(Code.SERVER_NO_ANSWER, f"shard {self.target.shard_uid}: {name}: it ended") from e
            world.command(servers, self.server, name, "after")
            if not servers.process.runs:
                await asyncio.sleep(0)
            return reply

    async def info(self) -> ServerSeen:
        return self.servers.seen(self.target, await self.call("info", lambda s: (s.is_loading, s.info())))

    async def attach(self, address: str, port: int) -> None:
        await self.call(f"attach {address}:{port}", lambda s: s.attach(address, port))

    async def promote(self) -> None:
        await self.call("promote", lambda s: s.promote())

    async def pause_writes(self, seconds: float) -> None:
        await self.call("pause", lambda s: s.pause(seconds))

    async def end_pause(self) -> None:
        await self.call("end_pause", lambda s: s.end_pause())

    async def fence(self) -> None:
        await self.call("fence", lambda s: setattr(s, "is_fenced", True))

    async def unfence(self) -> None:
        await self.call("unfence", lambda s: s.unfence())

    async def end_application_connections(self) -> None:
        await self.call("end_clients", lambda s: s.end_clients())

    async def apply(self, settings: ServerSettings) -> None:
        if not await self.call("apply", lambda s: s.apply(settings.persistence)):
            raise Transient(Code.SERVER_SAVING, "its first snapshot is being written")

    async def save(self, persistence: Persistence) -> None:
        if persistence is Persistence.DISABLED:
            return
        reply = await self.call("save", lambda s: s.begin_save())
        if not reply:
            raise Permanent(Code.SERVER_REFUSED, "a sync occupies it")


class SimServers:
    """The ``Servers`` of one term."""

    def __init__(
        self,
        world: World,
        *,
        process: Any,
        place: int,
        term: int,
        check_term: Callable[[], Awaitable[None]],
        is_leader: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self.world = world
        self.process = process
        self.place = place
        self.term = term
        self.check_term = check_term
        self.is_leader = is_leader
        self.clock = clock
        self._sessions: dict[ShardUid, SimSession] = {}
        self._locks: dict[ShardUid, asyncio.Lock] = {}
        self._unanswered: dict[tuple[ShardUid, int], datetime] = {}

    def seen(self, target: ServerTarget, answer: tuple[bool, dict[str, Any]]) -> ServerSeen:
        """An answer to INFO as the leader reads it."""
        is_loading, fields = answer
        health = Health.LOADING if is_loading else Health.OK
        return ServerSeen(target.shard_uid, target.incarnation, self.clock.now(), health, **fields)

    async def observe(self, target: ServerTarget) -> ServerSeen:
        key = (target.shard_uid, target.incarnation)
        asked_at = self.clock.now()
        found: list[SimServer] = []

        def receiver() -> Any:
            now = self.world.listener(target.address, target.port)
            if now is None or now.shard_uid != target.shard_uid or now.incarnation != target.incarnation:
                return None
            found.append(now)
            return now.process

        def execute(answer: Answer) -> None:
            if found[-1].busy_until <= self.world.loop.now:
                answer((found[-1].is_loading, found[-1].info()))

        node = self.world.node_at(target.address)
        passes = self.world.network.passes
        is_cut = not (passes(self.place, node, SERVER) and passes(node, self.place, SERVER))
        health = Health.UNREACHABLE if is_cut else Health.TIMEOUT
        try:
            answer = await self.world.network.call(
                self.place, node, receiver, execute, timeout_s=OBSERVE_TIMEOUT_S, kind=SERVER
            )
            self._unanswered.pop(key, None)
            return self.seen(target, answer)
        except NoReply:
            pass
        except Refused:
            health = Health.REFUSED
        since = self._unanswered.setdefault(key, asked_at)
        return ServerSeen(target.shard_uid, target.incarnation, self.clock.now(), health, unanswered_since=since)

    async def manage(self, target: ServerTarget) -> SimSession:
        lock = self._locks.setdefault(target.shard_uid, asyncio.Lock())
        async with lock:
            session = self._sessions.get(target.shard_uid)
            if (
                session is not None
                and session.target == target
                and session.is_open
                and session.uid in session.server.sessions
            ):
                return session
            session = await self._open(target)
            self._sessions[target.shard_uid] = session
            return session

    async def _open(self, target: ServerTarget) -> SimSession:
        world = self.world
        uid = world.next_session()
        found: list[SimServer] = []

        def receiver() -> Any:
            server = world.listener(target.address, target.port)
            if server is None:
                return None
            found.append(server)
            return server.process

        def log_in(answer: Answer) -> None:
            found[-1].sessions.append(uid)
            answer(None)

        if not self.is_leader():
            raise LostLeadership
        node = world.node_at(target.address)
        try:
            await world.network.call(self.place, node, receiver, log_in, timeout_s=CALL_TIMEOUT_S, kind=SERVER)
        except (NoReply, Refused) as e:
            raise Transient(Code.SERVER_UNREACHABLE, f"shard {target.shard_uid} is unreachable") from e
        session = SimSession(self, target, found[-1], uid)
        await self.check_term()
        await session.call("end_sessions", lambda s: s.sessions.__setitem__(slice(None), [uid]))
        server = session.server
        if server.shard_uid != target.shard_uid or server.incarnation != target.incarnation:
            raise Transient(Code.SERVER_IS_ANOTHER, "another server listens there")
        return session

    async def close(self) -> None:
        for session in self._sessions.values():
            session.is_open = False
            if self.process.runs and session.uid in session.server.sessions:
                session.server.sessions.remove(session.uid)
        self._sessions.clear()
