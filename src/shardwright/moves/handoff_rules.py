"""The decisions of a handoff: whether the candidate is proven, and how a new leader completes an unfinished handoff.

Pure; ``leader/handoff.py`` executes them. The invariant: once the promote command may have been sent, the generation is
never assigned to the old primary again, unless an observation shows that the candidate is still a replica. A fence is
lifted only by an undo or after the demotion.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shardwright.model.backoff import Backoff
from shardwright.model.codes import Code
from shardwright.model.database import Role, Shard, SlotGroup
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.move import Move, Rebind
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import BusyCommand, EndpointProcessSeen, EndpointSeen, EndpointState, Health, ServerSeen

RETRY = Backoff((0.3, 1.0, 2.0, 5.0))
"""Delay before the next attempt of a handoff."""
BUSY_CODE = Code.CLIENT_COMMAND_BUSY
"""Reason of an attempt that a long-running command prevented: the move stays blocked and names the command."""
LATE_CODE = Code.ENDPOINT_PROCESS_LATE
"""Reason of an attempt that failed because an endpoint process did not answer."""
PASSING_CODES = frozenset({BUSY_CODE, LATE_CODE, Code.GROUP_STARTING})
"""Reasons that do not count as failed attempts: they pass by themselves, or they name the obstacle."""


class OldPrimary(StrEnum):
    """The observed state of the primary that was to hand over its role."""

    WRITABLE = "writable"
    FENCED = "fenced"
    REPLICA = "replica"
    GONE = "gone"
    UNREACHABLE = "unreachable"
    """It does not answer, and its end is not proven."""


class CandidateState(StrEnum):
    """The observed state of the replica that was to take the role."""

    REPLICA = "replica"
    PRIMARY = "primary"
    GONE = "gone"
    UNREACHABLE = "unreachable"


class EndpointsState(StrEnum):
    """The observed state of the database's endpoints."""

    HELD = "held"
    """At least one holds; none has been released to the new primary."""
    OLD = "old"
    """All forward to the old primary, or none answers."""
    NEW = "new"
    """At least one has been released to the new primary."""


class Recovery(StrEnum):
    """The new leader's way out of an unfinished handoff."""

    UNDO = "undo"
    """Lift the old primary's fence, release the endpoints to it, discard the intent."""
    FORWARD = "forward"
    """Fence the old primary if possible, promote the candidate if necessary, release, demote, commit."""
    FAIL_BACK = "fail_back"
    """Commit the old primary again with a later generation: the candidate's process has ended."""
    START_OVER = "start_over"
    """No process is left: the rules for starting a shard decide."""
    WAIT = "wait"
    """The state is still unknown. A server that stays hung is killed by its process identity; then the state is known."""


@dataclass(frozen=True, slots=True)
class HandoffRule:
    """A row of the table. None matches everything; the first matching row applies."""

    old: OldPrimary | None
    candidate: CandidateState | None
    endpoints: EndpointsState | None
    recovery: Recovery
    why: str


RULES: tuple[HandoffRule, ...] = (
    HandoffRule(OldPrimary.WRITABLE, CandidateState.PRIMARY, EndpointsState.NEW, Recovery.FORWARD,
         "clients already write to the new one: this happens only after manual intervention; the old one is re-attached"),
    HandoffRule(OldPrimary.WRITABLE, None, None, Recovery.UNDO,
         "the promote command is never sent without the fence, and all older sessions have been closed"),
    HandoffRule(None, CandidateState.PRIMARY, None, Recovery.FORWARD,
         "the candidate was promoted, and a promotion happens only after a confirmed fence"),
    HandoffRule(OldPrimary.FENCED, CandidateState.REPLICA, None, Recovery.UNDO,
         "the candidate is still a replica: the role was not handed over"),
    HandoffRule(OldPrimary.REPLICA, CandidateState.REPLICA, None, Recovery.FORWARD,
         "the old one was demoted after a confirmed promotion: it must not become primary again"),
    HandoffRule(OldPrimary.GONE, CandidateState.REPLICA, None, Recovery.FORWARD,
         "the old one can no longer acknowledge writes; the candidate is the live replica"),
    HandoffRule(OldPrimary.UNREACHABLE, CandidateState.REPLICA, None, Recovery.WAIT,
         "the old one does not answer and may be writable again"),
    HandoffRule(OldPrimary.GONE, CandidateState.GONE, None, Recovery.START_OVER,
         "no process is left"),
    HandoffRule(OldPrimary.UNREACHABLE, CandidateState.GONE, None, Recovery.WAIT,
         "the old one is the only copy left; its state must be observed first"),
    HandoffRule(OldPrimary.FENCED, CandidateState.GONE, None, Recovery.FAIL_BACK,
         "an endpoint, even a silent one, may be a generation ahead: the old one serves again with a later generation"),
    HandoffRule(OldPrimary.REPLICA, CandidateState.GONE, None, Recovery.FAIL_BACK,
         "the new primary died: its only live replica is promoted, as after any primary's death"),
    HandoffRule(None, CandidateState.UNREACHABLE, None, Recovery.WAIT,
         "the candidate does not answer and may have been promoted"),
)  # fmt: skip


def recovery(old: OldPrimary, candidate: CandidateState, endpoints: EndpointsState) -> tuple[Recovery, str]:
    """The way out for an observed combination, and the reason. Total: every combination has a row."""
    for rule in RULES:
        if rule.old in (None, old) and rule.candidate in (None, candidate) and rule.endpoints in (None, endpoints):
            return rule.recovery, rule.why
    raise AssertionError(f"no rule for {old}, {candidate}, {endpoints}")


def old_primary_state(seen: ServerSeen | None, *, has_ended: bool) -> OldPrimary:
    """Classify the old primary. ``seen`` is the answer to a query sent after the older sessions were closed, or None."""
    if has_ended:
        return OldPrimary.GONE
    if seen is None or seen.health is not Health.OK or seen.role is None:
        return OldPrimary.UNREACHABLE
    if seen.role is Role.REPLICA:
        return OldPrimary.REPLICA
    return OldPrimary.FENCED if seen.is_fenced else OldPrimary.WRITABLE


def candidate_state(seen: ServerSeen | None, *, has_ended: bool) -> CandidateState:
    """Classify the candidate, like ``old_primary_state`` does for the old primary."""
    if has_ended:
        return CandidateState.GONE
    if seen is None or seen.health is not Health.OK or seen.role is None:
        return CandidateState.UNREACHABLE
    return CandidateState.REPLICA if seen.role is Role.REPLICA else CandidateState.PRIMARY


def endpoints_state(seen: list[EndpointSeen], *, generation: int) -> EndpointsState:
    """Classify the endpoints that answered. ``generation`` is the handoff's target generation."""
    known = [e for e in seen if e.state is not EndpointState.ABSENT]
    if any(e.generation >= generation for e in known):
        return EndpointsState.NEW
    return EndpointsState.HELD if any(e.held_generation is not None for e in known) else EndpointsState.OLD


def unproven(
    group: SlotGroup, old: Shard, old_address: str, *, primary: ServerSeen, candidate: ServerSeen
) -> tuple[Reason, ...]:
    """Why the candidate must not be promoted; empty if it is proven."""
    checks = (
        (
            group.primary == old.uid,
            Code.HANDOFF_WRONG_PRIMARY,
            "the shard that is to hand over is not the committed primary of its group",
        ),
        (group.handoff is None, Code.HANDOFF_PENDING, "another handoff of the slot group has not finished"),
        (primary.health is Health.OK, Code.PRIMARY_UNAVAILABLE, f"the primary does not answer: {primary.health}"),
        (primary.role is Role.PRIMARY, Code.PRIMARY_NOT_PRIMARY, "the committed primary is not a primary"),
        (not primary.is_fenced, Code.PRIMARY_FENCED, "the primary is fenced"),
        (candidate.health is Health.OK, Code.REPLICA_UNAVAILABLE, f"the replica does not answer: {candidate.health}"),
        (candidate.role is Role.REPLICA, Code.REPLICA_NOT_ATTACHED, "the candidate is not a replica"),
        (
            (candidate.primary_address, candidate.primary_port) == (old_address, old.port),
            Code.REPLICA_OF_ANOTHER,
            f"the replica follows {candidate.primary_address}:{candidate.primary_port}",
        ),
        (candidate.is_link_up, Code.REPLICA_LINK_DOWN, "the replica's link to its primary is down"),
        (not candidate.is_syncing, Code.REPLICA_SYNCING, "the replica is still in its first sync"),
        (
            candidate.replication_id == primary.replication_id,
            Code.REPLICATION_ID_DIFFERS,
            "primary and replica do not share a replication history",
        ),
        (candidate.keys > 0 or primary.keys == 0, Code.REPLICA_EMPTY, "the replica is empty and the primary is not"),
        (not candidate.is_fenced, Code.REPLICA_FENCED, "the replica is still fenced itself"),
    )
    return tuple(
        Reason(code, text, Grade.SOFT_LIMIT, shard_uid=candidate.shard_uid, database_uid=group.database_uid)
        for holds, code, text in checks
        if not holds
    )


def busy_reason(busy: Sequence[BusyCommand]) -> Reason | None:
    """The reason of an attempt that ends with commands in flight: the clients, their commands and the durations. None: no
    command is in flight."""
    if not busy:
        return None
    return Reason(
        BUSY_CODE,
        f"busy: {', '.join(map(str, busy[:3]))}",
        Grade.SOFT_LIMIT,
        remedy="wait for its end, or disconnect the client",
    )


def late_reason(node: NodeUid, text: str) -> Reason:
    """The reason of an attempt that fails because an endpoint process does not answer but may be alive."""
    remedy = f"find out why the endpoint process of node {node} is busy; if it hangs, its agent kills it"
    return Reason(LATE_CODE, text, Grade.SOFT_LIMIT, remedy=remedy, node_uid=node)


def too_late_reason() -> Reason:
    """The reason of an attempt whose fence would have come after the end of the endpoints' hold."""
    return Reason(LATE_CODE, "the endpoints' hold ended before the fence; the handoff is tried again", Grade.SOFT_LIMIT)


def serves(process: EndpointProcessSeen, endpoint: EndpointUid) -> bool:
    """Whether clients reach the endpoint through this process."""
    return process.endpoint(endpoint).state in (EndpointState.LISTENING, EndpointState.DRAINING)


def nodes_of_rebinds(live: Iterable[Move], endpoints: Sequence[EndpointUid]) -> tuple[NodeUid, ...]:
    """The nodes of the rebinds that currently pass one of these endpoints on."""
    moves = [m for m in live if isinstance(m, Rebind) and m.endpoint_uid in endpoints]
    return tuple(sorted({node for m in moves for node in (m.from_node, m.to_node)}))


def nodes_to_hold(bound: tuple[NodeUid, ...], listening: tuple[NodeUid, ...]) -> tuple[NodeUid, ...]:
    """Endpoint processes that a handoff must hold: those in the record and those observed to serve (during a rebind)."""
    return tuple(sorted({*bound, *listening}))
