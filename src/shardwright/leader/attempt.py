"""One attempt of a handoff: its inputs, its observations, and the decisions about them. Pure.

``handoff.py`` and ``recovery.py`` give the commands. ``moves/handoff_rules.py`` decides whether the candidate is proven, and
what a successor does.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from shardwright.endpoint.protocol import SELF_RELEASE_S, ReleaseResult, Target
from shardwright.leader.targets import endpoint_target, processes_to_hold
from shardwright.model.codes import Code
from shardwright.model.database import GroupPhase, Handoff, Role, Shard, SlotGroup
from shardwright.model.ids import EndpointUid, GroupUid, NodeUid, ShardUid
from shardwright.model.move import Evidence
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import EndpointProcessSeen, ServerSeen
from shardwright.model.view import ClusterView
from shardwright.moves import handoff_rules as rules

CATCH_UP_S = 1.0
"""Time limit for the candidate to reach the primary's offset: before the hold, and again after the fence."""
POLL_S = 0.001
"""Shortest pause between two queries of the candidate's offset."""
POLL_SHARE = 0.05
"""The pause grows with the time already waited, by this share of it. It lengthens a handoff by at most this share, and many
slow handoffs do not overload the machine."""

Serving = tuple[tuple[EndpointUid, tuple[NodeUid, ...]], ...]
"""For each endpoint of the database, the nodes whose endpoint processes may forward to the old primary."""


@dataclass(slots=True)
class Attempt:
    """The inputs and the observations of one handoff."""

    group: SlotGroup
    old_shard: Shard
    new_shard: Shard
    old_target: Target
    new_target: Target
    handoff: Handoff
    endpoints: Serving
    releases: list[ReleaseResult] = field(default_factory=list)
    held: tuple[NodeUid, ...] = ()
    """Nodes whose endpoint process held."""
    not_held: tuple[NodeUid, ...] = ()
    """Nodes whose endpoint process did not hold: it had ended, or it no longer serves this endpoint."""
    not_released: tuple[NodeUid, ...] = ()
    """Nodes whose endpoint process did not answer the last release: it asks the servers itself."""
    before: ServerSeen | None = None
    fenced: ServerSeen | None = None
    candidate: ServerSeen | None = None
    hold_began: float = 0.0
    fence_began: float = 0.0
    fence_ms: float = 0.0
    began_at: datetime | None = None
    released_at: datetime | None = None


def new_intent(
    view: ClusterView, group_uid: GroupUid, old: ShardUid, new: ShardUid, *, term: int, now: datetime
) -> Handoff | None:
    """The intent of a handoff between these shards. None if it must not begin: the group does not serve, has another
    primary, or is changing roles already, or a shard has no record."""
    group = view.groups.get(group_uid)
    if group is None or group.is_changing_roles or group.phase is not GroupPhase.SERVING or group.primary != old:
        return None
    if old not in view.shards or new not in view.shards:
        return None
    incarnations = view.shards[old].incarnation, view.shards[new].incarnation
    return Handoff(old, new, group.generation + 1, term, now, *incarnations)


def attempt_of(view: ClusterView, group: SlotGroup, intent: Handoff) -> Attempt:
    """The inputs of a handoff, new or committed. Both shards must have a record."""
    old_shard, new_shard = view.shards[intent.from_shard], view.shards[intent.to_shard]
    return Attempt(
        group=group,
        old_shard=old_shard,
        new_shard=new_shard,
        old_target=endpoint_target(view, old_shard, generation=intent.generation - 1),
        new_target=endpoint_target(view, new_shard, generation=intent.generation),
        handoff=intent,
        endpoints=processes_to_hold(view, group),
    )


def has_reached(seen: ServerSeen, offset: int) -> bool:
    """Whether the candidate is still a replica and has received the replication stream up to this offset."""
    return seen.role is Role.REPLICA and seen.offset >= offset


def next_look_s(waited_s: float) -> float | None:
    """The pause before the next query of the candidate's offset; None: the time limit has passed."""
    return None if waited_s > CATCH_UP_S else max(POLL_S, POLL_SHARE * waited_s)


def lag_reason(code: Code, text: str, seen: ServerSeen, offset: int) -> Reason:
    """The reason of an attempt whose candidate did not reach an offset in time."""
    return Reason(code, f"{text}: {seen.offset} of {offset}", Grade.SOFT_LIMIT)


def fence_failure(fenced: ServerSeen, *, held_s: float) -> Reason | None:
    """Why the attempt must not go on after the fence; None: the old primary accepts no write. ``held_s``: time since the
    beginning of the hold. After SELF_RELEASE_S the endpoints have released by themselves: this leader was frozen."""
    if held_s >= SELF_RELEASE_S:
        return rules.too_late_reason()
    if fenced.role is not Role.PRIMARY or not fenced.is_fenced:
        return Reason(Code.FENCE_FAILED, "the old primary does not show its fence", Grade.SOFT_LIMIT)
    return None


def silent_reasons(seen: Iterable[EndpointProcessSeen]) -> tuple[Reason, ...]:
    """One reason for each endpoint process that does not answer and may be alive: an endpoint may have been passed to it."""
    late = (s.node_uid for s in seen if not s.answers and not s.has_ended)
    return tuple(rules.late_reason(node, f"the endpoint process of node {node} does not answer") for node in late)


def with_passed_on(endpoints: Serving, seen: Iterable[EndpointProcessSeen]) -> Serving:
    """The endpoint processes to hold, including those that were observed to serve."""
    found = tuple(seen)
    return tuple(
        (uid, rules.nodes_to_hold(known, tuple(s.node_uid for s in found if rules.serves(s, uid))))
        for uid, known in endpoints
    )


def evidence_of(attempt: Attempt, after: ServerSeen, finished_by: str) -> Evidence:
    """The figures that prove that the handoff lost nothing. ``after``: the new primary's state after the demotion."""
    before, fenced, candidate = attempt.before, attempt.fenced, attempt.candidate
    return Evidence(
        generation=attempt.handoff.generation,
        from_shard=attempt.old_shard.uid,
        to_shard=attempt.new_shard.uid,
        from_run_id=attempt.old_target.run_id,
        to_run_id=after.run_id,
        replication_id_before="" if before is None else before.replication_id,
        replication_id_after=after.replication_id,
        second_replication_id=after.second_replication_id,
        fenced_offset=-1 if fenced is None else fenced.offset,
        promoted_offset=after.second_offset - 1 if candidate is None else candidate.offset,
        fence_ms=round(attempt.fence_ms, 3),
        pause_ms=max((round(r.pause_ms, 3) for r in attempt.releases if r.pause_ms > 0), default=None),
        held_commands=sum(r.held_commands for r in attempt.releases),
        finished_by=finished_by,
        began_at=attempt.began_at,
        released_at=attempt.released_at,
        held_nodes=attempt.held,
        not_held_nodes=attempt.not_held,
        not_released_nodes=attempt.not_released,
    )
