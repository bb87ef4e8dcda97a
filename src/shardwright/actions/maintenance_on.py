"""``maintenance_on``: mark a node quorum-only and empty it, so that an operator can power it off.

Called by ``base``. Phases: none yet (pre-flight), ``yielding`` (another daemon becomes the leader first), ``evicting``. The
pre-flight is decided once: the phase in the record proves that it passed, and a new leader continues from there.
"""

from dataclasses import replace
from datetime import datetime

from shardwright.actions.advance import advance, error_code_of, failures_of
from shardwright.actions.turn import Turn
from shardwright.model.action import ActionStatus, MaintenanceOnParameters
from shardwright.model.cluster import MAINTENANCE_SNAPSHOT_PREFIX, Snapshot, SnapshotShard
from shardwright.model.codes import Code
from shardwright.model.database import Role, ShardWanted
from shardwright.model.ids import NodeUid
from shardwright.model.view import ClusterView
from shardwright.plan.evacuate import EvacuationScope, Leaves, plan_evacuation
from shardwright.plan.quorum import quorum_refusals, returning_voters, unknown_voters, voters_of
from shardwright.plan.virtual_addresses import held_by

YIELDING = "yielding"
EVICTING = "evicting"


def decide(turn: Turn) -> None:
    """One turn of a starting or running ``maintenance_on``."""
    parameters = turn.action.parameters
    assert isinstance(parameters, MaintenanceOnParameters), "the name of an action and its parameters belong together"
    match turn.action.phase:
        case "":
            _preflight(turn, parameters)
        case "yielding":
            if not turn.yields():
                turn.change(phase=EVICTING, reasons=())
                turn.begin_step("evict")
        case _:
            _evict(turn, parameters)


def scope_of(parameters: MaintenanceOnParameters) -> EvacuationScope:
    """The evacuation scope. Databases in ``evict_databases`` leave entirely, regardless of ``evict_replicas``: the explicit
    list is the more specific request."""
    if parameters.evict_databases is None:
        return EvacuationScope(Leaves.ALL if parameters.evict_replicas else Leaves.PRIMARIES)
    return EvacuationScope(Leaves.PRIMARIES, dict.fromkeys(parameters.evict_databases, Leaves.ALL))


def take_snapshot(view: ClusterView, node_uid: NodeUid, *, name: str, now: datetime) -> Snapshot:
    """The placement and roles of everything on the node. Also used for snapshots that users request."""
    shards = tuple(
        SnapshotShard(s.database_uid, s.group_uid, s.uid, Role.PRIMARY if view.is_primary(s) else Role.REPLICA)
        for s in view.shards_on(node_uid)
        if s.wanted == ShardWanted.RUNNING
    )
    return Snapshot(node_uid, name, now, shards, tuple(e.uid for e in view.endpoints_on(node_uid)))


def maintenance_snapshot_name(now: datetime) -> str:
    """The name of a maintenance snapshot taken now."""
    return f"{MAINTENANCE_SNAPSHOT_PREFIX}{now:%Y-%m-%d_%H-%M-%S}"


def _preflight(turn: Turn, parameters: MaintenanceOnParameters) -> None:
    """Nothing changes unless a majority remains without the node."""
    voters = voters_of(turn.view)
    refusals = quorum_refusals(turn.view, turn.action, voters)
    if refusals and (returning := returning_voters(turn.view, turn.action, voters)):
        turn.blocked(returning)
        return
    if refusals:
        text = f"node {turn.node_uid} was left unchanged, because the cluster would lose its quorum"
        turn.fail(Code.NO_QUORUM, text, reasons=refusals)
        return
    unknown = unknown_voters(turn.view, turn.action, voters)
    turn.blocked(unknown)
    if unknown:
        return
    turn.note_step("check", "a majority remains without the node")
    _snapshot(turn, overwrites=parameters.overwrite_snapshot)
    turn.change(was_quorum_only=turn.node.is_quorum_only)
    if not turn.node.is_quorum_only:
        turn.put(replace(turn.node, is_quorum_only=True))
        turn.note_step("mark", "the node accepts no new shards or endpoints")
    turn.become(ActionStatus.RUNNING)
    if parameters.yields_leadership and turn.is_leading:
        turn.change(phase=YIELDING)
        turn.begin_step("yield_leadership")
    else:
        turn.change(phase=EVICTING)
        turn.begin_step("evict")


def _snapshot(turn: Turn, *, overwrites: bool) -> None:
    """An existing snapshot is kept unless the request says otherwise: after an incomplete first attempt it holds the
    original placement. Only one maintenance snapshot is kept."""
    existing = turn.view.maintenance_snapshot(turn.node_uid)
    if existing is not None and not overwrites:
        turn.change(snapshot_name=existing.name)
        turn.note_step("snapshot", f"{existing.name} already exists and is kept")
        return
    snapshot = take_snapshot(turn.view, turn.node_uid, name=maintenance_snapshot_name(turn.now), now=turn.now)
    for older in turn.view.snapshots_of(turn.node_uid):
        if older.is_maintenance and older.name != snapshot.name:
            turn.delete(older)
    turn.put(snapshot)
    turn.change(snapshot_name=snapshot.name)
    turn.note_step("snapshot", snapshot.name)


def _evict(turn: Turn, parameters: MaintenanceOnParameters) -> None:
    plan = plan_evacuation(turn.view, turn.node_uid, scope_of(parameters), failures=failures_of(turn))
    left = advance(turn, plan, moves_max=parameters.moves_max)
    if left.is_under_way:
        return
    if left.left:
        text = f"node {turn.node_uid} is in maintenance but not empty: {len(left.left)} of its shards and endpoints remain"
        turn.fail(error_code_of(left), text, reasons=left.left)
    elif held := held_by(turn.view, turn.node_uid):
        turn.blocked(held)
    else:
        turn.complete()
