"""Progress of an action as text: for each move its object, source, target, bytes and rate. Pure: API answers and times in,
lines out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from shardwright.cli.table import UNKNOWN
from shardwright.units import format_bytes, format_duration, format_rate

Json = Mapping[str, Any]

ENDED = frozenset({"completed", "failed", "cancelled", "aborted"})
"""Final statuses."""
MOVE_ENDED = frozenset({"done", "failed", "cancelled"})
MOVE_COLUMNS = ("WHAT", "FROM", "TO", "STATE", "BYTES", "RATE")
_RATE_WINDOW_S = 5.0
"""Long enough to smooth a sync stream's bursts, short enough to show a stall."""


def has_ended(action: Json) -> bool:
    """Whether the action has ended."""
    return action.get("status") in ENDED


def progress_of(action: Json) -> float:
    """0 to 100. ``/v1/actions`` returns it as a string, the node's own path as a number."""
    try:
        return min(100.0, max(0.0, float(action.get("progress", 0))))
    except (TypeError, ValueError):
        return 0.0


def pace(action: Json) -> str:
    """``moving, 42.5MB of 400MB, about 12s left``; unknown parts are left out, and all of it after the end."""
    if has_ended(action):
        return ""
    parts = [str(action["condition"])] if action.get("condition") else []
    if total := _whole(action.get("bytes_total")):
        parts.append(f"{format_bytes(_whole(action.get('bytes_done')))} of {format_bytes(total)}")
    eta = action.get("eta_seconds")
    if isinstance(eta, int | float):
        parts.append(f"about {format_duration(timedelta(seconds=max(1, round(eta)))).replace('.0s', 's')} left")
    return ", ".join(parts)


def title(action: Json) -> str:
    """``maintenance_on node:3``."""
    return f"{action.get('name', 'action')} {object_of(action)}"


def object_of(action: Json) -> str:
    """The object of the action: a node, or the database of a change."""
    if node := action.get("node_uid"):
        return f"node:{node}"
    return str(action.get("object_name") or UNKNOWN)


@dataclass(slots=True)
class ProgressRates:
    """Bytes per second of each move, from successive polls."""

    _seen: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def note(self, action: Json, at: float) -> None:
        """Record one answer, received at the monotonic time ``at`` (seconds)."""
        for move in moves_of(action):
            samples = self._seen.setdefault(str(move.get("uid")), [])
            samples.append((at, _whole(move.get("bytes_done"))))
            while len(samples) > 2 and samples[0][0] < at - _RATE_WINDOW_S:
                del samples[0]

    def of(self, move: Json) -> float | None:
        """Bytes per second; None if unknown, or if the move has ended."""
        samples = self._seen.get(str(move.get("uid")), [])
        if len(samples) < 2 or move.get("state") in MOVE_ENDED or samples[-1][0] <= samples[0][0]:
            return None
        return max(0.0, (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0]))


def moves_of(action: Json) -> list[Json]:
    """The moves of an action, in the API's order."""
    moves = action.get("moves")
    return [move for move in moves if isinstance(move, Mapping)] if isinstance(moves, list) else []


def reasons_of(thing: Json) -> list[Json]:
    """Why an action or a move waits or failed."""
    reasons = thing.get("reasons")
    return [reason for reason in reasons if isinstance(reason, Mapping)] if isinstance(reasons, list) else []


def move_row(move: Json, rates: ProgressRates) -> tuple[str, ...]:
    """Cells for ``MOVE_COLUMNS``."""
    total, done = _whole(move.get("bytes_total")), _whole(move.get("bytes_done"))
    bytes_text = (
        "-"
        if total == 0 and done == 0
        else format_bytes(done)
        if done >= total
        else f"{format_bytes(done)}/{format_bytes(total)}"
    )
    rate = rates.of(move)
    what = f"{move.get('kind', 'move')} {move.get('what', UNKNOWN)}"
    shown_rate = "-" if rate is None or total == 0 else format_rate(rate)
    return (
        what,
        str(move.get("from") or "-"),
        str(move.get("to") or "-"),
        str(move.get("state", UNKNOWN)),
        bytes_text,
        shown_rate,
    )


def reason_text(reason: Json) -> str:
    """``sentence (code); remedy: …``."""
    text = str(reason.get("description") or reason.get("code") or "unknown")
    code = reason.get("code")
    remedy = reason.get("remedy")
    return text + (f" ({code})" if code and code != text else "") + (f"; remedy: {remedy}" if remedy else "")


def evidence_text(evidence: Json) -> str:
    """One line about a handoff: the waiting time of writers, and the offsets that prove that nothing was lost."""
    recovered = ", finished by a new leader" if evidence.get("finished_by") == "recovery" else ""
    pause = "no endpoint held commands" if evidence.get("pause_ms") is None else f"pause {evidence['pause_ms']} ms"
    return (
        f"redis:{evidence.get('from_shard')} -> redis:{evidence.get('to_shard')}: {pause}, "
        f"fence {evidence.get('fence_ms')} ms, offset {evidence.get('fenced_offset')} fenced / "
        f"{evidence.get('promoted_offset')} at the promotion, held {evidence.get('held_commands')} commands{recovered}"
    )


def ending(action: Json) -> str:
    """The last line: the result, and the cause if the action did not complete."""
    text = f"{title(action)}: {action.get('status')}"
    if moves := moves_of(action):
        moved = sum(_whole(move.get("bytes_done")) for move in moves)
        text += f", {len(moves)} move{'s' if len(moves) > 1 else ''}" + (f", {format_bytes(moved)}" if moved else "")
    if code := action.get("error_code"):
        text += f": {action.get('error_message') or ''} ({code})"
    return "\n".join([text, *(f"  - {reason_text(reason)}" for reason in reasons_of(action))])


@dataclass(slots=True)
class Changes:
    """Changes since the last answer, one line each: the display without a terminal."""

    _status: str = ""
    _tenth: int = 0
    _moves: dict[str, str] = field(default_factory=dict)
    _reasons: frozenset[str] = frozenset()

    def lines(self, action: Json, rates: ProgressRates) -> Iterator[str]:
        """Lines for the changes; empty without a change."""
        status, percent = str(action.get("status")), progress_of(action)
        if status != self._status or int(percent / 10) > self._tenth:
            self._status, self._tenth = status, max(self._tenth, int(percent / 10))
            going = pace(action)
            yield f"{title(action)}: {percent:g}% {status}" + (f" ({going})" if going else "")
        for move in moves_of(action):
            uid, state = str(move.get("uid")), str(move.get("state"))
            if self._moves.get(uid) != state:
                self._moves[uid] = state
                what, origin, target, _, bytes_text, rate = move_row(move, rates)
                size = "" if bytes_text == "-" else f" {bytes_text}" + ("" if rate == "-" else f" {rate}")
                yield f"  {what} {origin} -> {target}: {state}{size}"
        reasons = frozenset(reason_text(reason) for thing in (action, *moves_of(action)) for reason in reasons_of(thing))
        yield from (f"  waits: {text}" for text in sorted(reasons - self._reasons) if status not in ENDED)
        self._reasons = reasons


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
