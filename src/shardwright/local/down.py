"""``shardwright down``: stop everything of a local cluster after a clean save; with a purge, leave nothing behind.

Works when parts have crashed and when nobody supervises; may be repeated. Takes the cluster over from its supervisor first,
so that nothing is restarted meanwhile.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardwright.agent.endpoint_process import read_identity
from shardwright.clock import Clock, SystemClock
from shardwright.errors import Permanent, Refusal, Rejected
from shardwright.local.layout import Layout, layout_of, purge
from shardwright.local.lock import try_lock
from shardwright.local.stop import Say, databases_at_risk, find_running, read_recorded, stop_everything
from shardwright.machine.processes import end, is_running, send
from shardwright.model.codes import Code
from shardwright.model.database import Database
from shardwright.model.seen import ProcessIdentity

HAND_OVER_S = 5.0
"""A supervisor that does not let go for this long is frozen, and is ended: that harms nobody."""
OTHERS_S = 120.0
"""Another ``up`` or ``down`` at work is waited for this long."""

Confirm = Callable[[Sequence[Database]], None]
"""Asks whether the data of these databases may go; raises when it may not."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """What ``down`` found and left."""

    layout: Layout
    was_there: bool
    """Whether there was a cluster in the directory."""
    was_running: bool
    left: tuple[Path, ...] = ()
    """After a purge: what is in the directory that is not ours."""


async def bring_down(directory: Path, *, is_purge: bool, confirm: Confirm, say: Say) -> Stopped:
    """Stop the cluster. Raises what ``confirm`` raises (nothing was stopped then), Rejected when another command keeps the
    lock, Permanent when a process could not be ended."""
    layout = layout_of(directory)
    if not _is_there(layout):
        return Stopped(layout, was_there=False, was_running=False)
    running = await asyncio.to_thread(find_running, layout)
    at_risk = databases_at_risk(await read_recorded(layout), running)
    if at_risk:
        confirm(at_risk)
    lock = await _take_over(layout, say, SystemClock())
    if lock is None:  # It went away while we waited for it.
        return Stopped(layout, was_there=True, was_running=False)
    try:
        if not await stop_everything(layout, say):
            raise Permanent(Code.NOT_STOPPED, f"not everything could be stopped; nothing was deleted in {layout.directory}")
        layout.supervisor.unlink(missing_ok=True)
        left = await asyncio.to_thread(purge, layout) if is_purge else []
    finally:
        os.close(lock)
    return Stopped(layout, was_there=True, was_running=not running.is_nothing, left=tuple(left))


def _is_there(layout: Layout) -> bool:
    """Whether anything of a cluster is in the directory."""
    ours = (layout.store, layout.lock, layout.nodes, layout.tls, layout.admin)
    return any(path.exists() for path in ours)


async def _take_over(layout: Layout, say: Say, clock: Clock) -> int | None:
    """The cluster's lock; its supervisor lets go of it. None: the directory is gone."""
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
            say("another `shardwright up` or `down` is at work; waiting for it")
        if clock.monotonic() - began > OTHERS_S:
            raise Rejected(
                Refusal.CONFLICT,
                "busy",
                f"another `shardwright up` or `down` has been at work on {layout.directory} for {OTHERS_S:.0f} s",
                remedy="end it, then try again",
            )
        await clock.sleep(0.1)


async def _dismiss(supervisor: ProcessIdentity, clock: Clock) -> None:
    """Have a supervisor end and leave everything running."""
    send(supervisor, signal.SIGUSR1)
    deadline = clock.monotonic() + HAND_OVER_S
    while is_running(supervisor):
        if clock.monotonic() > deadline:
            await end(supervisor, 0)
            return
        await clock.sleep(0.02)
