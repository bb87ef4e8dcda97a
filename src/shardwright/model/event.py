"""The append-only log of what happened: who, what, why."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shardwright.model.ids import ActionUid, DatabaseUid, NodeUid


class Severity(StrEnum):
    """How much an operator should care."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log."""

    at: datetime
    kind: str
    """Machine word, for instance ``cluster_node_remove_completed`` (rest-api.md 4.11) or one of ours."""
    severity: Severity
    text: str
    node_uid: NodeUid | None = None
    database_uid: DatabaseUid | None = None
    action_uid: ActionUid | None = None
    by: str = ""
    """E-mail of the user who asked, or empty for the cluster itself."""
    extra: dict[str, object] = field(default_factory=dict)
