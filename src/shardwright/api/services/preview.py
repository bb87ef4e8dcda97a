"""The effects of a node action, without executing it: the action's own decisions on a temporary view. Pure.

The preview takes the action through its pre-flight and its marks. Before the first moves, the planner supplies all of them,
and the module that names blockers of running moves is asked about their end. So a preview refuses for exactly the reasons
for which the action would fail, and names everything that it would wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

from shardwright.actions.advance import holds
from shardwright.actions.base import decide_action
from shardwright.actions.blockers import blockers_of
from shardwright.actions.maintenance_on import scope_of
from shardwright.model.action import (
    Action,
    ActionStatus,
    MaintenanceOffParameters,
    MaintenanceOnParameters,
    PlannedTarget,
    RemoveParameters,
    StepDownParameters,
)
from shardwright.model.codes import Code
from shardwright.model.database import Database
from shardwright.model.ids import uid_of_move
from shardwright.model.move import Move, MoveState, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView, Write
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, Leaves, plan_evacuation
from shardwright.plan.forecast import NO_FORECAST, Forecast, forecast
from shardwright.plan.proposal import HandoffProposal, MoveProposal, RebindProposal, RelocationProposal, ReturnPlan
from shardwright.plan.restore import plan_restore
from shardwright.server.config import backlog_bytes, replica_buffer_bytes

TURNS: Final = 12
"""More turns than any action needs from ``queued`` to its first moves."""


class PreviewOutcome(StrEnum):
    """The outcome of the action; the values are also the wire's."""

    POSSIBLE = "possible"
    """It would make its moves and complete."""
    PARTLY = "partly"
    """It would make its moves and end failed: something would stay on the node."""
    BLOCKED = "blocked"
    """It would wait until its obstacles pass or are removed."""
    FAILED = "failed"
    """It would be refused before the first move."""
    COMPLETED = "completed"
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class Preview:
    """``action`` in its expected state: ended if it would be refused or has nothing to do, otherwise about to move."""

    action: Action
    moves: tuple[MoveProposal, ...] = ()
    """In starting order, each with the best place now."""
    obstacles: tuple[Reason, ...] = ()
    """All shards and endpoints that would stay behind, waits, and parts that could not be restored, with reasons."""
    differences: tuple[Reason, ...] = ()
    """The obstacles that are information only: parts of the earlier state that cannot be restored."""
    forecast: Forecast = NO_FORECAST
    """The cost of the moves."""

    @property
    def outcome(self) -> PreviewOutcome:
        """The outcome. A wait that needs an operator's intervention has no end."""
        if self.action.status.is_terminal:
            return PreviewOutcome.FAILED if self.action.status is ActionStatus.FAILED else PreviewOutcome.COMPLETED
        hindrances = self.hindrances
        if any(needs_help(r) for r in hindrances) or (hindrances and not self.moves):
            return PreviewOutcome.BLOCKED
        is_firm = any(r.grade is not Grade.SOFT_LIMIT for r in hindrances)
        return PreviewOutcome.PARTLY if is_firm else PreviewOutcome.POSSIBLE

    @property
    def hindrances(self) -> tuple[Reason, ...]:
        """The obstacles without those that are information only."""
        return tuple(r for r in self.obstacles if r not in self.differences)

    @property
    def plan_uid(self) -> str:
        """Digest of the moves and of the firm obstacles: equal for equal plans. The order of moves, sizes and obstacles
        that pass by themselves are left out: they change continually and lead to the same end."""
        moves = sorted(repr((m.kind, m.subject, m.from_node, m.to_node, m.changes_role)) for m in self.moves)
        firm = [r for r in self.obstacles if r.grade is not Grade.SOFT_LIMIT]
        hindrances = sorted(repr((r.code, r.shard_uid, r.database_uid, r.node_uid)) for r in firm)
        action = self.action
        # The name of a snapshot to be taken contains only the time; the name of a snapshot to restore matters.
        restores = action.snapshot_name if isinstance(action.parameters, MaintenanceOffParameters) else ""
        what = (action.name, action.node_uid, repr(action.parameters), restores, action.error_code)
        return sha256(repr((what, moves, hindrances)).encode()).hexdigest()[:32]

    @property
    def targets(self) -> tuple[PlannedTarget, ...]:
        """The planned targets, for the action that will follow the plan."""
        return tuple(_target(m) for m in self.moves if not isinstance(m, HandoffProposal))


def _target(move: RelocationProposal | RebindProposal) -> PlannedTarget:
    if isinstance(move, RebindProposal):
        return PlannedTarget(None, move.endpoint_uid, move.to_node)
    return PlannedTarget(move.shard_uid, None, move.to_node)


def needs_help(reason: Reason) -> bool:
    """Whether an action waits for it until an operator intervenes. Room that its own moves free comes by itself."""
    return reason.grade is Grade.SOFT_LIMIT and bool(reason.remedy) and reason.code != Code.INSUFFICIENT_MEMORY


def preview(action: Action, view: ClusterView, writes: tuple[Write, ...], now: datetime) -> Preview:
    """The action's course from the transaction that would queue it (``writes``) to its first moves."""
    imagined = view.with_writes(writes)
    needed: list[Reason] = []
    for _ in range(TURNS):
        current = imagined.actions[action.uid]
        decision = decide_action(current, imagined, now)
        if current.status.is_terminal or any(isinstance(write.record, Move) for write in decision.writes):
            break
        if not decision.writes:
            if imagined.leadership is None:
                break
            needed += [r for r in current.reasons if needs_help(r)]
            imagined = replace(imagined, leadership=None)  # it waits for another leader: assume there is one
        imagined = imagined.with_writes(decision.writes)
    found = imagined.actions[action.uid]
    if found.status.is_terminal:
        return Preview(found, (), found.reasons)
    plan = plan_of(found, imagined)
    differences = plan.differences if isinstance(plan, ReturnPlan) else ()
    planned = (*(unplaced.reason for unplaced in plan.unplaced), *plan.waiting, *differences)
    waited = (*needed, *found.reasons, *_needed_at_the_end(imagined, action, plan.moves, now))
    cost = forecast(imagined, action.node_uid, plan.moves, buffer_bytes=_buffer_bytes)
    obstacles = tuple(dict.fromkeys((*planned, *waited)))
    return Preview(replace(found, status=ActionStatus.QUEUED), plan.moves, obstacles, differences, cost)


def _needed_at_the_end(view: ClusterView, action: Action, proposals: Sequence[MoveProposal], now: datetime) -> list[Reason]:
    """Obstacles at the end of the moves that need an operator's intervention: a copy can leave a node without a daemon, but
    its process stays."""
    begun = [p.to_move(uid_of_move(action.uid, n), action.uid, now=now) for n, p in enumerate(proposals, start=1)]
    ending = [replace(move, state=MoveState.CLEANING) for move in begun if isinstance(move, Relocation)]
    return [r for r in blockers_of(view, [m for m in ending if holds(view, m)], now) if needs_help(r)]


def _buffer_bytes(database: Database, memory_free_bytes: int) -> int:
    size = database.shard_memory_bytes
    return backlog_bytes(size) + replica_buffer_bytes(size, memory_free_bytes)


def plan_of(action: Action, view: ClusterView) -> EvacuationPlan | ReturnPlan:
    """All moves that the action would still make, without its pre-flight."""
    match action.parameters:
        case RemoveParameters():
            return plan_evacuation(view, action.node_uid, EvacuationScope())
        case MaintenanceOnParameters() as parameters:
            return plan_evacuation(view, action.node_uid, scope_of(parameters))
        case StepDownParameters() as parameters:
            shards = Leaves.NOTHING if parameters.endpoints_only else Leaves.ROLES
            scope = EvacuationScope(shards, includes_endpoints=not parameters.shards_only)
            return plan_evacuation(view, action.node_uid, scope)
        case MaintenanceOffParameters():
            snapshot = view.snapshots.get((action.node_uid, action.snapshot_name))
            return ReturnPlan() if snapshot is None else plan_restore(view, snapshot)
