"""Slot groups: who is primary, who follows, who may be written to. Owns *Starting a shard* and *Unplanned failover*.

Called by the leader each turn for every slot group. A group with a pending handoff is left alone but for that handoff. The
invariants: a primary is replaced only when its process is certainly gone; nothing is opened while another copy of the group
may be writable; an empty copy never becomes the source of one that is not.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from shardwright.model.action import MoveKind, MoveState
from shardwright.model.commands import ApplySettings, Attach, Command, EndStuckServer, Open, Promote, RecoverHandoff
from shardwright.model.database import Database, GroupPhase, Persistence, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event, Severity
from shardwright.model.ids import ShardUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health, ProcessState, ServerSeen
from shardwright.model.view import ClusterView, Delete, Put, Write
from shardwright.plan.ports import shard_port
from shardwright.plan.standing import is_dispensable, is_gone

RESTART_DELAYS_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before the n-th start in a row; the last one repeats."""
STEADY_AFTER = timedelta(minutes=1)
"""A shard that ran this long has its count of restarts forgotten."""
IN_SYNC_LAG_BYTES = 1 << 20
"""A linked replica this close to its primary holds what the primary holds, but for what is on its way."""
LOOK_AGAIN = timedelta(seconds=0.2)
LOOK_SOON = timedelta(seconds=0.02)
UNWANTED_AT_ONCE = 50
"""Deletions in one decision; under the store's bound for one transaction."""
OUT_OF_SYNC_AFTER = timedelta(seconds=10)
"""A replica whose link was down this long while its primary answered is no candidate for a failover any more."""
LINK_LOST_AFTER = timedelta(seconds=30)
"""A replica whose link was down this long when its primary's end was noted is no heir. More than above: an end may be noted
some seconds late, and from then on the link is down in any case."""
MISSING_PRIMARY_STARTS = 5
"""How often in a row the committed primary's copy must fail to start before another copy is chosen in its place."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A shard of the group that is wanted running, with what is seen of it."""

    shard: Shard
    process: ProcessState
    seen: ServerSeen | None

    @property
    def is_gone(self) -> bool:
        """Its process has certainly ended, or could not be started."""
        return self.process in (ProcessState.GONE, ProcessState.FAILED)

    @property
    def answers(self) -> bool:
        """It is loaded and answers."""
        return not self.is_gone and self.seen is not None and self.seen.health is Health.OK

    @property
    def is_empty(self) -> bool:
        """It holds no key."""
        return self.seen is None or self.seen.keys == 0

    def has_role(self, role: Role) -> bool:
        """It answers, and in this role."""
        return self.answers and self.seen is not None and self.seen.role is role


def copies_of(group: SlotGroup, view: ClusterView) -> list[Copy]:
    """The copies of a group that are wanted running, by uid."""
    return [
        Copy(s, view.process_state(s.uid), view.servers.get(s.uid))
        for s in view.shards_of_group(group.uid)
        if s.wanted is ShardWanted.RUNNING
    ]


def decide_group(group: SlotGroup, view: ClusterView, now: datetime) -> Decision:
    """What a slot group needs now."""
    if group.handoff is not None:
        return Decision(commands=(*_end_stuck(copies_of(group, view), view), RecoverHandoff(group.uid)))
    database = view.databases.get(group.database_uid)
    copies = copies_of(group, view)
    if database is None or not copies:
        return NOTHING
    stuck = _end_stuck(copies, view)
    if group.phase is GroupPhase.STARTING:
        decision = _start(group, database, copies, view, now)
    else:
        decision = _serve(group, database, copies, view, now)
    return replace(decision, commands=(*stuck, *decision.commands)) if stuck else decision


# -- starting ----------------------------------------------------------------------------------------------------------


def _start(group: SlotGroup, database: Database, copies: list[Copy], view: ClusterView, now: datetime) -> Decision:
    set_aside = _set_aside(group, database, view)
    if set_aside:
        return Decision(writes=tuple(Put(replace(s, wanted=ShardWanted.RUNNING, in_sync_generation=-1)) for s in set_aside))
    hollow = [c for c in copies if _is_hollow(c, view)]
    chosen, reasons = choose_primary(group, [c for c in copies if c not in hollow])
    if hollow and chosen is not None and _came_too_late(chosen, copies, view):
        chosen, reasons = None, tuple(_not_yet(c) for c in hollow)
    if chosen is None and (heir := _heir_of_a_dead_node(group, copies, view)) is not None:
        return Decision(writes=_fail_over(group, heir, now))
    if chosen is None:
        writes, wake_at = _restarts(database, [c for c in copies if c.is_gone], view, now)
        return Decision(writes=writes, wake_at=wake_at, reasons=reasons)
    opened = group.led_by(chosen.uid, group.generation + 1, GroupPhase.SERVING)
    return Decision(writes=(Put(opened), Put(replace(chosen, in_sync_generation=opened.generation))))


def _set_aside(group: SlotGroup, database: Database, view: ClusterView) -> list[Shard]:
    """Copies that have left the group, but whose files a move keeps until the new copy has written its own. Now that it did
    not get that far they may be all there is, so they are compared with the others."""
    return [
        s
        for s in view.shards_of_group(group.uid)
        if s.wanted is ShardWanted.STOPPED
        and (s.kept or database.persistence) is not Persistence.DISABLED
        and s.node_uid in view.nodes
    ]


def choose_primary(group: SlotGroup, copies: list[Copy]) -> tuple[Shard | None, tuple[Reason, ...]]:
    """The copy that shall be primary after a start, or why none can be chosen yet.

    The committed primary, when it holds data or nobody does. It gives way to a copy that certainly holds all it has and
    more; an empty one to a copy that is not; one that failed to start MISSING_PRIMARY_STARTS times to a copy that was in
    sync with it, and to no other."""
    committed = next((c for c in copies if c.shard.uid == group.primary), None)
    pending = [c for c in copies if not c.answers and c.process is not ProcessState.FAILED]
    loaded = [c for c in copies if c.answers]
    if committed is not None and committed.answers and not committed.is_empty:
        ahead = [c for c in loaded if _is_ahead(c, committed, group)]
        return max(ahead, key=_merit, default=committed).shard, ()
    filled = sorted((c for c in loaded if not c.is_empty), key=_merit, reverse=True)
    if committed is None or committed.answers:
        if pending:
            return None, tuple(_not_yet(c) for c in pending)
        best = filled or ([committed] if committed is not None else loaded)
        return (best[0].shard, ()) if best else (None, tuple(_not_yet(c) for c in copies))
    in_sync = [c for c in filled if c.shard.in_sync_generation == group.generation]
    if in_sync and committed.process is ProcessState.FAILED and committed.shard.restarts >= MISSING_PRIMARY_STARTS:
        return in_sync[0].shard, ()
    return None, tuple(_not_yet(c) for c in copies if not c.answers)


def _is_hollow(copy: Copy, view: ClusterView) -> bool:
    """Whether there is nothing to wait for: its process has ended, it kept no file, nobody is there who could start it."""
    is_over = copy.shard.node_uid not in view.daemons and is_gone(view, copy.shard)
    return is_over and copy.shard.kept is Persistence.DISABLED


def _came_too_late(chosen: Shard, copies: list[Copy], view: ClusterView) -> bool:
    """Whether it is the empty new copy of a move whose source has died: the move ends and says so, rather than that an empty
    database looks like one that was moved."""
    move = view.live_move_of_group(chosen.group_uid)
    is_new = move is not None and move.kind is MoveKind.RELOCATE and move.new_shard_uid == chosen.uid
    return is_new and any(c.shard.uid == chosen.uid and c.is_empty for c in copies)


def _is_ahead(copy: Copy, committed: Copy, group: SlotGroup) -> bool:
    """Whether a copy holds everything that the committed primary loaded, and more. A server that starts from a snapshot says
    which history that was part of (its second replication id) and how far; what was written later it does not have, while
    a replica that lived on does. One that starts from an append-only file that it kept to the end is never behind."""
    here, other = committed.seen, copy.seen
    if here is None or other is None or other.is_syncing:
        return False
    lately = {group.replication_id, group.replication_id_before} - {""}
    has_followed = other.replication_id in lately and not copy.is_empty
    if not here.second_replication_id:
        # The file of a server that was told to keep snapshots instead is as old as that.
        return has_followed and committed.shard.kept is Persistence.SNAPSHOT
    if here.offset != here.second_offset - 1:
        return False  # It has not only loaded.
    loaded = here.second_replication_id
    if has_followed and loaded not in lately:
        return True  # It followed the dead primary, which had left the snapshot's history before.
    left_history_later = other.second_replication_id == loaded and other.second_offset >= here.second_offset
    return (other.replication_id == loaded or left_history_later) and other.offset > here.offset


def _merit(copy: Copy) -> tuple[int, int, int]:
    offset = 0 if copy.seen is None else copy.seen.offset
    return copy.shard.in_sync_generation, offset, -copy.shard.uid


def _not_yet(copy: Copy) -> Reason:
    shard = copy.shard
    if copy.process is ProcessState.FAILED or shard.failure:
        text = f"shard {shard.uid} cannot be started: {shard.failure or 'see the log of its node'}"
        return Reason("shard_start_failed", text, Grade.HARD_LIMIT, shard_uid=shard.uid, node_uid=shard.node_uid)
    if copy.seen is not None and copy.seen.health is Health.LOADING:
        return Reason("shard_loading", f"shard {shard.uid} is loading its data", Grade.SOFT_LIMIT, shard_uid=shard.uid)
    text = f"shard {shard.uid} on node {shard.node_uid} does not answer yet"
    return Reason("shard_not_started", text, Grade.SOFT_LIMIT, shard_uid=shard.uid, node_uid=shard.node_uid)


# -- serving -----------------------------------------------------------------------------------------------------------


def _serve(group: SlotGroup, database: Database, copies: list[Copy], view: ClusterView, now: datetime) -> Decision:
    primary = next((c for c in copies if c.shard.uid == group.primary), None)
    if primary is None or primary.is_gone:
        return _replace_primary(group, database, primary, copies, view, now)
    others = [c for c in copies if c.shard.uid != group.primary]
    commands: list[Command] = []
    if primary.answers:
        waiting = _started_ahead(group, view)
        address = view.nodes[primary.shard.node_uid].address
        commands.extend(_follow(primary, [c for c in others if c.shard.uid != waiting], address))
        commands.extend(_lead(primary, others))
    commands.extend(_settle(database, copies))
    sync_writes = _note_sync(group, primary, others, now) + _note_history(group, primary)
    gone = [_out_of_sync(c) for c in others if c.is_gone]
    restart_writes, wake_at = _restarts(database, gone, view, now)
    return Decision(
        writes=(*sync_writes, *restart_writes, *_forget_restarts(copies, now)),
        commands=tuple(commands),
        wake_at=wake_at,
        reasons=tuple(_not_yet(c) for c in copies if not c.answers),
    )


def _out_of_sync(copy: Copy) -> Copy:
    """A replica that starts anew while its primary goes on lacks what is written meanwhile, or has nothing at all."""
    return replace(copy, shard=replace(copy.shard, in_sync_generation=-1))


def _replace_primary(
    group: SlotGroup, database: Database, primary: Copy | None, copies: list[Copy], view: ClusterView, now: datetime
) -> Decision:
    """The primary certainly cannot acknowledge. A live replica that was in sync takes over, whatever the persistence; with
    none the group starts over. That a replica lives must have been seen after the primary's end was noted: one that died
    first lacks what was acknowledged without it."""
    unseen = _not_seen_since(primary, copies)
    if unseen:
        return Decision(reasons=tuple(_not_looked_at(c) for c in unseen), wake_at=now + LOOK_SOON)
    marked = [c for c in copies if c.shard.uid != group.primary and c.shard.in_sync_generation == group.generation]
    in_sync = [c for c in marked if not _lost_link_before(c, primary)]
    live = sorted((c for c in in_sync if c.has_role(Role.REPLICA)), key=_merit, reverse=True)
    silent = [c for c in in_sync if not c.is_gone and not c.answers]
    if database.is_strict:
        live, reasons = _strict_heirs(group, primary, live, copies, silent)
        if reasons:
            return Decision(reasons=reasons, wake_at=now + LOOK_AGAIN)
    elif not live and not silent and primary is not None and primary.shard.node_uid not in view.daemons:
        live = _unnoted_heirs(group, primary, copies)
    if live:
        return Decision(writes=_fail_over(group, _furthest(live[0], primary, copies).shard, now))
    # One that answers in another role was started anew: it follows nobody and never will by itself.
    if silent:
        return Decision(reasons=tuple(_not_yet(c) for c in silent))
    text = (
        f"the primary of slot group {group.uid} is gone and no live replica is in sync; its copies are started and compared"
    )
    event = Event(now, "group_start_over", Severity.ERROR, text, database_uid=group.database_uid)
    return Decision(writes=(Put(replace(group, phase=GroupPhase.STARTING)), Put(event)))


def _furthest(heir: Copy, primary: Copy | None, copies: list[Copy]) -> Copy:
    """The heir, or a replica of the same history that has received more of it: noted as in sync or not, it holds all that
    the heir holds. While no leader sees the primary, one that has lost its link stays noted, and a new one is not."""
    assert heir.seen is not None
    history = heir.seen.replication_id
    others = [c for c in copies if c is not primary and history and _continues(history, c)]
    return max([heir, *others], key=lambda c: 0 if c.seen is None else c.seen.offset)


def _fail_over(group: SlotGroup, heir: Shard, now: datetime) -> tuple[Write, ...]:
    generation = group.generation + 1
    text = f"shard {heir.uid} on node {heir.node_uid} takes over from shard {group.primary}, whose process is gone"
    return (
        Put(group.led_by(heir.uid, generation, GroupPhase.SERVING)),
        Put(replace(heir, in_sync_generation=generation)),
        Put(Event(now, "failover", Severity.WARNING, text, node_uid=heir.node_uid, database_uid=group.database_uid)),
    )


def _not_seen_since(primary: Copy | None, copies: list[Copy]) -> list[Copy]:
    """Replicas that were last seen to live before the primary's end was noted (``Shard.missing_since``)."""
    if primary is None:
        return []
    noted_at = primary.shard.missing_since
    replicas = (c for c in copies if c is not primary and c.seen is not None and c.has_role(Role.REPLICA))
    return [c for c in replicas if noted_at is None or (c.seen is not None and c.seen.at <= noted_at)]


def _lost_link_before(copy: Copy, primary: Copy | None, limit: timedelta = LINK_LOST_AFTER) -> bool:
    """Whether its link was down for long when the primary's end was noted: it may be marked as in sync all the same, when no
    leader could see them both."""
    if primary is None or primary.shard.missing_since is None or copy.seen is None:
        return False
    since_end = copy.seen.at - primary.shard.missing_since
    return timedelta(seconds=copy.seen.link_down_s) - since_end >= limit


def _not_looked_at(copy: Copy) -> Reason:
    text = f"shard {copy.shard.uid} was not looked at since the primary's end"
    return Reason("heir_not_known", text, Grade.SOFT_LIMIT, shard_uid=copy.shard.uid, node_uid=copy.shard.node_uid)


def _heir_of_a_dead_node(group: SlotGroup, copies: list[Copy], view: ClusterView) -> Shard | None:
    """While a group starts: the replica that lived on, when nobody is there who could start the committed primary again. Of
    copies that are only silent nobody knows whether they hold more."""
    committed = next((c for c in copies if c.shard.uid == group.primary), None)
    if committed is None or committed.answers or committed.shard.node_uid in view.daemons:
        return None
    if any(not c.answers and not c.is_gone for c in copies if c is not committed):
        return None
    return next((c.shard for c in _unnoted_heirs(group, committed, copies)), None)


def _unnoted_heirs(group: SlotGroup, primary: Copy, copies: list[Copy]) -> list[Copy]:
    """Replicas that hold the data set of a primary whose node is dead, noted as in sync or not: the leader may have died
    with it, or it died before the next look, as just behind a handoff. Their link must have lasted to the end as far as
    anybody can know. While its node lives the primary is started again instead, and all copies are compared."""
    history = _history(group, primary)
    return sorted(
        (
            c
            for c in copies
            if c is not primary
            and history
            and _continues(history, c)
            and not c.is_empty
            and not _lost_link_before(c, primary, OUT_OF_SYNC_AFTER)
        ),
        key=lambda c: (0 if c.seen is None else c.seen.offset, -c.shard.uid),
        reverse=True,
    )


def _history(group: SlotGroup, primary: Copy | None) -> str:
    """The dead primary's replication id, as it was last known; empty: nobody knows it."""
    seen = None if primary is None else primary.seen
    return group.replication_id or ("" if seen is None else seen.replication_id or seen.replication_id_lately)


def _strict_heirs(
    group: SlotGroup, primary: Copy | None, live: list[Copy], copies: list[Copy], silent: list[Copy]
) -> tuple[list[Copy], tuple[Reason, ...]]:
    """Who may take over in strict mode, the best first, or what must be known before.

    What was acknowledged is on at least one replica, on any one: also on one that began to follow so lately that nobody has
    noted it, or on one that moves in. Of the same history the highest offset has all of it; offsets are final once the link
    to the dead primary is seen to be down."""
    history = _history(group, primary)
    heirs = live + [c for c in copies if c not in live and c is not primary and history and _continues(history, c)]
    unsure = silent + [c for c in heirs if c.seen is not None and c.seen.is_link_up]
    if unsure and len(heirs) + len(silent) > 1:
        return [], tuple(_not_final(c) for c in unsure)
    return sorted(heirs, key=lambda c: (0 if c.seen is None else c.seen.offset, _merit(c)), reverse=True), ()


def _continues(history: str, copy: Copy) -> bool:
    """It has received a whole data set of this history."""
    seen = copy.seen
    return copy.has_role(Role.REPLICA) and seen is not None and seen.replication_id == history and not seen.is_syncing


def _not_final(copy: Copy) -> Reason:
    text = f"how much shard {copy.shard.uid} has received is not known yet"
    return Reason("heir_not_known", text, Grade.SOFT_LIMIT, shard_uid=copy.shard.uid, node_uid=copy.shard.node_uid)


def _started_ahead(group: SlotGroup, view: ClusterView) -> ShardUid | None:
    """A move's new copy whose full sync is not to begin yet."""
    move = view.live_move_of_group(group.uid)
    return move.new_shard_uid if move is not None and move.state is MoveState.STARTING else None


def _follow(primary: Copy, others: list[Copy], address: str) -> list[Command]:
    """Attach what is not attached; lift the fence of what follows."""
    commands: list[Command] = []
    if not primary.has_role(Role.PRIMARY):
        return commands
    assert primary.seen is not None
    for copy in others:
        if not copy.answers or copy.seen is None:
            continue
        source = (copy.seen.primary_address, copy.seen.primary_port)
        follows = copy.seen.role is Role.REPLICA and source == (address, primary.shard.port)
        if not follows:
            commands.append(Attach(copy.shard.uid, primary.shard.uid))
        elif copy.seen.is_fenced and copy.seen.is_link_up:
            commands.append(Open(copy.shard.uid))
    return commands


def _lead(primary: Copy, others: list[Copy]) -> list[Command]:
    """Promote or open the primary, but never beside another copy that may be writable."""
    assert primary.seen is not None
    if primary.seen.role is Role.REPLICA:
        return [Promote(primary.shard.uid)]
    rivals = [c for c in others if c.has_role(Role.PRIMARY) and c.seen is not None and not c.seen.is_fenced]
    if primary.seen.is_fenced and not rivals:
        return [Open(primary.shard.uid)]
    return []


def _settle(database: Database, copies: list[Copy]) -> list[Command]:
    wanted = database.settings_fingerprint
    return [
        ApplySettings(c.shard.uid, wanted)
        for c in copies
        if c.answers and (c.shard.settings != wanted or _has_unwanted_aof(database, c))
    ]


def _has_unwanted_aof(database: Database, copy: Copy) -> bool:
    """A server starts from its append-only file when that is newer than the snapshot that it should keep instead."""
    return database.persistence is not Persistence.AOF and copy.seen is not None and copy.seen.is_aof_on


def is_in_sync(primary: ServerSeen, replica: ServerSeen) -> bool:
    """Whether a replica holds what its primary holds, but for what is on its way."""
    return (
        replica.role is Role.REPLICA
        and replica.is_link_up
        and not replica.is_syncing
        and replica.replication_id == primary.replication_id
        and primary.offset - replica.offset <= IN_SYNC_LAG_BYTES
    )


def _note_sync(group: SlotGroup, primary: Copy, others: list[Copy], now: datetime) -> tuple[Write, ...]:
    """Keep ``in_sync_generation`` of the replicas true; it decides who may take over."""
    writes: list[Write] = []
    if not primary.has_role(Role.PRIMARY) or primary.seen is None:
        return ()
    for copy in others:
        if not copy.answers or copy.seen is None:
            continue
        marked = copy.shard.in_sync_generation == group.generation
        if not marked and is_in_sync(primary.seen, copy.seen):
            writes.append(Put(replace(copy.shard, in_sync_generation=group.generation)))
        elif marked and _has_lost_sync(primary.seen, copy.seen):
            writes.append(Put(replace(copy.shard, in_sync_generation=-1)))
    return tuple(writes)


def _note_history(group: SlotGroup, primary: Copy) -> tuple[Write, ...]:
    """Keep the primary's replication id: when it dies, it tells who holds its data set."""
    if not primary.has_role(Role.PRIMARY) or primary.seen is None:
        return ()
    known = primary.seen.replication_id
    return () if known in ("", group.replication_id) else (Put(replace(group, replication_id=known)),)


def _has_lost_sync(primary: ServerSeen, replica: ServerSeen) -> bool:
    """Whether the replica lacks what its primary wrote meanwhile. The two were looked at at different times: how long the
    link was down while the primary answered is what counts, for it goes down with the primary too."""
    if replica.is_syncing or replica.role is not Role.REPLICA:
        return True
    if replica.is_link_up:
        return False
    link_lost_at = replica.at - timedelta(seconds=replica.link_down_s)
    return min(primary.at, replica.at) - link_lost_at >= OUT_OF_SYNC_AFTER


# -- processes ---------------------------------------------------------------------------------------------------------


def _restarts(
    database: Database, gone: list[Copy], view: ClusterView, now: datetime
) -> tuple[tuple[Write, ...], datetime | None]:
    """New incarnations for processes that are gone, each on a new port, spaced out."""
    writes: list[Write] = []
    wake_at: datetime | None = None
    for copy in gone:
        shard = copy.shard
        if shard.restart_not_before is not None and _is_to_wait(shard.restart_not_before, now):
            wake_at = min(wake_at or shard.restart_not_before, shard.restart_not_before)
            continue
        seen = view.processes.get(shard.uid)
        delay = RESTART_DELAYS_S[min(shard.restarts + 1, len(RESTART_DELAYS_S) - 1)]
        started = replace(
            shard,
            incarnation=shard.incarnation + 1,
            port=shard_port(view, shard.node_uid, shard.uid, shard.incarnation + 1),
            restarts=shard.restarts + 1,
            restart_not_before=now + timedelta(seconds=delay),
            failure=seen.text if seen is not None and copy.process is ProcessState.FAILED else "",
        )
        text = f"shard {shard.uid} on node {shard.node_uid} is started again ({seen.text if seen is not None else 'gone'})"
        event = Event(now, "shard_restart", Severity.WARNING, text, node_uid=shard.node_uid, database_uid=shard.database_uid)
        writes.extend((Put(started), Put(event)))
        view = view.with_writes((Put(started),))
    return tuple(writes), wake_at


def _is_to_wait(until: datetime, now: datetime) -> bool:
    """A time further away than any delay was written by a clock that was ahead of ours: it says nothing."""
    return now < until <= now + timedelta(seconds=RESTART_DELAYS_S[-1])


def _forget_restarts(copies: list[Copy], now: datetime) -> tuple[Write, ...]:
    return tuple(
        Put(replace(c.shard, restarts=0, restart_not_before=None, failure=""))
        for c in copies
        if c.answers
        and c.shard.restarts
        and c.shard.restart_not_before is not None
        and not _is_recent(c.shard.restart_not_before, now)
    )


def _is_recent(restart_not_before: datetime, now: datetime) -> bool:
    """Whether a restart is not long ago; one in a future that no delay reaches was written by a clock ahead of ours."""
    return -timedelta(seconds=RESTART_DELAYS_S[-1]) <= now - restart_not_before <= STEADY_AFTER


def _end_stuck(copies: list[Copy], view: ClusterView) -> tuple[Command, ...]:
    """Servers that neither answer nor use CPU for the policy's time. One that is busy is never ended, nor one that was not
    asked at the end of that time, nor one that may hold what no other copy has: it may yet go on."""
    return tuple(EndStuckServer(c.shard.uid) for c in copies if _is_stuck(c, view))


def _is_stuck(copy: Copy, view: ClusterView) -> bool:
    seen = copy.seen
    if copy.process is not ProcessState.RUNNING or seen is None or seen.health is not Health.TIMEOUT:
        return False
    if seen.unanswered_since is None:
        return False
    since = max(seen.unanswered_since, seen.cpu_active_at or seen.unanswered_since)
    until = since + timedelta(seconds=view.policy.stuck_server_timeout_s)
    return seen.at >= until and is_dispensable(copy.shard, view, since=until)


# -- what nobody wants -------------------------------------------------------------------------------------------------


def decide_unwanted(view: ClusterView) -> Decision:
    """Forget shards that were to go and of which nothing is left: those whose move ended before their node's agent could
    say so. A live move, or a database's deletion, forgets its own."""
    awaited = {uid for m in view.live_moves() for uid in (m.shard_uid, m.new_shard_uid)}
    return Decision(
        writes=tuple(
            Delete(shard)
            for _, shard in sorted(view.shards.items())
            if shard.wanted is ShardWanted.GONE and shard.uid not in awaited and _nothing_left(shard, view)
        )[:UNWANTED_AT_ONCE]
    )


def _nothing_left(shard: Shard, view: ClusterView) -> bool:
    process = view.processes.get(shard.uid)
    return shard.node_uid not in view.nodes or (process is not None and process.files_are_deleted)
