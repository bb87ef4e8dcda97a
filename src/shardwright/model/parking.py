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
