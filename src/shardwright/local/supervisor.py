"""The small process that ``up`` leaves running: it keeps one daemon per recorded node alive. It holds the cluster's lock.

SIGTERM, SIGINT and SIGHUP stop the whole cluster like ``down`` does; SIGUSR1 hands it over to ``down``, with everything
left running. Killing the supervisor is harmless: the next ``up`` adopts all running processes. It must not touch shards.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import structlog

from shardwright.clock import Clock, SystemClock
from shardwright.errors import Permanent
from shardwright.local.access import store_settings
from shardwright.local.config import read_all, read_cluster, read_nodes
from shardwright.local.daemon import daemon_command
from shardwright.local.keeper import DaemonKeeper
from shardwright.local.layout import Layout, layout_of, purge_node
from shardwright.local.stop import Say, find_running, stop_everything
from shardwright.local.tls import ensure_certificate
from shardwright.log import configure_logging
from shardwright.machine.files import write_private
from shardwright.machine.identity_file import write_identity
from shardwright.machine.lock import try_lock
from shardwright.machine.processes import end, identity_of, python_environment
from shardwright.model.cluster import Cluster, Node
from shardwright.model.database import Shard
from shardwright.model.ids import NodeUid
from shardwright.store.open import open_store
from shardwright.store.protocol import Store, StoreReplaced, StoreUnavailable
from shardwright.tasks import spawn

NODES_EVERY_S = 0.5
"""Interval between reads of the recorded nodes."""
OPEN_AGAIN_S = 1.0
"""Pause before another attempt to open a store that cannot be reached."""
REMOVED_LINGER_S = 3.0
"""The daemon of a removed node answers for this additional time, because clients poll the removal there."""
TEST_FAULTS_VARIABLE = "SHARDWRIGHT_TEST_FAULTS"
"""The only Shardwright variable in the daemons' environment: it names a directory, never a secret (``faults.py``)."""

_log = structlog.get_logger(__name__)


class SupervisorEnd(StrEnum):
    """Why the supervisor ended."""

    STOPPED = "stopped"
    """Everything was stopped."""
    HANDED_OVER = "handed_over"
    """Everything runs, and ``down`` takes over."""


@dataclass(slots=True)
class _KeptDaemon:
    keeper: DaemonKeeper
    task: asyncio.Task[None]


class Supervisor:
    """Keeps the daemons of a cluster's recorded nodes. ``command`` returns the command of a node's daemon."""

    def __init__(
        self,
        layout: Layout,
        store: Store,
        *,
        clock: Clock,
        command: Callable[[Layout, NodeUid], list[str]] = daemon_command,
    ) -> None:
        self._layout = layout
        self._store = store
        self._clock = clock
        self._command = command
        self._kept: dict[NodeUid, _KeptDaemon] = {}
        self._retiring: dict[NodeUid, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Keep the recorded nodes' daemons alive, indefinitely. Daemons outlive a cancellation. Raises StoreReplaced: the
        store must be opened again."""
        try:
            while True:
                try:
                    await self.turn()
                except (StoreUnavailable, Permanent) as e:
                    _log.warning("the recorded nodes cannot be read", reason=e.text)
                except OSError as e:
                    _log.error("the supervisor's turn failed", reason=str(e))
                await self._clock.sleep(NODES_EVERY_S)
        finally:
            tasks = [k.task for k in self._kept.values()] + list(self._retiring.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def turn(self) -> None:
        """Bring the daemons in line with the recorded nodes."""
        cluster, nodes = await read_cluster(self._store), await read_nodes(self._store)
        if cluster is None or not nodes:
            return  # Not the store of a cluster: do nothing.
        wanted = {n.uid: n for n in nodes}
        if any(uid not in self._kept for uid in wanted):
            await asyncio.to_thread(write_access_files, self._layout, cluster, nodes)
        for uid in wanted:
            if uid not in self._kept and uid not in self._retiring:
                self._keep(uid)
        for uid in {*self._kept, *self._layout.node_uids()} - wanted.keys():
            if uid not in self._retiring:
                _log.info("the node was removed", node=uid)
                self._retiring[uid] = spawn(f"supervisor: retire node {uid}", self._retire(uid, cluster, nodes))

    def _keep(self, uid: NodeUid) -> None:
        keeper = DaemonKeeper(
            uid,
            self._layout,
            store=self._store,
            clock=self._clock,
            command=self._command(self._layout, uid),
            environment=daemon_environment,
        )
        self._kept[uid] = _KeptDaemon(keeper, spawn(f"supervisor: keep the daemon of node {uid}", keeper.run()))

    async def _retire(self, uid: NodeUid, cluster: Cluster, nodes: list[Node]) -> None:
        """End all processes of a removed node and delete its directory. Does nothing while a shard is recorded on it."""
        try:
            while any(isinstance(r, Shard) and r.node_uid == uid for r in await read_all(self._store, "shards/")):
                _log.warning("a removed node still has recorded shards and is left alone", node=uid)
                await self._clock.sleep(REMOVED_LINGER_S)
            if (kept := self._kept.get(uid)) is not None:
                await self._clock.sleep(REMOVED_LINGER_S)
                kept.task.cancel()
                with suppress(asyncio.CancelledError):
                    await kept.task
                await kept.keeper.end()
                del self._kept[uid]
            running = await asyncio.to_thread(find_running, self._layout, nodes=[uid])
            servers = [p for processes in running.servers.values() for p in processes]
            for process in (*running.daemons, *running.endpoints, *servers):
                await end(process, 5.0)
            await asyncio.to_thread(purge_node, self._layout, uid)
            for path in (self._layout.control(uid), self._layout.ping(uid), self._layout.agent(uid)):
                path.unlink(missing_ok=True)
            await asyncio.to_thread(write_urls, self._layout, cluster, nodes)
            _log.info("the removed node's directory is deleted", node=uid)
        except (StoreUnavailable, Permanent, OSError) as e:
            _log.warning("a removed node could not be cleaned up yet", node=uid, reason=str(e))
        finally:
            self._retiring.pop(uid, None)


def write_access_files(layout: Layout, cluster: Cluster, nodes: list[Node]) -> None:
    """Write a certificate and an ``admin.json`` that name all nodes."""
    ensure_certificate(layout.tls, [n.address for n in nodes], datetime.now(UTC))
    write_urls(layout, cluster, nodes)


def write_urls(layout: Layout, cluster: Cluster, nodes: list[Node]) -> None:
    """Update the addresses in ``admin.json``; a file that the operator deleted stays deleted."""
    urls = [f"https://{n.address}:{cluster.api_port}" for n in nodes]
    try:
        admin = json.loads(layout.admin.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(admin, dict) and admin.get("urls") != urls:
        admin |= {"url": urls[0], "urls": urls}
        write_private(layout.admin, (json.dumps(admin, indent=2) + "\n").encode())


def daemon_environment() -> dict[str, str]:
    """The environment of daemons."""
    environment = python_environment()
    if (faults := os.environ.get(TEST_FAULTS_VARIABLE)) is not None:
        environment[TEST_FAULTS_VARIABLE] = faults
    return environment


# -- the process -----------------------------------------------------------------------------------------------------------


async def supervise(
    layout: Layout,
    *,
    say: Say,
    command: Callable[[Layout, NodeUid], list[str]] = daemon_command,
    on_running: Callable[[], asyncio.Task[None]] | None = None,
) -> SupervisorEnd:
    """Run as the supervisor until a signal. The caller holds the cluster's lock. ``on_running`` may start a parallel
    task."""
    loop = asyncio.get_running_loop()
    requested: asyncio.Future[SupervisorEnd] = loop.create_future()

    def request(outcome: SupervisorEnd) -> None:
        if not requested.done():
            requested.set_result(outcome)

    signals = {n: SupervisorEnd.STOPPED for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    for number, outcome in {**signals, signal.SIGUSR1: SupervisorEnd.HANDED_OVER}.items():
        loop.add_signal_handler(number, request, outcome)
    me = identity_of(os.getpid())
    assert me is not None
    await asyncio.to_thread(write_identity, layout.supervisor, me)
    work = spawn("supervisor", _keep_daemons(layout, command))
    beside = on_running() if on_running is not None else None
    try:
        either: set[asyncio.Future[Any]] = {requested, work}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        # Without a signal, only an internal error ends this process. Then everything is left running.
        outcome = requested.result() if requested.done() else SupervisorEnd.HANDED_OVER
    finally:
        for task in (work, beside):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
    _log.info("the supervisor ends", outcome=outcome)
    if outcome is SupervisorEnd.STOPPED:
        await stop_everything(layout, say)
    layout.supervisor.unlink(missing_ok=True)
    return outcome


async def _keep_daemons(layout: Layout, command: Callable[[Layout, NodeUid], list[str]]) -> None:
    """Run ``Supervisor``s, one after another: a new one, which adopts all daemons, when the store was replaced."""
    clock = SystemClock()
    while True:
        try:
            store = await open_store(store_settings(layout))
        except StoreUnavailable as e:
            _log.warning("the store cannot be opened yet", reason=e.text)
            await clock.sleep(OPEN_AGAIN_S)
            continue
        try:
            await Supervisor(layout, store, clock=clock, command=command).run()
        except StoreReplaced as e:
            _log.warning("the store was replaced and is opened again", reason=e.text)
        finally:
            await store.close()


def supervisor_command(layout: Layout, lock: int, daemon_module: str) -> list[str]:
    """The command with which ``up --detach`` starts the supervisor, which inherits the lock."""
    return [
        *(sys.executable, "-m", "shardwright.local.supervisor", "--dir", str(layout.directory)),
        *("--lock-descriptor", str(lock), "--daemon-module", daemon_module),
    ]


def command_with(module: str) -> Callable[[Layout, NodeUid], list[str]]:
    """The daemons' command with another module."""

    def command(layout: Layout, uid: NodeUid) -> list[str]:
        line = daemon_command(layout, uid)
        line[2] = module
        return line

    return command


def main() -> int:
    """Parse the command line and supervise. Exit status 0: everything was stopped or handed over."""
    parser = argparse.ArgumentParser(prog="shardwright supervise", description="Keeps the daemons of a local cluster alive.")
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--lock-descriptor", type=int, default=None)
    parser.add_argument("--daemon-module", default="shardwright.local.daemon")
    given = parser.parse_args()
    layout = layout_of(given.dir)
    os.umask(0o077)
    lock = given.lock_descriptor
    if lock is not None:
        os.set_inheritable(lock, False)
    elif (lock := try_lock(layout.lock)) is None:
        print(f"another process holds {layout.lock}", file=sys.stderr)
        return 1
    configure_logging(layout.supervisor_log)
    _log.info("the supervisor runs", pid=os.getpid())
    try:
        asyncio.run(supervise(layout, say=_log.info, command=command_with(given.daemon_module)))
    except Exception:
        _log.exception("the supervisor has failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
