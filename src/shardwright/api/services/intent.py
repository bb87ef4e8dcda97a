"""Reads the cluster's state and commits the result of a request: the shell around the services' pure decisions.

A service is a function of a ``Look`` that returns an ``Intent`` or raises Rejected. ``submit`` gives it a fresh look,
commits its writes in one transaction, and repeats both after a conflict.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Generic, TypeVar

from shardwright.api.deps import ApiContext
from shardwright.model.codes import Code
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import ActionUid, DatabaseUid, NodeUid
from shardwright.model.seen import Sighting
from shardwright.model.view import ClusterView, Put, Write
from shardwright.store.commit import Conflict, commit
from shardwright.store.protocol import Compare, Operation, StoreUnavailable, Transaction

ATTEMPTS: Final = 8
"""Maximum number of looks: with this many conflicts in a row, the cause is a different one."""
FRESH_TIMEOUT_S: Final = 5.0
"""If a mirror needs longer, its store is unreachable."""
RECENT_S: Final = 0.1
"""A change is decided from a state that was read at most this long ago: a body may come slowly, and a password be hashed."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Look:
    """The state that a decision reads."""

    view: ClusterView
    bare: Callable[[str], str | None]
    """The text at a key that contains a uid: locks, names, ports, latest actions."""
    modified_at: Callable[[str], int]
    now: datetime
    by: str
    """E-mail address of the requesting user."""


@dataclass(frozen=True, slots=True)
class Intent(Generic[Answer]):
    """The writes of a request, and its answer after they are committed. Without writes, nothing changes."""

    answer: Answer
    writes: tuple[Write, ...] = ()
    compares: tuple[Compare, ...] = ()
    operations: tuple[Operation, ...] = ()


async def look(context: ApiContext, *, by: str = "") -> Look:
    """The state with every change that ended before the request arrived (``ApiContext.asked_at``). Raises
    StoreUnavailable."""
    try:
        async with asyncio.timeout(FRESH_TIMEOUT_S):
            await context.mirror.fresh(context.asked_at)
    except TimeoutError as e:
        raise StoreUnavailable(Code.STORE_UNAVAILABLE, "the node's copy of the cluster's state is behind") from e
    mirror = context.mirror
    await context.figures.refresh(mirror.view().daemons)
    # All of it is of one moment: nothing is awaited from here on.
    view = context.figures.over(with_sightings(mirror.view()))
    return Look(view, mirror.bare, mirror.modified_at, context.clock.now(), by)


def with_sightings(view: ClusterView) -> ClusterView:
    """The view with the leader's judgment: the leader checks processes whose agents are dead."""
    found = {uid: seen.sighting for uid, seen in view.servers.items() if seen.sighting is not Sighting.NONE}
    return view.changed(sightings=found)


def _recent(context: ApiContext) -> ApiContext:
    if context.asked_at is None:
        return context
    return replace(context, asked_at=max(context.asked_at, context.mirror.now() - RECENT_S))


async def submit(context: ApiContext, by: str, decide: Callable[[Look], Intent[Answer]]) -> Answer:
    """Decide and commit. Raises Rejected (nothing was changed), Conflict, TooLarge, StoreUnavailable."""
    for attempt in range(1, ATTEMPTS + 1):
        seen = await look(_recent(context), by=by)
        intent = decide(seen)  # no await between the look and the commit: nothing can change in between
        if not (intent.writes or intent.operations):
            return intent.answer
        try:
            await commit(
                context.store,
                context.mirror,
                intent.writes,
                fence=None,
                extra=Transaction(intent.compares, intent.operations),
                random_text=context.random_text,
            )
            return intent.answer
        except Conflict:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def audit(
    seen: Look,
    kind: EventKind,
    text: str,
    *,
    node_uid: NodeUid | None = None,
    database_uid: DatabaseUid | None = None,
    action_uid: ActionUid | None = None,
    severity: Severity = Severity.INFO,
    extra: dict[str, object] | None = None,
) -> Put:
    """The log line of every change: the user and the change."""
    return Put(
        Event(
            seen.now,
            kind,
            severity,
            text,
            node_uid=node_uid,
            database_uid=database_uid,
            action_uid=action_uid,
            by=seen.by,
            extra=extra or {},
        )
    )
