"""The agent of one node: observe → decide → apply → report, from scratch each turn. Runs in every daemon.

An event (a change in the store, a process that ended) only shortens the wait for the next turn. What to do about each
shard is decided by ``reconcile/shard.py``; who is primary is none of its business.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from shardwright.agent.endpoint_process import EndpointProcess
from shardwright.agent.launch import launch_of
from shardwright.agent.shards import ShardProcesses
from shardwright.agent.watch import ServerWatch
from shardwright.clock import Clock
from shardwright.endpoint.channel import Channel
from shardwright.endpoint.client import EndpointClient
from shardwright.endpoint.control import ControlSocket, InUse
from shardwright.endpoint.protocol import EndpointControl
from shardwright.errors import Permanent
from shardwright.machine.figures import Machine, look_at_machine
from shardwright.machine.files import make_private_directory
from shardwright.machine.processes import is_running
from shardwright.model.database import Shard
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import NodeFigures, NodeSeen, ProcessSeen
from shardwright.model.view import ClusterView
from shardwright.nodes import wire
from shardwright.reconcile.shard import AgentCommand, Verb, decide_shards, report_of
from shardwright.server.binaries import all_servers
from shardwright.server.observe import Observers
from shardwright.store import keys, records
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import CreatedAt, PutKey, Store, StoreUnavailable, Transaction
from shardwright.tasks import spawn

TURN_S = 1.0
"""A full turn at least this often: losing any event is harmless."""
FIGURES_EVERY_S = 10.0
AFTER_ERROR_S = 1.0

_log = structlog.get_logger(__name__)


class Agent:
    """See the module's text. ``directory`` is the node's own (``shards/`` and ``endpoint.json`` are in it).

    ``control`` is the control socket of its endpoint process. ``endpoint_command`` None: the product's own endpoint process;
    ``endpoint_process`` None: it is spoken to by its control socket. ``news_socket``: where leaders hear it; None: nowhere.
    """

    def __init__(
        self,
        node_uid: NodeUid,
        store: Store,
        *,
        mirror: Mirror,
        directory: Path,
        control: Path,
        clock: Clock,
        endpoint_command: Sequence[str] | None = None,
        endpoint_process: EndpointControl | None = None,
        news_socket: Path | None = None,
    ) -> None:
        self.node_uid = node_uid
        self._store = store
        self._mirror = mirror
        self._directory = directory
        self._clock = clock
        self._wake = asyncio.Event()
        self._shards = ShardProcesses(directory / "shards", clock, self._wake.set)
        self._endpoint = EndpointProcess(
            node_uid,
            directory,
            control=control,
            process=endpoint_process or EndpointClient(node_uid, str(control), clock=clock),
            clock=clock,
            on_change=self._wake.set,
            command=endpoint_command,
        )
        self._observers = Observers(clock)
        self._watch = ServerWatch(node_uid, self._observers.observe, clock=clock, epoch=uuid4().hex)
        self._socket = None if news_socket is None else ControlSocket(str(news_socket), self._tell_news)
        self._machine: Machine | None = None
        self._servers: tuple[tuple[str, str], ...] = ()
        self._reported: NodeSeen | None = None
        self._looked_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Adopt what is there, then keep the node as the records want it, for ever. Processes outlive a cancellation."""
        await self._mirror.ready()
        await asyncio.to_thread(make_private_directory, self._directory)
        reported = self._mirror.view().node_seen.get(self.node_uid)
        await self._shards.load(reported.processes if reported is not None else ())
        await self._endpoint.load()
        self._begin("agent: follow the store", self._follow_store())
        self._begin("agent: watch the endpoint process", self._watch_endpoint())
        self._open_socket()
        try:
            while True:
                self._wake.clear()
                wait_s = await self._turn_safely()
                await self._sleep(wait_s)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._socket is not None:
                await self._socket.close()
            await self._watch.close()
            self._observers.close()
            self._shards.close()
            self._endpoint.close()

    # -- a turn ------------------------------------------------------------------------------------------------------

    async def _turn_safely(self) -> float:
        try:
            return await self.turn()
        except StoreUnavailable as e:
            _log.warning("the agent's turn waits for the store", reason=e.text)
        except Exception:
            _log.exception("the agent's turn failed")
        return AFTER_ERROR_S

    async def turn(self) -> float:
        """One turn. Seconds until the next one at the latest."""
        await self._look_at_machine()
        wait_s = await self._endpoint.ensure()
        if self._endpoint.needs_telling:
            self._begin("agent: tell the endpoint process", self._endpoint.tell(self._mirror.view), is_single=True)
        view, is_certain = await self._look_at_records()
        self._watch.follow(view)
        shards = view.shards_on(self.node_uid)
        for command in decide_shards(shards, self._shards.local(), is_certain=is_certain):
            self._apply(command, view)
        await self._report(shards)
        return TURN_S if wait_s is None else min(TURN_S, wait_s)

    async def _look_at_records(self) -> tuple[ClusterView, bool]:
        """The records, and whether a missing one is certainly deleted. Asking costs a trip to the store, so it is done only
        when something is here that has no record."""
        view = self._mirror.view()
        found = {local.shard_uid for local in self._shards.local()}
        if found <= {s.uid for s in view.shards_on(self.node_uid)}:
            return view, False
        await self._mirror.fresh()
        view = self._mirror.view()
        # A store without the cluster or this node is not the one that these shards belong to.
        return view, view.cluster is not None and self.node_uid in view.nodes

    def _apply(self, command: AgentCommand, view: ClusterView) -> None:
        uid = command.shard_uid
        name = f"agent: shard {uid}"  # One piece of work per shard at a time.
        match command.verb:
            case Verb.START:
                self._begin(name, self._start(view.shards[uid], view), is_single=True)
            case Verb.STOP | Verb.END:
                self._begin(name, self._shards.end(uid, command.verb), is_single=True)
            case Verb.DELETE:
                self._begin(name, self._shards.delete(uid), is_single=True)
            case Verb.WAIT:
                pass

    async def _start(self, shard: Shard, view: ClusterView) -> None:
        free = self._machine.memory_free_bytes if self._machine is not None else 0
        try:
            launch = launch_of(view, shard, self._shards.path_of(shard.uid), memory_free_bytes=free)
        except Permanent as e:
            await self._shards.fail(shard.uid, shard.incarnation, e.text)
            return
        await self._shards.start(launch)

    # -- news --------------------------------------------------------------------------------------------------------

    def _open_socket(self) -> None:
        try:
            if self._socket is not None:
                self._socket.open()
        except (InUse, OSError) as e:
            # Without it a leader asks the servers itself.
            _log.warning("the agent's socket cannot be opened", reason=str(e))

    async def _tell_news(self, channel: Channel) -> None:
        """Answer one caller until it leaves."""
        try:
            while (received := await channel.receive()) is not None:
                message, _ = received
                await channel.send(wire.answer(await self._watch.news(wire.mark_of(message))))
        except (OSError, ValueError) as e:
            _log.info("a caller of the agent has left", reason=str(e))

    # -- report ------------------------------------------------------------------------------------------------------

    async def _report(self, shards: Sequence[Shard]) -> None:
        """Write what is seen, when it differs from the last report."""
        seen = self._node_seen(tuple(report_of(shard, self._shards.find(shard.uid)) for shard in shards))
        if self._reported is not None and replace(self._reported, at=seen.at) == seen:
            return
        node = self._mirror.get(f"{keys.NODES}{self.node_uid:08d}")
        if node is None:
            return  # The node was removed: its report would stay in the store for ever.
        written = Transaction(
            (CreatedAt(node.key, node.create_revision),),
            (PutKey(keys.key_of(seen), records.encode(seen)),),
        )
        if (await self._store.transact(written)).succeeded:
            self._reported = seen

    def _node_seen(self, processes: tuple[ProcessSeen, ...]) -> NodeSeen:
        seen = NodeSeen(
            self.node_uid,
            self._clock.now(),
            processes,
            self._endpoint.identity,
            directory=str(self._directory),
            servers=self._servers,
        )
        machine = self._machine
        if machine is None:
            return seen
        return replace(
            seen,
            cores=machine.cores,
            memory_total_bytes=machine.memory_total_bytes,
            disk_total_bytes=machine.disk_total_bytes,
            os_name=machine.os_name,
            architecture=machine.architecture,
            hostname=machine.hostname,
        )

    async def _look_at_machine(self) -> None:
        now = self._clock.monotonic()
        if self._machine is not None and now - self._looked_at < FIGURES_EVERY_S:
            return
        self._looked_at = now
        self._machine = machine = await asyncio.to_thread(look_at_machine, self._directory)
        self._watch.figures = NodeFigures(machine.memory_free_bytes, machine.disk_free_bytes, machine.uptime_s)
        cluster = self._mirror.view().cluster
        configured = cluster.server_path if cluster is not None else ""
        found = await asyncio.to_thread(all_servers, configured=configured or None)
        self._servers = tuple((str(b.kind), b.version) for b in found)
        await asyncio.to_thread(self._shards.rotate_logs)

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def _follow_store(self) -> None:
        revision = 0
        while True:
            revision = await self._mirror.wait_change(revision)
            self._wake.set()

    async def _watch_endpoint(self) -> None:
        while True:
            await self._clock.sleep(TURN_S)
            await self._endpoint.end_if_stuck(self._mirror.view().policy.stuck_server_timeout_s)

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _begin(self, name: str, work: Coroutine[Any, Any, None], *, is_single: bool = False) -> None:
        """Work beside the turns. ``is_single``: not while one of that name is under way."""
        if is_single and any(task.get_name() == name for task in self._tasks):
            work.close()
            return
        task = spawn(name, work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    def is_shard_running(self, uid: ShardUid) -> bool:
        """Whether the shard's process runs, looked up now."""
        identity = self._shards.find(uid).identity
        return identity is not None and is_running(identity)
