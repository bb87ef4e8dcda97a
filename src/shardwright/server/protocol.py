"""What the rest of the project may ask of servers. Owns the seam: ``adapter.py`` is the real thing, a simulation another.

Every management method sends its commands over the one session that this term has with that server. A session never
reconnects and never repeats a command; when it breaks, the caller observes and asks for a new one.
"""

from dataclasses import dataclass, field
from typing import Protocol

from shardwright.model.database import AofPolicy, Persistence, ServerSecrets, SnapshotRule
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ServerSeen

FENCE_REPLICAS = 9999
"""``min-replicas-to-write`` while the hard fence is set: out of reach."""
FENCE_LAG_S = 10
"""``min-replicas-max-lag``, always: with 0 the fence would silently be off (measured)."""

APPLICATION_USER = "application"
REPLICATION_USER = "replication"
OBSERVATION_USER = "observation"
MANAGEMENT_USER = "management"


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """Where a server is, which incarnation of which shard it must be, and how to log in."""

    shard_uid: ShardUid
    incarnation: int
    address: str
    port: int
    secrets: ServerSecrets = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a database's settings mean for one of its servers."""

    maxmemory_bytes: int
    eviction_policy: str
    persistence: Persistence
    aof_policy: AofPolicy
    snapshot_rules: tuple[SnapshotRule, ...]
    notify_keyspace_events: str = ""


class ManagementSession(Protocol):
    """One logged-in connection. Methods raise Transient (certainly not executed), OutcomeUnknown (sent, no answer),
    Permanent (the server refused, with its words) and LostLeadership. Concurrent calls are executed in the order in which
    they began."""

    async def info(self) -> ServerSeen:
        """The server's INFO, asked now."""
        ...

    async def attach(self, address: str, port: int) -> None:
        """Make it a replica of that server (``REPLICAOF``). A server that may have been a primary: end its application
        connections first."""
        ...

    async def promote(self) -> None:
        """Make it a primary (``REPLICAOF NO ONE``). Leaves its fence as it is."""
        ...

    async def pause_writes(self, seconds: float) -> None:
        """``CLIENT PAUSE … WRITE``; ends by itself."""
        ...

    async def end_pause(self) -> None:
        """``CLIENT UNPAUSE``."""
        ...

    async def fence(self) -> None:
        """Set the hard fence: no write is accepted until ``unfence``."""
        ...

    async def unfence(self) -> None:
        """Lift the hard fence, then end a pause."""
        ...

    async def end_application_connections(self) -> None:
        """Close every connection of the application user. Once it returns, nothing more of what they have sent is executed,
        be it postponed by a pause or still unread (tried on both servers)."""
        ...

    async def apply(self, settings: ServerSettings) -> None:
        """Bring the running server to these settings."""
        ...

    async def save(self, persistence: Persistence) -> None:
        """Begin a fresh persistence file in the background: a snapshot, or a rewrite of the append-only file. One that runs
        already counts."""
        ...


class Servers(Protocol):
    """All servers, as one leader sees them."""

    async def observe(self, target: ServerTarget) -> ServerSeen:
        """Ask a server what it is. Never raises for a server's trouble: that is the answer's ``health``."""
        ...

    async def manage(self, target: ServerTarget) -> ManagementSession:
        """This term's session with a server. A new one is opened as: connect and log in, check the term in the store, end
        every older management session on that server; only then anything is looked at or done. Raises Transient when it
        cannot be reached, LostLeadership when the term is over."""
        ...

    async def close(self) -> None:
        """End all sessions."""
        ...
