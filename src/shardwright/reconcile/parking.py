"""Failover without a proof of the primary's end: the machine of a database's primary died, or is cut off.

Called by ``group.py``. Owns when such a failover begins, each step of it, and its withdrawal. No clock decides about data:
every copy but the unreachable primary is *parked*, which means that it follows no server any more. From then on no replica
confirms a write to the old primary, so no endpoint process answers one in strict mode, wherever it runs. What was answered
before is on a parked copy, and the copy with the highest offset of that history has all of it
(``docs/decisions/0021-parking.md``). In default mode no replica proves to an endpoint process that the old primary is in
force, so no process passes a reply on once its last proof has ended: that is waited for (``docs/decisions/0026-lease.md``).

The invariant: a copy takes over only when every other copy on record is parked by a session of this term, or has certainly
ended; in default mode HEIR_WAITS after that. The primary may write until then, and also afterwards: it only gets no
confirmation.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.commands import Park
from shardwright.model.database import Database, Role, Shard, ShardWanted, SlotGroup, reason_about
from shardwright.model.decision import NOTHING, Decision
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.ids import ShardUid
from shardwright.model.liveness import has_ended
from shardwright.model.parking import Parked, Parking
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health
from shardwright.model.view import ClusterView, Put
from shardwright.reconcile.copies import Copy, copies_of, merit, repair_or_declare_off
from shardwright.reconcile.heirs import history_of, take_over
from shardwright.reconcile.reach import CUT_OFF_AFTER, cut_off_since, witness

LOOK_AGAIN = timedelta(seconds=0.1)
"""Delay of the next decision while copies are being parked, or a witness is awaited."""
HEIR_WAITS = timedelta(seconds=3.8)
"""In default mode, the wait from the last parking to the new primary. A proof holds for 3.0 s from its question on
(``endpoint/lease.py``), and the question was before the last parking. The leader's clock runs at most a tenth too fast
(``clock.SLEW``), so these are 3.45 s at least; what is left is for the time between a process's look at its clock and the
reply, and for clocks that run at different rates."""


# -- the beginning -----------------------------------------------------------------------------------------------------


def begin_parking(group: SlotGroup, database: Database, primary: Copy, view: ClusterView, now: datetime) -> Decision:
    """Begin a failover if the primary's machine is out of everyone's reach. Otherwise nothing, with the reason."""
    silent_since = cut_off_since(primary)
    if not is_in_force(group, database) or silent_since is None or view.leadership is None:
        return NOTHING
    if now < silent_since + CUT_OFF_AFTER:
        return Decision(wake_at=silent_since + CUT_OFF_AFTER)
    if reason := witness(group, primary, silent_since, view) or without_heir(group, database, primary, view):
        return Decision(reasons=(reason,), wake_at=now + LOOK_AGAIN)
    text = (
        f"the primary of slot group {group.uid}, shard {primary.shard.uid} on node {primary.shard.node_uid}, "
        "is out of reach: its other copies are detached, then the most up-to-date one takes over"
    )
    event = _event(EventKind.FAILOVER_BEGUN, Severity.WARNING, text, primary, now)
    parking = Parking(primary.shard.uid, view.leadership.term, now)
    return Decision(writes=(Put(replace(group, parking=parking)), event), wake_at=now)


def is_in_force(group: SlotGroup, database: Database) -> bool:
    """Whether a failover of the slot group needs no proof of the primary's end: every endpoint process keeps back what no
    replica confirms, or passes nothing on without a proof."""
    return database.is_strict_in_force or (group.lease is not None and group.lease.is_in_force)


def without_heir(group: SlotGroup, database: Database, primary: Copy, view: ClusterView) -> Reason | None:
    """Why a failover would end with no primary at all; None: a copy may be able to take over. In default mode a copy that
    was not in sync may lack any number of acknowledged writes."""
    history = history_of(group, primary) or "unknown"
    for copy in copies_of(group, view):
        is_other = copy.shard.uid != primary.shard.uid and copy.has_role(Role.REPLICA)
        is_other = is_other and (database.is_strict_in_force or _was_in_sync(copy, group))
        if is_other and copy.seen is not None and history == copy.seen.replication_id and not copy.seen.is_syncing:
            return None
    return reason_about(
        primary.shard,
        Code.PRIMARY_OUT_OF_REACH,
        f"{_where(primary.shard)}, and no other copy has its data",
        Grade.HARD_LIMIT,
    )


def _was_in_sync(copy: Copy, group: SlotGroup) -> bool:
    return copy.shard.in_sync_generation == group.generation


# -- while it lasts ----------------------------------------------------------------------------------------------------


def continue_parking(group: SlotGroup, database: Database, primary: Copy, view: ClusterView, now: datetime) -> Decision:
    """The next step: park what is not parked, withdraw if the primary answers again, or let the best copy take over."""
    parking = group.parking
    assert parking is not None
    if view.leadership is None:
        return NOTHING
    if primary.answers:
        return _withdraw(group, primary, "answers again and stays the primary", now)
    if not is_in_force(group, database):
        return _withdraw(group, primary, "stays the primary, because the mode of the database has changed", now)
    if parking.term != view.leadership.term:
        own = Parking(parking.from_shard, view.leadership.term, parking.began_at)
        return Decision(writes=(Put(replace(group, parking=own)),))
    missing = [shard for shard in _to_park(group, view) if not _is_parked(shard, parking)]
    if missing:
        # A copy that was restarted may have been attached by a late leader before it is parked again.
        known = replace(parking, is_complete=False, counts_from=None)
        return Decision(
            writes=() if known == parking else (Put(replace(group, parking=known)),),
            commands=tuple(Park(shard.uid) for shard in missing if _answers(shard, view)),
            reasons=tuple(_blocks(shard, primary) for shard in missing if not _answers(shard, view)),
            wake_at=now + LOOK_AGAIN,
        )
    if not database.is_strict_in_force and (waiting := _wait_for_proofs(group, parking, now)) is not None:
        return waiting
    return _let_take_over(group, database, primary, view, now)


def _wait_for_proofs(group: SlotGroup, parking: Parking, now: datetime) -> Decision | None:
    """Wait until no proof of a time before the last parking holds; None: it is over. The time is counted from the beginning
    of a turn after it was on record that all copies are parked or ended: what this turn sees may be newer than ``now``. It
    is the time of this leader's clock, which does not jump; a later leader begins again."""
    if not parking.is_complete:
        return Decision(writes=(Put(replace(group, parking=replace(parking, is_complete=True))),), wake_at=now)
    if parking.counts_from is None:
        counted = replace(parking, counts_from=now)
        return Decision(writes=(Put(replace(group, parking=counted)),), wake_at=now + HEIR_WAITS)
    until = parking.counts_from + HEIR_WAITS
    return Decision(wake_at=until) if now < until else None


def _let_take_over(group: SlotGroup, database: Database, primary: Copy, view: ClusterView, now: datetime) -> Decision:
    parking = group.parking
    assert parking is not None
    history = history_of(group, primary)
    copies = {copy.shard.uid: copy for copy in copies_of(group, view)}
    heirs = [
        (parked.offset, merit(copies[parked.shard_uid]), copies[parked.shard_uid])
        for parked in parking.parked
        if history and parked.replication_id == history and parked.offset >= 0 and _may_lead(parked, copies)
    ]
    if not database.is_strict_in_force and not any(_was_in_sync(copy, group) for _, _, copy in heirs):
        heirs = []
    if not heirs:
        text = f"{_where(primary.shard)}, and no detached copy has its data"
        reason = reason_about(
            primary.shard, Code.PRIMARY_OUT_OF_REACH, text, Grade.HARD_LIMIT, remedy=repair_or_declare_off(primary)
        )
        return Decision(reasons=(reason,), wake_at=now + timedelta(seconds=1))
    heir = max(heirs)[2]
    proof = "which is out of reach; every other copy was detached from it first"
    return Decision(writes=take_over(group, heir.shard, proof, now))


def _to_park(group: SlotGroup, view: ClusterView) -> list[Shard]:
    """Every copy on record that may follow the primary and confirm writes, wanted or not: the old copy of a move too."""
    assert group.parking is not None
    return [
        shard
        for shard in view.shards_of_group(group.uid)
        if shard.uid != group.parking.from_shard and shard.node_uid in view.nodes and not has_ended(view.liveness(shard))
    ]


def awaited_copies(group: SlotGroup, view: ClusterView) -> list[Shard]:
    """Copies that the failover waits for: not parked, and out of reach."""
    parking = group.parking
    assert parking is not None
    return [s for s in _to_park(group, view) if not _is_parked(s, parking) and not _answers(s, view)]


def _is_parked(shard: Shard, parking: Parking) -> bool:
    return any(p.shard_uid == shard.uid and p.incarnation == shard.incarnation for p in parking.parked)


def _may_lead(parked: Parked, copies: dict[ShardUid, Copy]) -> bool:
    copy = copies.get(parked.shard_uid)
    is_same = copy is not None and copy.shard.incarnation == parked.incarnation
    return is_same and copy is not None and copy.shard.wanted is ShardWanted.RUNNING and copy.answers


def _answers(shard: Shard, view: ClusterView) -> bool:
    seen = view.servers.get(shard.uid)
    return seen is not None and seen.health is Health.OK


def _withdraw(group: SlotGroup, primary: Copy, why: str, now: datetime) -> Decision:
    """No copy has taken over: the others are attached again by the next turns, as soon as the primary answers."""
    text = f"shard {primary.shard.uid} on node {primary.shard.node_uid} {why}"
    event = _event(EventKind.FAILOVER_WITHDRAWN, Severity.INFO, text, primary, now)
    return Decision(writes=(Put(replace(group, parking=None)), event))


def _event(kind: EventKind, severity: Severity, text: str, primary: Copy, now: datetime) -> Put:
    shard = primary.shard
    return Put(Event(now, kind, severity, text, node_uid=shard.node_uid, database_uid=shard.database_uid))


# -- reasons -----------------------------------------------------------------------------------------------------------


def _where(shard: Shard) -> str:
    return f"the primary, shard {shard.uid} on node {shard.node_uid}, is out of reach"


def _blocks(shard: Shard, primary: Copy) -> Reason:
    text = f"{_where(primary.shard)}; so is shard {shard.uid} on node {shard.node_uid}, which may still confirm its writes"
    nodes = sorted({primary.shard.node_uid, shard.node_uid})
    remedy = f"bring back node {' or '.join(str(uid) for uid in nodes)}, "
    remedy += f"or if the machine is off: shardwright node declare-off {shard.node_uid}"
    return reason_about(shard, Code.PRIMARY_OUT_OF_REACH, text, Grade.HARD_LIMIT, remedy=remedy)
