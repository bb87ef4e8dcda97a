"""When a server whose process has ended is started again: each time as a new incarnation on a new port, spaced out.

Called by ``start.py`` and ``group.py``, which say whose process has ended. Who is primary is theirs.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.database import Database
from shardwright.model.event import Event, Severity
from shardwright.model.seen import ProcessState
from shardwright.model.view import ClusterView, Put, Write
from shardwright.plan.ports import shard_port
from shardwright.reconcile.copies import Copy

RESTART_DELAYS_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before the n-th start in a row; the last one repeats."""
STEADY_AFTER = timedelta(minutes=1)
"""A shard that ran this long has its count of restarts forgotten."""


def decide_restarts(
    database: Database, gone: list[Copy], view: ClusterView, now: datetime
) -> tuple[tuple[Write, ...], datetime | None]:
    """New incarnations for processes that are gone, each on a new port, spaced out."""
    writes: list[Write] = []
    wake_at: datetime | None = None
    for copy in gone:
        shard = copy.shard
        if shard.restart_not_before is not None and _is_to_wait(shard.restart_not_before, now):
            wake_at = min(wake_at or shard.restart_not_before, shard.restart_not_before)
            continue
        seen = view.processes.get(shard.uid)
        delay = RESTART_DELAYS_S[min(shard.restarts + 1, len(RESTART_DELAYS_S) - 1)]
        started = replace(
            shard,
            incarnation=shard.incarnation + 1,
            port=shard_port(view, shard.node_uid, shard.uid, shard.incarnation + 1),
            restarts=shard.restarts + 1,
            restart_not_before=now + timedelta(seconds=delay),
            failure=seen.text if seen is not None and copy.process is ProcessState.FAILED else "",
        )
        text = f"shard {shard.uid} on node {shard.node_uid} is started again ({seen.text if seen is not None else 'gone'})"
        event = Event(now, "shard_restart", Severity.WARNING, text, node_uid=shard.node_uid, database_uid=shard.database_uid)
        writes.extend((Put(started), Put(event)))
        view = view.with_writes((Put(started),))
    return tuple(writes), wake_at


def _is_to_wait(until: datetime, now: datetime) -> bool:
    """A time further away than any delay was written by a clock that was ahead of ours: it says nothing."""
    return now < until <= now + timedelta(seconds=RESTART_DELAYS_S[-1])


def forget_restarts(copies: list[Copy], now: datetime) -> tuple[Write, ...]:
    return tuple(
        Put(replace(c.shard, restarts=0, restart_not_before=None, failure=""))
        for c in copies
        if c.answers
        and c.shard.restarts
        and c.shard.restart_not_before is not None
        and not _is_recent(c.shard.restart_not_before, now)
    )


def _is_recent(restart_not_before: datetime, now: datetime) -> bool:
    """Whether a restart is not long ago; one in a future that no delay reaches was written by a clock ahead of ours."""
    return -timedelta(seconds=RESTART_DELAYS_S[-1]) <= now - restart_not_before <= STEADY_AFTER
