"""Durations of moves: rates measured on completed moves, and a schedule of the remaining ones.

Called by the actions on every turn (expected end) and for plans (expected duration). The moves in the store are the
measurements, so a new leader has the same knowledge as the previous one. Without measurements, cautious defaults apply.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import nlargest
from statistics import median
from typing import TypeVar

from shardwright.model.ids import DatabaseUid, GroupUid
from shardwright.model.move import HandoffMove, Move, MoveState, Rebind, Relocation
from shardwright.plan.proposal import HandoffProposal, MoveProposal, RebindProposal, RelocationProposal

OneKind = TypeVar("OneKind", HandoffMove, Relocation, Rebind)

SAMPLES_MAX = 24
"""Number of samples of each kind, the latest ones: old measurements say little about the machine's current speed."""
LARGE_BYTES = 16 * 1024 * 1024
"""A sync of at least this size measures the rate; a smaller one measures the fixed cost."""
_AFTERMATH_S = 0.1
"""From the end of the last move to the end of the action."""
_STEP_MIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Rates:
    """Durations and speeds of a move. The defaults are those of two busy cores."""

    bytes_per_s: float = 120e6
    launch_s: float = 0.3
    """From the start of the move to the new server's first answer. Hidden while the move waits for another sync."""
    start_s: float = 0.3
    """From that answer to the first byte, plus everything else that does not depend on the size."""
    leave_s: float = 0.8
    """From the new copy in sync to the end of the old copy's process."""
    handoff_s: float = 0.3
    rebind_s: float = 0.4
    pause_ms: float = 20.0
    """How long writers wait while the primary role changes hands."""
    is_measured: bool = False
    """At least one relocation was measured."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Expected start and end of a move, in seconds from now."""

    begins_s: float
    ends_s: float


DEFAULTS = Rates()


def measured(moves: Iterable[Move]) -> Rates:
    """Rates from completed moves; a value without measurements keeps its default."""
    done = [m for m in moves if m.state in (MoveState.DONE, MoveState.CLEANING) and m.started_at is not None]
    moved = _latest([m for m in done if isinstance(m, Relocation)])
    handoffs = _latest([m for m in done if isinstance(m, HandoffMove)])
    rebinds = _latest([m for m in done if isinstance(m, Rebind)])
    relocations = [m for m in moved if m.ready_at is not None]
    # The minimum: all moves but the first also waited for their turn.
    launch_s = min((s for m in relocations if (s := _between(m.started_at, m.sync_began_at)) is not None), default=None)
    pauses = [m.evidence.pause_ms for m in (*handoffs, *moved) if m.evidence is not None and m.evidence.pause_ms is not None]
    start_s, rate = _sync(relocations)
    leaves = [_between(m.ready_at, m.left_at or m.ended_at) for m in relocations]
    return Rates(
        rate,
        DEFAULTS.launch_s if launch_s is None else launch_s,
        start_s,
        _median([s for s in leaves if s is not None], DEFAULTS.leave_s),
        _median(_lasted(handoffs), DEFAULTS.handoff_s),
        _median(_lasted(rebinds), DEFAULTS.rebind_s),
        _median(pauses, DEFAULTS.pause_ms),
        bool(relocations),
    )


def _sync(relocations: Sequence[Relocation]) -> tuple[float, float]:
    """The fixed cost of a sync in seconds, and its rate in bytes per second."""
    timed = [(m.bytes_total, s) for m in relocations if (s := _between(m.sync_began_at, m.ready_at)) is not None]
    small = [seconds for size, seconds in timed if size < LARGE_BYTES]
    large = [(size, seconds) for size, seconds in timed if size >= LARGE_BYTES]
    shortest = min((seconds for _, seconds in large), default=None)
    start_s = _median(small, DEFAULTS.start_s)
    if shortest is not None:
        start_s = min(start_s, shortest / 2)
    # The median of the per-move rates: one stalled sync does not distort it.
    rates = [size / max(seconds - start_s, _STEP_MIN_S) for size, seconds in large]
    return start_s, _median(rates, DEFAULTS.bytes_per_s)


def _latest(moves: Sequence[OneKind]) -> Sequence[OneKind]:
    if len(moves) <= SAMPLES_MAX:
        return moves
    return nlargest(SAMPLES_MAX, moves, key=lambda m: (m.ended_at or m.state_since).timestamp())


def _lasted(moves: Sequence[Move]) -> list[float]:
    found = (_between(m.started_at, m.ended_at) for m in moves)
    return [seconds for seconds in found if seconds is not None]


def _between(first: datetime | None, last: datetime | None) -> float | None:
    return None if first is None or last is None else max(0.0, (last - first).total_seconds())


def _median(values: Sequence[float], default: float) -> float:
    return float(median(values)) if values else default


# -- a schedule --------------------------------------------------------------------------------------------------------


class Schedule:
    """Schedules moves: a few full syncs in parallel, one change of a slot group at a time, endpoints after roles."""

    def __init__(self, rates: Rates, *, syncs_max: int) -> None:
        """``syncs_max`` 0: no limit."""
        self._rates = rates
        self._lanes = [0.0] * syncs_max
        self._groups: dict[GroupUid, float] = {}
        self._roles: dict[DatabaseUid, float] = {}
        self.end_s = 0.0

    def add_live(self, move: Move, now: datetime) -> Slot:
        """Schedule the rest of a move that is under way."""
        sync_s, rest_s = _remaining(move, self._rates, now)
        launch_s = 0.0
        if move.state in (MoveState.PLANNED, MoveState.STARTING):
            launch_s = max(0.0, self._rates.launch_s - (now - (move.started_at or now)).total_seconds())
        return self._add(move, launch_s, sync_s, rest_s)

    def add(self, proposal: MoveProposal) -> Slot:
        """Schedule a move that has not started, after the moves added before it."""
        sync_s, rest_s = durations(proposal, self._rates)
        return self._add(proposal, self._rates.launch_s if sync_s > 0 else 0.0, sync_s, rest_s)

    def _add(self, move: Move | MoveProposal, launch_s: float, sync_s: float, rest_s: float) -> Slot:
        if isinstance(move, Rebind | RebindProposal):
            begin = self._roles.get(move.database_uid, 0.0)
        else:
            begin = self._groups.get(move.group_uid, 0.0)
        if sync_s > 0 and self._lanes:
            lane = min(range(len(self._lanes)), key=self._lanes.__getitem__)
            begin = max(begin, self._lanes[lane] - launch_s)
            self._lanes[lane] = begin + launch_s + sync_s
        end = begin + launch_s + sync_s + rest_s
        if not isinstance(move, Rebind | RebindProposal):
            self._groups[move.group_uid] = end
        if move.changes_role:
            # A relocation hands over the role before the old copy leaves, and endpoints wait for the role only.
            passed = end if isinstance(move, HandoffMove | HandoffProposal) else end - rest_s / 2
            self._roles[move.database_uid] = max(passed, self._roles.get(move.database_uid, 0.0))
        self.end_s = max(self.end_s, end)
        return Slot(begin, end)


def durations(move: Move | MoveProposal, rates: Rates) -> tuple[float, float]:
    """Seconds of the sync, and seconds of everything after it."""
    match move:
        case HandoffMove() | HandoffProposal():
            return 0.0, rates.handoff_s
        case Rebind() | RebindProposal():
            return 0.0, rates.rebind_s
        case Relocation() | RelocationProposal():
            return rates.start_s + move.bytes_total / rates.bytes_per_s, rates.leave_s


def _remaining(move: Move, rates: Rates, now: datetime) -> tuple[float, float]:
    sync_s, rest_s = durations(move, rates)
    if not isinstance(move, Relocation):
        return 0.0, max(_STEP_MIN_S, rest_s - _since(move.started_at, now))
    began = move.started_at if sync_s == 0 else move.sync_began_at
    if move.ready_at is not None or move.state in (MoveState.READY, MoveState.CLEANING) or sync_s == 0:
        return 0.0, max(_STEP_MIN_S, rest_s - _since(move.ready_at or began, now))
    left_s = sync_s - _since(began, now)
    if move.bytes_done > 0:
        left_s = max(left_s, 0.0) / 2 + max(0, move.bytes_total - move.bytes_done) / rates.bytes_per_s / 2
    return max(_STEP_MIN_S, left_s), rest_s


def _since(at: datetime | None, now: datetime) -> float:
    return (now - (at or now)).total_seconds()


def expected_end(
    live: Iterable[Move], pending: Iterable[MoveProposal], rates: Rates, *, syncs_max: int, now: datetime
) -> datetime:
    """Expected end of the last of these moves, and so of the action."""
    schedule = Schedule(rates, syncs_max=syncs_max)
    for move in sorted(live, key=lambda m: (not _is_ready(m), m.started_at or now)):
        schedule.add_live(move, now)
    for proposal in pending:
        schedule.add(proposal)
    return now + timedelta(seconds=schedule.end_s + _AFTERMATH_S)


def _is_ready(move: Move) -> bool:
    return isinstance(move, Relocation) and move.ready_at is not None
