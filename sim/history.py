"""Replication histories as a tree, and positions in it: what a copy of the data holds."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class History:
    """One replication history (a replication id). ``base``: its first offset."""

    uid: str
    base: int = 0
    parent: "History | None" = None
    parent_offset: int = 0
    keys_before: int = 0

    def keys_at(self, offset: int) -> int:
        """Number of writes that a copy at this offset holds."""
        return self.keys_before + offset - self.base


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the tree of histories."""

    history: History
    offset: int

    def holds(self, other: "Position") -> bool:
        """Whether a copy at this position holds the write at the other position."""
        history: History | None = self.history
        limit = self.offset
        while history is not None:
            if history is other.history:
                return other.offset <= limit
            limit, history = history.parent_offset, history.parent
        return False

    @property
    def keys(self) -> int:
        """Number of writes at this position."""
        return self.history.keys_at(self.offset)
