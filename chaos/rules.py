"""The rules for targets of faults: never more at once than the guarantees allow (docs/how-to/chaos.md states them).

Pure: takes records and running processes, returns candidates in a fixed order, so that an item's number chooses the same one
in the same situation.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

from chaos.facts import Records
from shardwright.model.cluster import Node
from shardwright.model.database import Shard, SlotGroup
from shardwright.model.ids import DatabaseUid, ShardUid
from shardwright.model.seen import ProcessIdentity

Runs = Callable[[ProcessIdentity], bool]
"""Whether exactly this process runs and is not frozen."""


class Promise(StrEnum):
    """The guarantee for acknowledged writes of a database when one of its servers is killed."""

    REPLICAS_MAY_DIE = "replicas may die"
    """Nothing is lost; its primary is only ever frozen."""
    ONLY_COPY_MAY_DIE = "only copy may die"
    """Nothing is lost: it has one copy, whose append-only file is written before each reply. It is not killed while it
    moves: the new copy, which then takes over, may lack the last writes."""
    PRIMARY_MAY_DIE = "primary may die"
    """In default mode, writes of the last moment that reached no replica may be lost; counted separately."""


def replicas(now: Records, runs: Runs) -> list[ShardUid]:
    """Copies that are not needed for acknowledged writes: their primary runs, and no role is being moved."""
    return [shard.uid for group in _groups(now) for shard in now.copies(group) if is_spare(now, shard.uid, runs)]


def is_spare(now: Records, uid: ShardUid, runs: Runs) -> bool:
    """Whether this copy certainly does not hold the last acknowledged write alone. Checked again when it is stopped: a
    stopped server takes no role."""
    shard = now.shards.get(uid)
    group = None if shard is None else next((g for g in now.groups if g.uid == shard.group_uid), None)
    if shard is None or group is None or group.handoff is not None or group.primary in (None, uid):
        return False
    primary = now.identities.get(group.primary) if group.primary is not None else None
    return uid in now.identities and primary is not None and runs(primary)


def only_copies(now: Records, promises: Mapping[str, Promise], runs: Runs) -> list[ShardUid]:
    """Servers of databases with one durable copy, while nothing of them moves."""
    groups = _of_promise(now, promises, Promise.ONLY_COPY_MAY_DIE)
    return [s.uid for g in groups for s in now.copies(g) if is_only_copy(now, s.uid) and _runs(now, s, runs)]


def is_only_copy(now: Records, uid: ShardUid) -> bool:
    """Whether it is the only copy of its slot group, and remains so."""
    group = _group_of(now, uid)
    return group is not None and not now.is_moving(group) and [s.uid for s in now.copies(group)] == [uid]


def primaries(now: Records, promises: Mapping[str, Promise], runs: Runs) -> list[ShardUid]:
    """Primaries of databases whose last moment may be lost, while a replica can take over."""
    groups = _of_promise(now, promises, Promise.PRIMARY_MAY_DIE)
    return [g.primary for g in groups if g.primary is not None and has_heir(now, g.primary, runs)]


def has_heir(now: Records, uid: ShardUid, runs: Runs) -> bool:
    """Whether another copy runs and is in sync with this primary."""
    group = _group_of(now, uid)
    if group is None or now.is_moving(group) or group.primary != uid or uid not in now.identities:
        return False
    others = [s for s in now.copies(group) if s.uid != uid]
    return any(s.in_sync_generation == group.generation and _runs(now, s, runs) for s in others)


def servers(now: Records, runs: Runs) -> list[ShardUid]:
    """Servers that may be frozen for a while: all that run."""
    return [s.uid for g in _groups(now) for s in now.copies(g) if _runs(now, s, runs)]


def open_nodes(now: Records) -> list[Node]:
    """Nodes without a live action, by uid."""
    taken = {a.node_uid for a in now.live_actions()}
    return [n for uid, n in sorted(now.nodes.items()) if uid not in taken]


def too_long(now: Records, seconds: float) -> list[str]:
    """Actions that have ended and exceeded the limit."""
    took = [(a, (a.ended_at - a.created_at).total_seconds()) for a in now.actions if a.ended_at is not None]
    return [f"{a.name} of node {a.node_uid} took {s:.1f} s, {a.status}" for a, s in sorted(took, key=str) if s > seconds]


def _groups(now: Records) -> list[SlotGroup]:
    return sorted(now.groups, key=lambda g: g.uid)


def _of_promise(now: Records, promises: Mapping[str, Promise], promise: Promise) -> list[SlotGroup]:
    names: dict[DatabaseUid, str] = {uid: d.name for uid, d in now.databases.items()}
    return [g for g in _groups(now) if promises.get(names.get(g.database_uid, "")) is promise]


def _group_of(now: Records, uid: ShardUid) -> SlotGroup | None:
    shard = now.shards.get(uid)
    return None if shard is None else next((g for g in now.groups if g.uid == shard.group_uid), None)


def _runs(now: Records, shard: Shard, runs: Runs) -> bool:
    identity = now.identities.get(shard.uid)
    return identity is not None and runs(identity)
