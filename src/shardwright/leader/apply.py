"""Gives commands to servers and endpoint processes.

Owns one serial queue for each database: while a handoff of a database runs, no other command is given to that database. The
queues run concurrently, up to a limit. Each command is checked against the newest view before it is given (``fitting.py``),
because it was decided earlier. This module does not repeat a failed command: the next turn decides again.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import assert_never

import structlog

from shardwright.clock import Clock
from shardwright.endpoint.protocol import EndpointControl
from shardwright.errors import LostLeadership, OutcomeUnknown, Permanent, Transient
from shardwright.leader import fitting
from shardwright.leader.fitting import Serving
from shardwright.leader.handoff import Commit, Handoffs
from shardwright.leader.observe import Observer
from shardwright.leader.recovery import Recoveries
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.commands import (
    ApplySettings,
    Attach,
    Command,
    DropEndpoint,
    EndStuckServer,
    HandOff,
    Open,
    Park,
    PassEndpoint,
    Promote,
    ProveStrict,
    RecoverHandoff,
    RetireEndpoint,
    SaveNow,
    ServeEndpoint,
    SwitchOff,
    TellLease,
    YieldLeadership,
)
from shardwright.model.database import Shard
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid
from shardwright.model.seen import ServerSeen
from shardwright.model.view import ClusterView
from shardwright.nodes.protocol import Nodes
from shardwright.server.config import settings_of
from shardwright.server.protocol import ManagementSession, Servers
from shardwright.server.targets import server_target
from shardwright.store.protocol import StoreError
from shardwright.tasks import spawn

DATABASES_AT_ONCE = 32
"""Limits sessions and memory. A command takes milliseconds."""
FAILURE_REST_S = 0.5
"""Delay before a failed command may be given again."""
REPEAT_REST_S = 0.05
"""The same delay for a command that succeeded. The observations do not show its effect yet, or it has none. Without the
delay, every turn would give it again."""

FENCE_REST_S = 15.0
"""The same for the fencing hooks, which may be about to succeed when they are asked again."""

HELD_WITHIN_S = 0.5
"""A replica in sync is milliseconds behind its primary. The database's other commands wait meanwhile."""

SwitchOffMachine = Callable[[Node], Awaitable[str | None]]
"""Switches the node's machine off. Returns what has done it; None: nothing here can. Raises Transient."""

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
        switch_off: SwitchOffMachine | None,
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
        self._switch_off_machine = switch_off
        self._not_switched_off: set[NodeUid] = set()
        """Nodes of which people were told that the hooks fail."""
        self._clock = clock
        self._on_lost = on_lost
        self._wake = wake
        self._queues: dict[DatabaseUid, deque[Command]] = {}
        self._workers: dict[DatabaseUid, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(DATABASES_AT_ONCE)
        self._rests_until: dict[Command, float] = {}

    def submit(self, commands: Sequence[Command], view: ClusterView) -> None:
        """Queue commands. A command that is already waiting, or whose delay has not passed, is not queued."""
        now = self._clock.monotonic()
        self._rests_until = {c: t for c, t in self._rests_until.items() if t > now}
        for command in commands:
            if command in self._rests_until:
                continue
            if isinstance(command, YieldLeadership):
                self._yield_leadership()
                continue
            database = fitting.queue_of(command, view)
            queue = self._queues.setdefault(database, deque())
            if command not in queue:
                queue.append(command)
            if database not in self._workers:
                self._workers[database] = spawn(f"apply database {database}", self._work(database))

    async def close(self) -> None:
        """Stop immediately. The next leader finishes what has begun."""
        workers = list(self._workers.values())
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, database: DatabaseUid) -> None:
        queue = self._queues[database]
        try:
            while queue:
                # It stays in the queue while it runs, so that ``submit`` does not queue it a second time.
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
        if isinstance(command, SwitchOff):
            rest_s = FENCE_REST_S
        self._rests_until[command] = self._clock.monotonic() + rest_s

    async def _perform(self, command: Command) -> None:
        match command:
            case Attach() | Promote() | Park() | Open():
                await self._change_role(command)
            case ProveStrict():
                await self._prove_strict(command)
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
            case SwitchOff():
                await self._switch_off(command)
            case ServeEndpoint() | TellLease() | RetireEndpoint() | DropEndpoint() | PassEndpoint():
                await self._change_endpoint(command)
            case YieldLeadership():
                self._yield_leadership()
            case _:
                assert_never(command)

    # -- servers -------------------------------------------------------------------------------------------------------

    async def _session(self, view: ClusterView, shard: Shard) -> ManagementSession:
        return await self._servers.manage(server_target(view, shard))

    def _poke(self, *shards: ShardUid) -> None:
        for uid in shards:
            self._observer.poke(uid)

    async def _change_role(self, command: Attach | Promote | Park | Open) -> None:
        match command:
            case Attach():
                await self._attach(command)
            case Promote():
                await self._promote(command)
            case Park():
                await self._park(command)
            case Open():
                await self._open(command)

    async def _attach(self, command: Attach) -> None:
        view = self._current()
        found = fitting.attachment(command, view)
        if found is None:
            return
        session = await self._session(view, found.shard)
        # The server may have been a primary. Commands that clients sent to it must not run on a replica.
        await session.end_application_connections()
        await session.attach(found.address, found.port)
        self._poke(found.shard.uid)

    async def _promote(self, command: Promote) -> None:
        view = self._current()
        shard = fitting.to_promote(command, view)
        if shard is None:
            return
        session = await self._session(view, shard)
        await session.promote()
        self._poke(shard.uid)

    async def _park(self, command: Park) -> None:
        view = self._current()
        found = fitting.to_park(command, view)
        if found is None or view.leadership is None:
            return
        # This term's session ends those of earlier leaders: none of them can attach the copy again.
        session = await self._session(view, found.shard)
        before = await session.info()
        await session.attach(found.address, found.port)
        after = await session.info()
        if not fitting.is_parked(after):
            raise Transient(Code.SERVER_BUSY, f"shard {found.shard.uid} still follows its primary")
        term = view.leadership.term
        await self._commit(lambda view: fitting.parked(view, found.shard, term, before, after))
        self._poke(found.shard.uid)

    async def _prove_strict(self, command: ProveStrict) -> None:
        view = self._current()
        found = fitting.to_prove_strict(command, view)
        if found is None:
            return
        for primary, replicas in found:
            held = await (await self._session(view, primary)).info()
            sessions = [await self._session(view, shard) for shard in replicas]
            if not await self._is_held_by_any(held, sessions):
                text = f"no replica of slot group {primary.group_uid} is known to hold what default mode answered"
                raise Transient(Code.REPLICA_NOT_IN_SYNC, text)
        await self._commit(lambda now: fitting.proven_strict(now, view, command.database_uid))

    async def _is_held_by_any(self, primary: ServerSeen, replicas: Sequence[ManagementSession]) -> bool:
        deadline = self._clock.monotonic() + HELD_WITHIN_S
        while self._clock.monotonic() < deadline:
            for session in replicas:
                if fitting.holds_all(primary, await session.info()):
                    return True
            await self._clock.sleep(REPEAT_REST_S)
        return False

    async def _open(self, command: Open) -> None:
        view = self._current()
        shard = fitting.to_open(command, view)
        if shard is None:
            return
        session = await self._session(view, shard)
        await session.unfence()
        self._poke(shard.uid)

    async def _apply_settings(self, command: ApplySettings) -> None:
        view = self._current()
        found = fitting.to_configure(command, view)
        if found is None:
            return
        shard, database = found
        session = await self._session(view, shard)
        await session.apply(settings_of(database))
        await self._commit(lambda view: fitting.configured(view, shard, command.fingerprint))

    async def _save(self, command: SaveNow) -> None:
        view = self._current()
        found = fitting.to_save(command, view)
        if found is None:
            return
        shard, database = found
        session = await self._session(view, shard)
        await session.save(database.persistence)
        self._poke(shard.uid)

    async def _end_stuck(self, command: EndStuckServer) -> None:
        found = fitting.to_end(command, self._current())
        if found is not None:
            node, process = found
            _log.warning("ending a server that neither answers nor uses CPU", shard=command.shard_uid)
            await self._nodes.link(node).end(process)
            self._poke(command.shard_uid)

    # -- machines ------------------------------------------------------------------------------------------------------

    async def _switch_off(self, command: SwitchOff) -> None:
        uid, node = command.node_uid, fitting.to_switch_off(command, self._current())
        if node is None or self._switch_off_machine is None:
            return
        try:
            hook = await self._switch_off_machine(node)
        except Transient as e:
            event = fitting.not_switched_off(uid, e.text, self._clock.now())
            if uid not in self._not_switched_off:
                self._not_switched_off.add(uid)
                await self._commit(lambda view: event)
            raise
        self._not_switched_off.discard(uid)
        if hook is not None:
            await self._commit(lambda view: fitting.switched_off(view, uid, hook, self._clock.now()))

    # -- endpoints -----------------------------------------------------------------------------------------------------

    def _process_of(self, node: NodeUid) -> EndpointControl:
        return self._nodes.link(node).endpoint_process

    async def _change_endpoint(
        self, command: ServeEndpoint | TellLease | RetireEndpoint | DropEndpoint | PassEndpoint
    ) -> None:
        match command:
            case ServeEndpoint():
                await self._serve(command)
            case TellLease():
                if (terms := fitting.to_tell(command, self._current())) is not None:
                    await self._process_of(command.node_uid).tell_lease(command.endpoint_uid, terms)
                    self._observer.poke_node(command.node_uid)
            case RetireEndpoint():
                if fitting.to_retire(command, self._current()):
                    await self._process_of(command.node_uid).retire(command.endpoint_uid)
                    self._observer.poke_node(command.node_uid)
            case DropEndpoint():
                await self._process_of(command.node_uid).drop(command.endpoint_uid)
                self._observer.poke_node(command.node_uid)
            case PassEndpoint():
                await self._nodes.link(command.from_node).pass_endpoint(command.endpoint_uid, command.to_node)
                self._observer.poke_node(command.from_node)
                self._observer.poke_node(command.to_node)

    async def _serve(self, command: ServeEndpoint) -> None:
        view = self._current()
        spec = fitting.to_serve(command, view)
        if spec is None:
            return
        process = self._process_of(command.node_uid)
        seen = (await process.status()).endpoint(spec.uid)
        is_bound = command.node_uid in view.endpoints[spec.uid].bound_nodes
        match fitting.serving(spec, seen, is_bound=is_bound):
            case Serving.RELEASE:
                assert spec.target is not None
                await process.release(spec.uid, spec.target)
            case Serving.SERVE:
                await process.serve(spec)
            case Serving.NOTHING:
                pass
        self._observer.poke_node(command.node_uid)
