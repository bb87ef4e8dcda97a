"""What may be asked of endpoint processes: the words of their control socket. Shared by the process and its callers.

The socket is a Unix socket (mode 0600) that takes one JSON object a line and answers one a line. Every request is
idempotent. An endpoint's target only ever moves to a higher generation, except by a release of a hold: a late or stale
caller changes nothing.
"""

from dataclasses import dataclass, field
from typing import Protocol

from shardwright.errors import Transient
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid
from shardwright.model.seen import BusyCommand, EndpointProcessSeen

CALL_TIMEOUT_S = 0.1
"""Most questions are asked again in the next turn: none waits longer for a process that is late."""
HOLD_TIMEOUT_S = 1.0
"""How long a hold is waited for. A process that is merely late answers by then; one that does not is not passed over while
it may live: the attempt is undone and made again."""
DRAIN_S = 0.1
"""How long a hold waits for commands in flight."""
CALM_S = 2.0
"""How long connections with much in flight may take to come down to what a drain can wait for."""
CALM_MAX_S = 1.5
"""Calmed connections go on by themselves this long after the last look, when no hold comes: its leader may be gone."""
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
    """How many connections went along, and how many are still to follow."""

    passed: int
    remaining: int


class EndpointProcessEnded(Transient):
    """Nothing listens at the control socket: the process has ended, and every connection of its clients with it."""


class EndpointControl(Protocol):
    """One endpoint process, as its callers see it. Methods raise Transient when the process does not answer in time;
    what they asked may then have happened all the same, and may be asked again. EndpointProcessEnded, a kind of Transient,
    says more: there is no such process now."""

    async def status(self) -> EndpointProcessSeen:
        """What the process does. Never raises: ``answers`` False says it did not."""
        ...

    async def serve(self, spec: EndpointSpec) -> None:
        """Create an endpoint, or bring it to this specification."""
        ...

    async def drop(self, endpoint: EndpointUid) -> None:
        """End an endpoint and its connections. Awaited for HOLD_TIMEOUT_S; not done when the caller has left before."""
        ...

    async def calm(self, endpoint: EndpointUid) -> None:
        """Let connections with much in flight come down before a hold: only they send nothing new meanwhile, so that the
        hold, which stops every client, need not wait for a long pipeline or download. Waits up to CALM_S for them; what is
        still in flight then is the hold's to name. Ends with the hold, or by itself within CALM_MAX_S."""
        ...

    async def hold(self, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        """Stop forwarding; wait up to DRAIN_S for what is in flight. If something still is, the hold ends with this answer:
        the caller must not fence the old primary. The answer is awaited for HOLD_TIMEOUT_S; a hold whose caller has left is
        not begun. ``new.generation`` names the hold. Repeating it lengthens nothing: the hold's limits count from its
        beginning."""
        ...

    async def release(self, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        """Forward to ``target`` and let go what is held. Also moves an endpoint that does not hold, but to a
        higher generation only."""
        ...
