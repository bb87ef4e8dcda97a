"""Explains an action on a node: feasibility, effects, obstacles, smallest remedy. Pure.

Uses the preview of a dry run, and presents it as an answer to the operator's question. A live action on the node is a
reason here, not an error.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from shardwright.api.codes import invalid
from shardwright.api.schemas.v1.common import action_of_url
from shardwright.api.services import node_actions
from shardwright.api.services.intent import Look
from shardwright.api.services.preview import Preview, needs_help, plan_of, preview
from shardwright.errors import Refusal, Rejected
from shardwright.model.action import Action, ActionStatus
from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.ids import ActionUid, NodeUid
from shardwright.model.reason import Grade, Reason
from shardwright.model.view import Put
from shardwright.plan.remedy import distinct, room_remedy
from shardwright.units import format_bytes

UID: Final = ActionUid("explained")
"""Uid of the imaginary action."""
SHARDS_SHOWN: Final = 50
REMEDIES_SHOWN: Final = 3
_FIRMNESS = {Grade.HARD_LIMIT: 0, Grade.CONFIGURATION: 1, Grade.SOFT_LIMIT: 2}


class Verdict(StrEnum):
    """The short answer."""

    YES = "yes"
    NOTHING_TO_DO = "nothing_to_do"
    LATER = "later"
    """The obstacles pass by themselves."""
    BLOCKED = "blocked"
    """It would start and wait for an operator."""
    PARTLY = "partly"
    """It would move as much as possible and end failed."""
    NO = "no"


@dataclass(frozen=True, slots=True)
class Block:
    """Reasons with the same code, the firmest grade first."""

    code: str
    grade: Grade
    text: str
    remedies: tuple[str, ...]
    reasons: tuple[Reason, ...]
    """At most ``SHARDS_SHOWN``; ``count`` is the full number."""
    count: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to an explanation request."""

    verdict: Verdict
    text: str
    preview: Preview
    blocks: tuple[Block, ...]
    remedy: str
    """The smallest remedy; empty without obstacles, or if no remedy is known."""


def explain(seen: Look, node_uid: NodeUid, word: str | None, raw: bytes = b"") -> Explanation:
    """Explain an action. Raises Rejected: unknown node, unknown or missing action, bad parameters."""
    if word is None or action_of_url(word) is None:
        known = "remove, maintenance_on, maintenance_off, enslave_node"
        raise invalid("invalid_action", "action: name the node action to explain.", remedy=f"Actions are: {known}.")
    busy: tuple[Reason, ...] = ()
    try:
        intent = node_actions.start(seen, node_uid, word, raw, uid=UID)
    except Rejected as refused:
        if refused.refusal is not Refusal.CONFLICT:
            raise
        busy = (Reason(Code.of(refused.code), refused.text, Grade.SOFT_LIMIT, remedy=refused.remedy, node_uid=node_uid),)
        unlocked = replace(seen, bare=lambda key: None)
        intent = node_actions.start(unlocked, node_uid, word, raw, uid=UID)
    found = preview(intent.answer, seen.view, intent.writes, seen.now)
    reasons = (*busy, *_hindrances(found))
    remedy = _remedy(seen, found, intent.answer, [w.record for w in intent.writes if isinstance(w, Put)], reasons)
    verdict = _verdict(found, reasons)
    return Explanation(verdict, _text(verdict, found, reasons), found, _blocks(reasons), remedy)


def _hindrances(found: Preview) -> tuple[Reason, ...]:
    """The preview reports a restore's differences, but they do not block it."""
    return () if found.action.status is ActionStatus.COMPLETED else found.hindrances


def _verdict(found: Preview, reasons: tuple[Reason, ...]) -> Verdict:
    status = found.action.status
    if status is ActionStatus.FAILED:
        return Verdict.NO
    if status is ActionStatus.COMPLETED:
        return Verdict.LATER if reasons else Verdict.NOTHING_TO_DO
    if any(needs_help(r) for r in _hindrances(found)):
        return Verdict.BLOCKED
    if any(r.grade is not Grade.SOFT_LIMIT for r in reasons):
        return Verdict.PARTLY
    if not found.moves and not reasons:
        return Verdict.NOTHING_TO_DO
    return Verdict.LATER if reasons and not found.moves else Verdict.YES


def _text(verdict: Verdict, found: Preview, reasons: tuple[Reason, ...]) -> str:
    cost = found.forecast
    size = sum(m.bytes_total for m in found.moves)
    pause = max((m.pause_ms for m in cost.moves), default=0.0)
    count = len(found.moves)
    moves = f"{count} move{'' if count == 1 else 's'}, {format_bytes(size)}, about {max(1, round(cost.seconds))} s"
    moves += f", writes of a database wait about {pause:.0f} ms" if pause else ""
    firm = sum(r.grade is not Grade.SOFT_LIMIT for r in reasons)
    match verdict:
        case Verdict.YES:
            return moves
        case Verdict.NOTHING_TO_DO:
            return "nothing has to move"
        case Verdict.LATER:
            return "not now; the obstacles pass by themselves or can be cancelled"
        case Verdict.BLOCKED:
            waited = next(r for r in reasons if needs_help(r))
            return f"it would start and wait for an operator: {waited.text}"
        case Verdict.PARTLY:
            return f"it would fail and leave {firm} behind, after {moves}"
        case Verdict.NO:
            return "it would be refused before the first move"


def _blocks(reasons: tuple[Reason, ...]) -> tuple[Block, ...]:
    grouped: dict[str, list[Reason]] = {}
    for reason in reasons:
        grouped.setdefault(reason.code, []).append(reason)
    found = []
    for code, own in grouped.items():
        grade = min((r.grade for r in own), key=_FIRMNESS.__getitem__)
        more = f" (and {len(own) - 1} more)" if len(own) > 1 else ""
        remedies = tuple(distinct(own)[:REMEDIES_SHOWN])
        found.append(Block(code, grade, own[0].text + more, remedies, tuple(own[:SHARDS_SHOWN]), len(own)))
    return tuple(sorted(found, key=lambda b: (_FIRMNESS[b.grade], -b.count, b.code)))


def _remedy(seen: Look, found: Preview, action: Action, written: list[object], reasons: tuple[Reason, ...]) -> str:
    firm = [r for r in reasons if r.grade is not Grade.SOFT_LIMIT]
    if not firm:
        return next(iter(distinct(reasons)), "")
    node = next((record for record in written if isinstance(record, Node)), None)
    imagined = seen.view if node is None else seen.view.with_writes([Put(node)])
    shown = replace(action, snapshot_name=found.action.snapshot_name)
    unplaced = plan_of(shown, imagined).unplaced
    room = room_remedy(imagined, unplaced, lambda other: plan_of(shown, other).unplaced, seen.now)
    named = distinct(firm)
    if len(named) == 1 and len(firm) == 1:
        return named[0]
    if room:
        return room
    more = f", and {len(named) - REMEDIES_SHOWN} more" if len(named) > REMEDIES_SHOWN else ""
    # For several causes of one refusal (for instance a quorum) the first remedy suffices; several refusals need one each.
    return named[0] if firm[0].code == "no_quorum" and named else "; ".join(named[:REMEDIES_SHOWN]) + more
