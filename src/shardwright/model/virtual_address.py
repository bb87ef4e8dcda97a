"""Virtual addresses: each is on one node's interface at a time, so that clients that know only it find their database.

Pure data. ``reconcile/virtual_addresses.py`` chooses the holder; the agents put the address on an interface and take it
away.
"""

from dataclasses import dataclass
from datetime import datetime

from shardwright.model.ids import DatabaseUid, NodeUid


@dataclass(frozen=True, slots=True)
class VirtualAddress:
    """An address that clients use whichever node serves them."""

    address: str
    prefix_length: int
    interface: str
    """The interface that gets it; the same name on every node."""
    created_at: datetime
    database_uid: DatabaseUid | None = None
    """The database whose endpoints are served at it; None: those of all databases."""
    holder: NodeUid | None = None
    """The node that is to have it; None: none has been chosen yet."""
    generation: int = 0
    """Grows whenever another node becomes its holder."""
    leaving_since: datetime | None = None
    """Since when its holder closes the clients of this address, because it is about to go; None: it stays."""
    is_ending: bool = False
    """An operator wants it removed. The record is deleted when its clients are closed."""

    def is_for(self, database: DatabaseUid) -> bool:
        """Whether the database is served at it."""
        return self.database_uid is None or self.database_uid == database


@dataclass(frozen=True, slots=True)
class HeldAddress:
    """A virtual address as the agent of its holder sees it."""

    address: str
    generation: int
    """Of the record that the agent follows."""
    failure: str = ""
    """Why the address could not be put on its interface; empty: it is there."""
