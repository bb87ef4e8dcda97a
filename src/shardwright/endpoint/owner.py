"""What a client connection needs from its endpoint. Implemented by ``served.py``."""

from typing import TYPE_CHECKING, Protocol

from shardwright.endpoint.gate import Gate
from shardwright.endpoint.pace import LoopPace
from shardwright.endpoint.reach import ServerAccess

if TYPE_CHECKING:
    from shardwright.endpoint.connection import ClientConnection


class Owner(Protocol):
    """What a connection needs from its endpoint."""

    gate: Gate
    pace: LoopPace
    access: ServerAccess

    def joined(self, connection: "ClientConnection") -> None:
        """The connection is open."""
        ...

    def left(self, connection: "ClientConnection") -> None:
        """The connection has ended."""
        ...

    def became_quiet(self, connection: "ClientConnection") -> None:
        """The connection is frozen, and nothing is in flight."""
        ...

    def wants_ticks(self, connection: "ClientConnection") -> None:
        """Its session waits, and the wait has a time limit."""
        ...
