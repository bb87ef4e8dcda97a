"""Slot groups: the primary, its replicas, and write access. Owns *Unplanned failover*.

Called by the leader each turn for every slot group. While a handoff is pending, only that handoff is recovered. ``start.py``
owns a group without an open primary, ``restored.py`` one whose records come from a backup. ``succession.py`` decides whether
a dead primary is replaced, ``heirs.py`` ranks its possible successors, and ``parking.py`` replaces one that is out of reach.
The invariants: a primary is replaced only if its process has certainly ended, or if no replica can confirm its writes; no
copy is opened while another one that answers may be writable.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.commands import ApplySettings, Attach, Command, EndStuckServer, Open, Promote, RecoverHandoff
from shardwright.model.database import Database, GroupPhase, Persistence, Role, Shard, ShardWanted, SlotGroup
from shardwright.model.decision import NOTHING, Decision, earlier
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import ShardUid
from shardwright.model.liveness import Silence, Silent
from shardwright.model.move import GroupMove, MoveState
from shardwright.model.reason import Reason
from shardwright.model.seen import Health, ProcessState, ServerSeen, Sighting
from shardwright.model.view import ClusterView, Delete, Put, Write
from shardwright.plan.standing import is_dispensable
from shardwright.reconcile.copies import Copy, copies_of, merit, not_yet
from shardwright.reconcile.fencing import decide_fencing
from shardwright.reconcile.heirs import (
    OUT_OF_SYNC_AFTER,
    fail_over,
    furthest,
    lost_link_before,
    not_looked_at,
    not_seen_since,
    strict_heirs,
    unnoted_heirs,
)
from shardwright.reconcile.parking import begin_parking, continue_parking
from shardwright.reconcile.restarts import decide_restarts, forget_restarts
from shardwright.reconcile.restored import decide_restored
from shardwright.reconcile.start import decide_start
from shardwright.reconcile.succession import FAILOVER, Failover, FailoverFacts, Heir

IN_SYNC_LAG_BYTES = 1 << 20
"""A linked replica with a lag of at most this counts as in sync: the difference is data in transit."""
LOOK_AGAIN = timedelta(seconds=0.2)
"""Delay of the next decision while the offset of a possible successor is not known."""
LOOK_SOON = timedelta(seconds=0.02)
"""The same while a replica has not been observed since the primary's end."""
UNWANTED_AT_ONCE = 50
"""Limit of deletions per decision; below the store's limit for one transaction."""


def decide_group(group: SlotGroup, view: ClusterView, now: datetime) -> Decision:
    """The next step for a slot group."""
    if group.handoff is not None:
        return Decision(commands=(*_end_stuck(copies_of(group, view), view), RecoverHandoff(group.uid)))
    database = view.databases.get(group.database_uid)
    copies = copies_of(group, view)
    if database is None or not (copies or group.is_restored):
        return NOTHING
    stuck = _end_stuck(copies, view)
    if group.is_restored:
        decision = decide_restored(group, database, copies, view, now)
    elif group.phase is GroupPhase.STARTING:
        decision = decide_start(group, database, copies, view, now)
    else:
        decision = _serve(group, database, copies, view, now)
    return replace(decision, commands=(*stuck, *decision.commands)) if stuck else decision


# -- serving -----------------------------------------------------------------------------------------------------------


def _serve(group: SlotGroup, database: Database, copies: list[Copy], view: ClusterView, now: datetime) -> Decision:
    primary = next((c for c in copies if c.shard.uid == group.primary), None)
    if primary is None or primary.has_ended:
        return _replace_primary(group, database, primary, copies, view, now)
    fences = () if primary.answers else decide_fencing(group, database, primary, view, now)
    if group.parking is not None:
        decision = continue_parking(group, database, primary, view, now)
        return replace(decision, commands=(*decision.commands, *fences))
    begun = NOTHING if primary.answers else begin_parking(group, database, primary, view, now)
    if begun.writes:
        return begun
    others = [c for c in copies if c.shard.uid != group.primary]
    commands: list[Command] = [*fences]
    if primary.answers:
        waiting = _started_ahead(group, view)
        address = view.nodes[primary.shard.node_uid].servers_at
        commands.extend(_follow(primary, [c for c in others if c.shard.uid != waiting], address))
        commands.extend(_lead(primary, others))
    commands.extend(_settle(database, copies))
    sync_writes = _note_sync(group, primary, others, now) + _note_history(group, primary)
    gone = [] if _is_unjudged(primary) else [_out_of_sync(c) for c in others if c.has_ended]
    restart_writes, wake_at = decide_restarts(gone, view, now, is_served=primary.has_role(Role.PRIMARY))
    return Decision(
        writes=(*sync_writes, *restart_writes, *forget_restarts(copies, now)),
        commands=tuple(commands),
        wake_at=earlier(wake_at, begun.wake_at),
        reasons=(*begun.reasons, *(not_yet(c) for c in copies if not c.answers)),
    )


def _is_unjudged(primary: Copy) -> bool:
    """Whether a new leader or agent has yet to look at the primary. It may have ended before its replicas did: after a power
    cut, a replica that is restarted too early loses its in-sync mark although it holds all data."""
    match primary.liveness:
        case Silent(how=Silence.NOT_ASKED):
            return True
        case Silent(how=Silence.STARTING):
            return primary.has_agent
    return False


def _out_of_sync(copy: Copy) -> Copy:
    """A replica that restarts while its primary continues lacks the writes in between, or is empty."""
    return replace(copy, shard=replace(copy.shard, in_sync_generation=-1, file_generation=-1))


def _replace_primary(
    group: SlotGroup, database: Database, primary: Copy | None, copies: list[Copy], view: ClusterView, now: datetime
) -> Decision:
    """The primary certainly cannot acknowledge writes: do what the table ``FAILOVER`` says. The persistence does not matter.
    A replica must have been observed alive after the primary's end was recorded: a replica that died earlier lacks writes
    that were acknowledged later."""
    unseen = not_seen_since(primary, copies)
    marked = [c for c in copies if c.shard.uid != group.primary and c.shard.in_sync_generation == group.generation]
    in_sync = [c for c in marked if not lost_link_before(c, primary)]
    live = sorted((c for c in in_sync if c.has_role(Role.REPLICA)), key=merit, reverse=True)
    # A copy that answers in another role was restarted. It follows no primary, and waiting for it is useless.
    silent = [c for c in in_sync if not c.has_ended and not c.answers]
    is_node_dead = primary is not None and view.is_away(primary.shard.node_uid)
    heirs, unsure = live, tuple[Reason, ...]()
    if database.is_strict:
        heirs, unsure = strict_heirs(group, primary, live, copies, silent)
    elif not live and primary is not None and is_node_dead:
        heirs = unnoted_heirs(group, primary, copies)
    facts = FailoverFacts(
        is_observed=not unseen,
        is_strict=database.is_strict,
        is_final=not unsure,
        heir=Heir.IN_SYNC if live else Heir.FOLLOWER if heirs else Heir.NONE,
        has_silent=bool(silent),
        is_node_dead=is_node_dead,
    )
    match FAILOVER.rule(facts).does:
        case Failover.OBSERVE:
            return Decision(reasons=tuple(not_looked_at(c) for c in unseen), wake_at=now + LOOK_SOON)
        case Failover.WAIT_FOR_OFFSETS:
            return Decision(reasons=unsure, wake_at=now + LOOK_AGAIN)
        case Failover.PROMOTE:
            return Decision(writes=fail_over(group, furthest(heirs[0], primary, copies).shard, primary, now))
        case Failover.WAIT_FOR_REPLICA:
            return Decision(reasons=tuple(not_yet(c) for c in silent))
        case Failover.START_OVER:
            return Decision(writes=_start_over(group, now))


def _start_over(group: SlotGroup, now: datetime) -> tuple[Write, ...]:
    text = (
        f"the primary of slot group {group.uid} has ended, no live replica is in sync; its copies are started and compared"
    )
    event = Event(now, EventKind.GROUP_START_OVER, Severity.ERROR, text, database_uid=group.database_uid)
    return (Put(replace(group, phase=GroupPhase.STARTING, starting_since=now, parking=None)), Put(event))


def _started_ahead(group: SlotGroup, view: ClusterView) -> ShardUid | None:
    """A move's new copy whose full sync must not begin yet."""
    move = view.live_move_of_group(group.uid)
    return move.new_shard_uid if move is not None and move.state is MoveState.STARTING else None


def _follow(primary: Copy, others: list[Copy], address: str) -> list[Command]:
    """Attach every copy that is not attached; lift the fence of each follower."""
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
    """Promote or open the primary, but never while another copy may be writable."""
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
    """Whether the server would start from an append-only file that is newer than the snapshot, although it should keep
    snapshots."""
    return database.persistence is not Persistence.AOF and copy.seen is not None and copy.seen.is_aof_on


def is_in_sync(primary: ServerSeen, replica: ServerSeen) -> bool:
    """Whether a replica holds all data of its primary, except for data on its way."""
    return (
        replica.role is Role.REPLICA
        and replica.is_link_up
        and not replica.is_syncing
        and replica.replication_id == primary.replication_id
        and primary.offset - replica.offset <= IN_SYNC_LAG_BYTES
    )


def _note_sync(group: SlotGroup, primary: Copy, others: list[Copy], now: datetime) -> tuple[Write, ...]:
    """Keep ``in_sync_generation`` of the replicas true; it decides which replica may be promoted."""
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
            writes.append(Put(replace(copy.shard, in_sync_generation=-1, file_generation=-1)))
        elif marked and copy.shard.file_generation != group.generation and _has_all_in_file(primary.seen, copy):
            writes.append(Put(replace(copy.shard, file_generation=group.generation)))
    return tuple(writes)


def _has_all_in_file(primary: ServerSeen, replica: Copy) -> bool:
    """Whether a replica's append-only file holds all data that its primary held at the time of its observation. A full sync
    rewrites the file first."""
    seen = replica.seen
    if seen is None or not replica.shard.keeps_each_write or not is_in_sync(primary, seen):
        return False
    is_whole = seen.is_aof_on and not seen.is_persistence_busy and seen.is_persistence_ok
    return is_whole and seen.at >= primary.at and seen.offset >= primary.offset


def _note_history(group: SlotGroup, primary: Copy) -> tuple[Write, ...]:
    """Record the primary's replication id: after its death, the id identifies the copies of its data set."""
    if not primary.has_role(Role.PRIMARY) or primary.seen is None:
        return ()
    known = primary.seen.replication_id
    return () if known in ("", group.replication_id) else (Put(replace(group, replication_id=known)),)


def _has_lost_sync(primary: ServerSeen, replica: ServerSeen) -> bool:
    """Whether the replica lacks recent writes of its primary. The two are observed at different times, so only the time
    counts in which the link was down while the primary answered: the link also goes down with the primary."""
    if replica.is_syncing or replica.role is not Role.REPLICA:
        return True
    if replica.is_link_up:
        return False
    link_lost_at = replica.at - timedelta(seconds=replica.link_down_s)
    return min(primary.at, replica.at) - link_lost_at >= OUT_OF_SYNC_AFTER


# -- processes ---------------------------------------------------------------------------------------------------------


def _end_stuck(copies: list[Copy], view: ClusterView) -> tuple[Command, ...]:
    """End servers that have neither answered nor used CPU for the time in the policy. Exceptions: a server that was not
    queried at the end of that time, one whose machine does not say whether it uses CPU, and one that may hold data that no
    other copy has. Such a server may recover."""
    return tuple(EndStuckServer(c.shard.uid) for c in copies if _is_stuck(c, view))


def _is_stuck(copy: Copy, view: ClusterView) -> bool:
    """Whether it has neither answered nor used CPU for the policy's time, while its machine was heard all the time: after a
    cut of the network, its silence says nothing about it."""
    seen = copy.seen
    if copy.process is not ProcessState.RUNNING or copy.has_ended or seen is None or seen.health is not Health.TIMEOUT:
        return False
    if seen.unanswered_since is None or seen.machine_heard_since is None:
        return False
    if view.sightings.get(copy.shard.uid) is not Sighting.RUNS:
        return False
    since = max(seen.unanswered_since, seen.machine_heard_since, seen.cpu_active_at or seen.unanswered_since)
    until = since + timedelta(seconds=view.policy.stuck_server_timeout_s)
    return seen.at >= until and is_dispensable(copy.shard, view, since=until)


# -- unwanted shards ---------------------------------------------------------------------------------------------------


def decide_unwanted(view: ClusterView) -> Decision:
    """Delete the records of unwanted shards whose files are deleted or whose node is no longer a member. Their move ended
    before the node's agent could report it. A live move and the deletion of a database delete their own shards' records."""
    awaited = {uid for m in view.live_moves() if isinstance(m, GroupMove) for uid in (m.shard_uid, m.new_shard_uid)}
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
