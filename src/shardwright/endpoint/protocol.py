"""What may be asked of endpoint processes: the words of their control socket. Shared by the process and its callers.

The socket is a Unix socket (mode 0600) that takes one JSON object a line and answers one a line. Every request is
idempotent. An endpoint's target only ever moves to a higher generation, except by a release of a hold: a late or stale
caller changes nothing.
"""

from dataclasses import dataclass, field
from typing import Protocol

from shardwright.model.ids import DatabaseUid, EndpointUid, NodeUid, ShardUid
from shardwright.model.seen import EndpointProcessSeen

CALL_TIMEOUT_S = 0.1
"""An endpoint process that takes longer blocks nothing: the server's fence covers it."""
DRAIN_S = 0.1
"""How long a hold waits for commands in flight."""
SELF_RELEASE_S = 1.5
"""After this long a held endpoint asks both servers itself and releases to the writable primary."""
HOLD_MAX_S = 4.0
"""After this long held commands are answered with errors (common client time-outs start at 5 s)."""
CONFIRM_SLICE_S = 0.05
"""Strict mode: how long one question after a replica's offset may keep the server connection; well below DRAIN_S."""
CONFIRM_MAX_S = 2.0
"""Strict mode: after this long without a replica that has it, or is on its way to it, a write is answered with an error."""
CONFIRM_LONGEST_S = 60.0
"""Strict mode: the same however busy a replica is. After this long (``repl-timeout``) the servers end a silent link too."""
CONFIRM_BYTES_PER_S = 16 * 1024 * 1024
"""Strict mode: a replica that says nothing may be executing what it has received: as long as that takes at this rate."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server that commands go to. ``run_id`` empty: not known, and not checked."""

    shard_uid: ShardUid
    generation: int
    address: str
    port: int
    run_id: str = ""


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What a process shall serve. ``target`` None: no primary is open; connections are accepted and commands held up to
    HOLD_MAX_S, then answered with errors."""

    uid: EndpointUid
    database_uid: DatabaseUid
    database_name: str
    address: str
    port: int
    target: Target | None
    password: str = field(default="", repr=False)
    """What clients must give to AUTH; empty: none."""
    application_secret: str = field(default="", repr=False)
    """Password of the server's application user."""
    is_strict: bool = False
    """A write is answered only once a replica has it."""


@dataclass(frozen=True, slots=True)
class BusyCommand:
    """A command that did not end within the drain time: who runs what."""

    client: str
    """Address, and name if it gave one."""
    command: str
    """Its first word only: arguments may be secret."""
    age_ms: float


@dataclass(frozen=True, slots=True)
class HoldResult:
    """``is_drained``: nothing is in flight to the old primary through this endpoint. ``was_held``: it holds now."""

    was_held: bool
    is_drained: bool
    busy: tuple[BusyCommand, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """``pause_ms``: from the hold to this release, as the endpoint measured it; 0 when it did not hold."""

    pause_ms: float
    held_commands: int
    generation: int
    """The generation it forwards to now."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """How many connections went along, and how many are still to follow (they were not quiet)."""

    passed: int
    remaining: int


class Endpoints(Protocol):
    """All endpoint processes, as one leader sees them. Methods raise Transient when the process does not answer in time;
    what they asked may then have happened all the same, and may be asked again."""

    async def status(self, node: NodeUid) -> EndpointProcessSeen:
        """What the node's process does. Never raises: ``answers`` False says it did not."""
        ...

    async def serve(self, node: NodeUid, spec: EndpointSpec) -> None:
        """Create an endpoint, or bring it to this specification."""
        ...

    async def drop(self, node: NodeUid, endpoint: EndpointUid) -> None:
        """End an endpoint and its connections."""
        ...

    async def hold(self, node: NodeUid, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        """Stop forwarding; wait up to DRAIN_S for what is in flight. Answers within DRAIN_S plus CALL_TIMEOUT_S.
        ``new.generation`` names the hold. Repeating it lengthens nothing: the hold's limits count from its beginning."""
        ...

    async def release(self, node: NodeUid, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        """Forward to ``target`` and let go what is held. Also moves an endpoint that does not hold, but to a
        higher generation only."""
        ...

    async def pass_along(self, node: NodeUid, endpoint: EndpointUid, to_node: NodeUid) -> PassResult:
        """Pass the listener and every quiet connection to the other node's process; the rest follow as they become quiet.
        Repeating it continues."""
        ...
