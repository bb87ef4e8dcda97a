"""``shardwright down``: stops a local cluster after a clean save; with a purge, deletes it.

Works after crashes and without a supervisor; may be repeated. Takes the cluster over from its supervisor first, so that
nothing is restarted during the stop.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardwright.clock import Clock, SystemClock
from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.local.access import has_cluster
from shardwright.local.erase import erase_records
from shardwright.local.layout import Layout, layout_of, purge
from shardwright.local.stop import Say, databases_at_risk, find_running, read_recorded, stop_everything
from shardwright.machine.identity_file import read_identity
from shardwright.machine.lock import try_lock
from shardwright.machine.processes import end, is_running, send
from shardwright.model.codes import Code
from shardwright.model.database import Database
from shardwright.model.seen import ProcessIdentity

HAND_OVER_S = 5.0
"""A supervisor that does not release the lock within this time is frozen and is killed, which is harmless."""
OTHER_COMMAND_WAIT_S = 120.0
"""Maximum wait for another running ``up`` or ``down``."""

Confirm = Callable[[Sequence[Database]], None]
"""Asks whether the data of these databases may be lost; raises if not."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The result of ``down``."""

    layout: Layout
    existed: bool
    """Whether the directory contained a cluster."""
    was_running: bool
    left: tuple[Path, ...] = ()
    """After a purge: files in the directory that Shardwright did not create."""
    kept_in_etcd: str = ""
    """After a purge: why records of the cluster may be left in its etcd; empty: none is."""


async def bring_down(directory: Path, *, is_purge: bool, confirm: Confirm, say: Say) -> Stopped:
    """Stop the cluster. Raises the exception of ``confirm`` (nothing was stopped then), Rejected if another command keeps
    the lock, Permanent if a process could not be ended."""
    layout = layout_of(directory)
    if not _has_cluster_files(layout):
        return Stopped(layout, existed=False, was_running=False)
    running = await asyncio.to_thread(find_running, layout)
    recorded = await read_recorded(layout)
    if recorded.problem and running.servers:
        say(f"the records cannot be read, so databases without persistence are not named: {recorded.problem}")
    at_risk = databases_at_risk(recorded, running)
    if at_risk:
        confirm(at_risk)
    lock = await _take_over(layout, say, SystemClock())
    if lock is None:  # The directory was deleted during the wait.
        return Stopped(layout, existed=True, was_running=False)
    try:
        if not await stop_everything(layout, say):
            raise Permanent(Code.NOT_STOPPED, f"not everything could be stopped; nothing was deleted in {layout.directory}")
        layout.supervisor.unlink(missing_ok=True)
        kept = await erase_records(layout) if is_purge else ""
        left = await asyncio.to_thread(purge, layout) if is_purge else []
    finally:
        os.close(lock)
    return Stopped(layout, existed=True, was_running=not running.is_nothing, left=tuple(left), kept_in_etcd=kept)


def _has_cluster_files(layout: Layout) -> bool:
    """Whether the directory contains files of a cluster, even an incomplete one."""
    ours = (layout.lock, layout.nodes, layout.tls, layout.admin)
    return has_cluster(layout) or any(path.exists() for path in ours)


async def _take_over(layout: Layout, say: Say, clock: Clock) -> int | None:
    """The cluster's lock, after its supervisor has released it. None: the directory no longer exists."""
    began = clock.monotonic()
    has_said = False
    while True:
        try:
            lock = try_lock(layout.lock)
        except FileNotFoundError:
            return None
        if lock is not None:
            return lock
        supervisor = read_identity(layout.supervisor)
        if supervisor is not None and is_running(supervisor):
            say("stopping the supervisor")
            await _dismiss(supervisor, clock)
            continue
        if not has_said and clock.monotonic() - began > 1.0:
            has_said = True
            say("another `shardwright up` or `down` is running; waiting for it")
        if clock.monotonic() - began > OTHER_COMMAND_WAIT_S:
            raise Rejected(
                Refusal.CONFLICT,
                "busy",
                f"another `shardwright up` or `down` has been running on {layout.directory} "
                f"for {OTHER_COMMAND_WAIT_S:.0f} s",
                remedy="end it, then try again",
            )
        await clock.sleep(0.1)


async def _dismiss(supervisor: ProcessIdentity, clock: Clock) -> None:
    """Make a supervisor end without stopping the cluster."""
    send(supervisor, signal.SIGUSR1)
    deadline = clock.monotonic() + HAND_OVER_S
    while is_running(supervisor):
        if clock.monotonic() > deadline:
            await end(supervisor, 0)
            return
        await clock.sleep(0.02)
