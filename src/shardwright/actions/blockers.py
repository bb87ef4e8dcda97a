"""Blockers of a running move, named after a second or two: the move's own reasons, or observed causes.

Called by ``turn`` for the moves that an action waits for. A move that progresses has no blocker. The texts contain no
numbers that change by themselves, because each change of a text is a write.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import reason_about
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.move import HandoffMove, Move, MoveState, Rebind, Relocation, reason_of_move, shard_of
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health, Sighting
from shardwright.model.view import ClusterView
from shardwright.moves.handoff_rules import late_reason
from shardwright.plan.absence import remedy_of_absence
from shardwright.plan.standing import busy_reason, is_busy, is_dispensable
from shardwright.plan.waiting import told

NAMED_AFTER = timedelta(seconds=1.5)
"""Longer than a healthy step needs to show progress; short enough to name a blocker within two seconds."""
JUDGED_AFTER = timedelta(seconds=3)
"""A silent server's CPU time has been read twice by then: a busy server is told from a stuck one."""


def blockers_of(view: ClusterView, moves: Sequence[Move], now: datetime) -> list[Reason]:
    """The blockers of the moves, each with its shard."""
    found = []
    for move in {m.uid: m for m in moves}.values():
        own = [replace(r, shard_uid=r.shard_uid or shard_of(move), database_uid=move.database_uid) for r in move.reasons]
        found += own or _seen(view, move, now)
    return found


def _seen(view: ClusterView, move: Move, now: datetime) -> list[Reason]:
    """The observed obstacles of a move that gives no reason itself."""
    if isinstance(move, Relocation) and move.state is MoveState.CLEANING:
        return [_cleaning(view, move)]
    is_new = now - move.state_since < NAMED_AFTER
    missing = _missing_daemon(view, move)
    if missing is not None:
        return [missing]
    silent = [r for uid in _servers_of(view, move) if (r := _silent(view, uid, now)) is not None]
    if silent or is_new:
        return silent
    match move:
        case Relocation():
            return _copying(view, move)
        case Rebind(state=MoveState.HANDOFF):
            return [_passing(view, move)]
        case _:
            return []


def _copying(view: ClusterView, move: Relocation) -> list[Reason]:
    match move.state:
        case MoveState.STARTING if _has_started(view, move):
            return []  # A wait in the action's own queue is not a blocker; the running moves name theirs.
        case MoveState.STARTING:
            text = f"the new server of shard {move.new_shard_uid} on node {move.to_node} does not answer yet"
            return [_soft(move, Code.SHARD_STARTING, text, move.to_node)]
        case MoveState.SYNCING:
            text = f"the full sync of shard {move.new_shard_uid} to node {move.to_node} does not advance"
            return [_soft(move, Code.SYNC_NOT_ADVANCING, text, move.to_node)]
        case MoveState.READY:
            text = f"shard {move.new_shard_uid} on node {move.to_node} is not confirmed in sync yet"
            return [_soft(move, Code.REPLICA_NOT_IN_SYNC, text, move.to_node)]
        case _:
            return []


def _has_started(view: ClusterView, move: Relocation) -> bool:
    seen = None if move.new_shard_uid is None else view.servers.get(move.new_shard_uid)
    return seen is not None and seen.health is Health.OK


def _missing_daemon(view: ClusterView, move: Move) -> Reason | None:
    """Only the node's daemon can start a server or an endpoint process: without a daemon, neither will appear."""
    if isinstance(move, HandoffMove) or not view.is_away(move.to_node) or not _needs_daemon(view, move):
        return None
    start = "start a process to serve endpoint" if isinstance(move, Rebind) else "start the new copy of shard"
    text = f"node {move.to_node} has no running daemon that could {start} {move.subject}"
    remedy = f"start the daemon of node {move.to_node}"
    return reason_of_move(move, Code.NODE_DOWN, text, remedy=remedy, node_uid=move.to_node)


def _needs_daemon(view: ClusterView, move: Relocation | Rebind) -> bool:
    """Whether the process that the move needs on its target does not run."""
    if isinstance(move, Rebind):
        process = view.endpoint_processes.get(move.to_node)
        return process is None or not process.answers
    is_to_start = move.state in (MoveState.PLANNED, MoveState.STARTING)
    return is_to_start or (move.state in (MoveState.SYNCING, MoveState.READY) and not _has_started(view, move))


def _servers_of(view: ClusterView, move: Move) -> list[ShardUid]:
    """Servers that must answer before the move can continue. A leaving copy counts only if it is the primary: it may be
    dead."""
    if isinstance(move, Rebind):
        return []
    group = view.groups.get(move.group_uid)
    named = (None if group is None else group.primary, move.new_shard_uid)
    return list(dict.fromkeys(uid for uid in named if uid is not None and uid in view.shards))


def _silent(view: ClusterView, uid: ShardUid, now: datetime) -> Reason | None:
    seen = view.servers.get(uid)
    if seen is None or seen.unanswered_since is None or now - seen.unanswered_since < NAMED_AFTER:
        return None
    shard = view.shards[uid]
    if view.is_lost(shard):
        text = f"the server of shard {uid} has ended, and node {shard.node_uid} has no running daemon that could restart it"
        group = view.groups.get(shard.group_uid)
        remedy = ("" if group is None else told(group, text)[1]) or remedy_of_absence(view, shard.node_uid)
        return reason_about(shard, Code.NODE_DOWN, text, remedy=remedy)
    if is_busy(seen):
        return busy_reason(view, shard)
    text = f"the server of shard {uid} on node {shard.node_uid} does not answer"
    if now - seen.unanswered_since < JUDGED_AFTER:
        return reason_about(shard, Code.SERVER_STUCK, text, Grade.SOFT_LIMIT)
    if view.sightings.get(uid) is not Sighting.RUNS:
        text += ", and its machine does not say whether its process runs"
        remedy = f"check node {shard.node_uid}, its network and its daemon"
        if view.is_away(shard.node_uid):
            remedy = remedy_of_absence(view, shard.node_uid)
        return reason_about(shard, Code.SERVER_STUCK, text, remedy=remedy)
    text += " and uses no CPU"
    if not is_dispensable(shard, view, since=seen.unanswered_since):
        text += "; it is not killed, because no other copy holds all acknowledged writes"
        remedy = f"resume its process, or kill it on node {shard.node_uid} and lose the writes that only it holds"
        return reason_about(shard, Code.SERVER_STUCK, text, remedy=remedy)
    text += f"; it is killed after {view.policy.stuck_server_timeout_s} s"
    return reason_about(shard, Code.SERVER_STUCK, text, Grade.SOFT_LIMIT)


def _passing(view: ClusterView, move: Rebind) -> Reason:
    """The blocker of an endpoint's passing: a process that does not answer, or clients with commands in flight."""
    for node in (move.from_node, move.to_node):
        process = view.endpoint_processes.get(node)
        if process is not None and not process.answers and not process.has_ended:
            return late_reason(node, f"the endpoint process of node {node} does not answer")
    source = view.endpoint_processes.get(move.from_node)
    busy = () if source is None else source.endpoint(move.endpoint_uid).busy
    text = f"the endpoint processes of node {move.from_node} and node {move.to_node} have not passed the endpoint on yet"
    if busy:
        text += f"; busy: {', '.join(map(str, busy))}"
    return _soft(move, Code.ENDPOINT_PASSING, text, move.from_node)


def _cleaning(view: ClusterView, move: Relocation) -> Reason:
    node_uid = move.from_node
    has_daemon = not view.is_away(node_uid)
    text = f"shard {move.shard_uid} is being cleaned up on node {node_uid}"
    if not has_daemon:
        text = f"shard {move.shard_uid} cannot be cleaned up: node {node_uid} has no running daemon"
    remedy = "" if has_daemon else remedy_of_absence(view, node_uid)
    return reason_of_move(move, Code.STOPPING, text, Grade.SOFT_LIMIT, remedy=remedy, node_uid=node_uid)


def _soft(move: Move, code: Code, text: str, node_uid: NodeUid) -> Reason:
    return reason_of_move(move, code, text, Grade.SOFT_LIMIT, node_uid=node_uid)
