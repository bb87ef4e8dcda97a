"""A change of the cluster key. One record: it stays after the end, and says from then on which key seals. Holds no key, only
the uids of keys."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from shardwright.model.ids import KeyUid
from shardwright.model.reason import Reason


class KeyPhase(StrEnum):
    """How far a change of the cluster key is. In this order; only ``spreading`` may go back to ``making``."""

    MAKING = "making"
    """The leader's node is to make a key. Nothing is sealed with it."""
    SPREADING = "spreading"
    """The key exists, and every node fetches it. Nothing is sealed with it."""
    SEALING = "sealing"
    """The new key seals. What another key has sealed is sealed again."""
    DROPPING = "dropping"
    """Everything is sealed with the new key. Every node drops the others."""
    DONE = "done"


@dataclass(frozen=True, slots=True)
class KeyRotation:
    """See the module's text. A commit that seals a value compares this record's revision, so that no value is sealed with
    another key than the record says."""

    old: KeyUid
    """The key that sealed when the change was requested."""
    requested_at: datetime
    requested_by: str
    """E-mail address of the administrator."""
    phase: KeyPhase
    since: datetime
    """When the phase began."""
    new: KeyUid | None = None
    """None: it is not made yet."""
    sealed_at: datetime | None = None
    """When everything was sealed with the new key; None: not yet."""
    ended_at: datetime | None = None
    reasons: tuple[Reason, ...] = ()
    """What the phase waits for, if that takes long."""

    @property
    def seals(self) -> KeyUid:
        """The key that seals now."""
        if self.new is None or self.phase in (KeyPhase.MAKING, KeyPhase.SPREADING):
            return self.old
        return self.new

    @property
    def has_ended(self) -> bool:
        """Whether every node holds the new key and no other."""
        return self.phase is KeyPhase.DONE
