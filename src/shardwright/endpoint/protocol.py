"""The interface to endpoint processes: the requests of their control socket. Shared by the process and its callers.

The control socket is a Unix socket (mode 0600) with one JSON object per line in both directions. Leaders on other machines
ask the same over TLS. Every request is idempotent. An endpoint's target changes only to a higher generation, except by a
release of a hold: late or stale requests change nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from shardwright.errors import Transient
from shardwright.model.ids import DatabaseUid, EndpointUid, ShardUid
from shardwright.model.seen import BusyCommand, EndpointProcessSeen

CONTROL_PORT = 9445
"""Port at which an endpoint process accepts the leaders of other machines."""
CALL_TIMEOUT_S = 0.1
"""Timeout of most requests; short, because the next turn repeats them."""
REMOTE_CALL_TIMEOUT_S = 0.3
"""The same for a process of another machine: a lost packet is sent again after 0.2 s."""
REMOTE_REQUESTS = frozenset({"status", "serve", "lease", "drop", "retire", "calm", "hold", "release"})
"""What other machines may ask. The others pass open files, or name paths of this machine."""
VOID_IF_LATE = frozenset({"hold", "drop"})
"""Requests that a process ignores when it reads them after their caller has disconnected."""
HOLD_TIMEOUT_S = 1.0
"""Timeout of a hold. A process that is merely late answers in time. A process that does not answer may still serve clients,
so it is not skipped: the attempt is undone and repeated."""
DRAIN_S = 0.1
"""Maximum wait of a hold for commands in flight."""
CALM_S = 2.0
"""Maximum wait for connections with much in flight, until a drain can wait for the rest."""
CALM_MAX_S = 1.5
"""Calmed connections resume by themselves this long after the last check if no hold begins: the leader may be dead."""
RETIRE_IDLE_S = 1.0
"""A retiring endpoint waits this long for the next command of an idle connection, to close it behind a reply …"""
RETIRE_S = 5.0
"""… and this long for commands in flight. Then it closes what is left."""
CLOSE_REST_S = 0.5
"""When a virtual address is about to go, its clients are closed as those of a retiring endpoint. They come back at once and
are served, until the last of them is closed. Then no client is accepted, and those that came back are closed within this
time."""
REPLACES = "--replaces"
"""The argument of a process that is to take the place of another one."""
RELAY_TIMEOUT_S = 0.06
"""A process that is being replaced waits this long for the state of the one that takes its place; shorter than
CALL_TIMEOUT_S."""
SELF_RELEASE_S = 1.5
"""Time after which a held endpoint asks both servers itself and releases to the writable primary."""
HOLD_MAX_S = 4.0
"""Time after which held commands are answered with errors (common client timeouts start at 5 s)."""
CONFIRM_SLICE_S = 0.05
"""Strict mode: maximum time that one question (``WAIT``) occupies the server connection; well below DRAIN_S."""
CONFIRM_MAX_S = 2.0
"""Strict mode: time after which a write is answered with an error if no replica has it or is receiving it."""
ALONE_MAX_S = 20.0
"""Strict mode: time after which a write that was kept back, because the primary has no replica, is answered with an error.
Longer than a lost copy of a small database needs to be rebuilt; the write was not executed, so clients may repeat it."""
CONFIRM_LONGEST_S = 60.0
"""Strict mode: the same limit for a replica that is still busy. It equals ``repl-timeout``, after which the servers end a
silent link."""
CONFIRM_BYTES_PER_S = 16 * 1024 * 1024
"""Strict mode: assumed speed of a silent replica that may be executing the data that it has received."""


@dataclass(frozen=True, slots=True)
class Target:
    """The server that receives the commands. ``run_id`` empty: unknown, and not checked."""

    shard_uid: ShardUid
    generation: int
    address: str
    port: int
    run_id: str = ""
    uses_tls: bool = False
    """Whether the server accepts only encrypted connections."""


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """A version of a slot group's lease, as a process is told (``model/lease.py``). ``generation``: of the group then. No
    server of an older one may be served without a proof. ``waived``: the processes that may serve without."""

    version: int
    generation: int
    is_needed: bool
    waived: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualPlace:
    """A virtual address at which a process listens, whether or not it is on this machine. ``is_closing``: it is about to go,
    so the process closes the connections there, each behind a reply, and then accepts none."""

    address: str
    is_closing: bool = False


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """The specification of an endpoint. ``target`` None: no primary is open; connections are accepted, and commands are held
    for up to HOLD_MAX_S and then answered with errors."""

    uid: EndpointUid
    database_uid: DatabaseUid
    database_name: str
    address: str
    port: int
    target: Target | None
    password: str = field(default="", repr=False)
    """The password for AUTH; empty: no password."""
    application_secret: str = field(default="", repr=False)
    """Password of the server's application user."""
    is_strict: bool = False
    """A write is answered only when a replica has it."""
    virtual: tuple[VirtualPlace, ...] = ()
    """Further addresses, at the same port."""
    lease: LeaseTerms | None = None
    """None: no proof was ever needed. A process that knows a lease keeps it."""


@dataclass(frozen=True, slots=True)
class HoldResult:
    """``is_drained``: nothing is in flight to the old primary through this endpoint. ``was_held``: the hold is in force."""

    was_held: bool
    is_drained: bool
    busy: tuple[BusyCommand, ...] = ()


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    """``pause_ms``: time from the hold to this release, measured by the endpoint; 0 without a hold."""

    pause_ms: float
    held_commands: int
    generation: int
    """The target's generation after the release."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """The numbers of connections that were passed and that remain."""

    passed: int
    remaining: int


def replacement_path(control: str) -> str:
    """Control socket of a process that is to take the place of the one at ``control``, until it does."""
    return f"{control}.next"


class EndpointProcessEnded(Transient):
    """No process listens at the control socket: the process has ended, together with all of its client connections."""


class EndpointControl(Protocol):
    """One endpoint process. Methods raise Transient if the process does not answer in time; the request may then have been
    carried out, and may be repeated. They raise EndpointProcessEnded, a subclass, if the process certainly does not run."""

    async def status(self, suspects: Collection[EndpointUid] = ()) -> EndpointProcessSeen:
        """The state of the process. Never raises: ``answers`` is False if the process does not answer. ``suspects``:
        endpoints whose server does not answer the leader. The process asks those servers itself from now on, for as long as
        it is asked about them, and says in ``server_silent_s`` what it finds out."""
        ...

    async def serve(self, spec: EndpointSpec) -> None:
        """Create an endpoint, or apply a new specification to it."""
        ...

    async def tell_lease(self, endpoint: EndpointUid, terms: LeaseTerms) -> None:
        """Apply a lease, if its version is higher than the one that the process knows."""
        ...

    async def drop(self, endpoint: EndpointUid) -> None:
        """End an endpoint and its connections. The timeout is HOLD_TIMEOUT_S; ignored if the caller has disconnected
        before."""
        ...

    async def retire(self, endpoint: EndpointUid) -> None:
        """Accept no more connections of an endpoint, and close each one behind a reply: idle ones last, the others within
        RETIRE_S. Answers at once. ``serve`` ends it: the connections that are left then stay."""
        ...

    async def calm(self, endpoint: EndpointUid) -> None:
        """Calm connections with much in flight before a hold. Only they send nothing new meanwhile, so that the hold, which
        stops every client, need not wait for a long pipeline or download. Waits up to CALM_S for them; the hold names the
        commands that are still in flight then. Ends with the hold, or by itself within CALM_MAX_S."""
        ...

    async def hold(self, endpoint: EndpointUid, old: Target, new: Target) -> HoldResult:
        """Stop forwarding, and wait up to DRAIN_S for commands in flight. If a command is still in flight, the hold ends
        with this answer, and the caller must not fence the old primary. The timeout is HOLD_TIMEOUT_S; a hold whose caller
        has disconnected is not begun. ``new.generation`` identifies the hold. A repetition does not extend it: its limits
        count from its beginning."""
        ...

    async def release(self, endpoint: EndpointUid, target: Target) -> ReleaseResult:
        """Forward to ``target``, and release the held commands. Without a hold, only a target of a higher generation has an
        effect."""
        ...
