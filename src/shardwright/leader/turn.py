"""The decisions of one turn: their order, and the batches in which they are committed. Pure.

``loop.py`` commits each batch and returns the view after the commit.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

from shardwright.actions.base import decide_action
from shardwright.actions.leader_change import decide_leader_change
from shardwright.leader.batch import Batch
from shardwright.model.commands import Command
from shardwright.model.decision import NOTHING, Decision, earlier
from shardwright.model.ids import ActionUid, DatabaseUid, EndpointUid, GroupUid, MoveUid
from shardwright.model.view import ClusterView
from shardwright.moves.decide import decide_move
from shardwright.reconcile.database import decide_database
from shardwright.reconcile.declarations import decide_declarations
from shardwright.reconcile.endpoint import decide_endpoint, decide_strays
from shardwright.reconcile.group import decide_group, decide_unwanted
from shardwright.reconcile.lease import decide_lease
from shardwright.reconcile.rebinding import decide_rebinding
from shardwright.reconcile.repair import decide_repair
from shardwright.reconcile.serving import decide_serving
from shardwright.reconcile.troubles import decide_troubles
from shardwright.reconcile.version import decide_version
from shardwright.reconcile.virtual_addresses import decide_virtual_address

Uid = TypeVar("Uid")
Decide = Callable[[ClusterView, datetime], Decision]
Deciders = tuple[Callable[[ClusterView], list[Decide]], ...]
AGAIN_MAX = 4
"""More than an action needs from its acceptance to its first move. The next turn continues."""


@dataclass(frozen=True, slots=True)
class TurnResult:
    """The result of a turn whose decisions have all been committed."""

    view: ClusterView
    commands: tuple[Command, ...]
    """In the order of the decisions, without duplicates."""
    wake_at: datetime | None
    """When to decide again at the latest; None: no decision needs it."""


def decide_turn(
    view: ClusterView, now: datetime, deciders: Deciders, *, again: Deciders = (), singly: bool
) -> Generator[Batch, ClusterView, TurnResult]:
    """Run every decider; each decision sees the writes of those before it. Yields each batch to commit, and receives the
    view after the commit. ``singly``: commit each decision separately.

    ``again``: decide these again, as the next turn would, while they write: an action then reaches its first move with one
    commit instead of one for each of its steps."""
    wake_at: datetime | None = None
    commands: dict[Command, None] = {}
    batch = Batch(view)
    for parts in (deciders, *(() if singly else [again] * AGAIN_MAX)):
        has_written = False
        for part in parts:
            for decide in part(batch.view):
                decision = decide(batch.view, now)
                if decision.writes and not batch.has_room_for(decision.writes):
                    batch = Batch((yield batch))
                    decision = decide(batch.view, now)
                if decision.writes:
                    has_written = True
                    batch.add(decision.writes)
                    if singly:
                        batch = Batch((yield batch))
                commands |= dict.fromkeys(decision.commands)
                wake_at = earlier(wake_at, decision.wake_at)
        if not has_written:
            break
    if batch.writes:
        batch = Batch((yield batch))
    return TurnResult(batch.view, tuple(commands), wake_at)


def _group(uid: GroupUid, view: ClusterView, now: datetime) -> Decision:
    group = view.groups.get(uid)
    return NOTHING if group is None else decide_group(group, view, now)


def _lease(uid: GroupUid, view: ClusterView, now: datetime) -> Decision:
    group = view.groups.get(uid)
    return NOTHING if group is None else decide_lease(group, view, now)


def _endpoint(uid: EndpointUid, view: ClusterView, now: datetime) -> Decision:
    endpoint = view.endpoints.get(uid)
    return NOTHING if endpoint is None else decide_endpoint(endpoint, view)


def _serving(uid: EndpointUid, view: ClusterView, now: datetime) -> Decision:
    endpoint = view.endpoints.get(uid)
    return NOTHING if endpoint is None else decide_serving(endpoint, view, now)


def _strays(view: ClusterView, now: datetime) -> Decision:
    return decide_strays(view)


def _database(uid: DatabaseUid, view: ClusterView, now: datetime) -> Decision:
    database = view.databases.get(uid)
    return NOTHING if database is None else decide_database(database, view, now)


def _unwanted(view: ClusterView, now: datetime) -> Decision:
    return decide_unwanted(view)


def _move(uid: MoveUid, view: ClusterView, now: datetime) -> Decision:
    move = view.moves.get(uid)
    return NOTHING if move is None or move.state.is_terminal else decide_move(move, view, now)


def _action(uid: ActionUid, view: ClusterView, now: datetime) -> Decision:
    action = view.actions.get(uid)
    return NOTHING if action is None or action.status.is_terminal else decide_action(action, view, now)


def _virtual_address(name: str, view: ClusterView, now: datetime) -> Decision:
    address = view.virtual_addresses.get(name)
    return NOTHING if address is None else decide_virtual_address(address, view, now)


def _each(decide: Callable[[Uid, ClusterView, datetime], Decision], uids: Iterable[Uid]) -> list[Decide]:
    return [partial(decide, uid) for uid in uids]


AGAIN: Deciders = (
    lambda view: _each(_move, [m.uid for m in view.live_moves()]),
    lambda view: _each(_action, [a.uid for a in view.live_actions()]),
)
"""Moves, then actions: the steps between them need no new observation."""
DECIDERS: Deciders = (
    lambda view: [decide_declarations],
    lambda view: _each(_group, sorted(view.groups)),
    lambda view: _each(_serving, sorted(view.endpoints)),
    lambda view: _each(_lease, sorted(view.groups)),
    lambda view: _each(_virtual_address, sorted(view.virtual_addresses)),
    lambda view: _each(_endpoint, sorted(view.endpoints)),
    lambda view: [_strays],
    lambda view: _each(_database, sorted(view.databases)),
    lambda view: [_unwanted],
    lambda view: [decide_repair],
    lambda view: [decide_rebinding],
    lambda view: _each(decide_troubles, sorted(view.databases.keys() | view.troubles.keys())),
    *AGAIN,
    lambda view: [decide_version],
    lambda view: [decide_leader_change],
)
"""Words about machines first, then roles, leases, virtual addresses, endpoints and databases, then moves, then actions, then
the version, and who is to lead. Each decision sees the writes of those before it."""
