"""What a node action would do, without doing it: its own decisions on a view that nobody stores. Pure.

The action is led through its pre-flight and its marks; where it would start its first moves, the planner is asked for all
of them. So a preview refuses for exactly the reasons for which the action would fail.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Final

from shardwright.actions.base import decide_action
from shardwright.actions.maintenance_on import scope_of
from shardwright.model.action import (
    Action,
    ActionStatus,
    MaintenanceOffParameters,
    MaintenanceOnParameters,
    Move,
    MoveKind,
    PlannedTarget,
    RemoveParameters,
    StepDownParameters,
)
from shardwright.model.database import Database
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView, Write
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, Leaves, plan_evacuation
from shardwright.plan.forecast import NO_FORECAST, Forecast, forecast
from shardwright.plan.proposal import MoveProposal, ReturnPlan
from shardwright.plan.restore import plan_restore
from shardwright.server.config import backlog_bytes, replica_buffer_bytes

TURNS: Final = 12
"""More than any action needs from ``queued`` to its first moves."""


@dataclass(frozen=True, slots=True)
class Preview:
    """``action`` as it would stand: ended when it would refuse or has nothing to do, else about to move."""

    action: Action
    moves: tuple[MoveProposal, ...] = ()
    """In the order in which they would begin; each at the place that is best now."""
    obstacles: tuple[Reason, ...] = ()
    """What would stay behind or could not be restored, and why."""
    forecast: Forecast = NO_FORECAST
    """What the moves would cost."""

    @property
    def plan_uid(self) -> str:
        """Digest of what would move where, in which way, and of what hinders it: equal for equal plans. The order of moves,
        sizes and what passes by itself are left out: they change all the time and lead to the same end."""
        moves = sorted(repr((m.kind, m.subject, m.from_node, m.to_node, m.hands_over)) for m in self.moves)
        firm = [r for r in self.obstacles if r.grade is not Grade.SOFT_LIMIT]
        hindrances = sorted(repr((r.code, r.shard_uid, r.database_uid, r.node_uid)) for r in firm)
        action = self.action
        # The name of a snapshot that would be taken says only when; that of one to restore says what.
        restores = action.snapshot_name if isinstance(action.parameters, MaintenanceOffParameters) else ""
        what = (action.name, action.node_uid, repr(action.parameters), restores, action.error_code)
        return sha256(repr((what, moves, hindrances)).encode()).hexdigest()[:32]

    @property
    def targets(self) -> tuple[PlannedTarget, ...]:
        """Where the plan takes what moves, for the action that shall follow it."""
        found = (m for m in self.moves if m.kind is not MoveKind.HANDOFF)
        return tuple(
            PlannedTarget(None if m.endpoint_uid is not None else m.shard_uid, m.endpoint_uid, m.to_node)
            for m in found
            if m.to_node is not None
        )


def preview(action: Action, view: ClusterView, writes: tuple[Write, ...], now: datetime) -> Preview:
    """The action's course from the transaction that would queue it (``writes``) to its first moves."""
    imagined = view.with_writes(writes)
    for _ in range(TURNS):
        current = imagined.actions[action.uid]
        decision = decide_action(current, imagined, now)
        if current.status.is_terminal or any(isinstance(write.record, Move) for write in decision.writes):
            break
        if not decision.writes:
            if imagined.leadership is None:
                break
            imagined = replace(imagined, leadership=None)  # it waits for another leader: let it have one
        imagined = imagined.with_writes(decision.writes)
    found = imagined.actions[action.uid]
    if found.status.is_terminal:
        return Preview(found, (), found.reasons)
    plan = plan_of(found, imagined)
    differences = plan.differences if isinstance(plan, ReturnPlan) else ()
    obstacles = (*(unplaced.reason for unplaced in plan.unplaced), *plan.waiting, *differences)
    cost = forecast(imagined, action.node_uid, plan.moves, buffer_bytes=_buffer_bytes)
    return Preview(replace(found, status=ActionStatus.QUEUED), plan.moves, obstacles, cost)


def _buffer_bytes(database: Database, memory_free_bytes: int) -> int:
    size = database.shard_memory_bytes
    return backlog_bytes(size) + replica_buffer_bytes(size, memory_free_bytes)


def plan_of(action: Action, view: ClusterView) -> EvacuationPlan | ReturnPlan:
    """All moves that the action would make from here on, its pre-flight apart."""
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
