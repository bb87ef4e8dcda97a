"""``maintenance_off``: a node accepts shards again and gets back the placement that its snapshot recorded.

Called by ``base``. Phases: none yet (pre-flight), ``restoring``. The node is unmarked before the restore, because nothing
could return otherwise, and marked again if the restore fails.
"""

from dataclasses import replace

from shardwright.actions.advance import advance, error_code_of
from shardwright.actions.turn import Turn
from shardwright.model.action import ActionStatus, MaintenanceOffParameters
from shardwright.model.cluster import Snapshot
from shardwright.model.codes import Code
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import Put
from shardwright.plan.restore import plan_restore

RESTORING = "restoring"


def decide(turn: Turn) -> None:
    """One turn of a starting or running ``maintenance_off``."""
    parameters = turn.action.parameters
    assert isinstance(parameters, MaintenanceOffParameters), "the name of an action and its parameters belong together"
    if not turn.action.phase:
        _preflight(turn, parameters)
    elif parameters.skips_restore:
        _finish(turn, ())
    else:
        _restore(turn, parameters)


def _preflight(turn: Turn, parameters: MaintenanceOffParameters) -> None:
    stays = f"node {turn.node_uid} was left unchanged"
    if turn.view.is_away(turn.node_uid):
        turn.fail(Code.NODE_DOWN, stays, reasons=[_node_down(turn)])
        return
    snapshot = _chosen_snapshot(turn, parameters)
    if snapshot is None and not parameters.skips_restore:
        turn.fail(Code.SNAPSHOT_NOT_FOUND, stays, reasons=[_no_snapshot(turn, parameters)])
        return
    open_node = replace(turn.node, is_quorum_only=False)
    if snapshot is not None and not parameters.skips_restore:
        plan = plan_restore(turn.view.with_writes([Put(open_node)]), snapshot)
        if plan.unplaced:
            remedy = "or leave everything in its present place (skip_shards_restore)"
            reasons = [replace(u.reason, remedy=f"{u.reason.remedy}, {remedy}".lstrip(", ")) for u in plan.unplaced]
            turn.fail(Code.INSUFFICIENT_RESOURCES, f"{stays}, because not everything can be restored", reasons=reasons)
            return
    turn.note_step("check", "the node is alive" if snapshot is None else f"the node is alive, {snapshot.name} was chosen")
    turn.change(was_quorum_only=turn.node.is_quorum_only, snapshot_name="" if snapshot is None else snapshot.name)
    if turn.node.is_quorum_only:
        turn.put(open_node)
        turn.note_step("unmark", "the node accepts shards and endpoints again")
    turn.become(ActionStatus.RUNNING)
    turn.change(phase=RESTORING)
    if not parameters.skips_restore:
        turn.begin_step("restore")


def _chosen_snapshot(turn: Turn, parameters: MaintenanceOffParameters) -> Snapshot | None:
    if parameters.snapshot_name is None:
        return turn.view.maintenance_snapshot(turn.node_uid)
    return turn.view.snapshots.get((turn.node_uid, parameters.snapshot_name))


def _node_down(turn: Turn) -> Reason:
    text = f"node {turn.node_uid} has no running daemon"
    remedy = f"start the daemon of node {turn.node_uid}"
    return Reason(Code.NODE_DOWN, text, Grade.HARD_LIMIT, remedy=remedy, node_uid=turn.node_uid)


def _no_snapshot(turn: Turn, parameters: MaintenanceOffParameters) -> Reason:
    what = "maintenance snapshot" if parameters.snapshot_name is None else f"snapshot {parameters.snapshot_name}"
    text = f"node {turn.node_uid} has no {what}"
    remedy = "name one of its snapshots (snapshot_name), or leave everything in its present place (skip_shards_restore)"
    return Reason(Code.SNAPSHOT_NOT_FOUND, text, Grade.CONFIGURATION, remedy=remedy, node_uid=turn.node_uid)


def _restore(turn: Turn, parameters: MaintenanceOffParameters) -> None:
    snapshot = turn.view.snapshots.get((turn.node_uid, turn.action.snapshot_name))
    if snapshot is None:
        _fail(turn, Code.SNAPSHOT_NOT_FOUND, f"snapshot {turn.action.snapshot_name} has been deleted", ())
        return
    plan = plan_restore(turn.view, snapshot)
    left = advance(turn, plan, moves_max=parameters.moves_max)
    if left.is_under_way:
        return
    if left.left and turn.view.is_away(turn.node_uid):
        # A daemon that dies restarts within seconds; the action names this wait, and an operator can cancel it.
        turn.blocked((_node_down(turn), *left.left))
    elif left.left:
        _fail(turn, error_code_of(left), "not everything could be restored", left.left)
    else:
        _finish(turn, plan.differences)


def _fail(turn: Turn, code: Code, text: str, reasons: tuple[Reason, ...]) -> None:
    """The node keeps its state: in maintenance if it was in maintenance. Restored copies stay."""
    state = "open"
    if turn.action.was_quorum_only:
        turn.put(replace(turn.node, is_quorum_only=True))
        state = "in maintenance"
    turn.fail(code, f"node {turn.node_uid} remains {state}: {text}", reasons=reasons)


def _finish(turn: Turn, differences: tuple[Reason, ...]) -> None:
    """The maintenance ends: its snapshot is deleted, even if the restore was skipped. Snapshots of users stay."""
    for snapshot in turn.view.snapshots_of(turn.node_uid):
        if snapshot.is_maintenance:
            turn.delete(snapshot)
    turn.note_step("clean_up", "the maintenance snapshot was deleted")
    turn.complete(reasons=differences)
