"""The interface to servers. Owns the seam: ``adapter.py`` is the production implementation, the simulation has another one.

Every management method sends its commands over the one session of this term with that server. A session never reconnects
and never repeats a command; if it breaks, the caller observes and opens a new one.
"""

from dataclasses import dataclass, field
from typing import Protocol

from shardwright.model.database import AofPolicy, Persistence, ServerSecrets, SnapshotRule
from shardwright.model.ids import ShardUid
from shardwright.model.seen import ServerSeen

FENCE_REPLICAS = 9999
"""``min-replicas-to-write`` while the hard fence is set: an unreachable number."""
FENCE_LAG_S = 10
"""``min-replicas-max-lag``, always: with 0 the fence would silently be open (measured)."""

APPLICATION_USER = "application"
REPLICATION_USER = "replication"
OBSERVATION_USER = "observation"
MANAGEMENT_USER = "management"


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """A server's address, the expected shard and incarnation, and the login."""

    shard_uid: ShardUid
    incarnation: int
    address: str
    port: int
    secrets: ServerSecrets = field(repr=False)
    uses_tls: bool = False
    """Whether it accepts only encrypted connections."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The settings of one server of a database."""

    maxmemory_bytes: int
    eviction_policy: str
    persistence: Persistence
    aof_policy: AofPolicy
    snapshot_rules: tuple[SnapshotRule, ...]
    notify_keyspace_events: str = ""


class ManagementSession(Protocol):
    """One logged-in connection. Methods raise Transient (certainly not executed), OutcomeUnknown (sent, no answer),
    Permanent (refused by the server, with its text) and LostLeadership. Concurrent calls are executed in the order in which
    they began."""

    async def info(self) -> ServerSeen:
        """The server's INFO, queried now."""
        ...

    async def attach(self, address: str, port: int) -> None:
        """Make it a replica of that server (``REPLICAOF``). If the server may have been a primary, end its application
        connections first."""
        ...

    async def promote(self) -> None:
        """Make it a primary (``REPLICAOF NO ONE``). Its fence is unchanged."""
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
        """Close every connection of the application user. After the return, no further command of these connections is
        executed, whether postponed by a pause or still unread (tested with both servers)."""
        ...

    async def apply(self, settings: ServerSettings) -> None:
        """Apply these settings to the running server."""
        ...

    async def save(self, persistence: Persistence) -> None:
        """Begin a new persistence file in the background: a snapshot, or a rewrite of the append-only file. An operation
        that is already running counts."""
        ...


class Servers(Protocol):
    """All servers, as one leader sees them."""

    async def observe(self, target: ServerTarget) -> ServerSeen:
        """Query a server's state. Never raises for a failure of the server: the result's ``health`` reports it."""
        ...

    async def manage(self, target: ServerTarget) -> ManagementSession:
        """This term's session with a server. A new one is opened in this order: connect and log in, check the term in the
        store, close every older management session on that server; only then are queries and commands sent. Raises
        Transient if the server is unreachable, LostLeadership if the term is over."""
        ...

    async def close(self) -> None:
        """End all sessions."""
        ...
