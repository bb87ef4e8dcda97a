"""Starts the moves of a plan, a few at a time, and reports whether an action has to wait.

The part that all four actions share, so that each action's module contains only its own rules. Pure.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from shardwright.actions.blockers import blockers_of
from shardwright.actions.progress import progress, work_total_bytes
from shardwright.actions.turn import Turn
from shardwright.model.action import ActionStatus
from shardwright.model.backoff import Backoff
from shardwright.model.codes import Code
from shardwright.model.event import EventKind, Severity
from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid, ShardUid, uid_of_move
from shardwright.model.liveness import has_ended
from shardwright.model.move import HandoffMove, Move, MoveKind, MoveState, Relocation
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import ClusterView
from shardwright.plan.eta import expected_end, measured
from shardwright.plan.leaving import drained_shares
from shardwright.plan.proposal import MoveProposal, RebindProposal, Unplaced

RETRY = Backoff((2.0, 5.0))
"""Delay before the second and each further attempt: long enough for the restart of a server or an agent."""
ATTEMPTS_MAX = 3
DRAIN_STEP = "drain_clients"
"""The step in which an action waits for the clients of endpoints that several nodes serve."""
STARTED_AHEAD = 1
"""Waiting servers started ahead for each allowed full sync, so that the next sync begins as soon as one ends."""


Subject = ShardUid | EndpointUid


class Plan(Protocol):
    """The common interface of evacuation and restore plans."""

    @property
    def moves(self) -> tuple[MoveProposal, ...]: ...
    @property
    def waiting(self) -> tuple[Reason, ...]: ...
    @property
    def unplaced(self) -> tuple[Unplaced, ...]: ...
    @property
    def in_flight(self) -> tuple[Move, ...]: ...


@dataclass(frozen=True, slots=True)
class RetryRule:
    """When failed moves are given up."""

    attempts_max: int | None = ATTEMPTS_MAX
    """None: unlimited until ``until``."""
    until: datetime | None = None
    """After this time, failed moves are not retried and waits end; None: no such time."""


@dataclass(frozen=True, slots=True)
class Advance:
    """The result of a turn. ``is_under_way`` False: everything that could move has moved."""

    is_under_way: bool
    stuck: tuple[Reason, ...] = ()
    """Moves that were given up."""
    unplaced: tuple[Reason, ...] = ()
    """Resources without a place."""

    @property
    def left(self) -> tuple[Reason, ...]:
        """Everything that stays behind, with reasons."""
        return (*self.unplaced, *self.stuck)


def own_moves(turn: Turn) -> list[Move]:
    """The action's moves, oldest first."""
    return turn.view.moves_of_action(turn.action.uid)


def failures_of(turn: Turn) -> dict[Subject, Counter[NodeUid]]:
    """Number of failed attempts per target and subject, so that a new attempt prefers another target. If an accepted plan
    names the target, every other node counts as failed once: it is used only if the named one refuses or has failed."""
    found: dict[Subject, Counter[NodeUid]] = {}
    for target in turn.action.targets:
        subject = target.endpoint_uid if target.shard_uid is None else target.shard_uid
        if subject is not None:
            found[subject] = Counter(uid for uid in turn.view.nodes if uid != target.to_node)
    for move in own_moves(turn):
        if move.state == MoveState.FAILED and not isinstance(move, HandoffMove):
            found.setdefault(move.subject, Counter())[move.to_node] += 1
    return found


def holds(view: ClusterView, move: Move) -> bool:
    """Whether a live move still keeps something on its source node. Once the old copy has ended, it does not."""
    if move.state.is_terminal or (isinstance(move, Relocation) and move.has_left):
        return False
    if not isinstance(move, Relocation) or move.state != MoveState.CLEANING:
        return True
    shard = view.shards.get(move.shard_uid)
    return shard is not None and not has_ended(view.liveness(shard))


def advance(turn: Turn, plan: Plan, *, moves_max: int | None, retry: RetryRule | None = None) -> Advance:
    """Start moves, raise the progress, show blockers. ``moves_max``: None as in the policy, 0 unlimited."""
    rule = retry or RetryRule()
    starter = _Starter(turn, plan, moves_max, rule)
    starter.run()
    moves = own_moves(turn)
    pending = [p for p in plan.moves if p not in starter.started and p.subject not in starter.stuck]
    turn.change(
        work_total_bytes=work_total_bytes(turn.action, moves, pending),
        progress=progress(turn.action, moves, pending, drained_shares(turn.view, turn.node_uid, turn.now)),
    )
    _expect_end(turn, [*moves, *plan.in_flight], pending)
    is_over = rule.until is not None and turn.now >= rule.until
    waiting = () if is_over else plan.waiting
    given_up = plan.waiting if is_over else ()
    held = [m for m in (*moves, *plan.in_flight) if holds(turn.view, m)]
    # Moves that may start only after a move that is cleaning up are still to come.
    has_more = any(p.is_later for p in plan.moves) and bool(plan.in_flight)
    is_moving = bool(held or starter.started or starter.deferred or has_more)
    is_under_way = is_moving or bool(waiting)
    if waiting and not is_moving and all(r.code == Code.CLIENTS_LEAVING for r in waiting):
        _note_draining(turn)
    # A wait in the action's own queue is not a blocker; a wait for another action's move is.
    hidden = {Code.MOVE_LIMIT, Code.SYNC_LIMIT} if held else set()
    deferred = [r for r in starter.deferred.values() if r.code not in hidden]
    unplaced = [u.reason for u in plan.unplaced]
    turn.blocked((*waiting, *starter.stuck.values(), *unplaced, *blockers_of(turn.view, held, turn.now), *deferred))
    if is_under_way and rule.until is not None and not is_over:
        turn.wake_at(rule.until)
    return Advance(is_under_way, (*starter.stuck.values(), *given_up), tuple(unplaced))


def _note_draining(turn: Turn) -> None:
    """Only clients of endpoints that other nodes serve too are left on the node."""
    if not turn.action.steps or turn.action.steps[-1].name != DRAIN_STEP:
        time_s = turn.view.policy.drain_clients_s
        turn.begin_step(DRAIN_STEP, f"clients have {time_s} s to leave, then each connection is closed behind a reply")


def _expect_end(turn: Turn, moves: Sequence[Move], pending: Sequence[MoveProposal]) -> None:
    """Update the expected end. An estimate that hardly differs is kept: each change is a write."""
    live = [m for m in {m.uid: m for m in moves}.values() if holds(turn.view, m)]
    rates = measured(turn.view.moves.values())
    limit = turn.view.policy.max_slave_full_syncs
    found = expected_end(live, pending, rates, syncs_max=limit, now=turn.now)
    before = turn.action.expected_end_at
    tolerance = max(timedelta(seconds=0.3), (found - turn.now) / 25)
    if before is None or abs(found - before) > tolerance:
        turn.change(expected_end_at=found)


class _Starter:
    """Chooses the proposals that become moves now."""

    def __init__(self, turn: Turn, plan: Plan, moves_max: int | None, rule: RetryRule) -> None:
        self.turn = turn
        self.plan = plan
        self.rule = rule
        self.is_undo = turn.action.status == ActionStatus.CANCELLING
        policy = turn.view.policy
        limit = policy.default_concurrent_restore_actions if moves_max is None else moves_max
        live = turn.view.live_moves()
        own = [m for m in live if m.action_uid == turn.action.uid and holds(turn.view, m)]
        begun = [m for m in live if isinstance(m, Relocation) and m.state in _BEFORE_READY]
        self.slots = None if limit == 0 else max(0, limit - len(own))
        begun_max = (1 + STARTED_AHEAD) * policy.max_slave_full_syncs
        self.syncs = None if begun_max == 0 else max(0, begun_max - len(begun))
        """How many more relocations may begin now; None: no limit."""
        self.failed: dict[tuple[MoveKind, Subject], list[Move]] = {}
        for move in own_moves(turn):
            if move.state == MoveState.FAILED and move.is_undo == self.is_undo:
                self.failed.setdefault((move.kind, move.subject), []).append(move)
        self.stuck: dict[Subject, Reason] = {}
        self.started: list[MoveProposal] = []
        self.deferred: dict[MoveProposal, Reason] = {}

    def run(self) -> None:
        for proposal in self.plan.moves:
            if not proposal.is_later and self._is_given_up(proposal):
                self.stuck[proposal.subject] = self._stuck_reason(proposal)
        role_changes = self._role_changes()
        for proposal in self.plan.moves:
            if proposal.is_later or proposal.subject in self.stuck:
                continue
            reason = self._hindrance(proposal, role_changes)
            if reason is None:
                self._start(proposal)
            else:
                self.deferred[proposal] = reason

    def _role_changes(self) -> set[DatabaseUid]:
        """Databases whose clients are switching servers, or are about to: their endpoints wait. Interruptions come one at a
        time, and each is short."""
        live = (m for m in self.turn.view.live_moves() if m.changes_role)
        found = {m.database_uid for m in live if m.state not in (MoveState.CLEANING, MoveState.UNDOING)}
        proposed = (p for p in self.plan.moves if p.changes_role and not p.is_later and p.subject not in self.stuck)
        return found | {p.database_uid for p in proposed}

    def _hindrance(self, proposal: MoveProposal, role_changes: set[DatabaseUid]) -> Reason | None:
        """Why the move cannot begin this turn; None if it can."""
        if self.slots == 0:
            return _waits(proposal, Code.MOVE_LIMIT, "for another move of this action to end")
        retry_at = self._retry_at(proposal)
        if retry_at is not None and RETRY.is_waiting(retry_at, self.turn.now):
            # Its place is chosen only when its time has come: a place chosen now may be taken by then.
            self.turn.wake_at(retry_at)
            return _waits(proposal, Code.RETRY_PENDING, f"until {retry_at:%H:%M:%S} for its next attempt")
        if isinstance(proposal, RebindProposal):
            is_first = proposal.database_uid not in role_changes
            return None if is_first else _waits(proposal, Code.ROLE_CHANGE_FIRST, "for the primary role's handoff")
        move = self.turn.view.live_move_of_group(proposal.group_uid)
        if move is not None:
            return _waits(proposal, Code.GROUP_BUSY, f"for move {move.uid}")
        if proposal.kind == MoveKind.RELOCATE and self.syncs == 0:
            return _waits(proposal, Code.SYNC_LIMIT, "for another full sync to end")
        return None

    def _start(self, proposal: MoveProposal) -> None:
        number = self.turn.action.moves_started + 1
        uid = uid_of_move(self.turn.action.uid, number)
        self._note_deviation(proposal)
        self.turn.put(proposal.to_move(uid, self.turn.action.uid, is_undo=self.is_undo, now=self.turn.now))
        self.turn.change(moves_started=number)
        self.started.append(proposal)
        if self.slots is not None:
            self.slots -= 1
        if proposal.kind == MoveKind.RELOCATE and self.syncs is not None:
            self.syncs -= 1

    def _note_deviation(self, proposal: MoveProposal) -> None:
        """If an accepted plan can no longer be followed exactly, the action continues and reports the difference."""
        for target in self.turn.action.targets if not self.is_undo else ():
            planned = target.endpoint_uid if target.shard_uid is None else target.shard_uid
            if planned == proposal.subject and target.to_node != proposal.to_node and proposal.kind != MoveKind.HANDOFF:
                text = f"{_subject_name(proposal)} goes to node {proposal.to_node}, not {target.to_node} as planned"
                self.turn.event(EventKind.NODE_ACTION_PLAN_CHANGED, Severity.WARNING, text)

    def _attempts(self, proposal: MoveProposal) -> list[Move]:
        return self.failed.get((proposal.kind, proposal.subject), [])

    def _is_given_up(self, proposal: MoveProposal) -> bool:
        attempts = self._attempts(proposal)
        if attempts and self.rule.until is not None and self.turn.now >= self.rule.until:
            return True
        return self.rule.attempts_max is not None and len(attempts) >= self.rule.attempts_max

    def _retry_at(self, proposal: MoveProposal) -> datetime | None:
        attempts = self._attempts(proposal)
        if not attempts:
            return None
        ended_at = attempts[-1].ended_at or self.turn.now
        return ended_at + RETRY.delay(len(attempts) - 1)

    def _stuck_reason(self, proposal: MoveProposal) -> Reason:
        attempts = self._attempts(proposal)
        cause = attempts[-1].reasons[0] if attempts[-1].reasons else Reason(Code.MOVE_FAILED, "no reason is known")
        what = f"{proposal.kind} of {_subject_name(proposal)}"
        text = f"{what} failed {len(attempts)} times, last because: {cause.text}"
        return replace(
            cause,
            text=text,
            shard_uid=_shard_of(proposal),
            database_uid=proposal.database_uid,
            node_uid=cause.node_uid or proposal.to_node,
        )


_BEFORE_READY = frozenset({MoveState.PLANNED, MoveState.STARTING, MoveState.SYNCING})


def _subject_name(proposal: MoveProposal) -> str:
    kind = "endpoint" if isinstance(proposal, RebindProposal) else "shard"
    return f"{kind} {proposal.subject} of database {proposal.database_uid}"


def _shard_of(proposal: MoveProposal) -> ShardUid | None:
    return None if isinstance(proposal, RebindProposal) else proposal.shard_uid


def _waits(proposal: MoveProposal, code: Code, what: str) -> Reason:
    text = f"{proposal.kind} of {_subject_name(proposal)} waits {what}"
    return Reason(
        code,
        text,
        Grade.SOFT_LIMIT,
        shard_uid=_shard_of(proposal),
        database_uid=proposal.database_uid,
        node_uid=proposal.from_node,
    )


def error_code_of(left: Advance) -> Code:
    """The error code for everything that stays behind: missing room, then missing copies, then failed moves."""
    codes = {reason.code for reason in left.unplaced}
    for code in (Code.NO_LIVE_COPY, Code.NO_REPLICA):
        if codes == {code}:
            return code
    return Code.INSUFFICIENT_RESOURCES if codes else Code.MOVE_FAILED
