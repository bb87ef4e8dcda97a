"""Stops all processes of a local cluster in the order that loses no data. Called by ``down``, and by the supervisor when
a signal ends it. The caller holds the cluster's lock.

Finds processes by their identity files, and by their command line or directory if they died before they wrote one. Every
step may be repeated.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shardwright.agent.endpoint_process import MODULE as ENDPOINT_MODULE
from shardwright.agent.launch import read_record
from shardwright.errors import Permanent
from shardwright.local.access import has_cluster, sealing_of, store_settings
from shardwright.local.config import read_all, read_nodes
from shardwright.local.layout import Layout
from shardwright.machine.identity_file import read_identity
from shardwright.machine.processes import arguments_of, end, find_processes, is_running, parent_of
from shardwright.model.cluster import Node
from shardwright.model.database import Database, DatabaseStatus, Persistence, ServerSecrets, Shard, SlotGroup
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.seen import ProcessIdentity
from shardwright.server.protocol import ServerTarget
from shardwright.server.scripts import end_script
from shardwright.store.keys import StoredRecord
from shardwright.store.open import open_store
from shardwright.store.protocol import Store, StoreUnavailable
from shardwright.tasks import spawn

ROUNDS_MAX = 3
SETTLE_S = 0.2
DAEMON_GRACE_S = 6.0
ENDPOINT_GRACE_S = 4.0
SERVER_GRACE_S = 10.0
SERVER_BUSY_GRACE_S = 900.0
"""Time limit for a server that saves a large snapshot, as long as it makes progress."""
SCRIPT_CHECK_S = 0.5

Say = Callable[[str], None]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """The running processes of a cluster."""

    daemons: tuple[ProcessIdentity, ...] = ()
    endpoints: tuple[ProcessIdentity, ...] = ()
    servers: dict[ShardUid, tuple[ProcessIdentity, ...]] = field(default_factory=dict)
    """A server, and all other processes that run its program in its directory."""

    @property
    def is_nothing(self) -> bool:
        """Whether no process runs."""
        return not (self.daemons or self.endpoints or self.servers)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The store's records; empty if the store cannot be read."""

    databases: tuple[Database, ...] = ()
    groups: tuple[SlotGroup, ...] = ()
    shards: tuple[Shard, ...] = ()
    nodes: tuple[Node, ...] = ()
    secrets: tuple[ServerSecrets, ...] = ()
    problem: str = ""
    """Why the store cannot be read; empty if it was read."""

    def target_of(self, uid: ShardUid) -> ServerTarget | None:
        """The target of a shard's server; None if its records are missing."""
        shard = next((s for s in self.shards if s.uid == uid), None)
        if shard is None:
            return None
        node = next((n for n in self.nodes if n.uid == shard.node_uid), None)
        secrets = next((s for s in self.secrets if s.database_uid == shard.database_uid), None)
        if node is None or secrets is None:
            return None
        return ServerTarget(uid, shard.incarnation, node.servers_at, shard.port, secrets)

    def database_of(self, uid: ShardUid) -> Database | None:
        """The database of a shard."""
        owner = next((s.database_uid for s in self.shards if s.uid == uid), None)
        return next((d for d in self.databases if d.uid == owner), None)


def find_running(layout: Layout, *, nodes: Iterable[NodeUid] | None = None) -> Running:
    """The running processes of the cluster, or of some of its nodes. Reads all of ``/proc``: call it in a thread."""
    uids = layout.node_uids() if nodes is None else list(nodes)
    daemons = {i for uid in uids if (i := read_identity(layout.daemon(uid))) is not None and is_running(i)}
    endpoints = {i for uid in uids if (i := read_identity(layout.endpoint(uid))) is not None and is_running(i)}
    servers: dict[ShardUid, set[ProcessIdentity]] = {}
    programs = {path: record.executable for uid in uids for path in _shards(layout, uid) if (record := read_record(path))}
    controls = {str(layout.control(uid)) for uid in uids}
    for process in find_processes(lambda p: True):
        if (uid := _daemon_of(process, layout)) is not None and uid in uids:
            daemons.add(process)
        elif _is_endpoint(process, controls):
            endpoints.add(process)
        elif programs.get(Path(process.directory)) == process.executable:
            servers.setdefault(ShardUid(int(Path(process.directory).name)), set()).add(process)
    return Running(
        _sorted(_without_children(daemons)), _sorted(endpoints), {uid: _sorted(own) for uid, own in sorted(servers.items())}
    )


async def read_recorded(layout: Layout) -> Recorded:
    """Databases, groups, shards, nodes and secrets, as far as the store is readable. Without the cluster key, databases and
    secrets are missing."""
    if not has_cluster(layout):
        return Recorded()
    try:
        store = await open_store(store_settings(layout))
    except (StoreUnavailable, Permanent) as e:
        _log.warning("the store cannot be opened", reason=e.text)
        return Recorded(problem=e.text)
    try:
        return Recorded(
            tuple(r for r in await _read_sealed(store, "databases/", layout) if isinstance(r, Database)),
            tuple(r for r in await read_all(store, "groups/") if isinstance(r, SlotGroup)),
            tuple(r for r in await read_all(store, "shards/") if isinstance(r, Shard)),
            tuple(await read_nodes(store)),
            tuple(r for r in await _read_sealed(store, "secrets/", layout) if isinstance(r, ServerSecrets)),
        )
    except (StoreUnavailable, Permanent) as e:
        _log.warning("the store cannot be read", reason=e.text)
        return Recorded(problem=e.text)
    finally:
        await store.close()


async def _read_sealed(store: Store, prefix: str, layout: Layout) -> list[StoredRecord | str]:
    """A lost or wrong key must not prevent that everything is stopped in the right order."""
    try:
        return await read_all(store, prefix, sealing_of(layout))
    except Permanent as e:
        _log.warning("records cannot be read", prefix=prefix, reason=e.text)
        return []


def databases_at_risk(recorded: Recorded, running: Running) -> list[Database]:
    """Databases without persistence whose servers are running: their data exists in memory only."""
    loaded = {d.uid for uid in running.servers if (d := recorded.database_of(uid)) is not None}
    return [
        d
        for d in recorded.databases
        if d.persistence is Persistence.DISABLED and d.uid in loaded and d.status is not DatabaseStatus.DELETE_PENDING
    ]


async def stop_everything(layout: Layout, say: Say) -> bool:
    """Daemons first, so that nothing reacts; then endpoint processes, so that writes stop; then primaries, which wait for
    their replicas; then replicas. False: a process could not be ended, and a message named it."""
    recorded = await read_recorded(layout)
    for _ in range(ROUNDS_MAX):
        await _stop_once(layout, recorded, say)
        # A process that a killed daemon was just starting reveals its identity only after a moment.
        await asyncio.sleep(SETTLE_S)
        left = await asyncio.to_thread(find_running, layout)
        if left.is_nothing:
            return True
    for process in (*left.daemons, *left.endpoints, *(p for processes in left.servers.values() for p in processes)):
        say(f"process {process.pid} ({process.executable}) could not be ended")
    return False


async def _stop_once(layout: Layout, recorded: Recorded, say: Say) -> None:
    running = await asyncio.to_thread(find_running, layout)
    await stop_daemons(running, say)
    # Only now: a daemon may have started another process just before its end.
    running = await asyncio.to_thread(find_running, layout)
    if running.endpoints:
        say(f"stopping {_count(len(running.endpoints), 'endpoint process', 'endpoint processes')}")
        await asyncio.gather(*(end(p, ENDPOINT_GRACE_S) for p in running.endpoints))
    primaries = {g.primary for g in recorded.groups}
    first = {uid: processes for uid, processes in running.servers.items() if uid in primaries}
    rest = {uid: processes for uid, processes in running.servers.items() if uid not in primaries}
    for servers in (first, rest):
        await asyncio.gather(*(_stop_server(uid, processes, recorded, say) for uid, processes in servers.items()))


async def stop_daemons(running: Running, say: Say) -> None:
    """End daemons; their shards and endpoints keep running."""
    if running.daemons:
        say(f"stopping {_count(len(running.daemons), 'daemon', 'daemons')}")
        await asyncio.gather(*(end(p, DAEMON_GRACE_S) for p in running.daemons))


async def _stop_server(uid: ShardUid, processes: tuple[ProcessIdentity, ...], recorded: Recorded, say: Say) -> None:
    database = recorded.database_of(uid)
    name = f"shard {uid} of {database.name}" if database is not None else f"shard {uid}"
    keeps = database is not None and database.persistence is not Persistence.DISABLED
    pids = {p.pid for p in processes}

    def killed() -> None:
        say(f"{name} did not end on request and was killed" + ("; its last writes may not be on disk" if keeps else ""))

    # The server first: it ends the children that save its data.
    for process in sorted(processes, key=lambda p: p.start_ticks):
        is_child = len(pids) > 1 and process.start_ticks != min(p.start_ticks for p in processes)
        if is_child:
            await end(process, 0)
        else:
            say(f"stopping {name}" + (" (it saves first)" if keeps else ""))
            scripts = spawn(f"end-scripts-{uid}", _end_scripts(name, recorded.target_of(uid), say))
            try:
                # Clients can no longer write to it, so even a frozen server may be resumed in order to save.
                await end(process, SERVER_GRACE_S, busy_grace_s=SERVER_BUSY_GRACE_S, thaws=True, on_kill=killed)
            finally:
                scripts.cancel()


async def _end_scripts(name: str, target: ServerTarget | None, say: Say) -> None:
    """End the scripts of a stopping server: it ends only after a running script, whose client can no longer end it."""
    while target is not None:
        await asyncio.sleep(SCRIPT_CHECK_S)
        if await end_script(target):
            say(f"{name} was executing a script, which was ended")


# -- search --------------------------------------------------------------------------------------------------------------


def _shards(layout: Layout, uid: NodeUid) -> list[Path]:
    parent = layout.shards(uid)
    return [p for p in parent.iterdir() if p.name.isdigit() and p.is_dir()] if parent.is_dir() else []


def _without_children(daemons: set[ProcessIdentity]) -> set[ProcessIdentity]:
    """A process that a daemon is starting has the daemon's command line until it executes its own program."""
    pids = {daemon.pid for daemon in daemons}
    return {daemon for daemon in daemons if parent_of(daemon) not in pids}


def _daemon_of(process: ProcessIdentity, layout: Layout) -> NodeUid | None:
    """The node whose daemon this is, by its command line; None if it does not belong to this cluster."""
    line = arguments_of(process.pid)
    if len(line) != 7 or line[1] != "-m" or line[3:5] != ["--dir", str(layout.directory)] or line[5] != "--node":
        return None
    return NodeUid(int(line[6])) if line[6].isdigit() else None


def _is_endpoint(process: ProcessIdentity, controls: set[str]) -> bool:
    line = arguments_of(process.pid)
    if ENDPOINT_MODULE not in line or "--control" not in line[:-1]:
        return False
    return line[line.index("--control") + 1] in controls


def _sorted(processes: Iterable[ProcessIdentity]) -> tuple[ProcessIdentity, ...]:
    return tuple(sorted(processes, key=lambda p: (p.start_ticks, p.pid)))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
