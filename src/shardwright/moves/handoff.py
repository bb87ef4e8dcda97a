"""A handoff's next step, and the request that the primary role passes, which a relocation makes too. Pure.

``leader/handoff.py`` carries a handoff out, by the rules of ``handoff_rules.py``.
"""

from collections.abc import Callable
from datetime import datetime

from shardwright.model.codes import Code
from shardwright.model.commands import HandOff
from shardwright.model.database import GroupPhase, SlotGroup
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.move import GroupMove, HandoffMove, MoveState
from shardwright.model.view import ClusterView, Put
from shardwright.moves.handoff_rules import PASSING_CODES, RETRY
from shardwright.moves.life import end, enter, reason, starting_over, wait

HANDOFF_ATTEMPTS_MAX = 8
"""Limit of handoffs that fail for a reason other than a busy command; then the move ends."""
GiveUp = Callable[..., Decision]
"""``give_up(*reasons)``: ends the move, or undoes it."""


def decide_handoff(move: HandoffMove, view: ClusterView, now: datetime) -> Decision:
    """The next step of a live handoff."""
    group = view.groups.get(move.group_uid)
    if group is None:
        return end(move, now, reason(move, Code.DATABASE_DELETED, "the database has been deleted"))
    if move.state is MoveState.PLANNED:
        if move.is_cancel_wanted:
            return end(move, now)
        return Decision(writes=(Put(enter(move, MoveState.HANDOFF, now)),))
    if group.primary == move.new_shard_uid and group.handoff is None:
        return Decision(writes=(Put(enter(move, MoveState.DONE, now, reasons=())),))
    return hand_over(move, group, view, now, give_up=lambda *reasons: end(move, now, *reasons))


def hand_over(move: GroupMove, group: SlotGroup, view: ClusterView, now: datetime, *, give_up: GiveUp) -> Decision:
    """Request the handoff until it has happened; between attempts, a cancellation or too many failures end the move."""
    if group.handoff is not None:
        return NOTHING
    if move.is_cancel_wanted:
        return give_up()
    if group.primary != move.shard_uid or move.new_shard_uid is None or move.new_shard_uid not in view.shards:
        return give_up(reason(move, Code.ROLES_CHANGED, "another shard has become the primary"))
    passes = any(r.code in PASSING_CODES for r in move.reasons)
    if move.attempts >= HANDOFF_ATTEMPTS_MAX and not passes:
        return give_up(*move.reasons)
    if RETRY.is_waiting(move.not_before, now):
        return Decision(wake_at=move.not_before, reasons=move.reasons)
    if group.phase is not GroupPhase.SERVING:
        return wait(move, now, starting_over(move, group))
    return Decision(commands=(HandOff(group.uid, move.shard_uid, move.new_shard_uid),))
