"""Gives commands to servers and endpoint processes.

Owns one serial queue for each database, so that nothing else is done to a database while a handoff of it runs; databases run
side by side, bounded. Before each command the newest view is asked whether it still holds: commands are decided earlier than
they are given. A command that fails is not repeated here: the next turn decides anew.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import assert_never

import structlog

from shardwright.clock import Clock
from shardwright.endpoint.protocol import EndpointControl
from shardwright.endpoint.spec import spec_of
from shardwright.errors import LostLeadership, OutcomeUnknown, Permanent, Transient
from shardwright.leader.handoff import Commit, Handoffs
from shardwright.leader.observe import Observer
from shardwright.leader.recovery import Recoveries
from shardwright.model.commands import (
    ApplySettings,
    Attach,
    Command,
    DropEndpoint,
    EndStuckServer,
    HandOff,
    Open,
    PassEndpoint,
    Promote,
    RecoverHandoff,
    SaveNow,
    ServeEndpoint,
    YieldLeadership,
)
from shardwright.model.database import GroupPhase, Shard, SlotGroup
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid, database_of
from shardwright.model.view import ClusterView, Put, Write
from shardwright.nodes.protocol import Nodes
from shardwright.server.config import settings_of
from shardwright.server.protocol import ManagementSession, Servers
from shardwright.server.targets import server_target
from shardwright.store.protocol import StoreError
from shardwright.tasks import spawn

DATABASES_AT_ONCE = 32
"""Bounds sessions and memory; a command takes milliseconds."""
FAILURE_REST_S = 0.5
"""A command that failed is not given again sooner."""
REPEAT_REST_S = 0.05
"""Nor one that was done: what is seen does not show it yet, or it has no effect, and the turns would run in circles."""

_log = structlog.get_logger(__name__)


class Applier:
    """See the module's text."""

    def __init__(
        self,
        servers: Servers,
        nodes: Nodes,
        *,
        handoffs: Handoffs,
        observer: Observer,
        commit: Commit,
        current: Callable[[], ClusterView],
        yield_leadership: Callable[[], None],
        clock: Clock,
        on_lost: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._servers = servers
        self._nodes = nodes
        self._handoffs = handoffs
        self._recoveries = Recoveries(handoffs)
        self._observer = observer
        self._commit = commit
        self._current = current
        self._yield_leadership = yield_leadership
        self._clock = clock
        self._on_lost = on_lost
        self._wake = wake
        self._queues: dict[DatabaseUid, deque[Command]] = {}
        self._workers: dict[DatabaseUid, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(DATABASES_AT_ONCE)
        self._rests_until: dict[Command, float] = {}

    def submit(self, commands: Sequence[Command], view: ClusterView) -> None:
        """Queue commands; one that waits already, or was given a moment ago, is not queued again."""
        now = self._clock.monotonic()
        self._rests_until = {c: t for c, t in self._rests_until.items() if t > now}
        for command in commands:
            if command in self._rests_until:
                continue
            if isinstance(command, YieldLeadership):
                self._yield_leadership()
                continue
            database = _database_of(command, view)
            queue = self._queues.setdefault(database, deque())
            if command not in queue:
                queue.append(command)
            if database not in self._workers:
                self._workers[database] = spawn(f"apply database {database}", self._work(database))

    async def close(self) -> None:
        """Stop at once; what was begun is the next leader's to finish."""
        workers = list(self._workers.values())
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, database: DatabaseUid) -> None:
        queue = self._queues[database]
        try:
            while queue:
                # It stays in the queue while it runs, so that the same one is not queued beside it.
                command = queue[0]
                async with self._slots:
                    await self._give(command)
                queue.popleft()
        except LostLeadership:
            self._on_lost()
        finally:
            del self._queues[database]
            del self._workers[database]
            self._wake()

    async def _give(self, command: Command) -> None:
        rest_s = REPEAT_REST_S
        try:
            await self._perform(command)
        except (Transient, OutcomeUnknown, Permanent, StoreError) as e:
            rest_s = FAILURE_REST_S
            _log.warning("a command failed; the next turn looks again", command=repr(command), code=e.code, reason=e.text)
        self._rests_until[command] = self._clock.monotonic() + rest_s

    async def _perform(self, command: Command) -> None:
        match command:
            case Attach():
                await self._attach(command)
            case Promote():
                await self._promote(command)
            case Open():
                await self._open(command)
            case ApplySettings():
                await self._apply_settings(command)
            case SaveNow():
                await self._save(command)
            case HandOff():
                await self._handoffs.hand_off(command.group_uid, command.from_shard, command.to_shard)
                self._poke(command.from_shard, command.to_shard)
            case RecoverHandoff():
                await self._recoveries.recover(command.group_uid)
            case EndStuckServer():
                await self._end_stuck(command)
            case ServeEndpoint():
                await self._serve(command)
            case DropEndpoint():
                await self._process_of(command.node_uid).drop(command.endpoint_uid)
                self._observer.poke_node(command.node_uid)
            case PassEndpoint():
                await self._nodes.link(command.from_node).pass_endpoint(command.endpoint_uid, command.to_node)
                self._observer.poke_node(command.from_node)
                self._observer.poke_node(command.to_node)
            case YieldLeadership():
                self._yield_leadership()
            case _:
                assert_never(command)

    # -- servers -------------------------------------------------------------------------------------------------------

    def _standing(self, shard_uid: ShardUid) -> tuple[ClusterView, Shard, SlotGroup] | None:
        """The shard and its group as they are now; None when a handoff has them or the group does not serve."""
        view = self._current()
        shard = view.shards.get(shard_uid)
        group = view.groups.get(shard.group_uid) if shard is not None else None
        if shard is None or group is None or group.handoff is not None or group.phase is not GroupPhase.SERVING:
            return None
        return view, shard, group

    async def _session(self, view: ClusterView, shard: Shard) -> ManagementSession:
        return await self._servers.manage(server_target(view, shard))

    def _poke(self, *shards: ShardUid) -> None:
        for uid in shards:
            self._observer.poke(uid)

    async def _attach(self, command: Attach) -> None:
        found = self._standing(command.shard_uid)
        if found is None or found[2].primary != command.primary_uid or command.shard_uid == command.primary_uid:
            return
        view, shard, _ = found
        primary = view.shards[command.primary_uid]
        session = await self._session(view, shard)
        await session.end_application_connections()  # it may have been a primary: nothing sent to it may run on a replica
        await session.attach(view.nodes[primary.node_uid].address, primary.port)
        self._poke(shard.uid)

    async def _promote(self, command: Promote) -> None:
        found = self._standing(command.shard_uid)
        if found is None or found[2].primary != command.shard_uid:
            return
        view, shard, _ = found
        session = await self._session(view, shard)
        await session.promote()
        self._poke(shard.uid)

    async def _open(self, command: Open) -> None:
        found = self._standing(command.shard_uid)
        if found is None:
            return
        view, shard, _ = found
        session = await self._session(view, shard)
        await session.unfence()
        self._poke(shard.uid)

    async def _apply_settings(self, command: ApplySettings) -> None:
        view = self._current()
        shard = view.shards.get(command.shard_uid)
        database = view.databases.get(shard.database_uid) if shard is not None else None
        if shard is None or database is None or database.settings_fingerprint != command.fingerprint:
            return
        session = await self._session(view, shard)
        await session.apply(settings_of(database))

        def build(view: ClusterView) -> Sequence[Write]:
            now = view.shards.get(command.shard_uid)
            if now is None or now.incarnation != shard.incarnation:
                return ()
            return (Put(replace(now, settings=command.fingerprint)),)

        await self._commit(build)

    async def _save(self, command: SaveNow) -> None:
        view = self._current()
        shard = view.shards.get(command.shard_uid)
        database = view.databases.get(shard.database_uid) if shard is not None else None
        if shard is None or database is None:
            return
        session = await self._session(view, shard)
        await session.save(database.persistence)
        self._poke(shard.uid)

    async def _end_stuck(self, command: EndStuckServer) -> None:
        view = self._current()
        shard, process = view.shards.get(command.shard_uid), view.processes.get(command.shard_uid)
        if shard is not None and process is not None and process.identity is not None:
            _log.warning("ending a server that neither answers nor uses CPU", shard=command.shard_uid)
            await self._nodes.link(shard.node_uid).end(process.identity)
            self._poke(command.shard_uid)

    # -- endpoints -----------------------------------------------------------------------------------------------------

    def _process_of(self, node: NodeUid) -> EndpointControl:
        return self._nodes.link(node).endpoint_process

    async def _serve(self, command: ServeEndpoint) -> None:
        view = self._current()
        endpoint = view.endpoints.get(command.endpoint_uid)
        if endpoint is None or any(g.handoff is not None for g in view.groups_of(endpoint.database_uid)):
            return
        spec = spec_of(view, endpoint)
        if spec is None:
            return
        process = self._process_of(command.node_uid)
        seen = await process.status()
        is_bound = command.node_uid in endpoint.nodes
        if spec.target is not None and (not is_bound or seen.endpoint(endpoint.uid).held_generation is not None):
            await process.release(endpoint.uid, spec.target)
        elif is_bound:  # another one may be passing it on: it must not listen again
            await process.serve(spec)
        self._observer.poke_node(command.node_uid)


def _database_of(command: Command, view: ClusterView) -> DatabaseUid:
    """The queue of a command. What is not of any database any more shares queue 0."""
    match command:
        case Attach() | Promote() | Open() | ApplySettings() | SaveNow() | EndStuckServer():
            shard = view.shards.get(command.shard_uid)
            return DatabaseUid(0) if shard is None else shard.database_uid
        case HandOff() | RecoverHandoff():
            return database_of(command.group_uid)
        case ServeEndpoint() | DropEndpoint() | PassEndpoint():
            return database_of(command.endpoint_uid)
        case YieldLeadership():
            return DatabaseUid(0)
