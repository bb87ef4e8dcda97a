"""``shardwright up``: creates a local cluster or starts an existing one, and leaves a supervisor running.

The cluster's lock, which passes to the supervisor, excludes a second one. Every refusal comes before the first change, or
reverses the changes.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shardwright.clock import Clock, SystemClock
from shardwright.errors import Refusal, Rejected
from shardwright.local.access import has_cluster, is_on_etcd, sealing_of, set_file_aside, store_settings
from shardwright.local.config import read_cluster, read_nodes
from shardwright.local.creation import PASSWORD_VARIABLE, CheckedOptions, UpOptions, check, check_addresses, create, invalid
from shardwright.local.layout import Layout, layout_of, make_run_directory, purge
from shardwright.local.ready import wait_ready
from shardwright.local.stop import Say
from shardwright.local.supervisor import (
    SupervisorEnd,
    command_with,
    daemon_environment,
    supervise,
    supervisor_command,
    write_access_files,
)
from shardwright.log import configure_logging
from shardwright.machine.files import make_private_directory, rotate
from shardwright.machine.identity_file import read_identity
from shardwright.machine.lock import try_lock
from shardwright.machine.processes import is_running, spawn_process
from shardwright.model.cluster import Cluster, Node
from shardwright.model.ids import NodeUid
from shardwright.store.admission import check_store
from shardwright.store.open import open_store
from shardwright.tasks import spawn

LOCK_WAIT_S = 3.0
"""Another ``up`` that only checks, or a supervisor that is about to end, holds the lock for a moment."""
PORT_WAIT_S = 2.0
"""Wait for a recorded node's port that is in use although its daemon does not run."""
DAEMON_MODULE = "shardwright.local.daemon"


@dataclass(frozen=True, slots=True)
class Started:
    """The result of ``up``."""

    layout: Layout
    is_new: bool
    was_running: bool
    username: str = ""
    """Login name of the first user; empty unless the cluster is new."""
    password: str = field(default="", repr=False)
    """The generated password, shown once; otherwise empty."""


def prepare(options: UpOptions, environment: Mapping[str, str]) -> "tuple[Started, int | None]":
    """Create the cluster if necessary and take its lock. Returns the lock's descriptor, or None if a supervisor is already
    running. Raises Rejected or Permanent (this version, or this key file, does not fit the store): nothing was changed."""
    layout = layout_of(options.directory)
    checked = None if _holds_cluster(layout) else check(options, layout, environment)
    made = _make_directories(layout.directory) if checked is not None else None
    lock = _lock(layout)
    if lock is None:
        return Started(layout, is_new=False, was_running=True), None
    try:
        if checked is not None and not _holds_cluster(layout):
            return _create(checked, layout, environment, made), lock
        set_file_aside(layout)
        _check_recorded(layout)
        make_run_directory(layout, environment)
        return Started(layout, is_new=False, was_running=False), lock
    except BaseException:
        os.close(lock)
        raise


def _create(checked: CheckedOptions, layout: Layout, environment: Mapping[str, str], made: Path | None) -> Started:
    try:
        asyncio.run(create(checked, layout, environment))
    except BaseException:
        purge(layout)
        _remove_made(layout.directory, made)
        raise
    password = checked.password if checked.is_generated else ""
    return Started(layout, is_new=True, was_running=False, username=checked.options.admin_email, password=password)


def _holds_cluster(layout: Layout) -> bool:
    """Whether the directory contains a complete cluster (a crash during the creation leaves a store without one)."""
    if not has_cluster(layout):
        return False
    cluster, _ = _recorded(layout)
    if cluster is None and is_on_etcd(layout):
        # Not a reason to create a cluster: the directory belongs to one.
        text = f"the etcd that {layout.store_place} names has no records of the cluster"
        raise Rejected(Refusal.NOT_FOUND, "no_cluster", text, remedy="restore that etcd, or `shardwright down --purge`")
    return cluster is not None


def _recorded(layout: Layout) -> tuple[Cluster | None, list[Node]]:
    async def read() -> tuple[Cluster | None, list[Node]]:
        store = await open_store(store_settings(layout))
        try:
            # Before the wait for daemons that would refuse to start.
            await check_store(store, sealing_of(layout))
            return await read_cluster(store), await read_nodes(store)
        finally:
            await store.close()

    return asyncio.run(read())


def _check_recorded(layout: Layout) -> None:
    """Check that the recorded nodes without a daemon can listen. Restores lost files."""
    cluster, nodes = _recorded(layout)
    assert cluster is not None
    for node in nodes:
        _wait_for_port(layout, node, cluster.api_port)
    write_access_files(layout, cluster, nodes)


def _wait_for_port(layout: Layout, node: Node, port: int) -> None:
    """Wait until the node's daemon runs, or could listen. The port of a killed daemon stays in use until the last of its
    threads has ended, on a busy machine for a moment; a daemon just started by a dead supervisor writes its identity before
    it listens. Raises Rejected if the port stays in use."""
    deadline = time.monotonic() + PORT_WAIT_S
    while not _runs(layout, node.uid):
        try:
            return check_addresses((node.address,), port)
        except Rejected:
            if time.monotonic() > deadline and not _runs(layout, node.uid):
                raise
        time.sleep(0.1)


def _runs(layout: Layout, uid: NodeUid) -> bool:
    identity = read_identity(layout.daemon(uid))
    return identity is not None and is_running(identity)


def _lock(layout: Layout) -> int | None:
    """The lock's descriptor; None: a supervisor has it. Raises Rejected if another process keeps it."""
    clock = SystemClock()
    deadline = clock.monotonic() + LOCK_WAIT_S
    while True:
        try:
            lock = try_lock(layout.lock)
        except FileNotFoundError:
            # A parallel `down --purge` deleted the directory.
            make_private_directory(layout.directory)
            continue
        if lock is not None:
            return lock
        supervisor = read_identity(layout.supervisor)
        if supervisor is not None and is_running(supervisor):
            return None
        if clock.monotonic() > deadline:
            raise Rejected(
                Refusal.CONFLICT,
                "busy",
                f"another `shardwright up` or `down` is running on {layout.directory}",
                remedy="wait for it, then try again",
            )
        asyncio.run(clock.sleep(0.05))


def _make_directories(directory: Path) -> Path | None:
    """Create DIR and its parents. Returns the topmost directory that was created; None if DIR existed."""
    if directory.exists():
        if not any(directory.iterdir()):
            directory.chmod(0o700)
        return None
    top = directory
    while not top.parent.exists():
        top = top.parent
    try:
        make_private_directory(directory)
    except OSError as e:
        _remove_made(directory, top)
        raise invalid(f"--dir {directory} cannot be created: {e.strerror}") from e
    return top


def _remove_made(directory: Path, top: Path | None) -> None:
    """Delete the parents that were created for DIR, as far as they are empty."""
    if top is None:
        return
    path = directory
    with contextlib.suppress(OSError):
        while path != top.parent:
            if path.exists():
                path.rmdir()
            path = path.parent


# -- running ---------------------------------------------------------------------------------------------------------------


def run_in_foreground(
    started: Started, lock: int, *, say: Say, on_ready: Callable[[], None], module: str = DAEMON_MODULE
) -> SupervisorEnd:
    """Run as the supervisor until Ctrl-C, which stops everything cleanly."""
    os.environ.pop(PASSWORD_VARIABLE, None)
    configure_logging(started.layout.supervisor_log)
    os.umask(0o077)
    clock = SystemClock()

    async def wait() -> None:
        try:
            await _wait(started.layout, say, clock)
        except Exception as e:  # The cluster may still become ready; the user decides.
            say(f"not ready yet: {e}")
        else:
            on_ready()

    def begin() -> asyncio.Task[None]:
        return spawn("up: wait until it serves", wait())

    try:
        return asyncio.run(supervise(started.layout, say=say, command=command_with(module), on_running=begin))
    finally:
        os.close(lock)


def run_in_background(started: Started, lock: int, *, say: Say, module: str = DAEMON_MODULE) -> None:
    """Start the supervisor in the background and wait until the cluster serves. Raises Permanent if it does not."""
    os.environ.pop(PASSWORD_VARIABLE, None)
    layout = started.layout
    make_private_directory(layout.logs)
    rotate(layout.supervisor_output, bytes_max=1024 * 1024)
    layout.supervisor.unlink(missing_ok=True)
    try:
        spawn_process(
            supervisor_command(layout, lock, module),
            directory=layout.directory,
            output=layout.supervisor_output,
            environment=daemon_environment(),
            pass_descriptors=[lock],
        )
    finally:
        os.close(lock)
    asyncio.run(_wait(layout, say, SystemClock()))


async def _wait(layout: Layout, say: Say, clock: Clock) -> None:
    store = await open_store(store_settings(layout))
    try:
        cluster = await read_cluster(store)
        port = cluster.api_port if cluster is not None else 0
        await wait_ready(
            layout, store, clock=clock, on_node=lambda n: say(f"node {n.uid}: https://{n.address}:{port} answers")
        )
    finally:
        await store.close()
