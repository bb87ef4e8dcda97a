"""A pure stand-in for the execution of moves: advances each live move by one state and changes the view accordingly.

For tests of actions, without servers or passing time. It obeys the product's table of legal transitions, so that an action
sees only possible states, but it is not the product's state machine (``moves``).
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.actions.base import decide_action
from shardwright.model.action import Action
from shardwright.model.codes import Code
from shardwright.model.database import Shard, ShardWanted
from shardwright.model.ids import ActionUid, NodeUid, ShardUid
from shardwright.model.move import MOVE_TRANSITIONS, GroupMove, HandoffMove, Move, MoveState, Rebind, Relocation
from shardwright.model.reason import Reason
from shardwright.model.seen import ProcessState
from shardwright.model.view import ClusterView, Delete, Put
from testkit.builders import ClusterBuilder

Fails = Callable[[Move], bool]
"""Whether a move fails at its next step."""


def never(_: Move) -> bool:
    """No move fails."""
    return False


def run_action(
    builder: ClusterBuilder, uid: str, *, now: datetime, turns: int = 200, fails: Fails = never, steps_moves: bool = True
) -> ClusterBuilder:
    """Decide and advance moves, one second per turn, until the action has ended or the turns are used up."""
    for number in range(turns):
        at = now + timedelta(seconds=number)
        action = builder.view.actions[ActionUid(uid)]
        if action.status.is_terminal:
            break
        builder = decide_once(builder, action, now=at)
        if steps_moves:
            builder = step_moves(builder, now=at, fails=fails)
    return builder


def decide_once(builder: ClusterBuilder, action: Action, *, now: datetime) -> ClusterBuilder:
    """One committed decision of the action. A leader that must yield is replaced by the next live daemon."""
    decision = decide_action(action, builder.view, now)
    builder = builder.with_writes(*decision.writes)
    if decision.commands and builder.view.leadership is not None:
        others = sorted(uid for uid in builder.view.daemons if uid != builder.view.leadership.node_uid)
        if others:
            builder = builder.with_leader(others[0], term=builder.view.leadership.term + 1)
    return builder


def step_moves(builder: ClusterBuilder, *, now: datetime, fails: Fails = never) -> ClusterBuilder:
    """Advance every live move by one state."""
    for move in builder.view.live_moves():
        builder = step_move(builder, move, now=now, fails=fails(move))
    return builder


def step_move(builder: ClusterBuilder, move: Move, *, now: datetime, fails: bool = False) -> ClusterBuilder:
    """Advance a move by one state. ``fails``, a wish to cancel, or a target without a daemon lead back, as long as that is
    possible."""
    is_target_down = move.to_node not in builder.view.daemons
    wants_back = fails or move.is_cancel_wanted or is_target_down
    match move:
        case Relocation():
            return _step_relocation(builder, move, now, wants_back)
        case HandoffMove():
            return _step_handoff(builder, move, now, wants_back)
        case Rebind():
            return _step_rebind(builder, move, now, wants_back)


def _enter(builder: ClusterBuilder, move: Move, state: MoveState, now: datetime, **changes: object) -> ClusterBuilder:
    assert state in MOVE_TRANSITIONS[move.kind][move.state], f"{move.kind}: {move.state} cannot become {state}"
    if state.is_terminal:
        changes["ended_at"] = now
    if state == MoveState.FAILED:
        changes["reasons"] = (Reason(Code.SHARD_LOST, "the test made it fail"),)
    return builder.with_move(replace(move, state=state, state_since=now, **changes))  # type: ignore[arg-type]


def _step_handoff(builder: ClusterBuilder, move: HandoffMove, now: datetime, wants_back: bool) -> ClusterBuilder:
    if wants_back:
        return _enter(builder, move, MoveState.CANCELLED if move.is_cancel_wanted else MoveState.FAILED, now)
    if move.state == MoveState.PLANNED:
        return _enter(builder, move, MoveState.HANDOFF, now)
    return _enter(_pass_role(builder, move), move, MoveState.DONE, now)


def _step_rebind(builder: ClusterBuilder, move: Rebind, now: datetime, wants_back: bool) -> ClusterBuilder:
    endpoint = builder.view.endpoints.get(move.endpoint_uid)
    if wants_back or endpoint is None:
        return _enter(builder, move, MoveState.CANCELLED if move.is_cancel_wanted else MoveState.FAILED, now)
    if move.state == MoveState.PLANNED:
        return _enter(builder, move, MoveState.HANDOFF, now)
    nodes: tuple[NodeUid, ...] = (move.to_node,)
    return _enter(builder.with_records(replace(endpoint, nodes=nodes)), move, MoveState.DONE, now)


def _step_relocation(builder: ClusterBuilder, move: Relocation, now: datetime, wants_back: bool) -> ClusterBuilder:
    if move.state == MoveState.UNDOING:
        return _undo(builder, move, now)
    if move.state == MoveState.CLEANING:
        return _clean(builder, move, now)
    if wants_back and move.state == MoveState.PLANNED:
        return _enter(builder, move, MoveState.CANCELLED if move.is_cancel_wanted else MoveState.FAILED, now)
    if wants_back:
        return _enter(builder, move, MoveState.UNDOING, now)
    group = builder.view.groups[move.group_uid]
    match move.state:
        case MoveState.PLANNED:
            return _start(builder, move, now)
        case MoveState.STARTING:
            return _enter(builder, move, MoveState.SYNCING, now, bytes_done=move.bytes_total // 2)
        case MoveState.SYNCING:
            assert move.new_shard_uid is not None
            builder = builder.with_healthy_shard(move.new_shard_uid)
            return _enter(builder, move, MoveState.READY, now, bytes_done=move.bytes_total)
        case MoveState.READY:
            needs_role = move.hands_over or group.primary == move.shard_uid
            return _enter(builder, move, MoveState.HANDOFF if needs_role else MoveState.CLEANING, now)
        case _:
            return _enter(_pass_role(builder, move), move, MoveState.CLEANING, now)


def _start(builder: ClusterBuilder, move: Relocation, now: datetime) -> ClusterBuilder:
    uid = ShardUid(builder.view.counters.next_shard)
    counters = replace(builder.view.counters, next_shard=uid + 1)
    shard = Shard(uid, move.database_uid, move.group_uid, move.to_node, 20_000 + uid, now)
    builder = builder.with_records(counters, shard).with_process(uid, ProcessState.RUNNING)
    return _enter(builder, move, MoveState.STARTING, now, new_shard_uid=uid)


def _clean(builder: ClusterBuilder, move: Relocation, now: datetime) -> ClusterBuilder:
    old = builder.view.shards.get(move.shard_uid)
    if old is None:
        return _enter(builder, move, MoveState.DONE, now, has_left=True)
    if not move.has_left:
        builder = builder.with_records(replace(old, wanted=ShardWanted.STOPPED)).with_process(old.uid, ProcessState.GONE)
        return builder.with_move(replace(move, has_left=True))
    return _enter(builder.with_writes(Delete(old)), move, MoveState.DONE, now)


def _undo(builder: ClusterBuilder, move: Relocation, now: datetime) -> ClusterBuilder:
    new = None if move.new_shard_uid is None else builder.view.shards.get(move.new_shard_uid)
    if new is not None:
        builder = builder.with_writes(Delete(new))
    return _enter(builder, move, MoveState.CANCELLED if move.is_cancel_wanted else MoveState.FAILED, now)


def _pass_role(builder: ClusterBuilder, move: GroupMove) -> ClusterBuilder:
    """The group's primary becomes ``new_shard_uid``; all its copies are in sync."""
    group = builder.view.groups[move.group_uid]
    builder = builder.with_writes(Put(replace(group, primary=move.new_shard_uid, generation=group.generation + 1)))
    for shard in builder.view.shards_of_group(group.uid):
        if shard.wanted == ShardWanted.RUNNING and shard.uid in builder.view.servers:
            builder = builder.with_healthy_shard(shard.uid)
    return builder


def action_of(view: ClusterView, uid: str) -> Action:
    """The action's record."""
    return view.actions[ActionUid(uid)]
