"""Reasons for refusals, waits and failures: a machine code, a sentence and the smallest remedy."""

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum

from shardwright.model.codes import Code
from shardwright.model.ids import DatabaseUid, NodeUid, ShardUid


class Grade(StrEnum):
    """The firmness of a refusal."""

    SOFT_LIMIT = "soft_limit"
    """It passes by itself: something in flight must end first."""
    CONFIGURATION = "configuration"
    """A setting forbids it; an operator can change the setting."""
    HARD_LIMIT = "hard_limit"
    """A resource is missing: memory, a node, a copy."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason. ``code`` is stable; ``text`` is a sentence for people; ``remedy`` may be empty."""

    code: Code
    text: str
    grade: Grade = Grade.HARD_LIMIT
    _: KW_ONLY
    remedy: str = ""
    shard_uid: ShardUid | None = None
    database_uid: DatabaseUid | None = None
    node_uid: NodeUid | None = None
