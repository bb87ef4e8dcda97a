"""Restarts of servers whose process has ended: each as a new incarnation on a new port, with increasing delays; and the
files that the new process loads.

Called by ``start.py`` and ``group.py``, which name the ended processes. They also own the choice of the primary.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.backoff import Backoff
from shardwright.model.database import Shard, StartWith
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ProcessState
from shardwright.model.view import ClusterView, Put, Write
from shardwright.plan.ports import shard_port
from shardwright.reconcile.copies import DAMAGES, Copy

RESTART = Backoff((0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0))
"""Delay before the n-th start in a row; the last value repeats."""
DAMAGED = Backoff((0.0, 5.0, 30.0, 60.0, 300.0))
"""The same for a server that cannot load its files: it cannot until an operator replaces the files."""
STEADY_AFTER = timedelta(minutes=1)
"""A shard that ran this long has its restart count reset."""


def decide_restarts(
    gone: list[Copy], view: ClusterView, now: datetime, *, is_served: bool = False, cut: ShardUid | None = None
) -> tuple[tuple[Write, ...], datetime | None]:
    """New incarnations for ended processes, each on a new port, with increasing delays. ``is_served``: a live primary has
    all data that they need, so damaged files are not loaded again. ``cut``: the copy whose damaged end is cut, without
    delay."""
    writes: list[Write] = []
    wake_at: datetime | None = None
    for copy in gone:
        shard = copy.shard
        if shard.uid != cut and shard.restart_not_before is not None and DAMAGED.is_waiting(shard.restart_not_before, now):
            wake_at = min(wake_at or shard.restart_not_before, shard.restart_not_before)
            continue
        started = _started(copy, view, now, _what_to_load(copy, is_served=is_served, cut=cut))
        writes.extend((Put(started), Put(_event(copy, started, now))))
        view = view.with_writes((Put(started),))
    return tuple(writes), wake_at


def _what_to_load(copy: Copy, *, is_served: bool, cut: ShardUid | None) -> StartWith:
    if copy.shard.uid == cut:
        return StartWith.CUT_FILES
    is_damaged = copy.process is ProcessState.FAILED and copy.damage is not None
    return StartWith.NOTHING if is_damaged and is_served else StartWith.FILES


def _started(copy: Copy, view: ClusterView, now: datetime, load: StartWith) -> Shard:
    shard = copy.shard
    is_empty = load is StartWith.NOTHING
    backoff = RESTART if copy.damage is None or is_empty else DAMAGED
    return replace(
        shard,
        incarnation=shard.incarnation + 1,
        port=shard_port(view, shard.node_uid, shard.uid, shard.incarnation + 1),
        restarts=shard.restarts + 1,
        restart_not_before=now + backoff.delay(shard.restarts),
        failure=copy.text if copy.process is ProcessState.FAILED and not is_empty else "",
        starts_with=load,
        file_generation=shard.file_generation if load is StartWith.FILES else -1,
        damage=None if is_empty else copy.damage,
    )


def _event(copy: Copy, started: Shard, now: datetime) -> Event:
    what = f"shard {started.uid} on node {started.node_uid}"
    kind, text = EventKind.SHARD_RESTART, f"{what} is restarted ({copy.text or 'process ended'})"
    if copy.damage is not None and started.starts_with is StartWith.NOTHING:
        kind = EventKind.SHARD_FILES_PUT_ASIDE
        text = (
            f"{what} gets a new full copy from its primary: {DAMAGES[copy.damage]} ({copy.text}); its files are kept in its "
        )
        text += f"directory as damaged-{started.incarnation}"
    elif started.starts_with is StartWith.CUT_FILES:
        kind, text = (
            EventKind.SHARD_FILES_CUT,
            f"{what} is started without the damaged end of its append-only file ({copy.text})",
        )
    return Event(now, kind, Severity.WARNING, text, node_uid=started.node_uid, database_uid=started.database_uid)


def forget_restarts(copies: list[Copy], now: datetime) -> tuple[Write, ...]:
    """Remove outdated notes: damage that did not recur, and restart counts of servers that have run long enough."""
    return tuple(Put(after) for c in copies if c.answers and (after := _forgotten(c.shard, now)) is not c.shard)


def _forgotten(shard: Shard, now: datetime) -> Shard:
    if shard.damage is not None:
        shard = replace(shard, damage=None, failure="")
    if shard.restarts and shard.restart_not_before is not None and not _is_recent(shard.restart_not_before, now):
        shard = replace(shard, restarts=0, restart_not_before=None, failure="")
    return shard


def _is_recent(restart_not_before: datetime, now: datetime) -> bool:
    """Whether the last restart was recent; a time so far in the future that no delay explains it came from a clock ahead of
    this one."""
    return -DAMAGED.longest <= now - restart_not_before <= STEADY_AFTER
