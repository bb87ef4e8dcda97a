"""``step_down`` (``enslave_node`` on the wire): all primaries of a node hand over, and its endpoints move elsewhere.

Called by ``base``. No shard changes its node. Phases: none yet (pre-flight), ``yielding``, ``handing_over``.
"""

from datetime import timedelta

from shardwright.actions.advance import RetryRule, advance, error_code_of, failures_of
from shardwright.actions.turn import Turn
from shardwright.model.action import ActionStatus, StepDownParameters
from shardwright.model.codes import Code
from shardwright.model.database import DatabaseStatus, Shard, ShardWanted, reason_about
from shardwright.model.reason import Grade, Reason
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, Leaves, plan_evacuation
from shardwright.plan.standing import is_candidate

YIELDING = "yielding"
HANDING_OVER = "handing_over"
RETRY_TIMEOUT_S = 60
"""How long failed handoffs are retried unless the request says otherwise."""


def decide(turn: Turn) -> None:
    """One turn of a starting or running ``step_down``."""
    parameters = turn.action.parameters
    assert isinstance(parameters, StepDownParameters), "the name of an action and its parameters belong together"
    match turn.action.phase:
        case "":
            _preflight(turn, parameters)
        case "yielding":
            if not turn.yields():
                turn.change(phase=HANDING_OVER, reasons=())
                turn.begin_step("hand_over")
        case _:
            _hand_over(turn, parameters)


def _scope(parameters: StepDownParameters) -> EvacuationScope:
    shards = Leaves.NOTHING if parameters.endpoints_only else Leaves.ROLES
    return EvacuationScope(shards, includes_endpoints=not parameters.shards_only)


def _plan(turn: Turn, parameters: StepDownParameters) -> EvacuationPlan:
    return plan_evacuation(turn.view, turn.node_uid, _scope(parameters), failures=failures_of(turn))


def _preflight(turn: Turn, parameters: StepDownParameters) -> None:
    """The step-down moves nothing unless every primary has a replica and every endpoint has a place."""
    alone = () if parameters.endpoints_only else _primaries_alone(turn)
    if alone:
        turn.fail(Code.NO_REPLICA, "nothing was moved, because some primaries have no replica to promote", reasons=alone)
        return
    homeless = [u.reason for u in _plan(turn, parameters).unplaced if u.endpoint_uid is not None]
    if homeless:
        turn.fail(
            Code.INSUFFICIENT_RESOURCES,
            "nothing was moved, because some endpoints have no place elsewhere",
            reasons=homeless,
        )
        return
    turn.note_step("check", "every primary has a replica elsewhere, every endpoint has a place")
    turn.become(ActionStatus.RUNNING)
    if parameters.yields_leadership and turn.is_leading:
        turn.change(phase=YIELDING)
        turn.begin_step("yield_leadership")
    else:
        turn.change(phase=HANDING_OVER)
        turn.begin_step("hand_over")


def _primaries_alone(turn: Turn) -> list[Reason]:
    return [_alone(shard) for shard in turn.view.shards_on(turn.node_uid) if _is_alone(turn, shard)]


def _is_alone(turn: Turn, shard: Shard) -> bool:
    """Whether a primary has no other copy on a node that may get the role. A replica that is currently not in sync counts:
    the action waits for it."""
    database = turn.view.databases.get(shard.database_uid)
    if not turn.view.is_primary(shard) or shard.wanted == ShardWanted.GONE:
        return False
    if database is None or database.status == DatabaseStatus.DELETE_PENDING:
        return False
    copies = turn.view.shards_of_group(shard.group_uid)
    others = [s for s in copies if s.uid != shard.uid and s.wanted == ShardWanted.RUNNING]
    return not any(is_candidate(turn.view, s, turn.node_uid, ()) for s in others)


def _alone(shard: Shard) -> Reason:
    text = f"shard {shard.uid} of database {shard.database_uid} is a primary without a replica on another usable node"
    remedy = f"enable replication of database {shard.database_uid}, or use maintenance_on"
    return reason_about(shard, Code.NO_REPLICA, text, Grade.CONFIGURATION, remedy=remedy)


def _hand_over(turn: Turn, parameters: StepDownParameters) -> None:
    plan = _plan(turn, parameters)
    timeout_s = RETRY_TIMEOUT_S if parameters.retry_timeout_s is None else parameters.retry_timeout_s
    until = (turn.action.started_at or turn.now) + timedelta(seconds=timeout_s)
    left = advance(turn, plan, moves_max=None, retry=RetryRule(attempts_max=None, until=until))
    if left.is_under_way:
        return
    if left.unplaced and turn.now < until:
        # A broken replica may be back before the time limit.
        turn.wake_at(until)
    elif left.left:
        text = f"node {turn.node_uid} still has primaries or endpoints after {timeout_s} s"
        turn.fail(error_code_of(left), text, reasons=left.left)
    else:
        turn.complete()
