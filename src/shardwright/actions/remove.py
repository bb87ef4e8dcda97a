"""``remove``: empty a node and take it out of the cluster. The API closed the node when it accepted the request.

Called by ``base``. Phases: none yet (pre-flight), ``yielding``, ``evacuating``, ``leaving_store`` (only a node with a member
of the store). After a failure or a cancellation the node
is still a member and still closed; ``PUT accept_servers: true`` reopens it.
"""

from dataclasses import replace
from datetime import timedelta

from shardwright.actions.advance import advance, error_code_of, failures_of, own_moves
from shardwright.actions.turn import Turn
from shardwright.model.action import ActionStatus, RemoveParameters
from shardwright.model.cluster import ClusterKind, RemovedNode
from shardwright.model.codes import Code
from shardwright.model.liveness import has_ended
from shardwright.model.move import Move, MoveState, Relocation, reason_of_move, shard_of
from shardwright.model.reason import Grade, Reason
from shardwright.model.store_member import StoreRole
from shardwright.model.trust import revoke_node
from shardwright.plan.evacuate import EvacuationPlan, EvacuationScope, plan_evacuation
from shardwright.plan.quorum import quorum_refusals, returning_voters, unknown_voters, voters_of
from shardwright.plan.store_members import LEAVING_STORE
from shardwright.plan.virtual_addresses import held_by

YIELDING = "yielding"
EVACUATING = "evacuating"


def decide(turn: Turn) -> None:
    """One turn of a starting or running ``remove``."""
    parameters = turn.action.parameters
    assert isinstance(parameters, RemoveParameters), "the name of an action and its parameters belong together"
    match turn.action.phase:
        case "":
            _preflight(turn)
        case "yielding":
            if not turn.yields():
                turn.change(phase=EVACUATING, reasons=())
                turn.begin_step("evacuate")
        case _:
            _evacuate(turn, parameters)


def unmark(turn: Turn) -> None:
    """The removal has ended: the node stays closed, but is no longer about to leave."""
    if turn.node.is_decommissioning:
        turn.put(replace(turn.node, is_decommissioning=False))


def _plan(turn: Turn) -> EvacuationPlan:
    return plan_evacuation(turn.view, turn.node_uid, EvacuationScope(), failures=failures_of(turn))


def _preflight(turn: Turn) -> None:
    """The removal moves nothing unless everything has a place elsewhere."""
    stays = f"nothing was moved and node {turn.node_uid} stays closed"
    if len(turn.view.nodes) == 1:
        reason = Reason(Code.LAST_NODE, "it is the only node of the cluster", Grade.HARD_LIMIT, remedy="add a node")
        turn.fail(Code.LAST_NODE, stays, reasons=[replace(reason, node_uid=turn.node_uid)])
        return
    if turn.is_leading and not [uid for uid in turn.view.daemons if uid != turn.node_uid]:
        text = f"node {turn.node_uid} leads, and no other daemon is running"
        reason = Reason(Code.NO_OTHER_LEADER, text, Grade.HARD_LIMIT, remedy="start the daemon of another node")
        turn.fail(Code.NO_OTHER_LEADER, stays, reasons=[replace(reason, node_uid=turn.node_uid)])
        return
    if (key_stays := _only_signer(turn)) is not None:
        turn.fail(Code.LAST_SIGNER, stays, reasons=[key_stays])
        return
    voters = voters_of(turn.view)
    refusals = quorum_refusals(turn.view, turn.action, voters)
    if refusals and (returning := returning_voters(turn.view, turn.action, voters)):
        turn.blocked(returning)
        return
    if refusals:
        turn.fail(Code.NO_QUORUM, f"{stays}, because the cluster would lose its quorum", reasons=refusals)
        return
    plan = _plan(turn)
    unseen = [*unknown_voters(turn.view, turn.action, voters), *(r for r in plan.waiting if r.code == Code.NOT_OBSERVED)]
    if unseen:
        # A verdict from a partial observation would be wrong either way; all is observed within a turn or two.
        turn.blocked(unseen)
        return
    if plan.unplaced:
        reasons = [u.reason for u in plan.unplaced]
        is_lost = all(r.code == Code.NO_LIVE_COPY for r in reasons)
        code = Code.NO_LIVE_COPY if is_lost else Code.INSUFFICIENT_RESOURCES
        turn.fail(code, f"{stays}, because not everything on it has a place elsewhere", reasons=reasons)
        return
    turn.note_step("check", "everything on the node has a place elsewhere")
    turn.put(replace(turn.node, is_closed=True, is_decommissioning=True))
    turn.become(ActionStatus.RUNNING)
    turn.change(phase=YIELDING if turn.is_leading else EVACUATING, reasons=())
    turn.begin_step("yield_leadership" if turn.is_leading else "evacuate")


def _only_signer(turn: Turn) -> Reason | None:
    """Why the node stays: without the authority's key, no machine could join any more, and no certificate be renewed."""
    node, cluster = turn.node, turn.view.cluster
    if cluster is None or cluster.kind is not ClusterKind.MACHINES or not node.is_signer:
        return None
    # Two that leave at the same time must not rely on each other.
    if any(n.is_signer and not n.is_decommissioning for n in turn.view.nodes.values() if n.uid != node.uid):
        return None
    text = f"only node {node.uid} holds the key of the cluster's authority"
    return Reason(Code.LAST_SIGNER, text, Grade.HARD_LIMIT, remedy=Code.LAST_SIGNER.remedy, node_uid=node.uid)


def _evacuate(turn: Turn, parameters: RemoveParameters) -> None:
    left = advance(turn, _plan(turn), moves_max=None)
    if left.is_under_way:
        return
    if left.left:
        unmark(turn)
        text = f"node {turn.node_uid} is still a member and stays closed: {len(left.left)} of its shards and endpoints stay"
        turn.fail(error_code_of(left), text, reasons=left.left)
        return
    blockers = [*_unpersisted(turn, parameters), *_still_here(turn), *held_by(turn.view, turn.node_uid)]
    if blockers:
        turn.blocked(blockers)
    elif not turn.yields() and not _is_in_store(turn):
        _take_out(turn)


def _is_in_store(turn: Turn) -> bool:
    """Wait until the leader has removed the node's member of the store: the machine may be switched off as soon as the node
    is no member of the cluster, and must not cost the store its majority then."""
    if turn.node.store_role is StoreRole.NONE:
        return False
    if turn.action.phase != LEAVING_STORE:
        turn.change(phase=LEAVING_STORE)
        turn.begin_step("leave_store")
    refusals = quorum_refusals(turn.view, turn.action, voters_of(turn.view))
    text = f"the store's member of node {turn.node_uid} is being removed"
    leaving = Reason(Code.STORE_MEMBER_LEAVING, text, Grade.SOFT_LIMIT, node_uid=turn.node_uid)
    turn.blocked(refusals or [leaving])
    return True


def _unpersisted(turn: Turn, parameters: RemoveParameters) -> list[Reason]:
    """With ``wait_for_persistence`` every move must be done, that is, the new copy must have its own files. A database
    without persistence has nothing to wait for: its moves are done when the old copy has ended."""
    waits = turn.view.policy.persistent_node_removal
    if parameters.wait_for_persistence is not None:
        waits = parameters.wait_for_persistence
    if not waits:
        return []
    return [_files_missing(m) for m in own_moves(turn) if not m.state.is_terminal]


def _files_missing(move: Move) -> Reason:
    text = f"the copy that replaces shard {shard_of(move)} on node {move.to_node} has no persistence files of its own yet"
    return reason_of_move(move, Code.PERSISTENCE_PENDING, text, Grade.SOFT_LIMIT, node_uid=move.to_node)


def _still_here(turn: Turn) -> list[Reason]:
    """Why the node cannot leave although the plan is empty."""
    found = []
    for shard in turn.view.shards_on(turn.node_uid):
        if not has_ended(turn.view.liveness(shard)) and not _has_left(turn, shard.uid):
            text = f"shard {shard.uid} of database {shard.database_uid} still runs on node {turn.node_uid}"
            found.append(
                Reason(
                    Code.STOPPING,
                    text,
                    Grade.SOFT_LIMIT,
                    shard_uid=shard.uid,
                    database_uid=shard.database_uid,
                    node_uid=turn.node_uid,
                )
            )
    for move in turn.view.live_moves():
        if move.to_node == turn.node_uid:
            text = f"move {move.uid} to node {turn.node_uid} has not ended"
            found.append(reason_of_move(move, Code.GROUP_BUSY, text, Grade.SOFT_LIMIT, node_uid=None))
    return found


def _has_left(turn: Turn, shard_uid: int) -> bool:
    return any(isinstance(m, Relocation) and m.has_left and m.shard_uid == shard_uid for m in own_moves(turn))


def _take_out(turn: Turn) -> None:
    """Delete the node and all of its records; revoke its certificates. Moves that only clean up on the node end with it."""
    node = turn.node
    for shard in turn.view.shards_on(node.uid):
        turn.delete(shard)
    for move in turn.view.live_moves():
        if isinstance(move, Relocation) and move.from_node == node.uid and move.state == MoveState.CLEANING:
            turn.put(replace(move, state=MoveState.DONE, has_left=True, ended_at=turn.now, state_since=turn.now, reasons=()))
    for snapshot in turn.view.snapshots_of(node.uid):
        turn.delete(snapshot)
    seen = turn.view.node_seen.get(node.uid)
    if seen is not None:
        turn.delete(seen)
    for certificate in revoke_node(turn.view.issued_certificates.values(), node.uid, turn.now):
        turn.put(certificate)
    turn.delete(node)
    retained_until = turn.now + timedelta(seconds=turn.view.policy.action_retention_s)
    turn.put(RemovedNode(node.uid, turn.now, retained_until))
    turn.note_step("take_out", f"node {node.uid} is no longer a member")
    turn.complete()
