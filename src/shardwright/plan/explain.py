"""Explains refused placements: the codes of the planner's refusals, and how several refusals become one sentence.

Called by ``placement`` and by the actions, which show these reasons to operators. Decides nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from shardwright.model.cluster import Node
from shardwright.model.codes import Code
from shardwright.model.ids import NodeUid
from shardwright.model.reason import Grade, Reason

MIB = 1024 * 1024


_STRUCTURAL = frozenset({Code.NODE_HAS_COPY, Code.RACK_CONFLICT, Code.NODE_DECOMMISSIONING})
_FIRMNESS = {Grade.SOFT_LIMIT: 0, Grade.CONFIGURATION: 1, Grade.HARD_LIMIT: 2}


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """No node fits. ``reasons`` are ordered by node, the nearest candidate first; never empty."""

    reasons: tuple[Reason, ...]

    @property
    def nearest(self) -> tuple[Reason, ...]:
        """All obstacles on the nearest candidate."""
        node_uid = self.reasons[0].node_uid
        return tuple(r for r in self.reasons if r.node_uid == node_uid)

    @property
    def passes_by_itself(self) -> bool:
        """Whether some node has only obstacles in flight."""
        return all(r.grade == Grade.SOFT_LIMIT for r in self.nearest)

    def as_reason(self, subject: str, **names: object) -> Reason:
        """One reason for the whole refusal: code and remedy of the nearest node, a text that names every obstacle.

        ``names`` are the uids of the subject (fields of ``Reason``).
        """
        hardest = max(self.nearest, key=lambda r: _FIRMNESS[r.grade])
        remedy = " and ".join(dict.fromkeys(r.remedy for r in self.nearest if r.remedy))
        text = f"{subject} cannot be placed: {_sentence(self.reasons)}"
        reason = replace(hardest, text=text, remedy=remedy, node_uid=None)
        return replace(reason, **names)  # type: ignore[arg-type]


def unplaceable(obstacles: Iterable[tuple[int, tuple[Reason, ...]]]) -> Unplaceable:
    """The refusal by all candidates: per node, the missing bytes and the obstacles. A node without obstacles has room for
    this copy alone, but not together with the other placements of the plan."""
    candidates = list(obstacles)
    ranked = sorted(
        (found for found in candidates if found[1]),
        key=lambda found: (_distance(found[1]), found[0], found[1][0].node_uid or 0),
    )
    reasons = tuple(reason for _, found in ranked for reason in found)
    if len(ranked) < len(candidates):
        text = "a node has room for it, but not together with the other copies planned for that node"
        return Unplaceable(
            (
                Reason(Code.INSUFFICIENT_MEMORY, text, Grade.SOFT_LIMIT, remedy="wait for the other moves, or add memory"),
                *reasons,
            )
        )
    if not reasons:
        text = "there is no other node"
        return Unplaceable((Reason(Code.NO_OTHER_NODE, text, Grade.HARD_LIMIT, remedy="add a node"),))
    return Unplaceable(reasons)


def _distance(reasons: tuple[Reason, ...]) -> tuple[int, int]:
    """How far a node is from being possible. Memory can be freed and a daemon started; an existing copy is permanent."""
    is_structural = any(r.grade == Grade.HARD_LIMIT and r.code in _STRUCTURAL for r in reasons)
    return max(_FIRMNESS[r.grade] for r in reasons) + is_structural, len(reasons)


def _sentence(reasons: tuple[Reason, ...]) -> str:
    shown = [r.text for r in reasons[:8]]
    more = len(reasons) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def about_node(node: Node, code: Code, text: str, *, grade: Grade, remedy: str = "") -> Reason:
    """A reason that names a node in its text (``{}`` stands for ``node 3``)."""
    return Reason(code, text.format(f"node {node.uid}"), grade, remedy=remedy, node_uid=NodeUid(node.uid))


def megabytes(count: int) -> str:
    """Bytes in human-readable form, rounded up."""
    return f"{-(-count // MIB)} MiB"
