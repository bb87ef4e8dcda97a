"""The record of a failover without a proof of the primary's end: which copies no longer follow it, and what they hold."""

from dataclasses import dataclass
from datetime import datetime

from shardwright.model.ids import ShardUid


@dataclass(frozen=True, slots=True)
class Parked:
    """A copy that follows no server, and what it held when its last link was cut."""

    shard_uid: ShardUid
    incarnation: int
    replication_id: str
    offset: int
    """Replication offset that it had applied; -1: it held no complete data set, and cannot take over."""


@dataclass(frozen=True, slots=True)
class Parking:
    """A committed intent to replace a primary that is out of reach and may still serve. Every other copy of the slot group
    is parked first: from then on, no replica confirms a write to that primary. While the intent exists, no other decision
    changes the slot group."""

    from_shard: ShardUid
    term: int
    """The leader whose sessions park the copies. A later leader begins again: a late command of this one could attach a
    copy."""
    began_at: datetime
    parked: tuple[Parked, ...] = ()
    is_complete: bool = False
    """In default mode: every other copy was seen to be parked or ended, in this term."""
    counts_from: datetime | None = None
    """In default mode: the beginning of a turn after that was on record, by the clock of this term's leader. The heir waits
    from then until no proof of an earlier time holds; None: not yet."""
