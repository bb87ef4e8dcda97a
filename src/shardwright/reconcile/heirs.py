"""Possible successors of a primary that has certainly ended: live replicas that hold all acknowledged writes, the best
first.

Called by ``group.py`` for a failover and by ``start.py`` while a group starts. The caller knows that the primary has ended.
``succession.py`` decides whether the best one is promoted.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Role, Shard, SlotGroup
from shardwright.model.event import Event, EventKind, Severity
from shardwright.model.liveness import Ended, Proof
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import ServerSeen
from shardwright.model.view import ClusterView, Put, Write
from shardwright.reconcile.copies import Copy, merit

OUT_OF_SYNC_AFTER = timedelta(seconds=10)
"""A replica whose link was down this long while its primary answered is no longer a candidate for a failover."""
LINK_LOST_AFTER = timedelta(seconds=30)
"""A replica whose link had been down this long when its primary's death was recorded may not be promoted. Longer than the
limit above: the record may be some seconds late, and the link is down from the death on."""
LINK_LOST_BEFORE_END = timedelta(seconds=3)
"""The corresponding limit if the agent observed the end: its report is late only by a busy machine's pause, and a server
reports the age of a lost link in whole seconds."""
ANSWERED_BEFORE = timedelta(seconds=2)
"""A healthy primary answers the leader at least once in this time."""
REPORT_AGE_MAX = timedelta(seconds=12)
"""A running agent reports at least every 10 s."""


def furthest(heir: Copy, primary: Copy | None, copies: list[Copy]) -> Copy:
    """The heir, or a replica of the same history with a higher offset: with or without an in-sync mark, it holds all data
    of the heir. While no leader observes the primary, a replica that lost its link keeps its mark, and a new replica gets
    none."""
    assert heir.seen is not None
    history = heir.seen.replication_id
    others = [c for c in copies if c is not primary and history and _continues(history, c)]
    return max([heir, *others], key=lambda c: 0 if c.seen is None else c.seen.offset)


def fail_over(group: SlotGroup, heir: Shard, primary: Copy | None, now: datetime) -> tuple[Write, ...]:
    """Promote the heir; the event records the proof of the old primary's end (None: it no longer has a record)."""
    ended = None if primary is None or not isinstance(primary.liveness, Ended) else primary.liveness
    proof = "which no longer has a record" if ended is None else f"whose process has ended ({ended})"
    return take_over(group, heir, proof, now)


def take_over(group: SlotGroup, heir: Shard, proof: str, now: datetime) -> tuple[Write, ...]:
    """Make the heir the primary. ``proof``: why the old primary cannot acknowledge a write any more, for the event."""
    generation = group.generation + 1
    text = f"shard {heir.uid} on node {heir.node_uid} takes over from shard {group.primary}, {proof}"
    return (
        Put(group.led_by(heir.uid, generation, GroupPhase.SERVING)),
        Put(replace(heir, in_sync_generation=generation)),
        Put(Event(now, EventKind.FAILOVER, Severity.WARNING, text, node_uid=heir.node_uid, database_uid=group.database_uid)),
    )


def not_seen_since(primary: Copy | None, copies: list[Copy]) -> list[Copy]:
    """Replicas that were last observed alive before the primary's end was recorded (``Shard.ended_since``)."""
    if primary is None:
        return []
    noted_at = primary.shard.ended_since
    replicas = (c for c in copies if c is not primary and c.seen is not None and c.has_role(Role.REPLICA))
    return [c for c in replicas if noted_at is None or (c.seen is not None and c.seen.at <= noted_at)]


def lost_link_before(copy: Copy, primary: Copy | None, limit: timedelta = LINK_LOST_AFTER) -> bool:
    """Whether its link had been down for long when the primary ended. Its in-sync mark may be outdated if no leader could
    observe both."""
    known_at = None if primary is None else _known_to_end(primary)
    if primary is None or known_at is None or copy.seen is None:
        return False
    down = timedelta(seconds=copy.seen.link_down_s)
    if down - (copy.seen.at - known_at) >= limit:
        return True
    answered_at = _answered_before_the_word(primary)
    if answered_at is not None and down - (copy.seen.at - answered_at) >= LINK_LOST_BEFORE_END:
        return True
    ended_at = _seen_to_end(primary, copy.seen.at)
    return ended_at is not None and down - (copy.seen.at - ended_at) >= LINK_LOST_BEFORE_END


def _known_to_end(primary: Copy) -> datetime | None:
    """The latest time at which the primary may have ended, as recorded; None: not recorded yet. A machine that was declared
    off has been silent since the loss was noted: the word comes later than the end."""
    shard = primary.shard
    if shard.ended_since is not None and _is_declared_off(primary):
        return shard.missing_since or shard.ended_since
    return shard.ended_since


def _answered_before_the_word(primary: Copy) -> datetime | None:
    """When a primary whose machine was declared off last answered, as this leader knows; None: another proof, or unknown."""
    return primary.seen.answered_at if primary.seen is not None and _is_declared_off(primary) else None


def _is_declared_off(primary: Copy) -> bool:
    return isinstance(primary.liveness, Ended) and primary.liveness.proof is Proof.DECLARED_OFF


def _seen_to_end(primary: Copy, now: datetime) -> datetime | None:
    """The time at which the primary's agent observed its end. None if that time proves nothing: the end was recorded
    earlier, the agent's clock differs from the leader's (agents report every few seconds), or the primary had hung."""
    ended_at = primary.liveness.at if isinstance(primary.liveness, Ended) else None
    noted_at, reported_at = primary.shard.ended_since, primary.reported_at
    if ended_at is None or noted_at is None or reported_at is None or primary.seen is None or ended_at > noted_at:
        return None
    return None if _had_hung(primary.seen, ended_at) or abs(now - reported_at) > REPORT_AGE_MAX else ended_at


def _had_hung(seen: ServerSeen, ended_at: datetime) -> bool:
    """Whether it had not answered for a while although its machine did. Its replicas then lost the link long before its end
    and lack nothing. If its machine was silent too, it may have served behind a cut of the network."""
    silent_since, heard_since = seen.unanswered_since, seen.machine_heard_since
    if silent_since is None or heard_since is None:
        return False
    return silent_since < ended_at - ANSWERED_BEFORE and heard_since <= silent_since + ANSWERED_BEFORE


def not_looked_at(copy: Copy) -> Reason:
    """Why a failover waits for the next observation of a replica."""
    text = f"shard {copy.shard.uid} has not been observed since the primary's end"
    return Reason(Code.HEIR_NOT_KNOWN, text, Grade.SOFT_LIMIT, shard_uid=copy.shard.uid, node_uid=copy.shard.node_uid)


def heir_of_a_dead_node(group: SlotGroup, copies: list[Copy], view: ClusterView) -> Shard | None:
    """While a group starts: the replica that survived, if the committed primary has ended and its node has no daemon that
    could restart it. None while any other copy is merely silent: that copy may hold more data."""
    committed = next((c for c in copies if c.shard.uid == group.primary), None)
    if committed is None or committed.answers or not view.is_lost(committed.shard):
        return None
    if any(not c.answers and not c.has_ended for c in copies if c is not committed):
        return None
    return next((c.shard for c in unnoted_heirs(group, committed, copies)), None)


def unnoted_heirs(group: SlotGroup, primary: Copy, copies: list[Copy]) -> list[Copy]:
    """Replicas with the data set of a primary whose node is dead, with or without an in-sync mark: the leader may have died
    with the node, or the node died before the next observation, for instance just after a handoff. As far as is known,
    their link must have lasted until the end. While the node is alive, the primary is restarted instead, and all copies are
    compared."""
    history = history_of(group, primary)
    return sorted(
        (
            c
            for c in copies
            if c is not primary
            and history
            and _continues(history, c)
            and not c.is_empty
            and not lost_link_before(c, primary, OUT_OF_SYNC_AFTER)
        ),
        key=lambda c: (0 if c.seen is None else c.seen.offset, -c.shard.uid),
        reverse=True,
    )


def history_of(group: SlotGroup, primary: Copy | None) -> str:
    """The replication id of a primary that ended or does not answer, as last known; empty: unknown."""
    seen = None if primary is None else primary.seen
    return group.replication_id or ("" if seen is None else seen.replication_id or seen.replication_id_lately)


def strict_heirs(
    group: SlotGroup, primary: Copy | None, live: list[Copy], copies: list[Copy], silent: list[Copy]
) -> tuple[list[Copy], tuple[Reason, ...]]:
    """Candidates for promotion in strict mode, the best first, or the facts that must be known first.

    Every acknowledged write is on at least one replica, possibly on one that attached so recently that it has no mark yet,
    or on the new copy of a move. Among copies of one history, the highest offset has all writes; offsets are final once the
    link to the dead primary is observed to be down."""
    history = history_of(group, primary)
    heirs = live + [c for c in copies if c not in live and c is not primary and history and _continues(history, c)]
    unsure = silent + [c for c in heirs if c.seen is not None and c.seen.is_link_up]
    if unsure and len(heirs) + len(silent) > 1:
        return [], tuple(_not_final(c) for c in unsure)
    return sorted(heirs, key=lambda c: (0 if c.seen is None else c.seen.offset, merit(c)), reverse=True), ()


def _continues(history: str, copy: Copy) -> bool:
    """It has received the complete data set of this history."""
    seen = copy.seen
    return copy.has_role(Role.REPLICA) and seen is not None and seen.replication_id == history and not seen.is_syncing


def _not_final(copy: Copy) -> Reason:
    text = f"the replication offset of shard {copy.shard.uid} is not known yet"
    return Reason(Code.HEIR_NOT_KNOWN, text, Grade.SOFT_LIMIT, shard_uid=copy.shard.uid, node_uid=copy.shard.node_uid)
