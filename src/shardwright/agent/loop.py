"""The agent of one node: observe → decide → apply → report, from scratch each turn. Runs in every daemon.

An event (a change in the store, the end of a process) only shortens the wait for the next turn. ``reconcile/shard.py``
decides what happens to each shard. The agent does not know which shard is the primary.
"""

import asyncio
import os
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from shardwright import __version__
from shardwright.agent.answers import AgentAnswers, Sign
from shardwright.agent.check import CheckedHere, NodeChecks
from shardwright.agent.endpoint_process import EndpointProcessKeeper
from shardwright.agent.launch import launch_of, tls_files
from shardwright.agent.server_certificates import ServerCertificates
from shardwright.agent.shards import ShardProcesses
from shardwright.agent.virtual_addresses import VirtualAddressKeeper
from shardwright.agent.watch import ServerWatch
from shardwright.clock import Clock
from shardwright.endpoint.client import EndpointClient, UnixCaller
from shardwright.endpoint.control import ControlSocket, SocketInUse
from shardwright.endpoint.credentials import OwnCertificate
from shardwright.endpoint.protocol import EndpointControl
from shardwright.endpoint.tls import TlsAddress, TlsListener
from shardwright.errors import Permanent
from shardwright.machine.figures import MachineFigures, read_figures
from shardwright.machine.files import make_private_directory
from shardwright.machine.processes import identity_of, is_running
from shardwright.model.cluster import Leadership
from shardwright.model.database import Shard
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import NodeFigures, NodeSeen, ProcessIdentity, ProcessSeen
from shardwright.model.view import ClusterView
from shardwright.reconcile.shard import AgentCommand, Verb, decide_shards, reports_of
from shardwright.server.binaries import all_servers, has_tls
from shardwright.server.observe import Observers
from shardwright.server.protocol import ServerTarget
from shardwright.server.targets import server_target
from shardwright.store import keys, records
from shardwright.store.mirror import Mirror
from shardwright.store.protocol import CreatedAt, PutKey, Store, StoreUnavailable, Transaction
from shardwright.tasks import spawn
from shardwright.trust.files import MemberFiles

TURN_S = 1.0
"""Interval of full turns, so that the loss of any event is harmless."""
FIGURES_EVERY_S = 10.0
AFTER_ERROR_S = 1.0

_log = structlog.get_logger(__name__)


class Agent:
    """See the module's docstring. ``directory`` is the node's own directory, with ``shards/``. ``endpoint_directory``: for
    the files of the endpoint process, below the node's; None: the node's own.

    ``control`` is the control socket of its endpoint process. ``endpoint_command`` None: the product's own endpoint process;
    ``endpoint_process`` None: a client of that socket. ``news_socket``: the socket at which leaders ask for news; None: no
    socket. ``remote``: where leaders on other machines ask; None: nowhere. ``sign``: see ``AgentAnswers``. ``checked``: what
    a check of the nodes looks at; None: what it does in a local cluster. ``certificate``: the node's files for connections
    between servers, which then may be encrypted; None: they are in clear. ``addresses``: what keeps the node's virtual
    addresses; None: it can have none.
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
        endpoint_directory: Path | None = None,
        endpoint_command: Sequence[str] | None = None,
        endpoint_process: EndpointControl | None = None,
        news_socket: Path | None = None,
        remote: TlsAddress | None = None,
        sign: Sign | None = None,
        checked: CheckedHere | None = None,
        certificate: MemberFiles | None = None,
        addresses: VirtualAddressKeeper | None = None,
    ) -> None:
        self.node_uid = node_uid
        self._store = store
        self._mirror = mirror
        self._directory = directory
        self._clock = clock
        self._wake = asyncio.Event()
        self._shards = ShardProcesses(directory / "shards", clock, self._wake.set)
        self._endpoint = EndpointProcessKeeper(
            node_uid,
            endpoint_directory or directory,
            control=control,
            process=endpoint_process or EndpointClient(node_uid, UnixCaller(node_uid, str(control)), clock=clock),
            clock=clock,
            on_change=self._wake.set,
            command=endpoint_command,
            version=__version__ if endpoint_process is None else None,
        )
        self._certificates: ServerCertificates | None = None
        if certificate is not None:
            self._certificates = ServerCertificates(tls_files(certificate), OwnCertificate(certificate).client)
        self._observers = Observers(clock, None if self._certificates is None else self._certificates.context)
        self._watch = ServerWatch(node_uid, self._observers.observe, clock=clock, epoch=uuid4().hex)
        self._watch.daemon = identity_of(os.getpid())
        self._checks = NodeChecks(node_uid, directory, checked or CheckedHere(), view=mirror.view, clock=clock)
        answers = AgentAnswers(
            news=self._watch.news,
            is_current_term=self._is_current_term,
            is_own=self._is_own,
            endpoint_process=self._endpoint.look,
            checks=self._checks,
            sign=sign,
            sealing=mirror.sealing,
        )
        self._socket = None if news_socket is None else ControlSocket(str(news_socket), answers.serve_local)
        self._listener = None if remote is None else TlsListener(remote, answers.serve_remote, name="agent")
        self._addresses = addresses
        if addresses is not None:
            addresses.on_change = self._wake.set
        self._interfaces: tuple[str, ...] = ()
        self._figures: MachineFigures | None = None
        self._servers: tuple[tuple[str, str], ...] = ()
        self._tls_servers: tuple[tuple[str, str], ...] = ()
        self._reported: NodeSeen | None = None
        self._figures_read_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Adopt the existing processes, then keep the node as the records require, indefinitely. The processes survive a
        cancellation."""
        await self._mirror.ready()
        await asyncio.to_thread(make_private_directory, self._directory)
        reported = self._mirror.view().node_seen.get(self.node_uid)
        await self._shards.load(reported.processes if reported is not None else ())
        await self._endpoint.load()
        self._start_task("agent: follow the store", self._follow_store())
        self._start_task("agent: watch the endpoint process", self._watch_endpoint())
        self._start_task("agent: replace the endpoint process", self._replace_endpoint())
        self._open_socket()
        if self._listener is not None:
            self._start_task("agent: answer other machines", self._listener.run())
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
            self._checks.close()
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
        """One turn. Returns the maximum number of seconds until the next one."""
        await self._read_figures()
        wait_s = await self._endpoint.ensure()
        if self._endpoint.needs_configuration:
            work = self._endpoint.configure(self._mirror.view)
            self._start_task("agent: configure the endpoint process", work, is_single=True)
        view, is_certain = await self._read_records()
        self._watch.follow(view)
        shards = view.shards_on(self.node_uid)
        commands = decide_shards(shards, self._shards.local(), is_certain=is_certain)
        for command in commands:
            self._apply(command, view)
        await self._report(reports_of(shards, self._shards.local(), commands))
        return TURN_S if wait_s is None else min(TURN_S, wait_s)

    async def _read_records(self) -> tuple[ClusterView, bool]:
        """The records, and whether a missing record is certainly deleted. Certainty costs a round trip to the store, so the
        store is asked only if this node has a shard without a record."""
        view = self._mirror.view()
        local = {shard.shard_uid for shard in self._shards.local()}
        if local <= {s.uid for s in view.shards_on(self.node_uid)}:
            return view, False
        await self._mirror.fresh()
        view = self._mirror.view()
        # A store without the cluster or without this node is not the store of these shards.
        return view, view.cluster is not None and self.node_uid in view.nodes

    def _apply(self, command: AgentCommand, view: ClusterView) -> None:
        uid = command.shard_uid
        name = f"agent: shard {uid}"  # At most one task per shard at a time.
        match command.verb:
            case Verb.START:
                self._start_task(name, self._start(view.shards[uid], view), is_single=True)
            case Verb.STOP | Verb.END:
                self._start_task(name, self._shards.end(uid, command.verb), is_single=True)
            case Verb.DELETE:
                self._start_task(name, self._shards.delete(uid), is_single=True)
            case Verb.WAIT:
                pass

    async def _start(self, shard: Shard, view: ClusterView) -> None:
        free = self._figures.memory_free_bytes if self._figures is not None else 0
        tls = None if self._certificates is None else self._certificates.files
        try:
            launch = launch_of(view, shard, self._shards.path_of(shard.uid), memory_free_bytes=free, tls=tls)
        except Permanent as e:
            await self._shards.fail(shard.uid, shard.incarnation, e.text)
            return
        await self._shards.start(launch)

    # -- answers --------------------------------------------------------------------------------------------------------

    def _open_socket(self) -> None:
        try:
            if self._socket is not None:
                self._socket.open()
        except (SocketInUse, OSError) as e:
            # Without it, a leader queries the servers itself.
            _log.warning("the agent's socket cannot be opened", reason=str(e))

    async def _is_current_term(self, term: int) -> bool:
        """See ``IsCurrentTerm``. Asks the store, because the mirror may be behind."""
        leader = await self._store.get(keys.LEADER)
        if leader is None:
            return False
        record = records.decode(leader.key, leader.value)
        return isinstance(record, Leadership) and record.term == term

    def _is_own(self, process: ProcessIdentity) -> bool:
        """Whether the process is of this node: all of them have a working directory in the node's directory."""
        return Path(process.directory).is_relative_to(os.path.realpath(self._directory))

    # -- report ------------------------------------------------------------------------------------------------------

    async def _report(self, processes: tuple[ProcessSeen, ...]) -> None:
        """Write the node's state to the store if it differs from the last report."""
        self._watch.report(processes)
        seen = self._node_seen(processes)
        if self._reported is not None and replace(self._reported, at=seen.at) == seen:
            return
        node = self._mirror.get(f"{keys.NODES}{self.node_uid:08d}")
        if node is None:
            return  # The node was removed: no one reads its report, which would stay in the store indefinitely.
        transaction = Transaction(
            (CreatedAt(node.key, node.create_revision),),
            (PutKey(keys.key_of(seen), records.encode(seen)),),
        )
        if (await self._store.transact(transaction)).succeeded:
            self._reported = seen

    def _node_seen(self, processes: tuple[ProcessSeen, ...]) -> NodeSeen:
        seen = NodeSeen(
            self.node_uid,
            self._clock.now(),
            processes,
            self._endpoint.identity,
            directory=str(self._directory),
            servers=self._servers,
            daemon=self._watch.daemon,
            tls_servers=self._tls_servers,
            virtual_interfaces=self._interfaces,
            virtual_addresses=() if self._addresses is None else self._addresses.held,
            cluster_keys=self._mirror.sealing.uids,
        )
        figures = self._figures
        if figures is None:
            return seen
        return replace(
            seen,
            cores=figures.cores,
            memory_total_bytes=figures.memory_total_bytes,
            disk_total_bytes=figures.disk_total_bytes,
            os_name=figures.os_name,
            architecture=figures.architecture,
            hostname=figures.hostname,
        )

    async def _read_figures(self) -> None:
        now = self._clock.monotonic()
        if self._figures is not None and now - self._figures_read_at < FIGURES_EVERY_S:
            return
        self._figures_read_at = now
        self._figures = figures = await asyncio.to_thread(read_figures, self._directory)
        self._watch.figures = NodeFigures(figures.memory_free_bytes, figures.disk_free_bytes, figures.uptime_s)
        cluster = self._mirror.view().cluster
        configured = cluster.server_path if cluster is not None else ""
        binaries = await asyncio.to_thread(all_servers, configured=configured or None)
        self._servers = tuple((str(b.kind), b.version) for b in binaries)
        if self._certificates is not None:
            able = await asyncio.to_thread(lambda: tuple(has_tls(b.path) for b in binaries))
            self._tls_servers = tuple(pair for pair, is_able in zip(self._servers, able, strict=True) if is_able)
        if self._addresses is not None:
            self._interfaces = await asyncio.to_thread(self._addresses.usable_interfaces)
        await asyncio.to_thread(self._shards.rotate_logs)
        if self._certificates is not None:
            work = self._certificates.renew(self._running_servers())
            self._start_task("agent: certificates of the servers", work, is_single=True)

    def _running_servers(self) -> list[ServerTarget]:
        view = self._mirror.view()
        shards = [shard for shard in view.shards_on(self.node_uid) if self.is_shard_running(shard.uid)]
        return [server_target(view, shard) for shard in shards if shard.database_uid in view.secrets]

    # -- waiting -----------------------------------------------------------------------------------------------------

    async def _follow_store(self) -> None:
        revision = 0
        while True:
            revision = await self._mirror.wait_change(revision)
            self._wake.set()

    async def _watch_endpoint(self) -> None:
        while True:
            await self._clock.sleep(TURN_S)
            await self._endpoint.end_if_hung(self._mirror.view().policy.stuck_server_timeout_s)

    async def _replace_endpoint(self) -> None:
        while True:
            await self._clock.sleep(TURN_S)
            try:
                await self._endpoint.replace_if_old(self._mirror.view)
            except Exception:
                _log.exception("the endpoint process could not be replaced; a defect")

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _start_task(self, name: str, work: Coroutine[Any, Any, None], *, is_single: bool = False) -> None:
        """Start a task beside the turns. ``is_single``: not while a task with that name runs."""
        if is_single and any(task.get_name() == name for task in self._tasks):
            work.close()
            return
        task = spawn(name, work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()

    @property
    def has_shards(self) -> bool:
        """Whether this node has a process, files or a record of a start of any shard."""
        return bool(self._shards.local())

    async def retire(self) -> None:
        """End the endpoint process of a node that was removed, and start no other one. Its virtual addresses go first."""
        if self._addresses is not None:
            self._addresses.retire()
        await self._endpoint.retire()

    def is_shard_running(self, uid: ShardUid) -> bool:
        """Whether the shard's process runs now."""
        identity = self._shards.find(uid).identity
        return identity is not None and is_running(identity)
