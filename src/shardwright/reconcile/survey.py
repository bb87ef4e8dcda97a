"""A survey: what a machine has of its node's shards, against records that come from a backup. Pure.

Called by the node's daemon once after a restore, before anything else (``node/survey.py``). The records may be older than
the machine: servers were started again, copies were made, others left. What runs is right, so the records follow it. The
invariants: nothing that was made after the backup is ended or deleted; a copy that is not here has no record, so that no
empty server takes its place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from shardwright.model.cluster import Restored
from shardwright.model.database import Shard, ShardWanted, SlotGroup
from shardwright.model.ids import DatabaseUid, GroupUid, NodeUid, ShardUid
from shardwright.model.view import Delete, Put, Write


@dataclass(frozen=True, slots=True)
class FoundShard:
    """What the node's directory says of a shard."""

    uid: ShardUid
    incarnation: int
    """The last one whose start was tried; 0: none."""
    port: int
    """Of that incarnation; 0: unknown."""
    database_uid: DatabaseUid | None = None
    """None, like the next one: it was started by a version that did not write that down."""
    group_uid: GroupUid | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """The result."""

    writes: tuple[Write, ...]
    """Of shards only."""
    left_alone: tuple[ShardUid, ...]
    """Made after the backup, and not known to the records: neither ended nor deleted, until an operator decides."""
    adopted: tuple[ShardUid, ...]
    """Whose record follows what was found."""
    missing: tuple[ShardUid, ...]
    """Whose record is deleted, because nothing of them is here."""


def decide_survey(
    node_uid: NodeUid,
    found: Iterable[FoundShard],
    shards: Iterable[Shard],
    groups: Mapping[GroupUid, SlotGroup],
    restored: Restored,
    now: datetime,
) -> Survey:
    """What the records of this node's shards must say. ``shards``: the records of all nodes."""
    here = {one.uid: one for one in found}
    recorded = {shard.uid: shard for shard in shards}
    writes: list[Write] = []
    left_alone: list[ShardUid] = []
    adopted: list[ShardUid] = []
    missing: list[ShardUid] = []
    for uid, one in sorted(here.items()):
        shard = recorded.get(uid)
        if shard is None and uid < restored.next_shard:
            continue  # Deleted before the backup: the agent goes on with that.
        if shard is None:
            after = _made(one, node_uid, groups, now)
        else:
            after = _followed(shard, one) if shard.node_uid == node_uid else None
        if after is None:
            left_alone.append(uid)
        elif after != shard:
            adopted.append(uid)
            writes.append(Put(after))
    for uid, shard in sorted(recorded.items()):
        if shard.node_uid == node_uid and uid not in here and _has_left(shard, groups):
            missing.append(uid)
            writes.append(Delete(shard))
    return Survey(tuple(writes), tuple(left_alone), tuple(adopted), tuple(missing))


def _followed(shard: Shard, one: FoundShard) -> Shard:
    """The record of a shard that may have been started again since. If its port cannot be found, the record stays older than
    the server: its agent then leaves the server alone, and the slot group waits for it."""
    if one.incarnation <= shard.incarnation or shard.wanted is ShardWanted.GONE or not one.port:
        return shard
    return replace(shard, incarnation=one.incarnation, port=one.port, wanted=ShardWanted.RUNNING)


def _made(one: FoundShard, node_uid: NodeUid, groups: Mapping[GroupUid, SlotGroup], now: datetime) -> Shard | None:
    """The record of a shard that was made after the backup. None: its slot group is not known."""
    group = None if one.group_uid is None else groups.get(one.group_uid)
    if group is None or one.database_uid != group.database_uid or not one.port or not one.incarnation:
        return None
    return Shard(one.uid, group.database_uid, group.uid, node_uid, one.port, now, incarnation=one.incarnation)


def _has_left(shard: Shard, groups: Mapping[GroupUid, SlotGroup]) -> bool:
    """Whether a shard of which nothing is here went after the backup. A group that was never open has nothing to lose: its
    shards may still be to be started."""
    group = groups.get(shard.group_uid)
    return shard.wanted is not ShardWanted.GONE and group is not None and group.primary is not None
