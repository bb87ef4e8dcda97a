"""What a node action would do, without doing it: its own decisions on a view that nobody stores. Pure.

The action is led through its pre-flight and its marks; where it would start its first moves, the planner is asked for all
of them. So a preview refuses for exactly the reasons for which the action would fail.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from shardwright.actions.base import decide_action
from shardwright.actions.maintenance_on import scope_of
from shardwright.model.action import (
    Action,
    ActionStatus,
    MaintenanceOffParameters,
    MaintenanceOnParameters,
    Move,
    RemoveParameters,
    StepDownParameters,
)
from shardwright.model.reason import Reason
from shardwright.model.view import ClusterView, Write
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, Leaves, MoveProposal, plan_evacuation
from shardwright.plan.restore import RestorePlan, plan_restore

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
    plan = _plan(found, imagined)
    differences = plan.differences if isinstance(plan, RestorePlan) else ()
    obstacles = (*(unplaced.reason for unplaced in plan.unplaced), *plan.waiting, *differences)
    return Preview(replace(found, status=ActionStatus.QUEUED), plan.moves, obstacles)


def _plan(action: Action, view: ClusterView) -> EvacuationPlan | RestorePlan:
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
            return RestorePlan() if snapshot is None else plan_restore(view, snapshot)
