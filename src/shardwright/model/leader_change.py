"""An operator's wish that a certain daemon leads. One record; a newer wish replaces it."""

from dataclasses import dataclass
from datetime import datetime

from shardwright.model.action import ActionStatus
from shardwright.model.ids import NodeUid


@dataclass(frozen=True, slots=True)
class LeaderChange:
    """As long as it has not ended, the leader of its term yields, and the other daemons let this one win."""

    node_uid: NodeUid
    """The node whose daemon is to lead."""
    term: int
    """The term in which it was requested; 0: no daemon led. A leader of a later term that is another one was not made to
    yield, but won although it let this daemon go first, so it does not yield again."""
    requested_at: datetime
    requested_by: str
    status: ActionStatus = ActionStatus.QUEUED
    """Queued, then completed or failed."""
    ended_at: datetime | None = None
    error_message: str = ""
