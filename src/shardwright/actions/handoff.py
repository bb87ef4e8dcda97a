"""The decisions of a handoff: is the candidate proven, and what does a successor do with what it finds.

Pure; ``leader/handoff.py`` performs them. The invariant: from the moment the promote command may have been sent nobody
goes back to the same generation, unless the candidate is seen still to be a replica.
A fence is only ever lifted by an undo or after the demotion.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from shardwright.model.action import Move
from shardwright.model.backoff import Backoff
from shardwright.model.codes import Code
from shardwright.model.database import Role, Shard, SlotGroup
from shardwright.model.ids import EndpointUid, NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.seen import BusyCommand, EndpointProcessSeen, EndpointSeen, EndpointState, Health, ServerSeen

RETRY = Backoff((0.3, 1.0, 2.0, 5.0))
"""Before the next attempt of a handoff."""
BUSY_CODE = Code.CLIENT_COMMAND_BUSY
"""Reason of an attempt that a long-running command ended: such a move stays blocked and names the command."""
LATE_CODE = Code.ENDPOINT_PROCESS_LATE
"""Reason of an attempt that an endpoint process ended by not answering."""
PASSING_CODES = frozenset({BUSY_CODE, LATE_CODE})
"""Reasons that do not count against a move: they pass, or name what has to."""


class OldPrimary(StrEnum):
    """What a successor finds of the primary that was to give up its role."""

    WRITABLE = "writable"
    FENCED = "fenced"
    REPLICA = "replica"
    GONE = "gone"
    UNREACHABLE = "unreachable"
    """It does not answer and its process is not certainly gone."""


class Candidate(StrEnum):
    """What a successor finds of the replica that was to take the role."""

    REPLICA = "replica"
    PRIMARY = "primary"
    GONE = "gone"
    UNREACHABLE = "unreachable"


class Held(StrEnum):
    """Where the endpoints of the database stand."""

    HELD = "held"
    """At least one holds, none was released to the new primary."""
    OLD = "old"
    """All forward to the old primary, or there is none that answers."""
    NEW = "new"
    """At least one was released to the new primary."""


class Recovery(StrEnum):
    """What a successor does."""

    UNDO = "undo"
    """Lift the old primary's fence, release the endpoints to it, forget the intent."""
    FORWARD = "forward"
    """Fence the old primary if it can be, promote the candidate if it is not yet, release, demote, commit."""
    FAIL_BACK = "fail_back"
    """Commit the old one as primary of a later generation: the candidate's process is gone."""
    START_OVER = "start_over"
    """Nobody is left: the rules for starting a shard decide."""
    WAIT = "wait"
    """It cannot be known yet; a server that stays stuck is ended by identity, and then it can."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table. None matches everything; the first row that matches counts."""

    old: OldPrimary | None
    candidate: Candidate | None
    endpoints: Held | None
    recovery: Recovery
    why: str


RULES: tuple[Rule, ...] = (
    Rule(OldPrimary.WRITABLE, Candidate.PRIMARY, Held.NEW, Recovery.FORWARD,
         "clients write to the new one already: only a hand from outside makes this; the old one is attached to it"),
    Rule(OldPrimary.WRITABLE, None, None, Recovery.UNDO,
         "without the fence the promote command was never sent, and older sessions have been ended"),
    Rule(None, Candidate.PRIMARY, None, Recovery.FORWARD,
         "the promotion happened, and it happens only behind a confirmed fence"),
    Rule(OldPrimary.FENCED, Candidate.REPLICA, None, Recovery.UNDO,
         "the candidate is seen still to be a replica: nothing was passed on"),
    Rule(OldPrimary.REPLICA, Candidate.REPLICA, None, Recovery.FORWARD,
         "the old one was demoted after a confirmed promotion: it must not come back"),
    Rule(OldPrimary.GONE, Candidate.REPLICA, None, Recovery.FORWARD,
         "the old one cannot acknowledge any more; the candidate is the live replica"),
    Rule(OldPrimary.UNREACHABLE, Candidate.REPLICA, None, Recovery.WAIT,
         "the old one may be writable again behind the silence"),
    Rule(OldPrimary.GONE, Candidate.GONE, None, Recovery.START_OVER,
         "no process is left"),
    Rule(OldPrimary.UNREACHABLE, Candidate.GONE, None, Recovery.WAIT,
         "the old one is all there is; what it is must be seen first"),
    Rule(OldPrimary.FENCED, Candidate.GONE, None, Recovery.FAIL_BACK,
         "an endpoint, also one that is silent now, may be a generation ahead: the old one serves as a later one"),
    Rule(OldPrimary.REPLICA, Candidate.GONE, None, Recovery.FAIL_BACK,
         "the new primary died: its only live replica takes over, as after any primary's death"),
    Rule(None, Candidate.UNREACHABLE, None, Recovery.WAIT,
         "it may have been promoted behind the silence"),
)  # fmt: skip


def recovery(old: OldPrimary, candidate: Candidate, endpoints: Held) -> tuple[Recovery, str]:
    """What a successor does with what it finds, and why. Total: every combination has a row."""
    for rule in RULES:
        if rule.old in (None, old) and rule.candidate in (None, candidate) and rule.endpoints in (None, endpoints):
            return rule.recovery, rule.why
    raise AssertionError(f"no rule for {old}, {candidate}, {endpoints}")


def old_primary_state(seen: ServerSeen | None, *, has_ended: bool) -> OldPrimary:
    """Classify the old primary. ``seen`` is an answer to a question asked after the older sessions were ended, or None."""
    if has_ended:
        return OldPrimary.GONE
    if seen is None or seen.health is not Health.OK or seen.role is None:
        return OldPrimary.UNREACHABLE
    if seen.role is Role.REPLICA:
        return OldPrimary.REPLICA
    return OldPrimary.FENCED if seen.is_fenced else OldPrimary.WRITABLE


def candidate_state(seen: ServerSeen | None, *, has_ended: bool) -> Candidate:
    """Classify the candidate, as ``old_primary_state`` does the old primary."""
    if has_ended:
        return Candidate.GONE
    if seen is None or seen.health is not Health.OK or seen.role is None:
        return Candidate.UNREACHABLE
    return Candidate.REPLICA if seen.role is Role.REPLICA else Candidate.PRIMARY


def endpoints_state(seen: list[EndpointSeen], *, generation: int) -> Held:
    """Classify the endpoints that answered. ``generation`` is the one the handoff leads to."""
    known = [e for e in seen if e.state is not EndpointState.ABSENT]
    if any(e.generation >= generation for e in known):
        return Held.NEW
    return Held.HELD if any(e.held_generation is not None for e in known) else Held.OLD


def unproven(
    group: SlotGroup, old: Shard, old_address: str, *, primary: ServerSeen, candidate: ServerSeen
) -> tuple[Reason, ...]:
    """Why the candidate must not take the role; empty when it is proven (design section 5, *Handoff*, step 1)."""
    checks = (
        (
            group.primary == old.uid,
            Code.HANDOFF_WRONG_PRIMARY,
            "the shard to hand over is not its group's committed primary",
        ),
        (group.handoff is None, Code.HANDOFF_PENDING, "another handoff of the slot group is not finished"),
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
        (not candidate.is_fenced, Code.REPLICA_FENCED, "the replica still has a fence of its own"),
    )
    return tuple(
        Reason(code, text, Grade.SOFT_LIMIT, shard_uid=candidate.shard_uid, database_uid=group.database_uid)
        for holds, code, text in checks
        if not holds
    )


def busy_reason(busy: Sequence[BusyCommand]) -> Reason | None:
    """Why an attempt ends with commands in flight: who runs what, and for how long. None: nothing is in flight."""
    if not busy:
        return None
    return Reason(
        BUSY_CODE, f"busy: {', '.join(map(str, busy[:3]))}", Grade.SOFT_LIMIT, "wait for it to end, or end that client"
    )


def late_reason(node: NodeUid, text: str) -> Reason:
    """Why an attempt ends with an endpoint process that may live and does not answer."""
    remedy = f"see what keeps the endpoint process of node {node} busy; one that has stopped is ended by its agent"
    return Reason(LATE_CODE, text, Grade.SOFT_LIMIT, remedy, node_uid=node)


def too_late_reason() -> Reason:
    """Why an attempt ends whose fence would have come when the endpoints hold no more."""
    return Reason(LATE_CODE, "the endpoints' hold was over before the fence; it is tried again", Grade.SOFT_LIMIT)


def serves(process: EndpointProcessSeen, endpoint: EndpointUid) -> bool:
    """Whether clients reach the endpoint through this process."""
    return process.endpoint(endpoint).state in (EndpointState.LISTENING, EndpointState.DRAINING)


def nodes_of_rebinds(live: Iterable[Move], endpoints: Sequence[EndpointUid]) -> tuple[NodeUid, ...]:
    """The nodes between which one of these endpoints is being passed on."""
    moves = [m for m in live if m.endpoint_uid in endpoints]
    return tuple(sorted({node for m in moves for node in (m.from_node, m.to_node) if node is not None}))


def nodes_to_hold(bound: tuple[NodeUid, ...], listening: tuple[NodeUid, ...]) -> tuple[NodeUid, ...]:
    """Endpoint processes that a handoff must hold: those the record names and those seen to serve (during a rebind)."""
    return tuple(sorted({*bound, *listening}))
