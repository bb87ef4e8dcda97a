"""*Starting a shard*: the copies of a slot group are started and compared, and one of them becomes the primary.

Called by ``group.py`` for a group without an open primary. The tables ``COMPARISON`` and ``START`` of ``succession.py``
decide; this module states the facts and builds the records. The invariants: an empty copy never becomes the source of a copy
with data; the group waits for a copy that may hold the only data, unless an operator has decided otherwise.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import (
    Damage,
    Database,
    GroupPhase,
    Persistence,
    Shard,
    ShardWanted,
    SlotGroup,
    StartWith,
    reason_about,
)
from shardwright.model.decision import Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.move import Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ProcessState, ServerSeen
from shardwright.model.view import ClusterView, Put, Write
from shardwright.reconcile.copies import DAMAGED_CODE, Copy, merit, not_yet, repair_or_declare_off, report_awaited
from shardwright.reconcile.heirs import fail_over, heir_of_a_dead_node
from shardwright.reconcile.restarts import decide_restarts
from shardwright.reconcile.succession import (
    COMPARISON,
    START,
    Choice,
    Chosen,
    Committed,
    ComparisonFacts,
    Start,
    StartFacts,
)

MISSING_PRIMARY_STARTS = 5
"""Number of failed starts in a row after which another copy replaces the committed primary."""
NAMED_AFTER = timedelta(seconds=5)
"""Delay before a starting group records its reasons for waiting: after a power cut the daemons start one after the
other."""


def decide_start(group: SlotGroup, database: Database, copies: list[Copy], view: ClusterView, now: datetime) -> Decision:
    """The next step for a slot group without an open primary."""
    kept = set_aside(group, database, view)
    hollow = [c for c in copies if _is_hollow(c, view)]
    compared = [c for c in copies if c not in hollow]
    chosen, reasons = choose_primary(group, compared, silent_copies(group, compared) if database.is_strict else [])
    if hollow and chosen is not None and _came_too_late(chosen, copies, view):
        chosen, reasons = None, ()
    told = next((c for c in copies if c.shard.uid == group.start_from and c.answers), None)
    survivor = heir_of_a_dead_node(group, copies, view) if chosen is None else None
    strict_heir = _strict_heir(group, database, copies, view) if chosen is None else None
    facts = StartFacts(
        has_kept=bool(kept),
        chosen=_compared(chosen, told),
        has_survivor=survivor is not None,
        is_told=told is not None,
        is_cut_reported=told is None or _is_cut_reported(told),
        has_strict_heir=strict_heir is not None,
    )
    match START.rule(facts).does:
        case Start.TAKE_BACK:
            return Decision(writes=tuple(Put(replace(s, wanted=ShardWanted.RUNNING, in_sync_generation=-1)) for s in kept))
        case Start.FAIL_OVER:
            assert survivor is not None
            return Decision(writes=fail_over(group, survivor, _committed(group, copies), now))
        case Start.AWAIT_REPORT:
            assert told is not None
            return Decision(reasons=(report_awaited(told),))
        case Start.OBEY:
            assert told is not None
            return go_on_with(told, group, now)
        case Start.FAIL_OVER_STRICT:
            assert strict_heir is not None
            return Decision(writes=_fail_over_in_strict_mode(group, strict_heir, now))
        case Start.WAIT:
            return _wait(group, database, copies, reasons or tuple(not_yet(c) for c in hollow), view, now)
        case Start.OPEN:
            assert chosen is not None
            opened = group.led_by(chosen.uid, group.generation + 1, GroupPhase.SERVING)
            return Decision(writes=(Put(opened), Put(_as_primary(chosen, opened))))


def _committed(group: SlotGroup, copies: list[Copy]) -> Copy | None:
    return next((c for c in copies if c.shard.uid == group.primary), None)


def _is_cut_reported(told: Copy) -> bool:
    """Its server may answer before its agent has reported the start, and with it what was cut from its file."""
    return told.shard.starts_with is not StartWith.CUT_FILES or told.process is ProcessState.RUNNING or not told.has_agent


def _compared(chosen: Shard | None, told: Copy | None) -> Chosen:
    if chosen is None:
        return Chosen.NONE
    return Chosen.TOLD if told is not None and told.shard.uid == chosen.uid else Chosen.OTHER


def _wait(
    group: SlotGroup, database: Database, copies: list[Copy], reasons: tuple[Reason, ...], view: ClusterView, now: datetime
) -> Decision:
    """Restart ended copies, carry out an operator's request, and record the lasting reasons for waiting."""
    group, changes = _with_wish(group, copies, now)
    cut = group.start_from if changes and group.start_from is not None else None
    writes, wake_at = decide_restarts([c for c in copies if c.has_ended], view, now, cut=cut)
    noted, named_at = _note_waits(group, database, copies, reasons, now)
    wakes = [at for at in (wake_at, named_at) if at is not None]
    return Decision(writes=(*writes, *changes, *noted), wake_at=min(wakes, default=None), reasons=reasons)


def _as_primary(shard: Shard, opened: SlotGroup) -> Shard:
    """Its files were loaded, so earlier notes about damage are removed."""
    failure = "" if shard.damage is not None else shard.failure
    return replace(shard, in_sync_generation=opened.generation, file_generation=-1, damage=None, failure=failure)


def _strict_heir(group: SlotGroup, database: Database, copies: list[Copy], view: ClusterView) -> Shard | None:
    """In strict mode: the copy that certainly holds all acknowledged writes while the primary does not come back.

    Every write acknowledged in this generation is on some replica. With one replica and no move, it is on this replica; and
    it is in its file if every write is synced before it is answered and the file was observed to be intact."""
    committed = _committed(group, copies)
    if not (database.is_strict and group.waits_for) or committed is None or not_yet(committed).grade is Grade.SOFT_LIMIT:
        return None
    if len(view.shards_of_group(group.uid)) != 2 or view.live_move_of_group(group.uid) is not None:
        return None  # With several replicas, any of them may have confirmed a write.
    shard = next((c.shard for c in copies if c is not committed and c.answers and not c.is_empty), None)
    if shard is None or not shard.keeps_each_write:
        return None
    return shard if shard.in_sync_generation == shard.file_generation == group.generation else None


def _fail_over_in_strict_mode(group: SlotGroup, heir: Shard, now: datetime) -> tuple[Write, ...]:
    opened = group.led_by(heir.uid, group.generation + 1, GroupPhase.SERVING)
    text = f"shard {heir.uid} on node {heir.node_uid} takes over from shard {group.primary}, which does not come back: "
    text += "its file holds all writes acknowledged in strict mode"
    event = Event(now, EventKind.FAILOVER, Severity.WARNING, text, node_uid=heir.node_uid, database_uid=group.database_uid)
    return (Put(opened), Put(_as_primary(heir, opened)), Put(event))


def _with_wish(group: SlotGroup, copies: list[Copy], now: datetime) -> tuple[SlotGroup, tuple[Write, ...]]:
    """The group after the next step of an operator's request, with its writes (empty: no step now). The damaged end of the
    chosen copy's file is cut once; if the copy still cannot be started, the request has failed and is discarded."""
    wish = next((c for c in copies if c.shard.uid == group.start_from and c.has_ended), None)
    if wish is None:
        return group, ()
    if group.start_cuts:
        begun = replace(group, start_cuts=False)
        return begun, (Put(begun),)
    if wish.process is not ProcessState.FAILED or wish.shard.starts_with is not StartWith.CUT_FILES:
        return group, ()
    given_up = replace(group, start_from=None)
    text = f"the damaged end of shard {wish.shard.uid} on node {wish.shard.node_uid} could not be cut: {wish.text}"
    event = Event(
        now,
        EventKind.GROUP_START_FAILED,
        Severity.ERROR,
        text,
        node_uid=wish.shard.node_uid,
        database_uid=group.database_uid,
    )
    return given_up, (Put(given_up), Put(event))


def go_on_with(told: Copy, group: SlotGroup, now: datetime) -> Decision:
    """Continue with the copy that an operator has chosen. The others follow it when they return, whatever data they
    held."""
    shard = told.shard
    opened = group.led_by(shard.uid, group.generation + 1, GroupPhase.SERVING)
    given_up = "; ".join(r.text for r in group.waits_for)
    text = f"slot group {group.uid} continues with shard {shard.uid} on node {shard.node_uid}, as an operator requested"
    text += f"; it waited because {given_up}" if given_up else ""
    text += f"; {told.text}" if told.text else ""
    event = Event(
        now,
        EventKind.GROUP_STARTED_FROM_COPY,
        Severity.WARNING,
        text,
        node_uid=shard.node_uid,
        database_uid=group.database_uid,
    )
    return Decision(writes=(Put(opened), Put(_as_primary(shard, opened)), Put(event)))


def _note_waits(
    group: SlotGroup, database: Database, copies: list[Copy], reasons: tuple[Reason, ...], now: datetime
) -> tuple[tuple[Write, ...], datetime | None]:
    """Record the lasting reasons for waiting, or their end; and when to look again."""
    firm = tuple(_with_way_out(r, group, database, copies) for r in reasons if r.grade is Grade.HARD_LIMIT)
    if firm == group.waits_for:
        return (), None
    since = group.starting_since
    if firm and not group.waits_for and since is not None and since <= now < since + NAMED_AFTER:
        return (), since + NAMED_AFTER
    noted = Put(replace(group, waits_for=firm))
    if group.waits_for or not firm:
        return (noted,), None
    text = f"database {database.name} waits: {'; '.join(r.text for r in firm)}"
    return (
        noted,
        Put(Event(now, EventKind.GROUP_WAITS, Severity.ERROR, text, node_uid=firm[0].node_uid, database_uid=database.uid)),
    ), None


def _with_way_out(reason: Reason, group: SlotGroup, database: Database, copies: list[Copy]) -> Reason:
    """Add the operator's options in case the copy does not come back."""
    copy = next((c for c in copies if c.shard.uid == reason.shard_uid), None)
    ways = [reason.remedy] if reason.remedy else []
    start = f"shardwright db start {database.name} --from-copy"
    if copy is not None and reason.code == DAMAGED_CODE:
        if copy.damage is Damage.APPEND_ONLY_FILE:
            ways.append(f"cut the unreadable end of its file: {start} {copy.shard.uid} --cut-damaged-tail")
        else:
            ways.append(f"replace its files with a backup on node {copy.shard.node_uid}")
    loaded = [c for c in copies if c.answers and not c.is_empty]
    if loaded:
        uid = best_copy(loaded, group).shard.uid
        ways.append(f"continue with the data of shard {uid}: {start} {uid}")
    elif not any(not c.answers and not_yet(c).grade is Grade.SOFT_LIMIT for c in copies):
        # No other copy is expected.
        ways.append(f"discard the data: shardwright db delete {database.name}")
    return replace(reason, remedy=", or ".join(ways))


def set_aside(group: SlotGroup, database: Database, view: ClusterView) -> list[Shard]:
    """Copies that have left the group but whose files a move keeps until the new copy has written its own. If the move did
    not get that far, these files may be the only ones, so they are compared with the others."""
    return [
        s
        for s in view.shards_of_group(group.uid)
        if s.wanted is ShardWanted.STOPPED
        and (s.kept or database.persistence) is not Persistence.DISABLED
        and s.node_uid in view.nodes
    ]


def silent_copies(group: SlotGroup, copies: list[Copy]) -> list[Copy]:
    """In strict mode: the copies that may hold acknowledged writes which the committed primary lost with its memory. Before
    another copy is in sync with a new primary, nothing is acknowledged in its generation: the copies of the generation
    before, its predecessor among them, hold at least as much. An append-only file is at most a second behind."""
    committed = _committed(group, copies)
    if committed is None or committed.shard.kept is Persistence.AOF:
        return []
    others = [c for c in copies if c is not committed]
    if any(c.shard.in_sync_generation >= group.generation for c in others):
        return []
    last = group.generation - 1
    return [c for c in others if not c.answers and not c.has_ended and c.shard.in_sync_generation == last > 0]


def choose_primary(group: SlotGroup, copies: list[Copy], silent: Sequence[Copy]) -> tuple[Shard | None, tuple[Reason, ...]]:
    """The copy that becomes the primary after a start, by the table ``COMPARISON``; or why none can be chosen yet.
    ``silent``: see ``silent_copies``."""
    committed = _committed(group, copies)
    loaded = [c for c in copies if c.answers]
    filled = [c for c in loaded if not c.is_empty]
    pending = [c for c in copies if not c.answers and c.process is not ProcessState.FAILED]
    in_sync = [c for c in filled if c.shard.in_sync_generation == group.generation]
    ahead = [c for c in loaded if committed is not None and committed.answers and _is_ahead(c, committed, group)]
    facts = ComparisonFacts(
        committed=_after_start(committed),
        is_exceeded=bool(ahead),
        has_silent=bool(silent),
        has_pending=bool(pending),
        has_data=bool(filled),
        has_in_sync=bool(in_sync),
        has_copy=bool(loaded),
    )
    match COMPARISON.rule(facts).does:
        case Choice.AHEAD:
            return best_copy(ahead, group).shard, ()
        case Choice.COMMITTED:
            assert committed is not None
            return committed.shard, ()
        case Choice.BEST:
            return best_copy(filled, group).shard, ()
        case Choice.FIRST:
            return loaded[0].shard, ()
        case Choice.IN_SYNC:
            return best_copy(in_sync, group).shard, ()
        case Choice.WAIT_FOR_COPIES if committed is not None and not committed.is_empty:
            return None, tuple(_may_hold_more(c, committed.shard) for c in silent)
        case Choice.WAIT_FOR_COPIES:
            return None, tuple(not_yet(c) for c in pending)
        case Choice.WAIT:
            return None, tuple(not_yet(c) for c in copies if not c.answers)


def _may_hold_more(copy: Copy, primary: Shard) -> Reason:
    """Why a primary with data waits for a copy. If the copy's node is away, people may have to end the wait."""
    shard = copy.shard
    text = f"shard {shard.uid} on node {shard.node_uid} does not answer, and may hold acknowledged writes that the snapshot "
    text += f"of shard {primary.uid} lacks"
    if copy.has_agent:
        return reason_about(shard, Code.SHARD_NOT_STARTED, text, Grade.SOFT_LIMIT)
    return reason_about(shard, Code.COPY_OUT_OF_REACH, text, Grade.HARD_LIMIT, remedy=repair_or_declare_off(copy))


def _after_start(committed: Copy | None) -> Committed:
    if committed is None:
        return Committed.NONE
    if committed.answers:
        return Committed.EMPTY if committed.is_empty else Committed.FILLED
    is_lost = committed.process is ProcessState.FAILED and _is_lost(committed)
    return Committed.LOST if is_lost else Committed.AWAITED


def _is_lost(committed: Copy) -> bool:
    """Whether its start is unlikely: its files are damaged, or it failed to start MISSING_PRIMARY_STARTS times in a row."""
    return committed.damage is not None or committed.shard.restarts >= MISSING_PRIMARY_STARTS


def _is_hollow(copy: Copy, view: ClusterView) -> bool:
    """Whether the copy is not worth waiting for: its process has ended, it kept no file, and its node has no daemon."""
    return view.is_lost(copy.shard) and copy.shard.kept is Persistence.DISABLED


def _came_too_late(chosen: Shard, copies: list[Copy], view: ClusterView) -> bool:
    """Whether it is the empty new copy of a move whose source has died: the move then ends with an error, so that an empty
    database is not presented as a moved one."""
    move = view.live_move_of_group(chosen.group_uid)
    is_new = isinstance(move, Relocation) and move.new_shard_uid == chosen.uid
    return is_new and any(c.shard.uid == chosen.uid and c.is_empty for c in copies)


def _is_ahead(copy: Copy, committed: Copy, group: SlotGroup) -> bool:
    """Whether a copy holds all data that the committed primary loaded, and more. A server that starts from a snapshot
    reports the snapshot's history (its second replication id) and offset. It lacks later writes; a replica that survived
    has them. A server that starts from an append-only file that it kept to the end is never behind."""
    here, other = committed.seen, copy.seen
    if here is None or other is None or other.is_syncing:
        return False
    lately = {group.replication_id, group.replication_id_before} - {""}
    has_followed = other.replication_id in lately and not copy.is_empty
    if not here.second_replication_id:
        # The file of a server that was switched to snapshots is as old as that change.
        return has_followed and committed.shard.kept is Persistence.SNAPSHOT
    if here.offset != here.second_offset - 1:
        return False  # It has done more than load.
    loaded = here.second_replication_id
    if has_followed and loaded not in lately:
        return True  # It followed the dead primary, which had already left the snapshot's history.
    return _holds_more(other, loaded, here.offset)


def best_copy(copies: list[Copy], group: SlotGroup) -> Copy:
    """The copy with the most recent data. The in-sync mark of this generation counts first, then the history of its primary:
    a replica that follows it by a partial sync may hold acknowledged writes before a leader marks it. Then older marks
    count, then the offset. A copy that certainly holds all of that copy's data, and more, replaces it."""

    def rank(copy: Copy) -> tuple[bool, bool, tuple[int, int, int]]:
        return copy.shard.in_sync_generation == group.generation, _has_history(copy, group.replication_id), merit(copy)

    best = max(copies, key=rank)
    while best.seen is not None:
        history, offset = best.seen.replication_id, best.seen.offset
        fuller = [c for c in copies if c.seen is not None and not c.seen.is_syncing and _holds_more(c.seen, history, offset)]
        if not fuller:
            break
        best = max(fuller, key=rank)
    return best


def _has_history(copy: Copy, history: str) -> bool:
    seen = copy.seen
    return seen is not None and seen.replication_id == history != "" and not seen.is_syncing


def _holds_more(seen: ServerSeen, history: str, offset: int) -> bool:
    """Whether a server follows this history beyond the offset, or followed it beyond the offset and then another one."""
    left_later = seen.second_replication_id == history and seen.second_offset > offset
    return history != "" and (seen.replication_id == history or left_later) and seen.offset > offset
