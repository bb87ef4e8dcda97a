"""The state of a slot group: which copies serve, and which replica has proven that it may be promoted.

Called by the planners. Judges observations only. A copy that has not been observed yet is never treated as broken, because
after a change of leader everything is unobserved for a moment.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Persistence, Role, Shard, ShardWanted, SlotGroup, reason_about
from shardwright.model.ids import NodeUid, ShardUid
from shardwright.model.liveness import has_ended, has_ended_after_start, is_alive
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import Health, ServerSeen
from shardwright.model.view import ClusterView

SEEN_LATELY = timedelta(seconds=1)
"""An older observation proves nothing about the present. All awaited conditions are polled many times in this period."""


class Standing(StrEnum):
    """How far a copy qualifies for the primary role."""

    PROVEN = "proven"
    """A replica that may be promoted now."""
    COMING = "coming"
    """A replica that may soon be proven: not observed yet, loading, syncing, or about to be attached."""
    BROKEN = "broken"
    """Its process has ended, or its server does not answer."""


@dataclass(frozen=True, slots=True)
class GroupStanding:
    """The state of a slot group from the view of a node that it must leave."""

    primary: Shard | None
    """The committed primary, if it has a record."""
    is_ready: bool
    """The group serves and no handoff is under way."""
    primary_answers: bool | None
    """None: not observed yet."""
    proven: tuple[ShardUid, ...]
    """Replicas that may be promoted, the best first."""
    coming: tuple[ShardUid, ...]
    """Replicas that are not proven yet."""


def standing_of(view: ClusterView, shard: Shard, primary: Shard) -> Standing:
    """The standing of a replica relative to its group's committed primary."""
    seen = view.servers.get(shard.uid)
    liveness = view.liveness(shard)
    if has_ended_after_start(liveness) or shard.failure or view.is_lost(shard):
        return Standing.BROKEN
    if seen is None or seen.health in (Health.UNKNOWN, Health.LOADING) or has_ended(liveness):
        return Standing.COMING
    if seen.health is not Health.OK:
        # A process that has just started does not listen yet.
        return Standing.COMING if shard.in_sync_generation < 0 else Standing.BROKEN
    above = view.servers.get(primary.uid)
    is_same_history = above is not None and bool(seen.replication_id) and seen.replication_id == above.replication_id
    is_proven = seen.is_link_up and not seen.is_syncing and is_same_history
    return Standing.PROVEN if is_proven else Standing.COMING


def group_standing(
    view: ClusterView, group: SlotGroup, *, shards: Collection[Shard], leaving: NodeUid, unwanted: Collection[NodeUid]
) -> GroupStanding:
    """The state of a group. ``shards`` are its recorded copies; ``unwanted`` are nodes that must not get a primary."""
    primary = None if group.primary is None else view.shards.get(group.primary)
    is_ready = group.phase == GroupPhase.SERVING and not group.is_changing_roles
    if primary is None:
        return GroupStanding(None, is_ready=False, primary_answers=None, proven=(), coming=())
    found: dict[Standing, list[Shard]] = {standing: [] for standing in Standing}
    for shard in shards:
        if shard.uid != primary.uid and shard.wanted == ShardWanted.RUNNING and is_candidate(view, shard, leaving, unwanted):
            found[standing_of(view, shard, primary)].append(shard)

    def rank(shard: Shard) -> tuple[bool, int, int]:
        seen = view.servers.get(shard.uid)
        return not view.has_agent(shard.node_uid), -(0 if seen is None else seen.offset), shard.uid

    return GroupStanding(
        primary,
        is_ready,
        answers(view, primary),
        tuple(s.uid for s in sorted(found[Standing.PROVEN], key=rank)),
        tuple(s.uid for s in sorted(found[Standing.COMING], key=rank)),
    )


def is_candidate(view: ClusterView, shard: Shard, leaving: NodeUid, unwanted: Collection[NodeUid]) -> bool:
    """Whether the shard's node may get a primary at all. A closed node may: it receives no new shard this way."""
    node = view.nodes.get(shard.node_uid)
    if node is None or shard.node_uid == leaving or shard.node_uid in unwanted:
        return False
    return not (node.is_quorum_only or node.is_decommissioning)


def answers(view: ClusterView, shard: Shard) -> bool | None:
    """Whether the shard's server serves; None if it has not been observed yet."""
    if has_ended_after_start(view.liveness(shard)):
        return False
    seen = view.servers.get(shard.uid)
    if seen is None or seen.health == Health.UNKNOWN:
        return None
    return seen.health in (Health.OK, Health.LOADING)


def is_busy(seen: ServerSeen | None) -> bool:
    """Whether the server is silent because it works: its process has used CPU since then. Callers wait for it."""
    if seen is None or seen.unanswered_since is None or seen.cpu_active_at is None:
        return False
    return seen.cpu_active_at >= seen.unanswered_since


def busy_reason(view: ClusterView, shard: Shard) -> Reason:
    """The client that keeps the server busy, as far as the endpoint processes know, and the remedy."""
    endpoints = [e.uid for e in view.endpoints_of(shard.database_uid)]
    busy = [str(b) for p in view.endpoint_processes.values() for uid in endpoints for b in p.endpoint(uid).busy]
    what = ", ".join(busy) if busy else "it uses CPU and does not answer"
    text = f"the server of shard {shard.uid} on node {shard.node_uid} is busy: {what}"
    remedy = "wait for the long command to end, or end it (SCRIPT KILL, FUNCTION KILL)"
    return reason_about(shard, Code.SERVER_BUSY, text, Grade.SOFT_LIMIT, remedy=remedy)


def has_left(view: ClusterView, shard: Shard) -> bool:
    """Whether an unwanted shard no longer runs: only its record and its files remain to be deleted. Such a shard is left
    out of answers about the location of shards."""
    return shard.wanted != ShardWanted.RUNNING and has_ended(view.liveness(shard))


def primary_lives(group: SlotGroup, view: ClusterView, now: datetime) -> bool:
    """Whether the committed primary was seen serving a moment ago. Without that evidence no copy may be given up: it may be
    the only one left."""
    if group.primary is None or group.phase is not GroupPhase.SERVING:
        return False
    shard, seen = view.shards.get(group.primary), view.servers.get(group.primary)
    is_serving = seen is not None and seen.health is Health.OK and seen.role is Role.PRIMARY
    is_recent = seen is not None and abs(now - seen.at) <= SEEN_LATELY
    return is_serving and is_recent and shard is not None and is_alive(view.liveness(shard))


def is_dispensable(shard: Shard, view: ClusterView, *, since: datetime) -> bool:
    """Whether ending a hung server loses no acknowledged write: an append-only file holds the data, no client has connected
    yet, or another complete copy was seen alive at ``since`` or later."""
    group = view.groups.get(shard.group_uid)
    if group is None or group.generation == 0 or shard.kept is Persistence.AOF:
        return True
    if group.phase is not GroupPhase.SERVING:
        return False  # The others started from data that may be older than this copy's.
    others = (s for s in view.shards_of_group(group.uid) if s.uid != shard.uid)
    return any(_has_it_all(s, group, view) and view.servers[s.uid].at >= since for s in others)


def _has_it_all(shard: Shard, group: SlotGroup, view: ClusterView) -> bool:
    seen = view.servers.get(shard.uid)
    is_marked = shard.uid == group.primary or shard.in_sync_generation == group.generation
    answers = seen is not None and seen.health is Health.OK and not has_ended_after_start(view.liveness(shard))
    return is_marked and answers
