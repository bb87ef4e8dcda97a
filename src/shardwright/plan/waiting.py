"""Slot groups that wait for something that does not pass by itself: the reasons, and the known state of their copies.

The leader records the reasons in ``SlotGroup.waits_for``. The planners and the API call this module to show them, and to
state which writes may be missing if an operator continues with one copy. Decides nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shardwright.model.database import AofPolicy, Damage, Database, DatabaseStatus, GroupPhase, Persistence, Shard, SlotGroup
from shardwright.model.liveness import has_ended_after_start
from shardwright.model.reason import Reason
from shardwright.model.seen import Health, ProcessState
from shardwright.model.view import ClusterView
from shardwright.plan.standing import has_left


class CopyState(StrEnum):
    """The state of a copy of a waiting group."""

    LOADED = "loaded"
    """It answers; the database can continue with it."""
    LOADING = "loading"
    STARTING = "starting"
    """It does not answer yet."""
    FAILED = "failed"
    """Its server cannot be started."""
    DAMAGED = "damaged"
    """Its files cannot be loaded."""
    OUT_OF_REACH = "out_of_reach"
    """It is not running, and its node has no daemon."""


@dataclass(frozen=True, slots=True)
class CopyStanding:
    """The known state of one copy of a waiting group."""

    shard: Shard
    state: CopyState
    damage: Damage | None
    was_primary: bool
    was_in_sync: bool
    """The record says that it held all data of the last primary."""
    keys: int | None
    """Number of keys loaded now; None: unknown."""
    served_at: datetime | None
    """When it was last observed while the group served; None: unknown. The next two values are from that time."""
    served_offset: int | None
    served_keys: int | None
    may_lack: str
    """Sentences: the writes that may be missing if the database continues with this copy. Empty if nothing is known to be
    missing."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A slot group that waits for something that does not pass by itself."""

    group: SlotGroup
    since: datetime | None
    reasons: tuple[Reason, ...]
    copies: tuple[CopyStanding, ...]


def waiting_of(view: ClusterView, database: Database) -> tuple[Waiting, ...]:
    """The waiting groups of a database; empty if it serves or if every missing copy is about to come."""
    if database.status is DatabaseStatus.DELETE_PENDING:
        return ()
    groups = view.groups_of(database.uid)
    return tuple(_waiting(view, database, g) for g in groups if g.phase is GroupPhase.STARTING and g.waits_for)


def _waiting(view: ClusterView, database: Database, group: SlotGroup) -> Waiting:
    shards = [s for s in view.shards_of_group(group.uid) if not has_left(view, s)]
    return Waiting(
        group, group.starting_since, group.waits_for, tuple(standing_of_copy(view, database, group, s) for s in shards)
    )


def standing_of_copy(view: ClusterView, database: Database, group: SlotGroup, shard: Shard) -> CopyStanding:
    seen = view.servers.get(shard.uid)
    state = copy_state(view, shard)
    return CopyStanding(
        shard,
        state,
        damage_of(view, shard) if state is CopyState.DAMAGED else None,
        was_primary=shard.uid == group.primary,
        was_in_sync=shard.in_sync_generation == group.generation,
        keys=seen.keys if seen is not None and state is CopyState.LOADED else None,
        served_at=None if seen is None else seen.served_at,
        served_offset=None if seen is None or seen.served_offset < 0 else seen.served_offset,
        served_keys=None if seen is None or seen.served_keys < 0 else seen.served_keys,
        may_lack=" ".join(_lacks(view, database, group, shard)),
    )


def told(group: SlotGroup, text: str) -> tuple[str, str]:
    """The text followed by the group's reasons for waiting, and the remedy for them. Returns the text unchanged and no
    remedy if the group serves or has no such reasons."""
    if group.phase is not GroupPhase.STARTING or not group.waits_for:
        return text, ""
    reasons = "; ".join(r.text for r in group.waits_for)
    return f"{text}: {reasons}", "; ".join(dict.fromkeys(r.remedy for r in group.waits_for if r.remedy))


def copy_state(view: ClusterView, shard: Shard) -> CopyState:
    """The last observed state of a copy."""
    seen, process = view.servers.get(shard.uid), view.process_state(shard.uid)
    is_over = has_ended_after_start(view.liveness(shard))
    if not is_over and seen is not None and seen.health is Health.OK:
        return CopyState.LOADED
    if not is_over and seen is not None and seen.health is Health.LOADING:
        return CopyState.LOADING
    if view.is_away(shard.node_uid):
        return CopyState.OUT_OF_REACH
    if damage_of(view, shard) is not None:
        return CopyState.DAMAGED
    return CopyState.FAILED if process is ProcessState.FAILED or shard.failure else CopyState.STARTING


def damage_of(view: ClusterView, shard: Shard) -> Damage | None:
    """Why its files cannot be loaded; None: they can, or the cause is unknown."""
    process = view.processes.get(shard.uid)
    return shard.damage if process is None else process.damage or shard.damage


def _lacks(view: ClusterView, database: Database, group: SlotGroup, shard: Shard) -> list[str]:
    """Sentences about data that a copy may lack."""
    found = [_lag(view, group, shard)] if shard.uid != group.primary else []
    kept = shard.kept or database.persistence
    if kept is Persistence.DISABLED:
        found.append("It keeps no file: the data that it held when its server ended is lost.")
    elif kept is Persistence.SNAPSHOT:
        found.append("It starts from its last snapshot: all later writes are missing.")
    elif database.aof_policy is AofPolicy.EVERY_SECOND:
        found.append("The last one or two seconds before its server ended may be missing from its file.")
    return found


def _lag(view: ClusterView, group: SlotGroup, shard: Shard) -> str:
    """The copy's known lag behind the last primary."""
    named = f"shard {group.primary}, the last primary,"
    if shard.in_sync_generation != group.generation:
        return f"It was not in sync with {named} when that was last observed: how much it lacks is unknown."
    ours = view.servers.get(shard.uid)
    theirs = None if group.primary is None else view.servers.get(group.primary)
    if ours is None or theirs is None or ours.served_offset < 0 or theirs.served_offset < 0:
        return f"It was in sync with {named} when both were last observed; later writes to that primary may be missing."
    behind = max(0, theirs.served_offset - ours.served_offset)
    at = f"{theirs.served_at:%Y-%m-%d %H:%M:%S} UTC" if theirs.served_at is not None else "an unknown time"
    return (
        f"It was in sync with {named} and {behind} bytes behind when that was last observed, at {at}; "
        "later writes may be missing."
    )
