"""Slot groups whose records come from a backup: the copy that leads is found, and the record follows it.

Called by ``group.py`` instead of ``start.py``. The servers went on while the records were lost, so a role on record proves
nothing: after the backup, the role may have been handed over. The invariants: nothing of a group is decided before every
node has said what runs on its machine, or is declared off; a copy that takes writes is never replaced by the one on record;
a group of which no copy is found stays closed, and never begins empty. Where no copy leads, because all servers have ended
since, ``start.py`` compares them.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import Database, GroupPhase, Role, SlotGroup
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ProcessState
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.copies import Copy, not_yet
from shardwright.reconcile.restarts import decide_restarts
from shardwright.reconcile.start import decide_start, go_on_with

LOOK_AGAIN = timedelta(seconds=1)


def awaited_nodes(view: ClusterView) -> tuple[Reason, ...]:
    """Nodes whose machine has not said yet what runs there, and that no one has declared off; by number."""
    return tuple(
        Reason(
            Code.SURVEY_AWAITED,
            f"node {uid} has not followed the restore yet",
            Grade.HARD_LIMIT,
            remedy=f"run `shardwright node follow-restore` there, or `shardwright node declare-off {uid}` if it is gone",
            node_uid=uid,
        )
        for uid, node in sorted(view.nodes.items())
        if node.awaits_survey and not view.is_off(uid)
    )


def decide_restored(
    group: SlotGroup, database: Database, copies: Sequence[Copy], view: ClusterView, now: datetime
) -> Decision:
    """The next step for a slot group whose records come from a backup."""
    if awaited := awaited_nodes(view):
        return _wait(group, awaited, now)
    if not copies:
        text = f"no copy of slot group {group.uid} was found"
        code = Code.COPIES_NOT_FOUND
        return _wait(group, (Reason(code, text, Grade.HARD_LIMIT, remedy=code.remedy, database_uid=database.uid),), now)
    told = next((c for c in copies if c.shard.uid == group.start_from and c.answers), None)
    if told is not None:
        return go_on_with(told, group, now)
    pending = [c for c in copies if not (c.answers or c.has_ended or view.is_lost(c.shard))]
    if pending:
        return _wait(group, tuple(not_yet(c) for c in pending), now)
    leading = [c for c in copies if _leads(c)]
    if leading:
        return _follow(group, database, leading, copies, now)
    ended = [c for c in copies if c.has_ended and c.has_agent and c.process is not ProcessState.FAILED]
    if ended:
        # All of them, before any is chosen: the one on record may not have been the last primary.
        writes, wake_at = decide_restarts(ended, view, now)
        return Decision(writes=writes, wake_at=wake_at, reasons=tuple(not_yet(c) for c in ended))
    return decide_start(group, database, list(copies), view, now)


def _leads(copy: Copy) -> bool:
    """Whether it takes writes: only a primary that was opened is not fenced."""
    return copy.has_role(Role.PRIMARY) and copy.seen is not None and not copy.seen.is_fenced


def _follow(
    group: SlotGroup, database: Database, leading: Sequence[Copy], copies: Sequence[Copy], now: datetime
) -> Decision:
    leader, *others = leading
    if others or (leader.is_empty and any(not c.is_empty for c in copies)):
        named = ", ".join(f"shard {c.shard.uid} on node {c.shard.node_uid}" for c in leading)
        code = Code.SEVERAL_LEAD
        ways = f"{code.remedy}: shardwright db start {database.name} --dry-run shows the copies"
        text = f"slot group {group.uid} may have more than one history: {named} {'take' if others else 'takes'} writes"
        return _wait(group, (Reason(code, text, Grade.HARD_LIMIT, remedy=ways, database_uid=database.uid),), now)
    shard = leader.shard
    opened = group.led_by(shard.uid, group.generation + 1, GroupPhase.SERVING)
    text = f"slot group {group.uid} continues with shard {shard.uid} on node {shard.node_uid}, which leads"
    if group.primary != shard.uid:
        text += f"; in the backup it was shard {group.primary}"
    event = Event(now, EventKind.GROUP_FOUND, Severity.INFO, text, node_uid=shard.node_uid, database_uid=group.database_uid)
    marked = replace(shard, in_sync_generation=opened.generation, file_generation=-1)
    return Decision(writes=(Put(opened), Put(marked), Put(event)))


def _wait(group: SlotGroup, reasons: tuple[Reason, ...], now: datetime) -> Decision:
    """Wait, and record what does not pass by itself."""
    firm = tuple(reason for reason in reasons if reason.grade is Grade.HARD_LIMIT)
    writes = () if firm == group.waits_for else (Put(replace(group, waits_for=firm)),)
    return Decision(writes=writes, wake_at=now + LOOK_AGAIN, reasons=reasons)
