"""The records that a handoff writes: its intent, a failed attempt, its completion.

Pure; ``leader/handoff.py`` commits what these functions return, and calls them again with a newer view when another writer
was faster. They must not decide whether a handoff happens (``moves/handoff_rules.py`` does).
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from shardwright.errors import Transient
from shardwright.model.codes import Code
from shardwright.model.database import Handoff, Shard
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import GroupUid
from shardwright.model.move import Evidence, GroupMove, MoveState
from shardwright.model.reason import Reason
from shardwright.model.serving import policy_of
from shardwright.model.view import ClusterView, Put, Write
from shardwright.moves.handoff_rules import RETRY
from shardwright.plan.waivers import given_up


def intended(view: ClusterView, intent: Handoff, group_uid: GroupUid) -> Sequence[Write]:
    """The intent on the slot group. Raises Transient when the group, a server or the move changed since it was proven."""
    group = view.groups.get(group_uid)
    if group is None or group.handoff is not None or group.primary != intent.from_shard:
        raise Transient(Code.GROUP_CHANGED, "the slot group changed while a handoff was being prepared")
    if not _are_same_processes(view, intent):
        raise Transient(Code.SERVER_RESTARTED, "a server was restarted while a handoff was being prepared")
    move = view.live_move_of_group(group_uid)
    if move is None or not _still_wants(move, intent):
        # Proving can take seconds if a server hangs: the move may have been cancelled meanwhile.
        raise Transient(Code.HANDOFF_UNWANTED, "the move that asked for the handoff was cancelled meanwhile")
    # The move is written too: a cancel request at this moment becomes a conflict and is not overlooked. So does a node that
    # is added to an endpoint: its process would have clients that this handoff does not hold.
    shared = (e for e in view.endpoints_of(group.database_uid) if not policy_of(e, view).is_single)
    # Directly after the promotion nothing could prove that the new primary has a replica.
    return (Put(replace(group, handoff=intent, lease=given_up(group, view))), Put(move), *map(Put, shared))


def failed(
    view: ClusterView, group_uid: GroupUid, reasons: tuple[Reason, ...], now: datetime, *, forgets_intent: bool
) -> Sequence[Write]:
    """A failed attempt on the group's move, with the time of the next one; ``forgets_intent`` removes the intent, too."""
    writes: list[Write] = []
    group = view.groups.get(group_uid)
    if forgets_intent and group is not None and group.handoff is not None:
        writes.append(Put(replace(group, handoff=None)))
    move = view.live_move_of_group(group_uid)
    if move is not None:
        not_before = now + RETRY.delay(move.attempts)
        writes.append(Put(replace(move, attempts=move.attempts + 1, not_before=not_before, reasons=reasons)))
    return writes


def completed(view: ClusterView, group_uid: GroupUid, evidence: Evidence, now: datetime) -> Sequence[Write]:
    """The new primary of the group, the evidence on its move, and the event. Both shards must be on record."""
    group = view.groups[group_uid]
    old, new = view.shards[evidence.from_shard], view.shards[evidence.to_shard]
    led = replace(
        group,
        primary=new.uid,
        generation=evidence.generation,
        handoff=None,
        replication_id=evidence.replication_id_after,
        replication_id_before=evidence.second_replication_id,
    )
    writes: list[Write] = [Put(led), Put(replace(new, in_sync_generation=evidence.generation))]
    move = view.live_move_of_group(group_uid)
    if move is not None and move.new_shard_uid == new.uid:
        writes.append(Put(replace(move, evidence=evidence, reasons=())))
    writes.append(Put(_event(old, new, evidence, now, move)))
    return writes


def _event(old: Shard, new: Shard, evidence: Evidence, now: datetime, move: GroupMove | None) -> Event:
    is_proven = not evidence.replication_id_before or evidence.second_replication_id == evidence.replication_id_before
    pause = "no endpoint held" if evidence.pause_ms is None else f"pause {evidence.pause_ms:.1f} ms"
    text = f"shard {new.uid} on node {new.node_uid} took over from shard {old.uid} on node {old.node_uid}; {pause}"
    return Event(
        now,
        EventKind.HANDOFF if is_proven else EventKind.HANDOFF_UNVERIFIED,
        Severity.INFO if is_proven else Severity.ERROR,
        text if is_proven else f"{text}; its replication history does not continue the old one's",
        node_uid=new.node_uid,
        database_uid=new.database_uid,
        action_uid=None if move is None else move.action_uid,
    )


def _are_same_processes(view: ClusterView, intent: Handoff) -> bool:
    """Whether the servers that were looked at are still those on record: neither was restarted meanwhile."""
    old, new = view.shards.get(intent.from_shard), view.shards.get(intent.to_shard)
    if old is None or new is None:
        return False
    return (old.incarnation, new.incarnation) == (intent.from_incarnation, intent.to_incarnation)


def _still_wants(move: GroupMove, intent: Handoff) -> bool:
    shards = (move.shard_uid, move.new_shard_uid)
    is_ready = move.state is MoveState.HANDOFF and not move.is_cancel_wanted
    return is_ready and shards == (intent.from_shard, intent.to_shard)
